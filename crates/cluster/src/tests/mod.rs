#![allow(clippy::unwrap_used, clippy::expect_used)]
//! The core against a world of scripted agents and workers.

mod accounting;
mod calm;
mod cases;
mod fake;
mod guard;
mod lifecycle;
mod placing;
mod queue;
mod random;
mod saving;
mod spares;
mod suspicion;
mod world;

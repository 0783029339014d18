#![allow(clippy::unwrap_used, clippy::expect_used)]
//! The core against a world of scripted agents and workers.

mod accounting;
mod calm;
mod cases;
mod draining;
mod fake;
mod guard;
mod lifecycle;
mod placing;
mod queue;
mod saving;
mod sim;
mod spares;
mod straggler;
mod suspicion;
mod world;

pub(crate) use fake::file as fake_file;

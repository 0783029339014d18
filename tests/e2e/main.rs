//! Whole jobs: the two binaries as people run them, real processes, real SIGKILL.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod audit;
mod bad_input;
mod cable;
mod calm;
mod cancel;
mod chaos;
mod cluster;
mod doctor;
mod drain;
mod durable;
mod guard;
mod hang;
mod logs;
mod machines;
mod models;
mod network;
mod recovery;
mod resume;
mod run;
mod support;
mod wait;

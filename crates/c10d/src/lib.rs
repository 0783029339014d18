//! libtorch's own c10d from Rust: stores, process groups (Gloo and NCCL), and the reducer of data-parallel training.
//!
//! Every failure is an `Err` that says what the caller can do next; none ends the process. What blocks can be ended
//! from another thread with an [`Abort`].
//!
//! This crate holds the project's `unsafe` code for libtorch: raw tensor pointers go no further than its functions.
#![allow(unsafe_code)]

mod abort;
pub mod cuda;
mod error;
mod exit;
mod ffi;
mod form;
mod group;
pub mod ops;
mod options;
mod reducer;
mod store;
mod work;

pub use abort::Abort;
pub use error::{CollectiveError, GroupError};
pub use exit::exit_now;
pub use group::{Group, Op};
pub use options::{GlooAddress, GroupOptions};
pub use reducer::{Reducer, ReducerOptions};
pub use store::{LocalStore, StoreBackend, StoreError};
pub use work::Work;

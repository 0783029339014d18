//! The pure heart: jobs, generations and the scheduler as decide and apply.
#![allow(missing_docs)]
mod command;
mod event;
mod record;

pub use command::*;
pub use event::*;
pub use record::*;

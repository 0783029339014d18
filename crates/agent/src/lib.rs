//! The node agent: offers a machine's slots to the coordinator, starts, watches and ends the workers on them.

mod agent;
mod directories;
mod launch;
mod logs;
mod options;
mod session;
mod slots;
mod supervisor;

pub use agent::{Agent, Handle};
pub use options::{AgentError, Options, SlotsOption};
pub use slots::discover_slots;

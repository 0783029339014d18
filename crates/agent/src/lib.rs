//! The node agent: offers a machine's slots to the coordinator, starts, watches and ends the workers on them.

mod agent;
mod cores;
mod directories;
mod fitness;
mod gpus;
mod launch;
mod logs;
mod options;
mod process;
mod session;
/// The parent of a worker, in a process of its own.
pub mod shim;
mod slots;
mod supervisor;
mod worker_dir;

pub use agent::{Agent, Handle};
pub use cores::Pinning;
pub use gpus::{Gpu, GpuSurvey, survey_gpus};
pub use options::{AgentError, Lifetime, Options, SlotsOption};
pub use slots::discover_slots;

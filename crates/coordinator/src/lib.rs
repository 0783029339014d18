//! The coordinator: the loop around the pure core, and its gRPC services.
//!
//! One task, the actor, owns the cluster's state and the journal. All others hold a handle on its inbox: services turn
//! messages into events, effects report back with events, and questions are put to the state in turn.

mod access;
mod actor;
mod clock;
mod convert;
mod coordinator;
mod effects;
mod history;
mod inbox;
mod initial;
mod job_files;
mod journal_entry;
mod link;
mod log_router;
mod options;
mod replay;
mod server;
mod services;
mod spaces;
mod step_log;
mod step_records;
mod submission;

pub use coordinator::{Coordinator, Handle, JOURNAL};
pub use history::read_history;
pub use muster_cluster::UserQuotas;
pub use options::{CoordinatorError, Options};
pub use replay::{JournalSummary, backup_journal, check_journal};
pub use step_records::{StepRecords, read_steps};

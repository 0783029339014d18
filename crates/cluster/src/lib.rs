//! The pure heart: jobs, generations and the scheduler as decide and apply.
//!
//! [`Cluster::decide`] takes an [`Event`] and says what follows: [`Record`]s that change durable state, [`Note`]s that change
//! what is merely known, and [`Command`]s for the shells. Nothing here reads a clock, a file or a socket.
//!
//! A decision is made by a `Turn` on a cheap copy, in which each consequence sees those before it. The rules of one job are
//! methods of `JobTurn`, a file for each concern: `lifecycle`, `agents` and `messages` take events; `forming`, `formed`,
//! `reshape`, `spares`, `preempt`, `liveness`, `suspicion`, `faults`, `guard` and `checkpoints` say what follows. `queue` plans
//! who gets and who gives slots, and `placement` carries that out; `cordons` judges the places on which workers fail, `draining` empties nodes; `waiting`,
//! `stance`, `status` and `describe` put it into words. `job` is the durable state and what each record changes in it;
//! `volatile` is the rest.

mod agents;
mod checkpoints;
mod claims;
mod cluster;
mod command;
mod contender;
mod cordons;
mod describe;
mod draining;
mod event;
mod faults;
mod formed;
mod forming;
mod guard;
mod job;
mod job_turn;
mod ledger;
mod lifecycle;
mod liveness;
mod messages;
mod mutation;
mod nodes;
mod options;
mod pace;
mod placement;
mod preempt;
mod queue;
mod ranks;
mod reach;
mod record;
mod reshape;
mod saves;
mod spares;
mod stance;
mod status;
mod straggler;
mod superseded;
mod suspicion;
#[cfg(test)]
mod tests;
mod totals;
mod turn;
mod volatile;
mod waiting;

pub use cluster::{Cluster, CommittedStep, Decision};
pub use command::{Command, Form, Order, Resume, ResumeSource};
pub use describe::{PublicEvent, describe};
pub use draining::DrainStage;
pub use event::{
    Activity, AgentHello, Event, Exit, Part, ProbeAnswer, SlotOffer, StepMetrics, Submission, Trip,
    WorkerMessage,
};
pub use options::{ClusterOptions, UserQuotas};
pub use record::{JobState, OpenCause, Record, RecordKind};
pub use status::{CheckpointRef, JobStatus, NodeStatus, WorkerState, WorkerStatus};
pub use superseded::Superseded;
pub use volatile::Note;

//! What is wrong with a machine, and how to put it right. Readings are judged by pure functions; `readings` takes them.

mod coordinator;
mod finding;
mod gpu;
mod machine;
pub mod readings;
mod worker;

pub use coordinator::{CoordinatorReading, judge_clock, judge_coordinator};
pub use finding::{Finding, Verdict};
pub use gpu::{judge_gpus, judge_nccl};
pub use machine::{
    Limits, judge_address, judge_data_dir, judge_limits, judge_name, judge_port, judge_shm,
};
pub use worker::{WorkerReading, WorkerReport, judge_worker};

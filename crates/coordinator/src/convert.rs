//! Between the wire's messages and the core's own types.

mod down;
mod status;
mod up;

pub(crate) use down::{Orders, kill_worker, segment, start_worker, state_id};
pub(crate) use status::{checkpoint, event, job_status, node_status};
pub(crate) use up::{agent_hello, exit, worker_event};

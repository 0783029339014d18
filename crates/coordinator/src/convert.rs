//! Between the wire's messages and the core's own types.

mod down;
mod status;
mod up;

pub(crate) use down::{kill_worker, order, start_worker};
pub(crate) use status::{checkpoint, event, job_status, node_status};
pub(crate) use up::{agent_hello, exit, worker_event};

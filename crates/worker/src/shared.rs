use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU8, Ordering},
};

use muster_c10d::Abort;
use muster_proto::v1::{self, worker_message::Kind};
use muster_types::{Generation, StateId};
use tokio::sync::mpsc;

use crate::{agreement::Requests, fence::Fence, pulse::Pulse};

/// What the control thread tells the training thread, in order.
#[derive(Debug)]
pub enum Directive {
    /// The coordinator's answer to the first attach: get warm.
    Start(v1::Welcome),
    /// Join this generation. Comes only after every candidate has fenced the one before.
    Form(Generation, v1::Form),
    /// The job ends for this worker: leave, where no training goes on.
    Leave(String),
    /// This rank's part of the checkpoint of this state is on the coordinator's record.
    Acknowledged(StateId),
    /// This rank's part of the checkpoint of this state could not be written.
    SaveFailed(StateId, String),
}

/// A message for the coordinator, with the generation it belongs to.
#[derive(Debug)]
pub struct Outgoing {
    /// The sender's generation when it was said.
    pub generation: Generation,
    /// What is said.
    pub kind: Kind,
}

/// What the control thread and the training thread share.
#[derive(Debug)]
pub struct Shared {
    /// Decides between a commit and the end of a generation.
    pub fence: Fence,
    /// What the training thread is at.
    pub pulse: Pulse,
    requests: AtomicU8,
    group: Mutex<Option<Abort>>,
    outbox: Mutex<Option<mpsc::UnboundedSender<Outgoing>>>,
}

impl Shared {
    /// Also returns the receiving end of what the training thread says; it has no bound because the control thread
    /// empties it at all times, whether the coordinator can be reached or not.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (outbox, said) = mpsc::unbounded_channel();
        let shared = Self {
            fence: Fence::default(),
            pulse: Pulse::default(),
            requests: AtomicU8::new(0),
            group: Mutex::new(None),
            outbox: Mutex::new(Some(outbox)),
        };
        (shared, said)
    }

    /// Says something to the coordinator.
    pub fn say(&self, generation: Generation, kind: Kind) {
        if let Some(outbox) = &*self.outbox.lock().unwrap_or_else(PoisonError::into_inner) {
            // The receiver is gone only while the process ends.
            let _ = outbox.send(Outgoing { generation, kind });
        }
    }

    /// Nothing is said after this: the control thread ends once it has passed on what was said before.
    pub fn finish(&self) {
        *self.outbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What the coordinator has asked this rank to bring up at the next boundary.
    pub fn requests(&self) -> Requests {
        Requests::from_bits(self.requests.load(Ordering::Acquire))
    }

    /// Adds to what is brought up at the next boundary.
    pub fn request(&self, requests: Requests) {
        self.requests.fetch_or(requests.bits(), Ordering::AcqRel);
    }

    /// These were agreed to.
    pub fn settle(&self, requests: Requests) {
        self.requests.fetch_and(!requests.bits(), Ordering::AcqRel);
    }

    /// The handle that ends the collectives of the group in use, or the construction of one.
    pub fn use_group(&self, abort: Option<Abort>) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = abort;
    }

    /// Wakes the training thread out of whatever collective it is in.
    pub fn abort_group(&self, reason: &str) {
        if let Some(abort) = self
            .group
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            abort.abort(reason);
        }
    }
}

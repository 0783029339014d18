use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use muster_types::{Generation, JobId, NodeName, StateId, Step, WorkerId};

use super::{
    content::Content,
    saver::Save,
    training::{At, Directive},
    world::Action,
};
use crate::{Form, Part, StepMetrics, WorkerMessage};

/// A worker's process: a control thread, a training thread, a saver, and the fence between them.
#[derive(Debug)]
pub struct Worker {
    pub id: WorkerId,
    pub job: JobId,
    pub node: NodeName,
    pub slot: u32,
    pub pid: u32,
    /// Stopped: nothing in it runs. What comes meanwhile waits.
    pub frozen: bool,
    /// Its training thread hangs.
    pub hung: bool,
    pub missed: Vec<Action>,

    // The control thread.
    pub session: Option<u64>,
    pub opened: bool,
    pub attempt: u64,
    pub generation: Generation,
    pub welcomed: bool,
    pub warm: bool,
    pub rank_zero: bool,
    pub flush_due: bool,
    pub unsent_steps: Vec<StepMetrics>,
    pub recent_steps: Vec<StepMetrics>,
    /// The last of Ready, Failed, AtBoundary, Left and the like in this generation.
    pub standing: Option<(Generation, WorkerMessage)>,
    pub unacknowledged: Vec<Part>,
    pub unsent: Vec<(Generation, WorkerMessage)>,
    pub requests: Requests,

    // The fence.
    pub superseded: Generation,
    pub holdings: Option<StateId>,

    // The training thread.
    pub inbox: VecDeque<Directive>,
    pub at: At,
    /// What is under way is for this token; what is for another was given up.
    pub token: u64,
    pub since: u64,
    pub usual: BTreeMap<u8, u64>,
    pub content: Content,
    pub form: Option<(Generation, Form)>,
    pub completed: Option<StateId>,
    /// The positions that this rank has fed in the step that it is at.
    pub fed: Vec<Range<u64>>,
    pub leaves_when_saved: bool,
    /// Fails of its own at the next step, with this class.
    pub ill: Option<&'static str>,

    // The saver.
    pub saves: VecDeque<Save>,
    pub saving: bool,
}

/// What the coordinator has asked to bring up at the next boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub reconfigure: bool,
    pub save: bool,
    pub leave: bool,
}

impl Requests {
    pub fn or(self, other: Self) -> Self {
        Self {
            reconfigure: self.reconfigure || other.reconfigure,
            save: self.save || other.save,
            leave: self.leave || other.leave,
        }
    }
}

impl Worker {
    pub fn new(id: WorkerId, job: JobId, node: NodeName, slot: u32, pid: u32, token: u64) -> Self {
        Self {
            id,
            job,
            node,
            slot,
            pid,
            frozen: false,
            hung: false,
            missed: Vec::new(),
            session: None,
            opened: false,
            attempt: 0,
            generation: Generation(0),
            welcomed: false,
            warm: false,
            rank_zero: false,
            flush_due: false,
            unsent_steps: Vec::new(),
            recent_steps: Vec::new(),
            standing: None,
            unacknowledged: Vec::new(),
            unsent: Vec::new(),
            requests: Requests::default(),
            superseded: Generation(0),
            holdings: None,
            inbox: VecDeque::new(),
            at: At::Waiting,
            token,
            since: 0,
            usual: BTreeMap::new(),
            content: 0,
            form: None,
            completed: None,
            fed: Vec::new(),
            leaves_when_saved: false,
            ill: None,
            saves: VecDeque::new(),
            saving: false,
        }
    }

    pub fn is_over(&self, generation: Generation) -> bool {
        generation <= self.superseded
    }

    /// The newest step that this rank is known to have reached.
    pub fn step(&self) -> Step {
        self.holdings.map_or(Step(0), |state| state.step)
    }

    pub fn form(&self) -> &Form {
        &self.form.as_ref().expect("a member has a form").1
    }
}

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use muster_types::{Generation, JobId, Monotonic, StateId, Step, WorkerId};

use crate::{
    ProbeAnswer, StepMetrics,
    faults::{Fault, Scene},
    job::{Job, Placement},
    ledger::Ledger,
    nodes::Nodes,
    pace::Pace,
    reach::Reach,
    reshape::Recall,
    saves::Saves,
    straggler::OwnWork,
};

/// A change of volatile state: connections, answers, metrics, bounds. Never journaled; lost with the process.
///
/// It holds the new volatile state as a whole, or a worker's step, so notes neither depend on their order nor on the records.
#[derive(Clone, Debug, PartialEq)]
pub struct Note(pub(crate) NoteKind);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NoteKind {
    Job(JobId, Arc<Volatile>),
    /// A worker has come to steps that others have reported. Nothing else has changed.
    Steps(JobId, Repeated),
    Nodes(Arc<Nodes>),
}

/// Steps that others have reported before, as a worker says them again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Repeated {
    pub worker: WorkerId,
    pub generation: Generation,
    pub steps: Vec<StepMetrics>,
}

/// What is known of a job beside its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Volatile {
    pub workers: BTreeMap<WorkerId, View>,
    /// Who said `Left`, and when; kept after the process has ended.
    pub left: BTreeMap<WorkerId, Monotonic>,
    pub ledger: Ledger,
    pub saves: Saves,
    pub strikes: Strikes,
    pub spare_failures: SpareFailures,
    /// Workers that failed by themselves lately.
    pub faults: Vec<Fault>,
    pub round: Round,
    /// Since when enough workers are warm to open a generation.
    pub gathered_at: Option<Monotonic>,
    /// Workers that are to be given back at a boundary, and why.
    pub recalled: BTreeMap<WorkerId, Recall>,
    /// Since when the workers are to leave.
    pub draining_since: Option<Monotonic>,
    /// Why the newest checkpoint cannot be read, and how often it was tried.
    pub storage: Option<(String, u32)>,
    pub fingerprint: String,
    /// How long things lately took.
    pub pace: Pace,
    /// Probes so far: the last one's number.
    pub probes: u64,
    /// When the next bound runs out.
    pub wake: Option<Monotonic>,
}

impl Volatile {
    /// A worker has committed steps.
    pub fn has_reached(&mut self, repeated: &Repeated) {
        let Some(view) = self.workers.get_mut(&repeated.worker) else {
            return;
        };
        for metrics in &repeated.steps {
            if view.step < Some(metrics.step) {
                view.own_work.push(repeated.generation, metrics.slot_ms);
                view.step = Some(metrics.step);
            }
        }
    }
}

/// Each worker whose slot is not known to be empty, with what is known of it: in one pass over both.
pub(crate) fn with_views<'a>(
    job: &'a Job,
    volatile: &'a Volatile,
) -> impl Iterator<Item = (&'a WorkerId, &'a Placement, Option<&'a View>)> {
    let mut views = volatile.workers.iter().peekable();
    job.workers.iter().map(move |(worker, placement)| {
        while views.next_if(|(other, _)| *other < worker).is_some() {}
        let view = views.next_if(|(other, _)| *other == worker);
        (worker, placement, view.map(|(_, view)| view))
    })
}

/// What is known of a worker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    /// When it was placed, or first thought of after a restart.
    pub since: Monotonic,
    pub pid: Option<u32>,
    pub attached_at: Option<Monotonic>,
    pub connected: bool,
    pub disconnected_at: Option<Monotonic>,
    /// Since when its agent is out of reach.
    pub node_lost_at: Option<Monotonic>,
    pub address: Arc<str>,
    /// Where peers see whether they reach it; empty where it cannot say.
    pub reach_address: Arc<str>,
    pub warm: bool,
    /// Under which numerics it computes; empty until it is warm.
    pub fingerprint: Arc<str>,
    /// The generation that it last said it is in.
    pub generation: Generation,
    /// From its attach; for former members only `fenced` counts.
    pub holdings: Option<StateId>,
    /// The generation that it gave up last, and what it held then.
    pub fenced: Option<(Generation, Option<StateId>)>,
    pub told_supersede: Option<Generation>,
    pub told_form: Option<Generation>,
    pub told_leave: Option<Generation>,
    /// Since when it is known that its slot is given back.
    pub released_at: Option<Monotonic>,
    /// The generation that it is ready in, and its state's hash.
    pub ready: Option<(Generation, u64)>,
    /// The generation that it left at an agreed boundary.
    pub at_boundary: Option<Generation>,
    /// The generation in which it did not get ready in time.
    pub slow_in: Option<Generation>,
    pub step: Option<Step>,
    pub phase: Arc<str>,
    /// The generation that its phase is of: what it was about before says nothing.
    pub phase_in: Generation,
    /// What it answered to a probe last.
    pub answer: Option<ProbeAnswer>,
    /// The generation in which it found that states differ, and its own state's hash.
    pub diverged: Option<(Generation, u64)>,
    /// How it answers while it waits to be needed; `None` where it was not asked on this stream.
    pub watch: Option<Watch>,
    pub own_work: OwnWork,
}

impl View {
    pub fn new(since: Monotonic) -> Self {
        Self {
            since,
            pid: None,
            attached_at: None,
            connected: false,
            disconnected_at: None,
            node_lost_at: None,
            address: "".into(),
            reach_address: "".into(),
            warm: false,
            fingerprint: "".into(),
            generation: Generation(0),
            holdings: None,
            fenced: None,
            told_supersede: None,
            told_form: None,
            told_leave: None,
            released_at: None,
            ready: None,
            at_boundary: None,
            slow_in: None,
            step: None,
            phase: "".into(),
            phase_in: Generation(0),
            answer: None,
            diverged: None,
            watch: None,
            own_work: OwnWork::default(),
        }
    }
}

/// The newest generation's volatile side, from its opening to its forming, and from its forming on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Round {
    pub generation: Generation,
    pub formed: bool,
    pub since: Monotonic,
    /// The last probe's number before it began.
    pub probes_before: u64,
    /// How many candidates it was opened with; 0 where that is not known.
    pub asked: usize,
    /// When a step was last committed, or a member's phase changed.
    pub moved_at: Monotonic,
    /// When a step was last committed.
    pub committed_at: Option<Monotonic>,
    /// All members are ready.
    pub ready: bool,
    pub reconfigure_at: Option<Monotonic>,
    /// Who cannot go on in this generation, and why.
    pub failures: BTreeMap<WorkerId, String>,
    /// Who could not read the checkpoint: no fault of its own.
    pub unreadable: BTreeSet<WorkerId>,
    pub save_told: bool,
    pub leave_told: bool,
    /// Nothing has moved for longer than usual, and all are being asked why.
    pub suspicion: Option<Suspicion>,
}

impl Round {
    /// Something has moved.
    pub fn moved(&mut self, now: Monotonic) {
        self.moved_at = now;
        self.suspicion = None;
    }
}

/// An inquiry into why nothing moves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Suspicion {
    /// The number of its first probe.
    pub first: u64,
    /// When the last probe was sent.
    pub asked_at: Monotonic,
    /// It was said whom the others wait for.
    pub named: bool,
    /// All wait for each other, and are asked whether they reach each other.
    pub reach: Option<Reach>,
}

/// Probes of a worker that waits to be needed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Watch {
    /// The last one's number.
    pub number: u64,
    /// When it was sent.
    pub at: Monotonic,
    /// How many in a row are not answered.
    pub unanswered: u64,
    /// When the first of those was sent.
    pub since: Monotonic,
}

/// Spares that were lost in a row: none of them stood by for long.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SpareFailures {
    pub count: u32,
    /// In which generation the last one was lost.
    pub generation: Generation,
    /// No new one before.
    pub retry_at: Option<Monotonic>,
}

/// Failures in a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Strikes {
    /// Without a newly committed step.
    pub count: u32,
    /// Without a step beyond the furthest.
    pub without_advance: u32,
    pub furthest: Step,
    /// What happens in this generation or before was counted.
    pub generation: Generation,
    /// What happens to these workers was counted.
    pub ordinal: u32,
    /// No new attempt before.
    pub retry_at: Option<Monotonic>,
    /// The last causes, oldest first.
    pub causes: Vec<String>,
    /// At which step the last ones happened, and how many those were.
    pub deadly: Option<(Step, u32)>,
    /// Where the last worker was that failed by itself.
    pub scene: Option<Scene>,
}

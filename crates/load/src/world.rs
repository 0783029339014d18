use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// From one committed step to the next: each worker reports once in it.
pub const STEP: Duration = Duration::from_secs(1);

/// What the workers do together, as a group that trains would: begin when all are ready, commit a step a second, and stop
/// together.
#[derive(Debug)]
pub struct World {
    group: Mutex<Group>,
    training: watch::Sender<Training>,
    /// Told of what the workers come to.
    pub marks: mpsc::UnboundedSender<Mark>,
    pids: AtomicU32,
    /// Messages that workers have sent.
    pub said: AtomicU64,
}

/// What the measurement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// An agent was welcomed.
    Node,
    /// A worker was welcomed.
    Welcomed,
    /// A worker was told of a generation of so many.
    Formed { generation: u64, world: u32 },
    /// All members of a generation are at work.
    Training { generation: u64 },
}

#[derive(Debug, Default)]
struct Group {
    generation: u64,
    ready: u32,
}

/// The newest generation's training.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    pub generation: u64,
    /// When it began.
    pub since: Instant,
    /// The committed steps that it began with.
    pub base: u64,
    pub end: Option<End>,
}

/// How a generation ended: all have committed this step, and no further one.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub step: u64,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A member is dead, so the others' collectives have failed.
    Broken,
    /// All leave together at a step boundary.
    Boundary,
}

impl Training {
    /// The newest committed step at an instant.
    pub fn step_at(&self, now: Instant) -> u64 {
        if let Some(end) = self.end {
            return end.step;
        }
        let steps = now.duration_since(self.since).as_secs_f64() / STEP.as_secs_f64();
        self.base + steps as u64
    }
}

impl World {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Mark>) {
        let (marks, marked) = mpsc::unbounded_channel();
        let training = Training {
            generation: 0,
            since: Instant::now(),
            base: 0,
            end: None,
        };
        let world = Self {
            group: Mutex::default(),
            training: watch::Sender::new(training),
            marks,
            pids: AtomicU32::new(1),
            said: AtomicU64::new(0),
        };
        (world, marked)
    }

    pub fn training(&self) -> watch::Receiver<Training> {
        self.training.subscribe()
    }

    /// Training as it stands.
    pub fn now(&self) -> Training {
        *self.training.borrow()
    }

    /// A number for a process.
    pub fn new_pid(&self) -> u32 {
        self.pids.fetch_add(1, Ordering::Relaxed)
    }

    pub fn mark(&self, mark: Mark) {
        // Nobody listens once all is measured.
        let _ = self.marks.send(mark);
    }

    /// A member is ready; the last one begins the training.
    pub fn ready(&self, generation: u64, world: u32, base: u64) {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if generation > group.generation {
            *group = Group {
                generation,
                ready: 0,
            };
        }
        if generation < group.generation {
            return;
        }
        group.ready += 1;
        if group.ready == world {
            self.training.send_replace(Training {
                generation,
                since: Instant::now(),
                base,
                end: None,
            });
            self.mark(Mark::Training { generation });
        }
    }

    /// Ends a generation's training with the steps that are committed by now.
    pub fn stop(&self, generation: u64, how: How) {
        let now = Instant::now();
        self.training.send_if_modified(|training| {
            let stands = training.generation == generation && training.end.is_none();
            if stands {
                let step = training.step_at(now);
                training.end = Some(End { step, how });
            }
            stands
        });
    }
}

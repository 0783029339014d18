//! Who is slower than the others, step after step: all wait for it, and nothing stands still, so nobody asks.

use muster_types::{Generation, WorkerId};

use crate::{StepMetrics, job::Phase, job_turn::JobTurn};

/// So many of the last steps are looked at; a slow moment is none of anyone's business.
const KEPT: usize = 16;

/// A slow rank is at least so much slower than the median of all, µs a slot: less is noise.
const LEAST_EXCESS: f64 = 5_000.0;

/// The work of a member's own in the last steps of a generation, beside what it waited for others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct OwnWork {
    generation: Generation,
    /// µs for each slot of the batch, by step; the oldest is overwritten.
    kept: [u32; KEPT],
    count: usize,
    /// It was said that it is slow, and it still is.
    told: bool,
}

impl OwnWork {
    /// Takes the next step.
    pub fn push(&mut self, generation: Generation, slot_ms: f64) {
        if self.generation != generation {
            *self = Self {
                generation,
                ..Self::default()
            };
        }
        // Saturates, and anything that is no number is zero.
        self.kept[self.count % KEPT] = (slot_ms * 1000.0) as u32;
        self.count += 1;
    }

    /// Its median, µs; `None` before there are enough steps, and where the time is not known.
    fn median(&self) -> Option<f64> {
        let mut kept = self.kept;
        let median = *kept.select_nth_unstable(KEPT / 2).1;
        (self.count >= KEPT && median > 0).then_some(f64::from(median))
    }

    /// Its median as people read it, ms.
    pub fn slot_ms(&self, generation: Generation) -> Option<f64> {
        let median = self.median().filter(|_| self.generation == generation);
        median.map(|median| median / 1000.0)
    }
}

impl JobTurn<'_> {
    /// Takes note of a member's own work in a step of the newest generation, the first time that it says it.
    pub fn note_own_work(&mut self, worker: &WorkerId, metrics: StepMetrics) {
        let generation = self.job.generation;
        let view = self.view(worker);
        view.own_work.push(generation, metrics.slot_ms);
        let is_due = view.own_work.count.is_multiple_of(KEPT);
        // All members commit the same steps: the first one's count stands for all.
        if is_due && self.job.phase == Phase::Active && self.job.members.first() == Some(worker) {
            self.name_the_slow();
        }
    }

    fn name_the_slow(&mut self) {
        let generation = self.job.generation;
        let median_of = |worker: &WorkerId| {
            let own = self.volatile.workers.get(worker)?.own_work;
            own.median().filter(|_| own.generation == generation)
        };
        let members = self.job.members.iter();
        let works: Option<Vec<_>> = members
            .map(|worker| Some((worker.clone(), median_of(worker)?)))
            .collect();
        let Some(works) = works else { return };
        let mut medians: Vec<f64> = works.iter().map(|(_, own)| *own).collect();
        medians.sort_by(f64::total_cmp);
        // Of two the faster: it is the other that is waited for.
        let Some(usual) = medians.get((medians.len() - 1) / 2).copied() else {
            return;
        };
        let bound =
            (usual * f64::from(self.options.slow_percent) / 100.0).max(usual + LEAST_EXCESS);
        for (worker, own) in works {
            let is_slow = own > bound;
            let view = self.view(&worker);
            let was_told = std::mem::replace(&mut view.own_work.told, is_slow);
            if is_slow && !was_told {
                self.tell_of_slow(&worker, own / 1000.0, usual / 1000.0);
            }
        }
    }

    fn tell_of_slow(&mut self, worker: &WorkerId, own_ms: f64, usual_ms: f64) {
        let placement = self.job.workers.get(worker);
        let node = placement.map_or("", |placement| placement.node.as_str());
        let reason = format!(
            "worker {worker} on node {node} is slow, and the others wait for it in each step: a slot of the batch takes it \
             {own_ms:.1} ms of its own work, where {usual_ms:.1} ms is the median of all ranks"
        );
        let details = [
            ("worker", worker.as_str().into()),
            ("node", node.into()),
            ("rank", self.job.rank_of(worker).into()),
            ("slot_ms", own_ms.into()),
            ("median_slot_ms", usual_ms.into()),
        ];
        self.announce("slow_rank", self.standing(), reason, details);
    }
}

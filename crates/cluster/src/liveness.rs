use muster_types::{Generation, Monotonic, Step, WorkerId};

use crate::{
    faults::Scene,
    job::{Phase, Placement},
    job_turn::JobTurn,
    mutation::{Mutation, is_planted},
    volatile::{View, with_views},
};

/// Causes that are remembered as evidence.
const KEPT_CAUSES: usize = 5;

/// Where a failure arose: what a death brings with it is not counted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In a formed generation.
    Generation(Generation),
    /// With a worker that is not a member, by its ordinal.
    Worker(u32),
}

/// Whom a failure speaks against beside its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Slot and node, unless the same happens elsewhere.
    Place,
    /// Nobody else.
    Job,
}

impl JobTurn<'_> {
    /// Where the loss of this worker counts.
    pub fn origin(&self, worker: &WorkerId) -> Origin {
        if self.job.phase == Phase::Active && self.job.rank_of(worker).is_some() {
            return Origin::Generation(self.job.generation);
        }
        Origin::Worker(
            self.job
                .workers
                .get(worker)
                .map_or(0, |placement| placement.ordinal),
        )
    }

    /// Whether a failure is not the consequence of one that is counted.
    pub fn is_news(&self, origin: Origin) -> bool {
        let strikes = &self.volatile.strikes;
        match origin {
            Origin::Generation(generation) => generation > strikes.generation,
            Origin::Worker(ordinal) => ordinal > strikes.ordinal,
        }
    }

    /// Notes a failure: evidence always, and one more in a row unless it is a consequence of the last.
    pub fn strike(&mut self, cause: String, origin: Origin) {
        let strikes = &mut self.volatile().strikes;
        strikes.causes.push(cause);
        if strikes.causes.len() > KEPT_CAUSES {
            strikes.causes.remove(0);
        }
        if !self.is_news(origin) || self.job.is_to_leave() || self.job.is_done() {
            return;
        }
        let (generation, ordinal) = (self.job.generation, self.job.placed.len() as u32);
        let in_step = matches!(origin, Origin::Generation(_)) && self.is_in_step();
        let step = self.newest_step();
        let now = self.now.monotonic;
        let options = self.options;
        let strikes = &mut self.volatile().strikes;
        strikes.generation = generation;
        strikes.ordinal = ordinal;
        strikes.count += 1;
        strikes.without_advance += 1;
        strikes.deadly = match strikes.deadly {
            _ if !in_step => None,
            Some((at, failures)) if at == step => Some((step, failures + 1)),
            _ => Some((step, 1)),
        };
        strikes.retry_at = Some(now + options.backoff(strikes.count));
    }

    /// Why no further attempt is made, if so.
    pub fn hopeless(&self) -> Option<String> {
        let strikes = &self.volatile.strikes;
        let (count, again) = if strikes.count >= self.options.max_failures {
            (strikes.count, " without a committed step")
        } else if strikes.without_advance >= self.options.max_failures_without_advance {
            (strikes.without_advance, "")
        } else {
            return None;
        };
        let what = match strikes.deadly {
            Some((step, failures)) if failures >= count => {
                let samples = self.samples_of(step).map_or(String::new(), |(first, end)| {
                    format!("; it trains the samples {first}..{end}")
                });
                format!("gave up: step {step} failed {failures} times{samples}")
            }
            _ if again.is_empty() => format!(
                "gave up after {count} failures that never got beyond step {}",
                strikes.furthest
            ),
            _ => format!("gave up after {count} failures in a row{again}"),
        };
        Some(format!("{what}; the last: {}", strikes.causes.join("; ")))
    }

    /// The positions of what the step after this one trains on.
    fn samples_of(&self, step: Step) -> Option<(u64, u64)> {
        let (_, positions) = muster_plan::positions(&self.job.segments, step).ok()?;
        Some((positions.start, positions.end))
    }

    /// Ends the job, and keeps what is known of the last failure.
    pub fn give_up(&mut self, reason: String) {
        let strikes = &self.volatile.strikes;
        let step = strikes.deadly.map(|(step, _)| step);
        let samples = step.and_then(|step| self.samples_of(step));
        let scene = strikes.scene.as_ref();
        let details = [
            (
                "failures",
                strikes.count.max(strikes.without_advance).into(),
            ),
            ("step", step.map(Step::get).into()),
            ("first_position", samples.map(|(first, _)| first).into()),
            ("end_position", samples.map(|(_, end)| end).into()),
            ("worker", scene.map(|it| it.worker.as_str()).into()),
            ("node", scene.map(|it| it.node.as_str()).into()),
            ("slot", scene.map(|it| it.slot).into()),
            ("rank", scene.and_then(|it| it.rank).into()),
            ("phase", scene.map(|it| it.phase.as_str()).into()),
            ("causes", strikes.causes.clone().into()),
        ];
        self.announce("gave_up", self.standing(), reason.clone(), details);
        self.fail(reason);
    }

    /// Puts out whoever has overrun a bound.
    pub fn enforce_bounds(&mut self) {
        if is_planted(Mutation::SilentStays) {
            return;
        }
        for worker in self.bounded() {
            if let Some(reason) = self.overrun(&worker) {
                self.put_out_for(&worker, reason);
            }
        }
        self.suspect();
        self.watch();
        if self.job.phase == Phase::Active && !self.is_broken() {
            self.enforce_progress();
        }
    }

    /// Puts a culprit out, and counts it.
    pub fn put_out_for(&mut self, worker: &WorkerId, reason: String) {
        let view = self.volatile.workers.get(worker);
        let blame = match view.is_some_and(|view| view.node_lost_at.is_some()) {
            true => Blame::Job,
            false => Blame::Place,
        };
        self.put_out_with(worker, reason, blame);
    }

    /// Puts a worker out, and counts it, for the place too if that may be to blame.
    pub fn put_out_with(&mut self, worker: &WorkerId, reason: String, blame: Blame) {
        let node = self
            .job
            .workers
            .get(worker)
            .map(|placement| placement.node.to_string())
            .unwrap_or_default();
        let scene = self.scene(worker);
        let words = scene.as_ref().map_or(String::new(), Scene::words);
        let cause = format!("worker {worker} on node {node} {reason} ({words})");
        let (origin, is_spare) = (self.origin(worker), self.is_spare(worker));
        self.put_out(worker, cause.clone());
        if let Some(scene) = scene.filter(|_| blame == Blame::Place) {
            self.note_fault(scene, &cause);
        }
        if is_spare {
            return self.spare_lost(worker, &cause);
        }
        self.strike(cause, origin);
    }

    /// Those for whom a bound runs, oldest first: whoever is up and warm has none of its own while it is not asked to fence.
    fn bounded(&self) -> Vec<WorkerId> {
        let forms = matches!(self.job.phase, Phase::Forming { .. });
        let is_bounded = |worker: &WorkerId, placement: &Placement, view: Option<&View>| {
            view.is_none_or(|view| view.attached_at.is_none() || !view.connected || !view.warm)
                || (forms && placement.takes_part && !self.has_fenced(worker))
                || self.volatile.left.contains_key(worker)
        };
        // Whose slot is given back has one bound, from then to its end: see `dismiss`.
        let mut bounded: Vec<_> = with_views(&self.job, &self.volatile)
            .filter(|(_, placement, _)| !placement.expelled && !placement.released)
            .filter(|(worker, placement, view)| is_bounded(worker, placement, *view))
            .map(|(worker, placement, _)| (worker, placement))
            .collect();
        bounded.sort_by_key(|(_, placement)| placement.ordinal);
        let names = bounded.into_iter().map(|(worker, _)| worker.clone());
        names.collect()
    }

    /// The bound that a worker has overrun, if any.
    fn overrun(&mut self, worker: &WorkerId) -> Option<String> {
        let options = self.options;
        let view = self.volatile.workers.get(worker)?.clone();
        if let Some(left_at) = self.volatile.left.get(worker).copied() {
            let late = self.ran_out(left_at, options.exit_bound);
            return late.then(|| {
                format!(
                    "did not exit within {} s of leaving",
                    options.exit_bound.as_secs()
                )
            });
        }
        // Progress proves liveness: while steps are committed, every member is alive.
        let proven_at = self
            .volatile
            .round
            .committed_at
            .filter(|_| self.job.phase == Phase::Active && self.job.rank_of(worker).is_some());
        let alive_since = |since: Monotonic| proven_at.map_or(since, |proven| since.max(proven));
        let Some(attached_at) = view.attached_at else {
            // It holds nothing yet, and another node may have a slot: its agent may have left before it heard of it.
            if let Some(lost_at) = view.node_lost_at
                && self.ran_out(lost_at, options.node_silence_bound)
            {
                return Some("had not attached when its node's agent went out of reach".into());
            }
            let was_here = self.job.workers.get(worker)?.was_candidate;
            // After a restart of the coordinator, all that one has to do who was here before is to connect again.
            let (bound, what) = match was_here {
                true => (options.silence_bound, "was silent for"),
                false => (options.start_bound, "did not attach within"),
            };
            let late = self.ran_out(alive_since(view.since), bound);
            return late.then(|| format!("{what} {} s", bound.as_secs()));
        };
        if !view.connected {
            let since = alive_since(view.disconnected_at.unwrap_or(view.since));
            if self.ran_out(since, options.silence_bound) {
                return Some(format!(
                    "was silent for {} s",
                    options.silence_bound.as_secs()
                ));
            }
            // Where nobody is within reach, it is the coordinator that is cut off.
            let views = &self.volatile.workers;
            if let Some(node_lost_at) = view.node_lost_at
                && views
                    .iter()
                    .any(|(it, view)| view.connected && self.job.serves(it))
                && self.ran_out(since.max(node_lost_at), options.node_silence_bound)
            {
                return Some(format!(
                    "was silent for {} s, as is its node's agent",
                    options.node_silence_bound.as_secs()
                ));
            }
        }
        if !view.warm && self.ran_out(attached_at, options.warm_bound) {
            let phase = if view.phase.is_empty() {
                "starting"
            } else {
                &*view.phase
            };
            return Some(format!(
                "was not warm within {} s of attaching ({phase})",
                options.warm_bound.as_secs()
            ));
        }
        let asked = matches!(&self.job.phase, Phase::Forming { .. }) && self.job.takes_part(worker);
        if asked
            && !self.has_fenced(worker)
            && self.ran_out(self.volatile.round.since, options.fence_bound)
        {
            return Some(format!(
                "did not answer within {} s while generation {} was agreed on",
                options.fence_bound.as_secs(),
                self.job.generation
            ));
        }
        None
    }

    /// Finds who keeps a formed generation from getting ready, or from committing steps.
    fn enforce_progress(&mut self) {
        let generation = self.job.generation;
        let (bound, what) = if !self.volatile.round.ready {
            if !self.ran_out(self.volatile.round.since, self.options.ready_bound) {
                return;
            }
            (self.options.ready_bound, "was not ready")
        } else {
            if !self.ran_out(self.volatile.round.moved_at, self.options.stall_bound) {
                return;
            }
            if self.is_finishing() {
                return self.put_out_who_lacks_the_last_step();
            }
            (self.options.stall_bound, "made no step")
        };
        let members = self.present_members();
        let idle: Vec<WorkerId> = members
            .iter()
            .filter(|member| {
                let view = self.volatile.workers.get(*member);
                self.volatile.round.ready
                    || view
                        .is_none_or(|view| view.ready.is_none_or(|(ready, _)| ready != generation))
            })
            .cloned()
            .collect();
        let culprits = self.culprits(&members, &idle);
        if culprits.is_empty() {
            // Nobody stands out: all try once more, and who is in the way again is known then.
            let reason = format!(
                "generation {generation} came no further within {} s",
                bound.as_secs()
            );
            for member in &idle {
                self.view(member).slow_in = Some(generation);
            }
            if let Some(first) = members.first() {
                self.volatile()
                    .round
                    .failures
                    .insert(first.clone(), reason.clone());
            }
            return self.strike(reason, Origin::Generation(generation));
        }
        for culprit in culprits {
            self.put_out_for(&culprit, format!("{what} within {} s", bound.as_secs()));
        }
    }

    /// Members that have committed the last step wait for the checkpoint of it, however long that takes; but not for those that
    /// never come to the step, nor so to a part of it.
    fn put_out_who_lacks_the_last_step(&mut self) {
        let total = self.job.total_steps();
        let bound = self.options.stall_bound.as_secs();
        for member in self.present_members() {
            let step = self.volatile.workers.get(&member).and_then(|it| it.step);
            if step.is_none_or(|step| step < total) {
                self.put_out_for(
                    &member,
                    format!("did not commit the last step within {bound} s"),
                );
            }
        }
    }

    /// Those of the idle members that hold up the others: the silent ones, those that held up a generation before, or those
    /// that are further behind than the rest. Members that wait in a collective are victims.
    fn culprits(&self, members: &[WorkerId], idle: &[WorkerId]) -> Vec<WorkerId> {
        let silent: Vec<_> = idle
            .iter()
            .filter(|member| !self.is_connected(member))
            .cloned()
            .collect();
        if !silent.is_empty() {
            return silent;
        }
        let view = |member: &WorkerId| self.volatile.workers.get(member);
        // Whoever has not begun with this generation may have been far in the one before.
        let phase = |member: &WorkerId| {
            view(member)
                .filter(|view| view.phase_in == self.job.generation)
                .map_or("", |view| &*view.phase)
        };
        let behind = |member: &WorkerId| match phase(member) {
            "training" => 3,
            "healing" => 2,
            "building" => 1,
            _ => 0,
        };
        let furthest = members.iter().map(behind).max().unwrap_or(0);
        let hindmost = idle.iter().map(behind).min().unwrap_or(0);
        if idle.len() < members.len() || hindmost < furthest {
            return idle
                .iter()
                .filter(|member| behind(member) == hindmost)
                .cloned()
                .collect();
        }
        idle.iter()
            .filter(|member| view(member).is_some_and(|view| view.slow_in.is_some()))
            .cloned()
            .collect()
    }
}

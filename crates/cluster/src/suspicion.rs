//! Who keeps a job from moving. As soon as nothing has moved for longer than usual, all are asked what they are at: the
//! control thread answers for the training thread. Whoever does not answer while others do, or is stuck in work of its own, is
//! the culprit; whoever waits in a collective is a victim.

use std::time::Duration;

use muster_types::{Monotonic, WorkerId};

use crate::{
    Activity, Order, ProbeAnswer,
    job::Phase,
    job_turn::JobTurn,
    liveness::{Blame, Origin},
    reach::Reached,
    volatile::{SpareFailures, Suspicion, View},
};

/// From so many durations on, it is known what is usual.
const ENOUGH_STEPS: usize = 3;

impl JobTurn<'_> {
    /// Asks around where nothing has moved for longer than usual, and puts the culprits out.
    pub fn suspect(&mut self) {
        let since = match self.job.phase {
            Phase::Forming { .. } => self.volatile.round.since,
            _ => self.volatile.round.moved_at,
        };
        if !self.has_suspects() || !self.ran_out(since, self.patience()) {
            return;
        }
        let (asked, suspects) = self.asked_and_suspects();
        if let Some(suspicion) = self.volatile.round.suspicion.clone() {
            if !self.ran_out(suspicion.asked_at, self.options.probe_interval) {
                return;
            }
            if self.judge(&suspicion, &asked, &suspects, since) {
                return;
            }
        }
        self.ask(&asked);
    }

    /// Whether anyone may be a culprit.
    fn has_suspects(&self) -> bool {
        match &self.job.phase {
            Phase::Idle => false,
            Phase::Active => {
                let mut members = self.job.members.iter();
                !self.is_broken() && members.any(|member| self.is_present(member))
            }
            Phase::Forming { candidates } => !candidates.iter().all(|it| self.has_fenced(it)),
        }
    }

    /// Who is asked, and who of them may be a culprit.
    fn asked_and_suspects(&self) -> (Vec<WorkerId>, Vec<WorkerId>) {
        match &self.job.phase {
            Phase::Idle => (Vec::new(), Vec::new()),
            Phase::Active if self.is_broken() => (Vec::new(), Vec::new()),
            Phase::Active => {
                let present = self.present_members();
                (present.clone(), present)
            }
            Phase::Forming { candidates } => {
                let unfenced = candidates.iter().filter(|worker| !self.has_fenced(worker));
                (candidates.to_vec(), unfenced.cloned().collect())
            }
        }
    }

    /// How long nothing may move before anyone is asked.
    fn patience(&self) -> Duration {
        let options = self.options;
        let pace = &self.volatile.pace;
        let steps = pace.steps.longest(ENOUGH_STEPS);
        if matches!(self.job.phase, Phase::Forming { .. }) {
            // A fence waits for an update that is under way, which takes less than a step.
            return steps.map_or(options.patience, |steps| {
                steps.clamp(options.least_patience, options.patience)
            });
        }
        let evaluates = |(worker, view): (&WorkerId, &View)| {
            &*view.phase == "evaluating" && self.job.rank_of(worker).is_some()
        };
        let usual = if !self.volatile.round.ready {
            let ready = pace.ready.longest(1);
            return ready.map_or(options.patience, |ready| {
                (ready * options.patience_factor).max(options.patience)
            });
        } else if self.volatile.workers.iter().any(evaluates) {
            pace.evaluations.longest(1)
        } else {
            steps
        };
        usual.map_or(options.patience, |usual| {
            (usual * options.patience_factor).max(options.least_patience)
        })
    }

    fn ask(&mut self, asked: &[WorkerId]) {
        let now = self.now.monotonic;
        let volatile = self.volatile();
        volatile.probes += 1;
        let number = volatile.probes;
        let suspicion = volatile.round.suspicion.get_or_insert(Suspicion {
            first: number,
            asked_at: now,
            named: false,
            reach: None,
        });
        suspicion.asked_at = now;
        self.ran_out(now, self.options.probe_interval);
        for worker in asked {
            if self.is_connected(worker) {
                self.tell(worker, Order::Probe { number });
            }
        }
    }

    /// A worker has answered.
    pub fn probed(&mut self, worker: &WorkerId, answer: ProbeAnswer) {
        let newest = self.volatile.probes;
        let view = self.view(worker);
        let is_news = view.answer.is_none_or(|last| last.number < answer.number);
        if !is_news || answer.number > newest {
            return;
        }
        view.answer = Some(answer);
        if let Some(watch) = &mut view.watch {
            // A later one may be on its way.
            watch.unanswered = u64::from(watch.number > answer.number);
            watch.since = watch.at;
        }
        let stands_by_since = view.attached_at.filter(|_| self.is_spare(worker));
        let now = self.now.monotonic;
        if stands_by_since.is_some_and(|since| now.since(since) >= self.options.backoff_max)
            && self.volatile.spare_failures.count > 0
        {
            self.volatile().spare_failures = SpareFailures::default();
        }
    }

    /// How many probes in a row a worker has left unanswered since the asking began.
    fn unanswered(&self, worker: &WorkerId, suspicion: &Suspicion) -> u64 {
        let answer = self.volatile.workers.get(worker).and_then(|it| it.answer);
        let answered = answer.map_or(0, |answer| answer.number);
        self.volatile.probes - answered.max(suspicion.first - 1)
    }

    /// A worker's answer to the last probe or the one before.
    fn answer(&self, worker: &WorkerId, suspicion: &Suspicion) -> Option<ProbeAnswer> {
        let answer = self.volatile.workers.get(worker)?.answer?;
        (answer.number >= suspicion.first && answer.number + 1 >= self.volatile.probes)
            .then_some(answer)
    }

    /// Acts on what was answered. Returns whether anything came of it.
    fn judge(
        &mut self,
        suspicion: &Suspicion,
        asked: &[WorkerId],
        suspects: &[WorkerId],
        since: Monotonic,
    ) -> bool {
        let still = self.now.monotonic.since(since).as_secs_f64();
        let heard = |worker: &&WorkerId| self.answer(worker, suspicion).is_some();
        // Two are enough to know of anyone whether others are heard.
        let heard: Vec<&WorkerId> = asked.iter().filter(heard).take(2).collect();
        let deaf: Vec<_> = suspects
            .iter()
            .filter(|worker| self.is_deaf(worker, suspicion, &heard))
            .cloned()
            .collect();
        for worker in &deaf {
            let reason = format!(
                "is the culprit: nothing has moved for {still:.1} s, and it left {} probes in a row unanswered",
                self.unanswered(worker, suspicion)
            );
            self.put_out_for(worker, reason);
        }
        if !deaf.is_empty() || self.job.phase != Phase::Active {
            return !deaf.is_empty();
        }
        let answers: Option<Vec<_>> = suspects
            .iter()
            .map(|worker| Some((worker.clone(), self.answer(worker, suspicion)?)))
            .collect();
        let Some(answers) = answers else { return false };
        let stuck: Vec<_> = answers
            .iter()
            .filter(|(_, answer)| self.is_stuck(answer) || self.has_not_joined(answer))
            .collect();
        for (worker, answer) in &stuck {
            let reason = format!(
                "is the culprit: nothing has moved for {still:.1} s, and it {}",
                words(answer)
            );
            self.put_out_for(worker, reason);
        }
        if !stuck.is_empty() {
            return true;
        }
        let waits = |answer: &ProbeAnswer| answer.activity.waits_for_peers();
        if answers.iter().all(|(_, answer)| waits(answer)) {
            match self.ask_who_reaches_whom() {
                Reached::Asking => return false,
                Reached::Broken => {
                    self.put_out_the_cut_off(since);
                    return true;
                }
                Reached::All => {}
            }
        }
        if answers.iter().all(|(_, answer)| self.is_entangled(answer)) {
            self.disentangle(&answers, still);
            return true;
        }
        self.name(suspicion, &answers, still);
        false
    }

    /// Whether a worker is silent and not merely slow to be heard: others were heard meanwhile.
    fn is_deaf(&self, worker: &WorkerId, suspicion: &Suspicion, heard: &[&WorkerId]) -> bool {
        let options = self.options;
        let unanswered = self.unanswered(worker, suspicion);
        let enough = match self.is_connected(worker) {
            true => options.deaf_probes,
            // It may be about to attach again.
            false => options.lost_probes,
        };
        if heard.iter().any(|other| *other != worker) {
            return unanswered >= enough;
        }
        // Where nobody is heard, it may be the coordinator that is cut off; but not while the worker's agent is.
        let view = self.volatile.workers.get(worker);
        let agent_is_there = view.is_some_and(|view| view.connected && view.node_lost_at.is_none());
        agent_is_there && unanswered >= options.lone_probes
    }

    /// Whether a rank hangs in work of its own.
    fn is_stuck(&self, answer: &ProbeAnswer) -> bool {
        let floor = match answer.activity {
            Activity::Computing => self.options.hang_bound,
            Activity::Reading | Activity::Restoring | Activity::Saving => {
                self.options.storage_hang_bound
            }
            Activity::Idle | Activity::Loading | Activity::Building | Activity::Reducing => {
                return false;
            }
        };
        self.overruns(answer, floor)
    }

    /// Whether a rank has not stirred since the generation was formed: it is still in the one before.
    fn has_not_joined(&self, answer: &ProbeAnswer) -> bool {
        let formed = self.now.monotonic.since(self.volatile.round.since);
        let slack = self.options.probe_interval * 2;
        !self.volatile.round.ready
            && !matches!(answer.activity, Activity::Idle | Activity::Building)
            && answer.quiet > formed + slack
            && answer.quiet > answer.usual * self.options.hang_factor
    }

    /// Whether a rank waits for its peers for far longer than it ever had to.
    fn is_entangled(&self, answer: &ProbeAnswer) -> bool {
        answer.activity.waits_for_peers() && self.overruns(answer, self.options.hang_bound)
    }

    /// What was never seen to end says nothing: the fixed bounds hold for it.
    fn overruns(&self, answer: &ProbeAnswer, floor: Duration) -> bool {
        answer.usual > Duration::ZERO
            && answer.quiet > floor.max(answer.usual * self.options.hang_factor)
    }

    /// All wait for each other: what one has sent did not reach another. The next generation builds its connections anew; if
    /// that comes to the same, one has to go.
    fn disentangle(&mut self, answers: &[(WorkerId, ProbeAnswer)], still: f64) {
        let generation = self.job.generation;
        let again = answers.iter().all(|(worker, _)| {
            let view = self.volatile.workers.get(worker);
            view.is_some_and(|view| view.slow_in.is_some_and(|slow| slow < generation))
        });
        let reason =
            format!("every rank waits for the others, and nothing has moved for {still:.1} s");
        if let (true, Some((last, _))) = (again, answers.last()) {
            let reason =
                format!("is out so that the others can go on: {reason}, for the second time");
            return self.put_out_with(last, reason, Blame::Job);
        }
        for (worker, _) in answers {
            self.view(worker).slow_in = Some(generation);
        }
        if let Some((first, _)) = answers.first() {
            let failures = &mut self.volatile().round.failures;
            failures.insert(first.clone(), reason.clone());
        }
        self.strike(reason, Origin::Generation(generation));
    }

    /// Says once whom the others wait for. It may only be slow.
    fn name(&mut self, suspicion: &Suspicion, answers: &[(WorkerId, ProbeAnswer)], still: f64) {
        let waits = |answer: &ProbeAnswer| answer.activity.waits_for_peers();
        let works = |answer: &ProbeAnswer| !waits(answer) && answer.activity != Activity::Idle;
        let one_waits = answers.iter().any(|(_, answer)| waits(answer));
        if suspicion.named || !(one_waits || answers.len() == 1) {
            return;
        }
        let working = answers.iter().filter(|(_, answer)| works(answer));
        let Some((worker, answer)) = working.max_by_key(|(_, answer)| answer.quiet) else {
            return;
        };
        if let Some(suspicion) = &mut self.volatile().round.suspicion {
            suspicion.named = true;
        }
        let placement = self.job.workers.get(worker);
        let node = placement.map_or("", |placement| placement.node.as_str());
        let reason = format!(
            "worker {worker} on node {node} holds the others up: nothing has moved for {still:.1} s, and it {}",
            words(answer)
        );
        let details = [
            ("worker", worker.as_str().into()),
            ("node", node.into()),
            ("rank", self.job.rank_of(worker).into()),
            ("activity", answer.activity.as_str().into()),
            ("quiet_ms", milliseconds(answer.quiet).into()),
            ("usual_ms", milliseconds(answer.usual).into()),
        ];
        self.announce("stalled", self.standing(), reason, details);
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What a rank is at, as it goes on after "it".
fn words(answer: &ProbeAnswer) -> String {
    let usual = match answer.usual.is_zero() {
        true => String::new(),
        false => format!(", where {:.1} s is usual", answer.usual.as_secs_f64()),
    };
    format!(
        "{} without a sign of life for {:.1} s{usual}",
        answer.activity.words(),
        answer.quiet.as_secs_f64()
    )
}

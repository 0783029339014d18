use muster_types::{Step, WorkerId};

use super::{
    content,
    sabotage::Sabotage,
    storage::Read,
    training::{At, BROADCAST, HASHES, Thread},
    world::{World, say},
};
use crate::{ResumeSource, WorkerMessage};

/// How a rank comes to the state that its generation starts from.
impl World {
    /// The group is built: whoever does not hold the state that the generation starts from is brought to it.
    pub fn heal(&mut self, worker: &WorkerId) {
        let marks = !self.is_sabotaged(Sabotage::HalfHealedStated);
        let it = self.workers.get_mut(worker).expect("it is there");
        let (generation, form) = it.form.clone().expect("a member has a form");
        let resume = form.resume.state;
        self.say_phase(worker, "healing", resume.step);
        let it = self.workers.get_mut(worker).expect("it is there");
        if it.is_over(generation) {
            return self.rest(worker);
        }
        let whole = it.holdings == Some(resume);
        match &form.resume.source {
            ResumeSource::Initialise if !whole => {
                it.holdings = None;
                it.content = content::initial(it.job);
                self.compare(worker);
            }
            ResumeSource::Checkpoint { .. } if !whole => {
                if marks {
                    it.holdings = None;
                }
                it.content = content::half(it.content, resume.step.get());
                self.turn_to(worker, At::Restoring);
                let delay = self.storage_delay();
                self.thread_after(worker, delay, Thread::Restored);
            }
            ResumeSource::Live { ranks } => {
                let sends = ranks.contains(&form.rank);
                if sends && !whole {
                    let words = "this rank is to send a state and holds another";
                    return self.fails(worker, generation, "state", words);
                }
                if ranks.len() < form.members.len() {
                    if !sends {
                        if marks {
                            it.holdings = None;
                        }
                        it.content = content::half(it.content, resume.step.get());
                    }
                    if sends {
                        self.coverage.count("broadcasts of a state");
                        self.may_die_while_it_sends(worker);
                    }
                    self.enter(worker, BROADCAST);
                } else {
                    self.compare(worker);
                }
            }
            ResumeSource::Initialise | ResumeSource::Checkpoint { .. } => self.compare(worker),
        }
    }

    pub fn restored(&mut self, worker: &WorkerId) {
        let it = &self.workers[worker];
        let (generation, job) = (it.form.as_ref().expect("a form").0, it.job);
        let resume = it.form().resume.clone();
        let read = self.read_checkpoint(job, resume.state);
        say!(
            self,
            "{worker} reads the checkpoint of {}: {read:?}",
            resume.state
        );
        let corrupt = match read {
            Read::Whole(content) => {
                self.coverage.count("checkpoints read");
                let it = self.workers.get_mut(worker).expect("it is there");
                it.content = content;
                return self.compare(worker);
            }
            Read::Corrupt => true,
            Read::OutOfReach => false,
        };
        if self.workers[worker].is_over(generation) {
            return self.rest(worker);
        }
        self.coverage.count("checkpoints that could not be read");
        let uri = format!(
            "/checkpoints/{}",
            muster_checkpoint::directory_name(resume.state)
        );
        let unreadable = WorkerMessage::Unreadable {
            state: resume.state,
            uri,
            cause: "bad bytes".into(),
            corrupt,
        };
        self.says(worker, generation, unreadable);
        self.rest(worker);
    }

    pub fn compare(&mut self, worker: &WorkerId) {
        self.enter(worker, HASHES);
    }

    pub fn compared(&mut self, worker: &WorkerId, agree: bool) {
        let it = self.workers.get_mut(worker).expect("it is there");
        let (generation, form) = it.form.clone().expect("a member has a form");
        let resume = form.resume.state;
        if it.is_over(generation) {
            return self.rest(worker);
        }
        let whole = it.holdings == Some(resume);
        let state_hash = it.content;
        if agree {
            it.holdings = Some(resume);
        } else {
            it.holdings = None;
        }
        let healed_from = match &form.resume.source {
            _ if whole => "none",
            ResumeSource::Initialise => "init",
            ResumeSource::Live { .. } => "live",
            ResumeSource::Checkpoint { .. } => "checkpoint",
        };
        if healed_from == "live" {
            self.coverage.count("heals from a peer");
        }
        self.check_ready(worker, resume);
        let ready = WorkerMessage::Ready {
            state_hash,
            heal_ms: 3,
            healed_bytes: 10,
            healed_from: healed_from.into(),
        };
        self.says(worker, generation, ready);
        if !agree {
            return self.rest(worker);
        }
        let restored = matches!(form.resume.source, ResumeSource::Checkpoint { .. });
        if resume.step > Step(0) && !restored && self.save_is_due(worker, resume.step) {
            self.save(worker, resume);
        }
        self.say_phase(worker, "training", resume.step);
        self.go_on(worker);
    }
}

use std::collections::BTreeMap;

use muster_types::{Generation, JobId, Step, Timestamp, WorkerId};
use serde_json::{Value, json};

use crate::{Record, RecordKind, ResumeSource, draining::NODE_DRAINING, waiting::counted};

/// A record, for people: what `muster events` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicEvent {
    /// Whose event it is; `None` for one of a node.
    pub job: Option<JobId>,
    /// When it happened.
    pub at: Timestamp,
    /// submit, state, placement, worker_start, worker_attach, worker_exit, expelled, generation_opened, …
    pub kind: String,
    /// The generation that it concerns, or that the job was in.
    pub generation: Generation,
    /// The step that it concerns, or that the job was at.
    pub step: Step,
    /// In words.
    pub reason: String,
    /// What else the kind needs.
    pub details: BTreeMap<String, Value>,
}

/// The event that a record is for people; `None` for one that says nothing to them.
pub fn describe(record: &Record) -> Option<PublicEvent> {
    let mut event = PublicEvent {
        job: record.kind.job(),
        at: record.at,
        kind: String::new(),
        generation: record.generation,
        step: record.step,
        reason: String::new(),
        details: BTreeMap::new(),
    };
    match &record.kind {
        RecordKind::JobSubmitted(submission) => {
            let workers = &submission.spec.workers;
            event.say(
                "submit",
                format!(
                    "job {:?} of {} steps",
                    submission.spec.name, submission.spec.train.steps
                ),
            );
            event.add("name", json!(submission.spec.name));
            event.add("total_steps", json!(submission.spec.train.steps));
            event.add("workers_min", json!(workers.min));
            event.add("workers_max", json!(workers.max));
        }
        RecordKind::JobState { state, reason, .. } => {
            event.say("state", reason);
            event.add("state", json!(state));
        }
        RecordKind::StopRequested { grace_seconds, .. } => {
            event.say("stop_requested", "someone asked for a stop");
            event.add("grace_seconds", json!(grace_seconds));
        }
        RecordKind::JobPreempted {
            by,
            grace_seconds,
            reason,
            ..
        } => {
            event.say("preempted", reason);
            if let Some(by) = by {
                event.add("by", json!(by));
            }
            event.add("grace_seconds", json!(grace_seconds));
        }
        RecordKind::JobRequeued { reason, .. } => event.say("requeued", reason),
        RecordKind::BatchSkipped {
            step,
            from,
            to,
            back_to,
            reason,
            details,
            ..
        } => {
            let kind = match back_to {
                None => "batch_skipped",
                Some(_) => "rolled_back",
            };
            event.say(kind, reason);
            event.step = *step;
            event.details.clone_from(details);
            event.add("from_position", json!(from));
            event.add("to_position", json!(to));
            if let Some(state) = back_to {
                event.add("back_to_step", json!(state.step));
            }
        }
        RecordKind::WorkerPlaced {
            worker,
            node,
            slot,
            device,
            reason,
            ..
        } => {
            event.say("placement", reason);
            event.add_worker(worker);
            event.add("node", json!(node));
            event.add("slot", json!(slot));
            event.add("device", json!(device));
        }
        RecordKind::WorkerExpelled { worker, reason, .. } => {
            event.say("expelled", reason);
            event.add_worker(worker);
        }
        RecordKind::WorkerReleased { worker, reason, .. } => {
            event.say("released", reason);
            event.add_worker(worker);
        }
        RecordKind::WorkerGone {
            worker,
            reason,
            exit,
            ..
        } => {
            event.say("worker_exit", reason);
            event.add_worker(worker);
            if let Some(exit) = exit {
                event.add("code", json!(exit.code));
                event.add("signal", json!(exit.signal));
                event.add("stderr_tail", json!(exit.stderr_tail));
            }
        }
        RecordKind::GenerationOpened {
            generation,
            candidates,
            cause,
            reason,
            ..
        } => {
            event.say("generation_opened", reason);
            event.generation = *generation;
            event.add("candidates", json!(candidates));
            event.add("cause", json!(cause));
        }
        RecordKind::GenerationFormed {
            generation,
            members,
            resume,
            ..
        } => {
            let (source, words) = match &resume.source {
                ResumeSource::Initialise => {
                    (json!({"from": "init"}), "made from the seed".to_owned())
                }
                ResumeSource::Live { ranks } => (
                    json!({"from": "live", "ranks": ranks}),
                    format!("held by {} of them", ranks.len()),
                ),
                ResumeSource::Checkpoint { uri } => (
                    json!({"from": "checkpoint", "uri": uri}),
                    format!("read from {uri}"),
                ),
            };
            event.say(
                "generation_formed",
                format!(
                    "{} at {}, {words}",
                    counted(members.len(), "member"),
                    resume.state
                ),
            );
            event.generation = *generation;
            event.step = resume.state.step;
            event.add("members", json!(members));
            event.add("world_size", json!(members.len()));
            event.add("resume_generation", json!(resume.state.generation));
            event.add("resume", source);
        }
        RecordKind::NumericsSeen {
            fingerprints,
            before,
            ..
        } => {
            let now = fingerprints.join(" | ");
            let reason = match (fingerprints.len(), before.is_empty()) {
                (1, true) => return None,
                (1, false) => format!(
                    "the numerics are others than before, so bits from here on cannot be compared with those of a run without the \
                     change: {now} instead of {}",
                    before.join(" | ")
                ),
                _ => format!(
                    "the members compute under different numerics, so their bits depend on who trains what: {now}"
                ),
            };
            event.say("numerics_differ", reason);
            event.add("fingerprints", json!(fingerprints));
            event.add("before", json!(before));
        }
        RecordKind::CheckpointCommitted {
            state,
            uri,
            tokens_seen,
            total_bytes,
            ..
        } => {
            event.say(
                "checkpoint_committed",
                format!("the checkpoint of {state} is complete"),
            );
            (event.generation, event.step) = (state.generation, state.step);
            event.add("uri", json!(uri));
            event.add("bytes", json!(total_bytes));
            event.add("tokens_seen", json!(tokens_seen));
        }
        RecordKind::CheckpointCondemned { state, reason, .. } => {
            event.say(
                "checkpoint_condemned",
                format!("the checkpoint of {state} does not read back: {reason}"),
            );
            (event.generation, event.step) = (state.generation, state.step);
        }
        RecordKind::CheckpointDeleted { state, .. } => {
            event.say(
                "checkpoint_deleted",
                format!("the checkpoint of {state} is no longer kept"),
            );
            (event.generation, event.step) = (state.generation, state.step);
        }
        RecordKind::Evaluated {
            state,
            validation_loss,
            tokens,
            ..
        } => {
            let words = validation_loss.map_or("is not finite".to_owned(), |loss| {
                format!("is {loss:.4} nats a token")
            });
            event.say(
                "evaluation",
                format!("the held-out loss of {state} {words}"),
            );
            (event.generation, event.step) = (state.generation, state.step);
            event.add("validation_loss", json!(validation_loss));
            event.add("tokens", json!(tokens));
        }
        RecordKind::Noted {
            event: kind,
            generation,
            step,
            reason,
            details,
            ..
        } => {
            event.say(kind, reason);
            (event.generation, event.step) = (*generation, *step);
            event.details.clone_from(details);
        }
        RecordKind::NodeCordoned {
            node,
            slot,
            reason,
            drain,
            ..
        } => {
            let kind = match drain {
                true => NODE_DRAINING,
                false => "node_cordoned",
            };
            event.say(kind, reason);
            event.add("node", json!(node));
            if let Some(slot) = slot {
                event.add("slot", json!(slot));
            }
        }
        RecordKind::NodeUncordoned { node } => {
            event.say("node_uncordoned", "");
            event.add("node", json!(node));
        }
        RecordKind::SegmentOpened { .. } | RecordKind::Watermark { .. } => return None,
    }
    Some(event)
}

impl PublicEvent {
    fn say(&mut self, kind: &str, reason: impl Into<String>) {
        self.kind = kind.into();
        self.reason = reason.into();
    }

    fn add(&mut self, key: &str, value: Value) {
        self.details.insert(key.into(), value);
    }

    fn add_worker(&mut self, worker: &WorkerId) {
        self.add("worker", json!(worker));
    }
}

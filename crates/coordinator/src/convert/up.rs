use std::{collections::BTreeSet, time::Duration};

use muster_checkpoint::{FileEntry, TensorEntry};
use muster_cluster::{
    Activity, AgentHello, Event, Exit, Part, ProbeAnswer, SlotOffer, StepMetrics, Trip,
    WorkerMessage,
};
use muster_proto::v1::{self, worker_message};
use muster_types::{Digest, Generation, Rank, StateId, Step, WorkerId};
use tonic::Status;

/// More than any node has.
const MAX_SLOTS: usize = 4096;

/// An agent's hello, checked.
pub(crate) fn agent_hello(hello: v1::AgentHello) -> Result<AgentHello, Status> {
    if hello.node.is_empty() {
        return Err(Status::invalid_argument("the hello names no node"));
    }
    let indices: BTreeSet<_> = hello.slots.iter().map(|slot| slot.index).collect();
    if indices.len() != hello.slots.len() || hello.slots.len() > MAX_SLOTS {
        return Err(Status::invalid_argument(format!(
            "the hello offers {} slots, {} of them different; each has its own index, and there are at most {MAX_SLOTS}",
            hello.slots.len(),
            indices.len()
        )));
    }
    let slot = |slot: v1::Slot| SlotOffer {
        index: slot.index,
        device: slot.device,
        threads: slot.threads,
    };
    let running =
        |started: v1::WorkerStarted| (WorkerId::new(started.worker_id), started.slot, started.pid);
    Ok(AgentHello {
        node: hello.node.as_str().into(),
        advertise: hello.advertise,
        slots: hello.slots.into_iter().map(slot).collect(),
        running: hello.running.into_iter().map(running).collect(),
        leaving_seconds: hello.leaving_seconds,
    })
}

/// How a worker ended.
pub(crate) fn exit(exited: v1::WorkerExited) -> Exit {
    Exit {
        code: exited.exit_code,
        signal: exited.signal,
        start_error: exited.start_error,
        stderr_tail: exited.stderr_tail,
    }
}

/// A worker's message, as the event that it is.
pub(crate) fn worker_event(message: v1::WorkerMessage) -> Result<Event, Status> {
    let job = message
        .job_id
        .parse()
        .map_err(|error| invalid(format!("{error}")))?;
    if message.worker_id.is_empty() {
        return Err(invalid("the message names no worker".into()));
    }
    let kind = message
        .kind
        .ok_or_else(|| invalid("the message is empty".into()))?;
    Ok(Event::Worker {
        job,
        worker: WorkerId::new(message.worker_id),
        generation: Generation(message.generation),
        message: worker_message(kind)?,
    })
}

fn worker_message(kind: worker_message::Kind) -> Result<WorkerMessage, Status> {
    use worker_message::Kind as K;
    Ok(match kind {
        K::Attach(attach) => WorkerMessage::Attach {
            pid: attach.pid,
            collective_address: attach.collective_address,
            holdings: attach.holdings.map(state_id),
            warm: attach.warm,
            numerics_fingerprint: attach.numerics_fingerprint,
            reach_address: attach.reach_address,
        },
        K::Warm(warm) => WorkerMessage::Warm {
            numerics_fingerprint: warm.numerics_fingerprint,
            reach_address: warm.reach_address,
        },
        K::Fenced(fenced) => WorkerMessage::Fenced {
            superseded: Generation(fenced.superseded),
            holdings: fenced.holdings.map(state_id),
        },
        K::Ready(ready) => WorkerMessage::Ready {
            state_hash: ready.state_hash,
            heal_ms: ready.heal_ms,
            healed_bytes: ready.healed_bytes,
            healed_from: ready.healed_from,
        },
        K::Report(report) => WorkerMessage::Report {
            steps: report.steps.into_iter().map(metrics).collect(),
        },
        K::Failed(failed) => WorkerMessage::Failed {
            cause: failed.cause,
            class: failed.class,
            phase: failed.phase,
            step: Step(failed.step),
        },
        K::AtBoundary(at) => WorkerMessage::AtBoundary {
            state: required(at.state)?,
        },
        K::PartWritten(part) => WorkerMessage::PartWritten(part_written(part)?),
        K::PartFailed(part) => WorkerMessage::PartFailed {
            state: required(part.state)?,
            rank: Rank(part.rank),
            cause: part.cause,
        },
        K::Unreadable(unreadable) => WorkerMessage::Unreadable {
            state: required(unreadable.state)?,
            uri: unreadable.uri,
            cause: unreadable.cause,
            corrupt: unreadable.corrupt,
        },
        K::Left(left) => WorkerMessage::Left {
            reason: left.reason,
            step: Step(left.step),
        },
        K::Phase(phase) => WorkerMessage::Phase {
            phase: phase.phase,
            step: Step(phase.step),
        },
        K::Evaluated(evaluated) => WorkerMessage::Evaluated {
            step: Step(evaluated.step),
            validation_loss: evaluated.validation_loss,
            tokens: evaluated.tokens,
        },
        K::Tripped(trip) => WorkerMessage::Tripped(Trip {
            step: Step(trip.step),
            not_finite: trip.not_finite,
            loss: trip.loss,
            gradient_norm: trip.gradient_norm,
            loss_score: trip.loss_score,
            norm_score: trip.norm_score,
            held: trip.held,
        }),
        K::Diverged(diverged) => WorkerMessage::Diverged {
            step: Step(diverged.step),
            state_hash: diverged.state_hash,
        },
        K::Reached(reached) => WorkerMessage::Reached {
            number: reached.number,
            unreachable: reached.unreachable.into_iter().map(WorkerId::new).collect(),
        },
        K::ProbeAnswer(answer) => WorkerMessage::ProbeAnswer(ProbeAnswer {
            number: answer.number,
            activity: activity(answer.activity())?,
            quiet: Duration::from_millis(answer.quiet_ms),
            usual: Duration::from_millis(answer.usual_ms),
        }),
    })
}

fn activity(activity: v1::Activity) -> Result<Activity, Status> {
    use v1::Activity as A;
    Ok(match activity {
        A::Idle => Activity::Idle,
        A::Loading => Activity::Loading,
        A::Building => Activity::Building,
        A::Restoring => Activity::Restoring,
        A::Reading => Activity::Reading,
        A::Computing => Activity::Computing,
        A::Reducing => Activity::Reducing,
        A::Saving => Activity::Saving,
        A::Unspecified => return Err(invalid("the answer names no activity".into())),
    })
}

fn part_written(part: v1::PartWritten) -> Result<Part, Status> {
    let tensor = |tensor: v1::TensorDigest| -> Result<TensorEntry, Status> {
        Ok(TensorEntry {
            name: tensor.name,
            dtype: tensor.dtype,
            shape: tensor.shape,
            digest: digest(&tensor.digest)?,
        })
    };
    Ok(Part {
        state: required(part.state)?,
        rank: Rank(part.rank),
        world_size: part.world_size,
        file: FileEntry {
            file: part.file,
            bytes: part.bytes,
            digest: digest(&part.digest)?,
            tensors: part
                .tensors
                .into_iter()
                .map(tensor)
                .collect::<Result<_, _>>()?,
        },
    })
}

fn metrics(metrics: v1::StepMetrics) -> StepMetrics {
    StepMetrics {
        step: Step(metrics.step),
        loss: metrics.loss,
        learning_rate: metrics.learning_rate,
        gradient_norm: metrics.gradient_norm,
        tokens: metrics.tokens,
        step_ms: metrics.step_ms,
        evidence: metrics.evidence,
        samples: metrics.samples,
        slot_ms: metrics.slot_ms,
    }
}

fn state_id(state: v1::StateId) -> StateId {
    StateId::new(Generation(state.generation), Step(state.step))
}

fn required(state: Option<v1::StateId>) -> Result<StateId, Status> {
    state
        .map(state_id)
        .ok_or_else(|| invalid("the message names no state".into()))
}

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|error| invalid(format!("{error}")))
}

fn invalid(reason: String) -> Status {
    Status::invalid_argument(reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn part(digest: &str, state: Option<v1::StateId>) -> v1::WorkerMessage {
        let digest = digest.to_owned();
        v1::WorkerMessage {
            job_id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
            worker_id: "w-0".into(),
            generation: 4,
            kind: Some(worker_message::Kind::PartWritten(v1::PartWritten {
                state,
                rank: 1,
                world_size: 2,
                file: "r1.safetensors".into(),
                bytes: 640,
                digest: digest.clone(),
                tensors: vec![v1::TensorDigest {
                    name: "model.x".into(),
                    dtype: "F32".into(),
                    shape: vec![2, 80],
                    digest,
                }],
                write_ms: 3,
            })),
        }
    }

    #[test]
    fn a_part_is_taken_over_whole() {
        let state = v1::StateId {
            generation: 4,
            step: 10,
        };
        let event = worker_event(part(&"ab".repeat(32), Some(state))).unwrap();
        let Event::Worker {
            worker,
            generation,
            message,
            ..
        } = event
        else {
            panic!()
        };
        assert_eq!((worker.as_str(), generation), ("w-0", Generation(4)));
        let WorkerMessage::PartWritten(part) = message else {
            panic!()
        };
        assert_eq!(part.state, StateId::new(Generation(4), Step(10)));
        assert_eq!(
            (part.rank, part.world_size, part.file.bytes),
            (Rank(1), 2, 640)
        );
        assert_eq!(part.file.tensors[0].shape, [2, 80]);
        assert_eq!(part.file.digest, Digest::new([0xab; 32]));
    }

    #[test]
    fn what_lacks_its_meaning_is_refused() {
        let state = v1::StateId {
            generation: 4,
            step: 10,
        };
        let wrong = |message| worker_event(message).unwrap_err().message().to_owned();
        assert!(wrong(part("xyz", Some(state))).contains("is not a digest"));
        assert!(wrong(part(&"ab".repeat(32), None)).contains("names no state"));
        let good = part(&"ab".repeat(32), Some(state));
        assert!(
            wrong(v1::WorkerMessage {
                kind: None,
                ..good.clone()
            })
            .contains("empty")
        );
        let nameless = v1::WorkerMessage {
            worker_id: String::new(),
            ..good.clone()
        };
        assert!(wrong(nameless).contains("no worker"));
        assert!(
            wrong(v1::WorkerMessage {
                job_id: "7".into(),
                ..good
            })
            .contains("not a job id")
        );
    }

    #[test]
    fn a_hello_with_a_slot_twice_is_refused() {
        let slot = v1::Slot {
            index: 1,
            device: "cpu".into(),
            gpu_uuid: String::new(),
            threads: 1,
        };
        let hello = |node: &str, slots: usize| v1::AgentHello {
            node: node.into(),
            slots: vec![slot.clone(); slots],
            ..v1::AgentHello::default()
        };
        assert!(agent_hello(hello("a", 2)).is_err());
        assert!(agent_hello(hello("", 1)).is_err());
        assert_eq!(agent_hello(hello("a", 1)).unwrap().slots.len(), 1);
    }
}

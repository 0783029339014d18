use std::path::Path;

use muster_cluster::{JobState, Record, RecordKind};
use muster_proto::v1::{self, history_entry::Kind};
use muster_store::{JournalError, JournalReader};
use muster_types::JobId;

use crate::convert;

/// Records that are read at a time.
const PAGE: u32 = 500;

/// What the records of a job say of its line, for an audit; `None` where the journal has no such job. The journal may be in use.
///
/// # Errors
/// If the journal cannot be read.
pub fn read_history(journal: &Path, job: JobId) -> Result<Option<v1::JobHistory>, JournalError> {
    let reader = JournalReader::<Record>::open(journal)?;
    let mut history = None;
    let mut after = 0;
    loop {
        let page = reader.events(job, after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(history);
        };
        after = last.sequence;
        for entry in page {
            take(&mut history, &entry.body, journal)?;
        }
    }
}

fn take(
    history: &mut Option<v1::JobHistory>,
    record: &Record,
    journal: &Path,
) -> Result<(), JournalError> {
    if let RecordKind::JobSubmitted(submission) = &record.kind {
        let spec_json = serde_json::to_string(&submission.spec).map_err(|source| {
            let kind = "job_submitted".into();
            JournalError::Encode { kind, source }
        })?;
        *history = Some(v1::JobHistory {
            job_id: submission.job.to_string(),
            spec_json,
            state: JobState::Pending.as_str().into(),
            step: 0,
            dataset_digest: submission.dataset_digest.to_string(),
            entries: Vec::new(),
        });
        return Ok(());
    }
    let Some(history) = history else {
        return Err(JournalError::Corrupt {
            path: journal.to_path_buf(),
            reason: "a job has records before it was submitted".into(),
        });
    };
    history.step = record.step.get();
    let kind = match &record.kind {
        RecordKind::JobState { state, .. } => {
            history.state = state.as_str().into();
            return Ok(());
        }
        RecordKind::SegmentOpened { segment, .. } => Kind::Segment(convert::segment(*segment)),
        RecordKind::BatchSkipped { from, to, .. } => Kind::Skipped(v1::SkippedSamples {
            from_position: from.get(),
            to_position: to.get(),
        }),
        RecordKind::GenerationFormed {
            generation,
            members,
            resume,
            ..
        } => Kind::Formed(v1::FormedGeneration {
            generation: generation.get(),
            resume: Some(convert::state_id(resume.state)),
            world_size: u32::try_from(members.len()).unwrap_or(u32::MAX),
        }),
        RecordKind::Watermark {
            state,
            tokens_seen,
            evidence,
            samples,
            ..
        } => Kind::Watermark(v1::Fed {
            state: Some(convert::state_id(*state)),
            tokens: *tokens_seen,
            samples: *samples,
            evidence: *evidence,
        }),
        kind => match kind.evidence_gap() {
            Some((state, steps)) => Kind::Gap(v1::EvidenceGap {
                state: Some(convert::state_id(state)),
                steps,
            }),
            None => return Ok(()),
        },
    };
    history.entries.push(v1::HistoryEntry { kind: Some(kind) });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use muster_cluster::{Resume, ResumeSource, Submission};
    use muster_store::Journal;
    use muster_types::{Digest, Generation, Position, Segment, StateId, Step, Timestamp};

    use super::*;
    use crate::journal_entry::entry;

    fn job(last: u8) -> JobId {
        let text = format!("01890a5d-ac96-774b-bcce-b302099a80{last:02x}");
        text.parse().unwrap()
    }

    fn submitted(job: JobId) -> RecordKind {
        RecordKind::JobSubmitted(Box::new(Submission {
            job,
            spec: muster_spec::RunSpec::default(),
            dataset_digest: Digest::new([5; 32]),
            dataset_samples: 1,
            checkpoint_root: "/c".into(),
        }))
    }

    #[test]
    fn a_history_is_what_the_journal_says_of_one_job() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.sqlite");
        let job = job(1);
        let state = StateId::new(Generation(1), Step(40));
        let mut kinds = vec![
            submitted(super::tests::job(2)),
            submitted(job),
            RecordKind::SegmentOpened {
                job,
                segment: Segment {
                    start_step: Step(0),
                    start_position: Position(0),
                    global_batch: 12,
                    dataset_digest: Digest::new([5; 32]),
                },
            },
            RecordKind::GenerationFormed {
                job,
                generation: Generation(1),
                members: vec![],
                resume: Resume {
                    state: StateId::INITIAL,
                    source: ResumeSource::Initialise,
                },
            },
            RecordKind::Noted {
                job,
                event: "evidence_gap".into(),
                generation: state.generation,
                step: state.step,
                reason: String::new(),
                details: [("steps".to_owned(), 3.into())].into(),
            },
        ];
        // More than a page.
        kinds.extend((0..2 * u64::from(PAGE)).map(|step| RecordKind::Watermark {
            job,
            state: StateId::new(Generation(1), Step(step + 1)),
            tokens_seen: 8,
            evidence: u64::MAX,
            samples: 2,
        }));
        kinds.push(RecordKind::JobState {
            job,
            state: JobState::Stopped,
            reason: String::new(),
        });
        let entries: Vec<_> = kinds
            .into_iter()
            .map(|kind| {
                entry(&Record {
                    at: Timestamp(1),
                    generation: Generation(1),
                    step: Step(41),
                    kind,
                })
            })
            .collect();
        Journal::open(&path).unwrap().append(&entries).unwrap();

        let history = read_history(&path, job).unwrap().unwrap();
        assert_eq!(history.job_id, job.to_string());
        assert_eq!((history.state.as_str(), history.step), ("stopped", 41));
        assert_eq!(history.entries.len(), 3 + 2 * PAGE as usize);
        let gap = Kind::Gap(v1::EvidenceGap {
            state: Some(v1::StateId {
                generation: 1,
                step: 40,
            }),
            steps: 3,
        });
        assert_eq!(history.entries[2].kind, Some(gap));
        let Some(Kind::Watermark(first)) = &history.entries[3].kind else {
            panic!("{:?}", history.entries[3]);
        };
        assert_eq!((first.evidence, first.samples), (u64::MAX, 2));
        assert!(read_history(&path, super::tests::job(3)).unwrap().is_none());
    }
}

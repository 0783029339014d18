use std::collections::{BTreeMap, VecDeque};

use muster_types::JobId;

use crate::{RecordKind, job::KEPT_MARKS};

/// Finds records that change nothing any more, so that a journal grows with what happens and not with time.
///
/// Watermarks come every few seconds for as long as a job trains. Of those of a job with nothing else of that job among them,
/// the newest few are all that its state keeps.
#[derive(Clone, Debug, Default)]
pub struct Superseded {
    watermarks: BTreeMap<JobId, VecDeque<u64>>,
}

impl Superseded {
    /// Takes note of the journal's next record, and says which earlier one it makes superfluous.
    pub fn by(&mut self, sequence: u64, kind: &RecordKind) -> Option<u64> {
        match kind {
            RecordKind::Watermark { job, .. } => {
                let run = self.watermarks.entry(*job).or_default();
                run.push_back(sequence);
                (run.len() > KEPT_MARKS).then(|| run.pop_front()).flatten()
            }
            _ => {
                if let Some(job) = kind.job() {
                    self.watermarks.remove(&job);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use muster_types::{Generation, StateId, Step};

    use super::*;

    fn job(last: u8) -> JobId {
        let text = format!("01890a5d-ac96-774b-bcce-b302099a80{last:02x}");
        text.parse().unwrap()
    }

    fn watermark(last: u8, step: u64) -> RecordKind {
        RecordKind::Watermark {
            job: job(last),
            state: StateId {
                generation: Generation(1),
                step: Step(step),
            },
            tokens_seen: 0,
            evidence: 0,
            samples: 0,
        }
    }

    #[test]
    fn the_newest_watermarks_stay_and_so_does_what_other_records_follow() {
        let mut superseded = Superseded::default();
        let kept = KEPT_MARKS as u64;
        let other = RecordKind::StopRequested {
            job: job(1),
            grace_seconds: 1,
        };
        for sequence in 1..=kept {
            assert_eq!(superseded.by(sequence, &watermark(1, sequence)), None);
        }
        // Another job's are its own affair.
        assert_eq!(superseded.by(100, &watermark(2, 1)), None);
        assert_eq!(superseded.by(101, &watermark(1, 50)), Some(1));
        assert_eq!(superseded.by(102, &other), None);
        for sequence in 103..103 + kept {
            assert_eq!(superseded.by(sequence, &watermark(1, sequence)), None);
        }
        assert_eq!(superseded.by(200, &watermark(1, 200)), Some(103));
    }
}

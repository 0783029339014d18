use muster_cluster::{Record, RecordKind};
use muster_types::WorkerId;
use tonic::Status;

use super::pages::Pages;

/// Who had a rank, generation after generation, from the journal.
pub(super) struct Roster {
    pages: Pages,
    holders: Holders,
}

/// The workers that had one rank, in the order in which they got it.
#[derive(Debug, Default)]
pub(super) struct Holders {
    rank: usize,
    workers: Vec<WorkerId>,
}

impl Roster {
    pub(super) fn new(rank: u32, pages: Pages) -> Self {
        let rank = usize::try_from(rank).unwrap_or(usize::MAX);
        let workers = Vec::new();
        Self {
            pages,
            holders: Holders { rank, workers },
        }
    }

    /// Reads what was decided since.
    pub(super) async fn update(&mut self) -> Result<&Holders, Status> {
        loop {
            let page = self.pages.next().await?;
            if page.is_empty() {
                return Ok(&self.holders);
            }
            for entry in page {
                self.holders.take(&entry.body);
            }
        }
    }
}

impl Holders {
    fn take(&mut self, record: &Record) {
        if let RecordKind::GenerationFormed { members, .. } = &record.kind
            && let Some(holder) = members.get(self.rank)
            && self.workers.last() != Some(holder)
        {
            self.workers.push(holder.clone());
        }
    }

    /// Whether the worker ever had the rank.
    pub(super) fn has(&self, worker: &WorkerId) -> bool {
        self.workers.contains(worker)
    }

    /// Whether the worker has the rank in the newest generation that has one.
    pub(super) fn is_newest(&self, worker: &WorkerId) -> bool {
        self.workers.last() == Some(worker)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use muster_cluster::{Resume, ResumeSource};
    use muster_types::{Generation, JobId, StateId, Step, Timestamp};

    use super::*;

    fn formed(members: &[&str]) -> Record {
        Record {
            at: Timestamp(0),
            generation: Generation(1),
            step: Step(0),
            kind: RecordKind::GenerationFormed {
                job: JobId::new(uuid::Uuid::from_u128(1)),
                generation: Generation(1),
                members: members.iter().map(|it| WorkerId::new(*it)).collect(),
                resume: Resume {
                    state: StateId::INITIAL,
                    source: ResumeSource::Initialise,
                },
            },
        }
    }

    #[test]
    fn a_rank_goes_from_worker_to_worker() {
        let mut holders = Holders {
            rank: 1,
            ..Holders::default()
        };
        for members in [
            &["w-1", "w-2"][..],
            &["w-1", "w-2", "w-3"],
            &["w-1", "w-3"],
            &["w-1"],
        ] {
            holders.take(&formed(members));
        }
        let named = |name: &str| WorkerId::new(name);
        assert_eq!(holders.workers, [named("w-2"), named("w-3")]);
        assert!(holders.has(&named("w-2")) && !holders.has(&named("w-1")));
        assert!(holders.is_newest(&named("w-3")) && !holders.is_newest(&named("w-2")));
    }
}

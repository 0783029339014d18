use muster_checkpoint::{FileEntry, TensorEntry};
use muster_types::{Generation, Rank, StateId, WorkerId};

use super::{
    content::{self, Content},
    sabotage::Sabotage,
    training::{At, Directive, Thread},
    world::{Action, World},
};
use crate::{Part, WorkerMessage};

/// One part to be written.
#[derive(Clone, Debug)]
pub struct Save {
    pub state: StateId,
    pub content: Content,
    pub rank: Rank,
    pub world_size: u32,
    pub generation: Generation,
    pub tries: u32,
}

/// A part's time has come.
#[derive(Clone, Debug)]
pub struct Written(pub Save);

impl World {
    pub fn hand_to_saver(&mut self, worker: &WorkerId, save: Save) {
        if let Some(it) = self.workers.get_mut(worker) {
            it.saves.push_back(save);
            self.save_next(worker);
        }
    }

    fn save_next(&mut self, worker: &WorkerId) {
        let Some(it) = self.workers.get_mut(worker) else {
            return;
        };
        if it.saving {
            return;
        }
        let Some(save) = it.saves.pop_front() else {
            return self.leave_if_saved(worker);
        };
        it.saving = true;
        if self.is_sabotaged(Sabotage::PartSaidEarly) {
            self.says(
                worker,
                save.generation,
                WorkerMessage::PartWritten(part(&save)),
            );
        }
        let delay = self
            .rng
            .between(self.plan.save_ms / 2, self.plan.save_ms * 2)
            + self.storage_delay();
        self.after(
            delay,
            Action::Saved {
                worker: worker.clone(),
                written: Written(save),
            },
        );
    }

    pub fn saved(&mut self, worker: &WorkerId, Written(save): Written) {
        let Some(it) = self.workers.get(worker) else {
            return;
        };
        let job = it.job;
        if self.storage.down {
            if save.tries > 1 {
                let save = Save {
                    tries: save.tries - 1,
                    ..save
                };
                return self.after(
                    2000,
                    Action::Saved {
                        worker: worker.clone(),
                        written: Written(save),
                    },
                );
            }
            self.coverage.count("parts that could not be written");
            let failed = WorkerMessage::PartFailed {
                state: save.state,
                rank: save.rank,
                cause: "the disk is full".into(),
            };
            self.says(worker, save.generation, failed);
            self.direct(worker, Directive::SaveFailed(save.state));
        } else {
            self.coverage.count("parts written");
            self.storage.put(job, save.state, &file(&save));
            if !self.is_sabotaged(Sabotage::PartSaidEarly) {
                self.says(
                    worker,
                    save.generation,
                    WorkerMessage::PartWritten(part(&save)),
                );
            }
        }
        if let Some(it) = self.workers.get_mut(worker) {
            it.saving = false;
            let waits = it.at == At::Saving;
            self.save_next(worker);
            if waits {
                self.thread_after(worker, 0, Thread::HandedOver);
            }
        }
    }
}

fn part(save: &Save) -> Part {
    Part {
        state: save.state,
        rank: save.rank,
        world_size: save.world_size,
        file: file(save),
    }
}

fn file(save: &Save) -> FileEntry {
    let (rank, world_size) = (save.rank.get(), save.world_size);
    let digest = content::digest(save.content, rank, world_size);
    FileEntry {
        file: format!("rank-{rank:05}-of-{world_size:05}.safetensors"),
        bytes: 100,
        digest,
        tensors: vec![TensorEntry {
            name: format!("model.{rank}"),
            dtype: "F32".into(),
            shape: vec![1],
            digest,
        }],
    }
}

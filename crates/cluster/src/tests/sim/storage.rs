use std::collections::BTreeMap;

use muster_checkpoint::FileEntry;
use muster_types::{JobId, StateId};

use super::{
    content::{self, Content},
    sabotage::Sabotage,
    world::{Action, World, say},
};
use crate::Event;

/// What all nodes and the coordinator share.
#[derive(Debug, Default)]
pub struct Storage {
    pub down: bool,
    pub slow: bool,
    pub directories: BTreeMap<(JobId, StateId), Directory>,
}

/// A checkpoint's directory: one without a manifest is no checkpoint.
#[derive(Debug, Default)]
pub struct Directory {
    files: BTreeMap<String, FileEntry>,
    pub manifest: Option<Vec<FileEntry>>,
    pub corrupt: bool,
}

/// What a reader finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Whole(Content),
    Corrupt,
    OutOfReach,
}

impl Storage {
    pub fn put(&mut self, job: JobId, state: StateId, file: &FileEntry) {
        let directory = self.directories.entry((job, state)).or_default();
        directory.files.insert(file.file.clone(), file.clone());
    }

    fn commit(
        &mut self,
        job: JobId,
        state: StateId,
        parts: &[FileEntry],
    ) -> Result<String, String> {
        if self.down {
            return Err("the disk is full".into());
        }
        let directory = self.directories.entry((job, state)).or_default();
        let missing = parts
            .iter()
            .find(|part| !directory.files.contains_key(&part.file));
        if let Some(part) = missing {
            return Err(format!("{} is missing", part.file));
        }
        match &directory.manifest {
            Some(there) if there == parts => {}
            // Another number of ranks has saved the state since: it is there all the same, in other parts.
            Some(there) if there.len() != parts.len() && directory.content().is_some() => {}
            Some(_) => return Err("another manifest is there already".into()),
            None => directory.manifest = Some(parts.to_vec()),
        }
        Ok(format!(
            "/checkpoints/{}",
            muster_checkpoint::directory_name(state)
        ))
    }
}

impl Directory {
    /// The one content that all parts of the manifest were made of.
    pub fn content(&self) -> Option<Content> {
        let manifest = self.manifest.as_ref()?;
        let first = content::content_of(&manifest.first()?.digest);
        let whole = (0u32..).zip(manifest).all(|(rank, part)| {
            self.files.get(&part.file) == Some(part)
                && part.digest == content::digest(first, rank, manifest.len() as u32)
        });
        whole.then_some(first)
    }
}

impl World {
    pub fn storage_delay(&mut self) -> u64 {
        if self.chaos && (self.storage.slow || self.rng.percent(3)) {
            self.rng.between(500, 15_000)
        } else {
            self.rng.between(2, 60)
        }
    }

    pub fn write_manifest(&mut self, epoch: u64, job: JobId, state: StateId, parts: &[FileEntry]) {
        if !self.coordinator.up || self.coordinator.epoch != epoch {
            return;
        }
        let result = self.storage.commit(job, state, parts);
        say!(self, "manifest of {job} {state}: {result:?}");
        self.coverage.count("manifests written");
        let delay = self.rng.between(1, 30);
        let event = Event::ManifestDone { job, state, result };
        self.after(delay, Action::Shell { epoch, event });
    }

    pub fn delete_checkpoint(&mut self, epoch: u64, job: JobId, state: StateId, tries: u32) {
        if !self.coordinator.up || self.coordinator.epoch != epoch {
            return;
        }
        if self.storage.down {
            if tries < 3 {
                self.after(
                    5000,
                    Action::Delete {
                        epoch,
                        job,
                        state,
                        tries: tries + 1,
                    },
                );
            }
            return;
        }
        self.coverage.count("checkpoints deleted");
        self.storage.directories.remove(&(job, state));
        let event = Event::CheckpointDeleted { job, state };
        self.after(1, Action::Shell { epoch, event });
    }

    pub fn read_checkpoint(&self, job: JobId, state: StateId) -> Read {
        if self.storage.down {
            return Read::OutOfReach;
        }
        let Some(directory) = self.storage.directories.get(&(job, state)) else {
            return Read::Corrupt;
        };
        let Some(content) = directory.content() else {
            return Read::Corrupt;
        };
        match directory.corrupt {
            true if self.is_sabotaged(Sabotage::CorruptLoaded) => {
                Read::Whole(content::half(content, 1))
            }
            true => Read::Corrupt,
            false => Read::Whole(content),
        }
    }
}

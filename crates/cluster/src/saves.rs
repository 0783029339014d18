use std::collections::{BTreeMap, BTreeSet};

use muster_checkpoint::FileEntry;
use muster_types::{Monotonic, StateId, WorkerId};

/// Saves that are incomplete: the same state may be saved by two world sizes, and either may be completed.
pub(crate) type SaveKey = (StateId, u32);

/// More saves than this are never under way at once; the oldest is forgotten.
const KEPT_SAVES: usize = 8;

/// The checkpoints that are being made or removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Saves {
    pub open: BTreeMap<SaveKey, Save>,
    /// Removals that were ordered.
    pub deleting: BTreeSet<StateId>,
    /// States of which a part, or the manifest, could not be written.
    pub failed: BTreeMap<StateId, String>,
    /// A generation ended in the middle of a save.
    pub cut_off: bool,
}

/// One save.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Save {
    /// By rank: who wrote it, and what.
    pub parts: BTreeMap<u32, (WorkerId, FileEntry)>,
    /// The manifest is being written.
    pub writing: bool,
    /// How often the manifest could not be written.
    pub failures: u32,
    pub retry_at: Option<Monotonic>,
}

impl Saves {
    /// Whether a manifest is being written, or is about to be.
    pub fn settling(&self) -> bool {
        self.open
            .iter()
            .any(|((_, world_size), save)| save.parts.len() == *world_size as usize)
    }

    /// Takes a part; the first of its rank counts.
    pub fn insert(&mut self, key: SaveKey, rank: u32, worker: WorkerId, file: FileEntry) {
        self.open
            .entry(key)
            .or_default()
            .parts
            .entry(rank)
            .or_insert((worker, file));
        while self.open.len() > KEPT_SAVES {
            let oldest = self
                .open
                .iter()
                .find(|(_, save)| !save.writing)
                .map(|(key, _)| *key);
            match oldest {
                Some(oldest) => self.open.remove(&oldest),
                None => break,
            };
        }
    }

    /// Notes that a state cannot be saved; a few are remembered.
    pub fn fail(&mut self, state: StateId, cause: String) {
        self.failed.insert(state, cause);
        while self.failed.len() > KEPT_SAVES {
            self.failed.pop_first();
        }
    }
}

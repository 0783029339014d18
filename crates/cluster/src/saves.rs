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
        // The newest may be the last of the run, whose parts are not said again.
        let newest = self.open.keys().next_back().map(|(state, _)| *state);
        while self.open.len() > KEPT_SAVES {
            let oldest = self
                .open
                .iter()
                .find(|((state, _), save)| !save.writing && Some(*state) != newest)
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

#[cfg(test)]
mod tests {
    use muster_types::{Generation, Step};

    use super::*;
    use crate::tests::fake_file;

    #[test]
    fn the_newest_save_is_never_forgotten_however_many_manifests_are_being_written() {
        let mut saves = Saves::default();
        let key = |step| (StateId::new(Generation(1), Step(step)), 2);
        let last = 2 * KEPT_SAVES as u64;
        for step in 1..=last {
            for rank in 0..2 {
                saves.insert(key(step), rank, "w-1".into(), fake_file(rank, 2));
            }
            saves.open.entry(key(step)).or_default().writing = step < last;
        }
        assert_eq!(saves.open[&key(last)].parts.len(), 2);
        // Where none is being written, the old ones go.
        let mut saves = Saves::default();
        for step in 1..=last {
            saves.insert(key(step), 0, "w-1".into(), fake_file(0, 2));
        }
        assert_eq!(saves.open.len(), KEPT_SAVES);
        assert!(saves.open.contains_key(&key(last)));
    }
}

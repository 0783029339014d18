//! Bringing a rank that is behind, or new, to the state that a generation starts from.

use std::time::Instant;

use muster_c10d::{CollectiveError, Group};
use muster_proto::v1::Activity;
use muster_store::{Checkpoint, Location, ObjectsError};
use muster_train::{RestoreError, TrainError, Trainer};
use muster_types::{Rank, StateId};
use tch::{TchError, Tensor};
use tokio::runtime::Handle;

use crate::{fence::Superseded, membership::Membership, pulse::Pulse, shared::Shared};

/// Where the state comes from, as the coordinator has decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Made from the seed.
    Initialise,
    /// Held by these ranks; the first of them sends.
    Live(Vec<Rank>),
    /// Read from the checkpoint at this URI.
    Checkpoint(String),
}

/// What a heal took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Healed {
    /// live, checkpoint, init, or none where this rank held the state already.
    pub from: &'static str,
    /// Bytes that were overwritten.
    pub bytes: u64,
    /// From the generation's group to the agreed hashes.
    pub elapsed_ms: u32,
    /// Over parameters and optimizer state, equal on all ranks.
    pub state_hash: u64,
}

/// What is wrong with a checkpoint that could not be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Its content is wrong: it is never to be loaded.
    Corrupt,
    /// Storage does not answer; it may be whole.
    OutOfReach,
}

/// Why a rank could not be healed.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    /// The generation is over.
    #[error(transparent)]
    Superseded(#[from] Superseded),
    /// A peer was lost, or the group was aborted.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The checkpoint could not be loaded.
    #[error("cannot load the checkpoint {uri}: {cause}")]
    Checkpoint {
        /// Which one.
        uri: String,
        /// The state it was to bring.
        state: StateId,
        /// Whose fault it is.
        damage: Damage,
        /// In words.
        cause: String,
    },
    /// The weights that the run starts from could not be read.
    #[error("cannot read init.from = {uri}: {cause}")]
    Init {
        /// What the spec names.
        uri: String,
        /// In words.
        cause: String,
    },
    /// The initial state could not be made.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// libtorch refused.
    #[error("libtorch could not hold the healed state: {0}")]
    Torch(#[from] TchError),
    /// This rank was named as a source and holds something else.
    #[error("this rank is to send the state of {wanted} and holds {held}")]
    NotASource {
        /// What the generation starts from.
        wanted: StateId,
        /// What is in hand.
        held: String,
    },
    /// The ranks' states differ after the heal. The coordinator is told each one's hash, and judges.
    #[error("after the heal the ranks' states differ: {hashes:016x?}; this rank's is {mine:016x}")]
    Diverged {
        /// This rank's hash.
        mine: u64,
        /// All ranks' hashes, by rank.
        hashes: Vec<u64>,
    },
}

/// Makes this rank hold the state that the generation resumes at. The rank's own state is marked invalid before its first byte is overwritten, and valid
/// again only when all has arrived and all ranks' hashes agree.
///
/// `group` is absent where the generation has one member.
///
/// # Errors
/// See [`HealError`]; except for `Superseded` before anything was touched, the state in hand is then invalid.
pub fn heal(
    trainer: &mut Trainer,
    shared: &Shared,
    group: Option<&Group>,
    membership: &Membership,
    runtime: &Handle,
) -> Result<Healed, HealError> {
    let Shared { fence, pulse, .. } = shared;
    let Membership {
        generation,
        rank,
        resume: state,
        ref source,
        ..
    } = *membership;
    let start = Instant::now();
    let held = fence.holdings();
    let whole = held == Some(state);
    let mut healed = Healed {
        from: "none",
        ..Healed::default()
    };
    match source {
        Source::Initialise if !whole => {
            fence.invalidate(generation)?;
            pulse.enter(Activity::Computing);
            trainer.initialise()?;
            healed.bytes = start_from(trainer, runtime)?;
            healed.from = "init";
        }
        Source::Checkpoint(uri) if !whole => {
            fence.invalidate(generation)?;
            pulse.enter(Activity::Restoring);
            healed.bytes = load(trainer, uri, state, runtime)?;
            healed.from = "checkpoint";
        }
        Source::Live(ranks) => {
            let sends = ranks.contains(&rank);
            if sends && !whole {
                let held = held.map_or_else(|| "nothing whole".to_owned(), |held| held.to_string());
                return Err(HealError::NotASource {
                    wanted: state,
                    held,
                });
            }
            if let (Some(group), Some(root)) = (group, ranks.first()) {
                // Every rank knows whether anyone is behind, so all enter the broadcasts or none does.
                if ranks.len() < group.size() as usize {
                    if !sends {
                        fence.invalidate(generation)?;
                        healed.from = "live";
                    }
                    pulse.enter(Activity::Reducing);
                    healed.bytes = broadcast(trainer, group, pulse, *root, rank, sends)?;
                }
            }
        }
        Source::Initialise | Source::Checkpoint(_) => {}
    }
    pulse.enter(Activity::Computing);
    healed.state_hash = trainer.state_hash()?;
    if let Some(group) = group {
        pulse.enter(Activity::Reducing);
        let hashes = gather(group, healed.state_hash)?;
        if hashes.iter().any(|hash| *hash != healed.state_hash) {
            // Whoever is of the majority holds the state all the same; what the others hold is no state of the line.
            if majority(&hashes) == Some(healed.state_hash) {
                fence.validate(generation, state)?;
            } else {
                fence.invalidate(generation)?;
            }
            return Err(HealError::Diverged {
                mine: healed.state_hash,
                hashes,
            });
        }
    }
    fence.validate(generation, state)?;
    healed.elapsed_ms = start.elapsed().as_millis() as u32;
    Ok(healed)
}

/// Overwrites drawn weights with those of the checkpoint that the spec names, if it names one; returns the bytes that were read.
/// Every rank reads them by itself, and the ranks' hashes are compared afterwards like any others.
fn start_from(trainer: &Trainer, runtime: &Handle) -> Result<u64, HealError> {
    let uri = trainer.spec().init.from.as_str();
    if uri.is_empty() {
        return Ok(0);
    }
    let failed = |cause: String| HealError::Init {
        uri: uri.into(),
        cause,
    };
    let location = Location::parse(uri).map_err(|error| failed(error.to_string()))?;
    let checkpoint = runtime
        .block_on(Checkpoint::open(uri))
        .map_err(|error| failed(error.to_string()))?;
    muster_train::restore_model(trainer.model(), location.directory(), checkpoint.manifest())
        .map_err(|error| failed(error.to_string()))?;
    let parameters = trainer.parameters();
    let bytes = |it: &Tensor| it.numel() * it.kind().elt_size_in_bytes();
    Ok(parameters.iter().map(bytes).sum::<usize>() as u64)
}

/// Overwrites the state with the checkpoint's; returns the bytes that were read.
fn load(
    trainer: &mut Trainer,
    uri: &str,
    state: StateId,
    runtime: &Handle,
) -> Result<u64, HealError> {
    let failed = |damage, cause: String| HealError::Checkpoint {
        uri: uri.to_owned(),
        state,
        damage,
        cause,
    };
    let location =
        Location::parse(uri).map_err(|error| failed(Damage::OutOfReach, error.to_string()))?;
    let objects = |error: ObjectsError| {
        // Where the job's directory is there and this checkpoint is not, it is gone; else the storage is.
        let storage_is_there = location
            .directory()
            .parent()
            .is_some_and(std::path::Path::is_dir);
        let damage = match error {
            ObjectsError::Corrupt { .. } => Damage::Corrupt,
            ObjectsError::NotFound { .. } if storage_is_there => Damage::Corrupt,
            _ => Damage::OutOfReach,
        };
        failed(damage, error.to_string())
    };
    let checkpoint = runtime.block_on(Checkpoint::open(uri)).map_err(objects)?;
    muster_train::restore(trainer, location.directory(), checkpoint.manifest()).map_err(
        |error| match error {
            RestoreError::Storage { .. } => failed(Damage::OutOfReach, error.to_string()),
            RestoreError::Corrupt { .. } | RestoreError::OtherState { .. } => {
                failed(Damage::Corrupt, error.to_string())
            }
            RestoreError::Torch(source) => HealError::Torch(source),
        },
    )?;
    Ok(checkpoint
        .manifest()
        .files
        .iter()
        .map(|file| file.bytes)
        .sum())
}

/// Sends the root's state to all. A rank that holds the state already takes part with a scratch copy, and stays whole.
fn broadcast(
    trainer: &Trainer,
    group: &Group,
    pulse: &Pulse,
    root: Rank,
    rank: Rank,
    whole: bool,
) -> Result<u64, HealError> {
    let mut bytes = 0;
    for named in trainer.tensors()? {
        let scratch = whole && rank != root;
        let tensor = if scratch {
            named.tensor.f_empty_like()?
        } else {
            named.tensor
        };
        group.broadcast(&tensor, root.get())?;
        pulse.beat();
        if !whole {
            bytes += (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        }
    }
    Ok(bytes)
}

/// Every rank's hash, by rank.
pub fn gather(group: &Group, hash: u64) -> Result<Vec<u64>, HealError> {
    let device = group.device();
    let tensor = |values: &[i64]| Tensor::f_from_slice(values).and_then(|t| t.f_to_device(device));
    let mine = tensor(&[hash as i64])?;
    let all = tensor(&vec![0; group.size() as usize])?;
    group.all_gather_into(&all, &mine)?;
    let mut hashes = vec![0i64; group.size() as usize];
    all.f_to_device(tch::Device::Cpu)?
        .f_copy_data(&mut hashes, group.size() as usize)?;
    Ok(hashes.into_iter().map(|hash| hash as u64).collect())
}

/// The hash that more than half of the ranks have.
pub fn majority(hashes: &[u64]) -> Option<u64> {
    let count = |wanted: &u64| hashes.iter().filter(|hash| *hash == wanted).count();
    hashes
        .iter()
        .copied()
        .find(|hash| count(hash) * 2 > hashes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_more_than_half() {
        assert_eq!(majority(&[7, 8, 7]), Some(7));
        assert_eq!(majority(&[8, 7, 7]), Some(7));
        assert_eq!(majority(&[7, 8]), None);
        assert_eq!(majority(&[7, 8, 9]), None);
        assert_eq!(majority(&[7, 7, 8, 8]), None);
    }
}

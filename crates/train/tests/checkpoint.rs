//! Parts of a state to files and back, at any world size, and what damage is refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, path::Path};

use common::{spec, step, trainer};
use muster_checkpoint::{Manifest, state_digest};
use muster_train::{
    RestoreError, Snapshot, SnapshotError, Trainer, part_file_name, restore, restore_model,
};
use muster_types::{Digest, Rank, Seed, WorldSize};
use tch::Device;

fn trained() -> Trainer {
    let mut trainer = trainer(&spec());
    for s in 0..3 {
        step(&mut trainer, s, 8 * s as usize, 8, 2);
    }
    trainer
}

fn save(trainer: &Trainer, directory: &Path, world: u32) -> Manifest {
    let world = WorldSize(world);
    let part = |rank| {
        Snapshot::take(trainer, Rank(rank), world)
            .unwrap()
            .write(directory)
            .unwrap()
    };
    common::manifest((0..world.get()).map(part).collect())
}

#[test]
fn a_state_comes_back_bit_for_bit_from_any_world_size_and_goes_on_alike() {
    let mut original = trained();
    let (hash, mut digests) = (original.state_hash().unwrap(), vec![]);
    let mut restored = vec![];
    for world in [1, 2, 3, 200] {
        let directory = tempfile::tempdir().unwrap();
        let manifest = save(&original, directory.path(), world);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            world as usize
        );
        digests.push(state_digest(&manifest.files));
        let mut other = trainer(&spec());
        restore(&mut other, directory.path(), &manifest).unwrap();
        assert_eq!(other.state_hash().unwrap(), hash, "world size {world}");
        restored.push(other);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    step(&mut original, 3, 24, 8, 2);
    for mut other in restored {
        step(&mut other, 3, 24, 8, 2);
        assert_eq!(other.state_hash().unwrap(), original.state_hash().unwrap());
    }
}

/// Losses and norms of 64 steps, and their count, in double precision.
const GUARD_BYTES: u64 = 8 * (2 * 64 + 1);

#[test]
fn a_snapshot_is_of_the_moment_it_was_taken() {
    let mut trainer = trained();
    let hash = trainer.state_hash().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::take(&trainer, Rank(0), WorldSize(1)).unwrap();
    step(&mut trainer, 3, 24, 8, 2);
    let mut manifest = save(&trainer, directory.path(), 1);
    assert_eq!(
        snapshot.bytes(),
        4 * (3 * muster_arch::ParameterTable::new(&spec().model).elements() + 1) + GUARD_BYTES
    );
    manifest.files = vec![snapshot.write(directory.path()).unwrap()];
    restore(&mut trainer, directory.path(), &manifest).unwrap();
    assert_eq!(trainer.state_hash().unwrap(), hash);
}

#[test]
fn shards_are_safetensors_files_with_the_digests_that_their_entries_state() {
    let trainer = trained();
    let directory = tempfile::tempdir().unwrap();
    let manifest = save(&trainer, directory.path(), 2);
    let mut names = vec![];
    for (rank, entry) in manifest.files.iter().enumerate() {
        assert_eq!(entry.file, part_file_name(Rank(rank as u32), WorldSize(2)));
        let bytes = fs::read(directory.path().join(&entry.file)).unwrap();
        assert_eq!(bytes.len() as u64, entry.bytes);
        assert_eq!(blake3::hash(&bytes).as_bytes(), entry.digest.as_bytes());
        let shard = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(shard.len(), entry.tensors.len());
        for tensor in &entry.tensors {
            let view = shard.tensor(&tensor.name).unwrap();
            assert_eq!(
                blake3::hash(view.data()).as_bytes(),
                tensor.digest.as_bytes()
            );
            let shape: Vec<u64> = view.shape().iter().map(|&extent| extent as u64).collect();
            assert_eq!(
                (shape, format!("{:?}", view.dtype())),
                (tensor.shape.clone(), tensor.dtype.clone())
            );
            names.push(tensor.name.clone());
        }
    }
    let mut expected: Vec<_> = trainer
        .tensors()
        .unwrap()
        .into_iter()
        .map(|named| named.name)
        .collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn a_model_alone_is_read_for_generation() {
    let trainer = trained();
    let directory = tempfile::tempdir().unwrap();
    let manifest = save(&trainer, directory.path(), 2);
    let model = muster_model::build(&spec().model, Device::Cpu, Seed(99)).unwrap();
    restore_model(&*model, directory.path(), &manifest).unwrap();
    for (a, b) in model
        .parameters()
        .tensors()
        .iter()
        .zip(trainer.model().parameters().tensors())
    {
        assert!(a.tensor.equal(&b.tensor), "{}", a.name);
    }
}

/// Saves at world size 2, damages the shard of `tensor`, and gives the error of restoring.
fn damaged(tensor: &str, damage: impl FnOnce(&Path, &mut Manifest, u64)) -> RestoreError {
    let trainer = trained();
    let directory = tempfile::tempdir().unwrap();
    let mut manifest = save(&trainer, directory.path(), 2);
    let file = manifest
        .files
        .iter()
        .find(|file| file.tensors.iter().any(|entry| entry.name == tensor))
        .unwrap();
    let path = directory.path().join(&file.file);
    let bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header as usize]).unwrap();
    let start = 8 + header + json[tensor]["data_offsets"][0].as_u64().unwrap();
    damage(&path, &mut manifest, start);
    let mut other = common::trainer(&spec());
    restore(&mut other, directory.path(), &manifest).unwrap_err()
}

const TENSOR: &str = "optimizer.exp_avg.transformer.h.1.mlp.c_fc.weight";

#[test]
fn one_flipped_bit_is_refused_by_the_tensors_name() {
    let error = damaged(TENSOR, |path, _, start| {
        let mut bytes = fs::read(path).unwrap();
        bytes[start as usize + 77] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    assert!(matches!(error, RestoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(TENSOR), "{error}");
}

#[test]
fn a_shard_that_is_cut_off_missing_or_mislabelled_is_corrupt() {
    let cut = damaged(TENSOR, |path, _, _| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    });
    assert!(
        matches!(&cut, RestoreError::Corrupt { problem, .. } if problem.contains("bytes")),
        "{cut}"
    );
    let missing = damaged(TENSOR, |path, _, _| fs::remove_file(path).unwrap());
    assert!(
        matches!(&missing, RestoreError::Corrupt { problem, .. } if problem.contains("missing")),
        "{missing}"
    );
    let relabelled = damaged(TENSOR, |path, _, _| {
        let text = fs::read(path).unwrap();
        let place = text
            .windows(5)
            .position(|window| window == b"\"F32\"")
            .unwrap();
        let mut text = text;
        text[place + 1..place + 4].copy_from_slice(b"I32");
        fs::write(path, text).unwrap();
    });
    assert!(
        matches!(relabelled, RestoreError::Corrupt { .. }),
        "{relabelled}"
    );
    let header = damaged(TENSOR, |path, _, _| {
        let mut bytes = fs::read(path).unwrap();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(path, bytes).unwrap();
    });
    assert!(matches!(header, RestoreError::Corrupt { .. }), "{header}");
}

#[test]
fn storage_that_does_not_answer_is_no_corruption() {
    // A link to itself cannot be opened, and not because it is missing.
    let loops = damaged(TENSOR, |path, _, _| {
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink(path, path).unwrap();
    });
    assert!(matches!(loops, RestoreError::Storage { .. }), "{loops}");
    let gone = damaged(TENSOR, |path, _, _| {
        fs::remove_dir_all(path.parent().unwrap()).unwrap()
    });
    assert!(matches!(gone, RestoreError::Storage { .. }), "{gone}");
}

#[test]
fn a_checkpoint_of_another_model_is_refused_as_such() {
    let lacking = damaged(TENSOR, |_, manifest, _| {
        manifest
            .files
            .retain(|file| file.tensors.iter().all(|entry| entry.name != TENSOR));
    });
    assert!(
        matches!(lacking, RestoreError::OtherState { .. }),
        "{lacking}"
    );
    let twice = damaged(TENSOR, |_, manifest, _| {
        manifest.files.push(manifest.files[0].clone())
    });
    assert!(matches!(twice, RestoreError::OtherState { .. }), "{twice}");

    let trainer = trained();
    let directory = tempfile::tempdir().unwrap();
    let manifest = save(&trainer, directory.path(), 1);
    let mut wider = spec();
    wider.model.hidden_size = 64;
    let error = restore(&mut common::trainer(&wider), directory.path(), &manifest).unwrap_err();
    assert!(
        matches!(&error, RestoreError::OtherState { problem } if problem.contains("[48, 32]")),
        "{error}"
    );
    let mut shallower = spec();
    shallower.model.layers = 1;
    let error = restore(
        &mut common::trainer(&shallower),
        directory.path(),
        &manifest,
    )
    .unwrap_err();
    assert!(
        matches!(&error, RestoreError::OtherState { problem } if problem.contains("h.1")),
        "{error}"
    );
    let mut deeper = spec();
    deeper.model.layers = 3;
    let error = restore(&mut common::trainer(&deeper), directory.path(), &manifest).unwrap_err();
    assert!(
        matches!(&error, RestoreError::OtherState { problem } if problem.contains("h.2")),
        "{error}"
    );
}

#[test]
fn a_part_that_cannot_be_written_leaves_nothing_behind() {
    let trainer = trained();
    let directory = tempfile::tempdir().unwrap();
    let name = part_file_name(Rank(0), WorldSize(1));
    // A directory of the shard's name makes the rename fail after all bytes are written.
    fs::create_dir_all(directory.path().join(&name).join("occupied")).unwrap();
    let error = Snapshot::take(&trainer, Rank(0), WorldSize(1))
        .unwrap()
        .write(directory.path())
        .unwrap_err();
    assert!(matches!(error, SnapshotError::Storage { .. }), "{error}");
    let left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, [name.as_str()]);
}

#[test]
fn a_checkpoint_of_before_there_was_a_guard_is_read_and_the_window_fills_again() {
    let mut trainer = trained();
    let directory = tempfile::tempdir().unwrap();
    let mut manifest = save(&trainer, directory.path(), 1);
    for file in &mut manifest.files {
        let path = directory.path().join(&file.file);
        let old = std::fs::read(&path).unwrap();
        let shard = safetensors::SafeTensors::deserialize(&old).unwrap();
        let views = shard.tensors();
        let kept = views.into_iter().filter(|(name, _)| name != "guard.window");
        let new = safetensors::serialize(kept, None).unwrap();
        std::fs::write(&path, &new).unwrap();
        let shard = safetensors::SafeTensors::deserialize(&new).unwrap();
        file.bytes = new.len() as u64;
        file.digest = Digest::new(*blake3::hash(&new).as_bytes());
        file.tensors.retain(|entry| entry.name != "guard.window");
        // They are stated in the order of the file.
        let place = |name: &str| shard.tensor(name).unwrap().data().as_ptr() as usize;
        file.tensors.sort_by_key(|entry| place(&entry.name));
    }
    step(&mut trainer, 3, 24, 8, 2);
    muster_train::restore(&mut trainer, directory.path(), &manifest).unwrap();
    let window = trainer.tensors().unwrap().pop().unwrap();
    assert_eq!(window.name, "guard.window");
    assert_eq!(
        window.tensor.abs().sum(tch::Kind::Double).double_value(&[]),
        0.0
    );
}

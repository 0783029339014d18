#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use bytes::Bytes;
use muster_checkpoint::{FORMAT_VERSION, FileEntry, Manifest, TensorEntry};
use muster_types::{Digest, Generation, JobId, StateId, Step};
use safetensors::{Dtype, tensor::TensorView};
use tempfile::TempDir;

use super::{Checkpoint, CheckpointStore, Commit, Location, ObjectsError, find_checkpoints};

fn job() -> JobId {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()
}

fn state(generation: u64, step: u64) -> StateId {
    StateId::new(Generation(generation), Step(step))
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::new(*blake3::hash(bytes).as_bytes())
}

/// Writes one checkpoint shard with two tensors, as a worker does, and returns what the manifest says of it.
fn shard(store: &CheckpointStore, state: StateId, file: &str, fill: f32) -> FileEntry {
    let content: Vec<u8> = (0..6)
        .flat_map(|i| (fill + i as f32).to_le_bytes())
        .collect();
    let names = [format!("model.a.{fill}"), format!("model.b.{fill}")];
    let views: BTreeMap<_, _> = names
        .iter()
        .map(|name| {
            (
                name,
                TensorView::new(Dtype::F32, vec![2, 3], &content).unwrap(),
            )
        })
        .collect();
    let bytes = safetensors::serialize(views, None).unwrap();
    let directory = PathBuf::from(store.uri(state));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(file), &bytes).unwrap();
    let tensor = |name: &String| TensorEntry {
        name: name.clone(),
        dtype: "F32".into(),
        shape: vec![2, 3],
        digest: digest(&content),
    };
    FileEntry {
        file: file.into(),
        bytes: bytes.len() as u64,
        digest: digest(&bytes),
        tensors: names.iter().map(tensor).collect(),
    }
}

fn manifest(state: StateId, files: Vec<FileEntry>) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        job: job(),
        state,
        tokens_seen: 4096,
        spec: serde_json::json!({ "name": "test" }),
        segments: vec![],
        numerics_fingerprint: "test".into(),
        files,
        extra_files: vec![],
    }
}

async fn committed(dir: &TempDir, at: StateId) -> (CheckpointStore, Manifest) {
    let store = CheckpointStore::open(dir.path().to_str().unwrap(), job()).unwrap();
    let files = vec![
        shard(&store, at, "r0.safetensors", 1.0),
        shard(&store, at, "r1.safetensors", 9.0),
    ];
    let mut manifest = manifest(at, files);
    let text = Bytes::from_static(b"{\"model\": {}}");
    manifest
        .extra_files
        .push(store.put_extra(at, "tokenizer.json", text).await.unwrap());
    assert_eq!(store.commit(&manifest).await.unwrap(), Commit::Created);
    (store, manifest)
}

#[tokio::test]
async fn a_committed_checkpoint_is_found_reads_back_and_verifies() {
    let dir = TempDir::new().unwrap();
    let (store, manifest) = committed(&dir, state(7, 1000)).await;
    let uri = store.uri(state(7, 1000));
    assert!(
        uri.ends_with(&format!("{}/step-0000001000.g7", job())),
        "{uri}"
    );
    for place in [uri.clone(), format!("{}/{}", dir.path().display(), job())] {
        let found = find_checkpoints(&place).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].uri(), uri);
        assert_eq!(found[0].manifest(), &manifest);
    }
    let found = find_checkpoints(&format!("file://{}", dir.path().display()))
        .await
        .unwrap();
    let verified = found[0].verify().await.unwrap();
    assert_eq!((verified.files, verified.tensors), (3, 4));
}

#[tokio::test]
async fn the_newest_state_comes_first_and_uncommitted_ones_are_passed_over() {
    let dir = TempDir::new().unwrap();
    let (store, _) = committed(&dir, state(2, 40)).await;
    committed(&dir, state(1, 50)).await;
    committed(&dir, state(2, 60)).await;
    shard(&store, state(3, 70), "r0.safetensors", 1.0);
    let found = find_checkpoints(dir.path().to_str().unwrap())
        .await
        .unwrap();
    let states = found.iter().map(|c| c.manifest().state).collect::<Vec<_>>();
    assert_eq!(states, [state(2, 60), state(2, 40), state(1, 50)]);
}

#[tokio::test]
async fn of_two_writers_of_one_manifest_exactly_one_wins() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().to_str().unwrap().to_owned();
    let store = CheckpointStore::open(&root, job()).unwrap();
    let file = shard(&store, state(1, 1), "r0.safetensors", 1.0);
    let writers = (0..8u64).map(|tokens_seen| {
        let mut file = file.clone();
        file.digest = muster_types::Digest::new([tokens_seen as u8; 32]);
        let mut manifest = manifest(state(1, 1), vec![file]);
        manifest.tokens_seen = tokens_seen;
        let store = CheckpointStore::open(&root, job()).unwrap();
        tokio::spawn(async move {
            store
                .commit(&manifest)
                .await
                .map(|commit| (commit, tokens_seen))
        })
    });
    let outcomes = futures::future::join_all(writers).await;
    let (mut won, mut lost) = (vec![], 0);
    for outcome in outcomes {
        match outcome.unwrap() {
            Ok((Commit::Created, tokens_seen)) => won.push(tokens_seen),
            Err(ObjectsError::Occupied { .. }) => lost += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((won.len(), lost), (1, 7));
    let left = Checkpoint::open(&store.uri(state(1, 1))).await.unwrap();
    assert_eq!(left.manifest().tokens_seen, won[0]);
}

#[tokio::test]
async fn case_08_a_state_that_is_there_in_other_parts_is_there() {
    // The coordinator died between the manifest and its record, and other ranks have saved the state since.
    let dir = TempDir::new().unwrap();
    let (store, first) = committed(&dir, state(1, 10)).await;
    let file = shard(&store, state(1, 10), "rank-00000-of-00007.safetensors", 1.0);
    let other = manifest(state(1, 10), vec![file]);
    assert_eq!(store.commit(&other).await.unwrap(), Commit::AlreadyThere);
    let left = Checkpoint::open(&store.uri(state(1, 10))).await.unwrap();
    assert_eq!(
        left.manifest().files,
        first.files,
        "a manifest is never replaced"
    );
    let lost = &first.files[0].file;
    let directory = Location::parse(&store.uri(state(1, 10))).unwrap();
    std::fs::remove_file(directory.directory().join(lost)).unwrap();
    assert!(matches!(
        store.commit(&other).await,
        Err(ObjectsError::Corrupt { .. })
    ));
}

#[tokio::test]
async fn the_same_manifest_again_is_no_error_and_an_incomplete_one_is_refused() {
    let dir = TempDir::new().unwrap();
    let (store, whole) = committed(&dir, state(1, 10)).await;
    assert_eq!(store.commit(&whole).await.unwrap(), Commit::AlreadyThere);
    // Of the same files, by a coordinator that knows less of the job: what is there stays.
    let mut poorer = whole.clone();
    poorer.numerics_fingerprint.clear();
    assert_eq!(store.commit(&poorer).await.unwrap(), Commit::AlreadyThere);
    let there = Checkpoint::open(&store.uri(state(1, 10))).await.unwrap();
    assert_eq!(*there.manifest(), whole);

    let mut file = shard(&store, state(1, 20), "r0.safetensors", 1.0);
    file.bytes += 1;
    let error = store
        .commit(&manifest(state(1, 20), vec![file.clone()]))
        .await
        .unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    file.file = "r1.safetensors".into();
    let error = store
        .commit(&manifest(state(1, 20), vec![file]))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("r1.safetensors is missing"),
        "{error}"
    );
    let error = Checkpoint::open(&store.uri(state(1, 20)))
        .await
        .unwrap_err();
    assert!(matches!(error, ObjectsError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn every_flipped_byte_of_every_file_is_found() {
    let dir = TempDir::new().unwrap();
    let (store, manifest) = committed(&dir, state(1, 10)).await;
    let uri = store.uri(state(1, 10));
    let files = manifest.files.iter().map(|f| &f.file);
    for file in files.chain(manifest.extra_files.iter().map(|f| &f.file)) {
        let path = PathBuf::from(&uri).join(file);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            let error = Checkpoint::open(&uri)
                .await
                .unwrap()
                .verify()
                .await
                .unwrap_err();
            assert!(
                error.is_corrupt() && error.to_string().contains(file),
                "{at}: {error}"
            );
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(
            Checkpoint::open(&uri)
                .await
                .unwrap()
                .verify()
                .await
                .unwrap_err()
                .is_corrupt()
        );
        fs::write(&path, &good).unwrap();
    }
    Checkpoint::open(&uri)
        .await
        .unwrap()
        .verify()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_deleted_checkpoint_is_gone_and_its_neighbour_stays() {
    let dir = TempDir::new().unwrap();
    let (store, _) = committed(&dir, state(1, 10)).await;
    committed(&dir, state(1, 20)).await;
    store.delete(state(1, 10)).await.unwrap();
    store.delete(state(1, 10)).await.unwrap();
    assert!(!PathBuf::from(store.uri(state(1, 10))).exists());
    let found = find_checkpoints(dir.path().to_str().unwrap())
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    found[0].verify().await.unwrap();
}

#[tokio::test]
async fn a_newer_or_damaged_manifest_is_refused_with_words() {
    let dir = TempDir::new().unwrap();
    let (store, _) = committed(&dir, state(1, 10)).await;
    let path = PathBuf::from(store.uri(state(1, 10))).join("manifest.json");
    for (content, words) in [
        (
            "{\"format_version\": 9, \"shape\": \"unknown\"}",
            "format 9 is newer",
        ),
        ("{\"format_version\": 1}", "corrupt"),
        ("{}", "no format_version"),
        ("{\"format", "corrupt"),
    ] {
        fs::write(&path, content).unwrap();
        let error = Checkpoint::open(&store.uri(state(1, 10)))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn only_paths_and_file_uris_are_places() {
    assert_eq!(
        Location::parse("file:///a/b").unwrap(),
        Location::parse("/a/b").unwrap()
    );
    assert!(
        Location::parse("relative")
            .unwrap()
            .directory()
            .is_absolute()
    );
    let error = Location::parse("s3://bucket/runs").unwrap_err();
    assert!(
        error.to_string().contains("\"s3\" is not supported"),
        "{error}"
    );
    assert!(Location::parse("").is_err());
}

//! Finding checkpoints by the URIs that people give.

use std::{
    cmp::Reverse,
    fs, io,
    path::{Path, PathBuf},
};

use muster_checkpoint::parse_directory_name;
use muster_store::{Checkpoint, Location, ObjectsError};

use crate::{failure::Failure, run_record::RunRecord};

/// The file that makes a directory a checkpoint.
const MANIFEST: &str = "manifest.json";
/// A job's directory at its coordinator holds a checkpoint root, that holds jobs' directories, and those hold checkpoints.
const DEPTH: usize = 3;

/// The directories of the committed checkpoints at `uri`, which is one of: a checkpoint, a job's checkpoints, a checkpoint
/// root, a run's directory. The newest job comes first, and of each job the newest state. Whether they can be read has not
/// been looked at, so that a damaged one hides no other.
pub fn list(uri: &str) -> Result<Vec<String>, Failure> {
    let location = Location::parse(uri).map_err(failure)?;
    let start = root_of(location.directory())
        .map_err(|error| unreadable(location.directory(), &error.to_string()))?;
    let mut level = vec![start.clone()];
    for _ in 0..=DEPTH {
        let mut found: Vec<_> = level
            .iter()
            .filter(|path| path.join(MANIFEST).is_file())
            .cloned()
            .collect();
        if !found.is_empty() {
            found.sort_by_key(|path| Reverse(rank(path)));
            let shown = |path: PathBuf| path.display().to_string();
            return Ok(found.into_iter().map(shown).collect());
        }
        let mut below = Vec::new();
        for directory in &level {
            let inside = subdirectories(directory)
                .map_err(|error| unreadable(directory, &error.to_string()))?;
            below.extend(inside);
        }
        level = below;
    }
    Err(failure(ObjectsError::NotFound {
        uri: start.display().to_string(),
    }))
}

/// The newest checkpoint at `uri` that reads back as its manifest says. Damaged ones are passed over with a warning.
pub async fn newest_valid(uri: &str) -> Result<Checkpoint, Failure> {
    let found = list(uri)?;
    let mut last = None;
    for place in &found {
        match open_valid(place).await {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(error) => {
                if found.len() > 1 {
                    tracing::warn!(%error, "a checkpoint is passed over");
                }
                last = Some(error);
            }
        }
    }
    Err(match last {
        Some(error) if found.len() == 1 => failure(error),
        _ => Failure::operation(format!(
            "none of the {} checkpoints at {uri} reads back",
            found.len()
        ))
        .help(format!("`muster checkpoint verify {uri}` says why")),
    })
}

async fn open_valid(place: &str) -> Result<Checkpoint, ObjectsError> {
    let checkpoint = Checkpoint::open(place).await?;
    checkpoint.verify().await?;
    Ok(checkpoint)
}

/// What the store says, as the command's failure: a URI of the wrong kind is bad usage.
pub fn failure(error: ObjectsError) -> Failure {
    match error {
        ObjectsError::BadUri { .. } | ObjectsError::UnsupportedScheme { .. } => {
            Failure::usage(error)
        }
        _ => Failure::operation(error),
    }
}

/// Where to look from: a run's directory says where its job's checkpoints lie.
fn root_of(directory: &Path) -> io::Result<PathBuf> {
    let record = RunRecord::read(directory)?;
    Ok(record.map_or_else(
        || directory.to_path_buf(),
        |record| record.checkpoints(directory),
    ))
}

/// Job ids sort by time; of one job's states, those of a later generation are newer.
fn rank(path: &Path) -> (Option<String>, Option<muster_types::StateId>) {
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let job = path.parent().and_then(name);
    (job, name(path).as_deref().and_then(parse_directory_name))
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn unreadable(directory: &Path, reason: &str) -> Failure {
    Failure::operation(format!("cannot read {}: {reason}", directory.display()))
}

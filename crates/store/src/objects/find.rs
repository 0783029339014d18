use std::{cmp::Reverse, io, path::Path};

use super::{Checkpoint, Location, MANIFEST, ObjectsError};

/// The committed checkpoints at `uri`: a checkpoint's own directory, a job's directory or a checkpoint root. The newest job
/// comes first, and of each job the newest state. Directories without a manifest are passed over.
///
/// # Errors
/// If there is none, one cannot be read, or `uri` is of an unsupported kind.
pub async fn find_checkpoints(uri: &str) -> Result<Vec<Checkpoint>, ObjectsError> {
    let location = Location::parse(uri)?;
    let mut found = Vec::new();
    // A job's directory holds checkpoints, a root holds jobs' directories: nothing lies deeper.
    let mut level = vec![location.clone()];
    for _ in 0..3 {
        let mut below = Vec::new();
        for place in level {
            if place.directory().join(MANIFEST).is_file() {
                found.push(Checkpoint::open(&place.to_string()).await?);
            } else {
                let names = subdirectories(place.directory()).map_err(|source| {
                    ObjectsError::Directory {
                        path: place.directory().to_path_buf(),
                        source,
                    }
                })?;
                below.extend(names.iter().map(|name| place.join(name)));
            }
        }
        if !found.is_empty() {
            break;
        }
        level = below;
    }
    if found.is_empty() {
        return Err(ObjectsError::NotFound {
            uri: location.to_string(),
        });
    }
    found.sort_by_key(|checkpoint| {
        let manifest = checkpoint.manifest();
        Reverse((manifest.job, manifest.state.generation, manifest.state.step))
    });
    Ok(found)
}

fn subdirectories(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

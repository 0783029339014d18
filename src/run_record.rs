use std::{
    fs, io,
    path::{Path, PathBuf},
};

use muster_spec::RunSpec;
use serde::{Deserialize, Serialize};

/// The file that makes a directory the directory of a run.
const FILE: &str = "run.json";

/// Below a run's directory: the data directory of its coordinator.
pub const COORDINATOR: &str = "coordinator";

/// What `muster run` notes in a run's directory before it starts: which job it is, and of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The job's id.
    pub job_id: String,
    /// The spec as it was submitted.
    pub spec: RunSpec,
}

impl RunRecord {
    /// The record in `directory`; `None` where it is not a run's.
    pub fn read(directory: &Path) -> io::Result<Option<Self>> {
        match fs::read(directory.join(FILE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it to `directory`, whole or not at all.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let temporary = directory.join(format!(".{FILE}.tmp"));
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, directory.join(FILE))
    }

    /// Where the run's checkpoints lie. Its directory may have been moved since it was written.
    pub fn checkpoints(&self, directory: &Path) -> PathBuf {
        let moved = directory.join("checkpoints").join(&self.job_id);
        if moved.is_dir() {
            return moved;
        }
        let root = &self.spec.checkpoint.uri;
        Path::new(root.strip_prefix("file://").unwrap_or(root)).join(&self.job_id)
    }
}

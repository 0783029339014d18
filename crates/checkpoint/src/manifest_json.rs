use std::collections::BTreeSet;

use crate::{FORMAT_VERSION, Manifest};

/// Why a manifest is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON, or lacks a field.
    #[error("the manifest does not parse: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It names no format.
    #[error("the manifest has no format_version: it was not written by this program")]
    Unversioned,
    /// Written by a later release.
    #[error(
        "the checkpoint's format {found} is newer than this build reads ({supported}): use a newer build"
    )]
    Newer {
        /// What it says.
        found: u64,
        /// The newest that can be read.
        supported: u32,
    },
    /// Two checkpoint shards claim a tensor, or one does twice.
    #[error("the manifest lists tensor {name:?} twice: the checkpoint is damaged")]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// Two entries share a file.
    #[error("the manifest lists file {name:?} twice: the checkpoint is damaged")]
    DuplicateFile {
        /// The file.
        name: String,
    },
    /// A name that leads out of the checkpoint's directory.
    #[error(
        "the manifest lists file {name:?}, which is no plain file name: the checkpoint is damaged"
    )]
    StrayFile {
        /// The file.
        name: String,
    },
    /// It holds no tensors at all.
    #[error("the manifest lists no tensors: the checkpoint is damaged")]
    Empty,
}

impl Manifest {
    /// Reads and validates a manifest. The format's version is looked at first: a newer one may hold anything.
    ///
    /// # Errors
    /// [`ManifestError`] says what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let value: serde_json::Value = serde_json::from_slice(bytes)?;
        let found = value["format_version"]
            .as_u64()
            .ok_or(ManifestError::Unversioned)?;
        if found > u64::from(FORMAT_VERSION) {
            return Err(ManifestError::Newer {
                found,
                supported: FORMAT_VERSION,
            });
        }
        let manifest: Self = serde_json::from_value(value)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The manifest as it is written: indented, fields in their documented order.
    ///
    /// # Errors
    /// Where it is not valid: such a manifest must never reach storage.
    pub fn to_json(&self) -> Result<Vec<u8>, ManifestError> {
        self.validate()?;
        Ok(serde_json::to_vec_pretty(self)?)
    }

    /// Checks that each tensor and each file is listed once, and that every file lies in the checkpoint's own directory.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ManifestError> {
        let mut files = BTreeSet::new();
        let names = self
            .files
            .iter()
            .map(|file| &file.file)
            .chain(self.extra_files.iter().map(|file| &file.file));
        for name in names {
            if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
                return Err(ManifestError::StrayFile { name: name.clone() });
            }
            if !files.insert(name) {
                return Err(ManifestError::DuplicateFile { name: name.clone() });
            }
        }
        let mut tensors = BTreeSet::new();
        for tensor in self.files.iter().flat_map(|file| &file.tensors) {
            if !tensors.insert(&tensor.name) {
                return Err(ManifestError::DuplicateTensor {
                    name: tensor.name.clone(),
                });
            }
        }
        if tensors.is_empty() {
            return Err(ManifestError::Empty);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use muster_types::{Digest, Generation, JobId, StateId, Step};

    use super::*;
    use crate::{ExtraFile, FileEntry, TensorEntry};

    fn file(name: &str, tensors: &[&str]) -> FileEntry {
        let tensor = |name: &&str| TensorEntry {
            name: (*name).into(),
            dtype: "F32".into(),
            shape: vec![2, 3],
            digest: Digest::new([1; 32]),
        };
        FileEntry {
            file: name.into(),
            bytes: 24,
            digest: Digest::new([2; 32]),
            tensors: tensors.iter().map(tensor).collect(),
        }
    }

    fn manifest(files: Vec<FileEntry>) -> Manifest {
        Manifest {
            format_version: FORMAT_VERSION,
            job: "01890a5d-ac96-774b-bcce-b302099a8057"
                .parse::<JobId>()
                .unwrap(),
            state: StateId::new(Generation(7), Step(1000)),
            tokens_seen: 4096,
            spec: serde_json::json!({"name": "run"}),
            segments: Vec::new(),
            numerics_fingerprint: "cpu".into(),
            files,
            extra_files: vec![ExtraFile {
                file: "tokenizer.json".into(),
                bytes: 1,
                digest: Digest::new([3; 32]),
            }],
        }
    }

    #[test]
    fn a_manifest_reads_back() {
        let manifest = manifest(vec![file("a", &["x"]), file("b", &["y", "z"])]);
        assert_eq!(
            Manifest::from_json(&manifest.to_json().unwrap()).unwrap(),
            manifest
        );
    }

    #[test]
    fn a_newer_format_is_refused_before_the_rest_is_read() {
        let error =
            Manifest::from_json(br#"{"format_version": 2, "unheard_of": true}"#).unwrap_err();
        assert!(
            matches!(
                error,
                ManifestError::Newer {
                    found: 2,
                    supported: 1
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("newer than this build reads"));
        let error = Manifest::from_json(br#"{"format_version": 99999999999}"#).unwrap_err();
        assert!(matches!(error, ManifestError::Newer { .. }), "{error}");
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        assert!(matches!(
            Manifest::from_json(b"{}").unwrap_err(),
            ManifestError::Unversioned
        ));
        assert!(matches!(
            Manifest::from_json(b"{").unwrap_err(),
            ManifestError::Malformed(_)
        ));
        assert!(matches!(
            Manifest::from_json(br#"{"format_version": 1}"#).unwrap_err(),
            ManifestError::Malformed(_)
        ));
    }

    #[test]
    fn each_tensor_and_each_file_is_there_once() {
        let wrong = |files| manifest(files).to_json().unwrap_err();
        assert!(matches!(
            wrong(vec![file("a", &["x"]), file("b", &["x"])]),
            ManifestError::DuplicateTensor { .. }
        ));
        assert!(matches!(
            wrong(vec![file("a", &["x"]), file("a", &["y"])]),
            ManifestError::DuplicateFile { .. }
        ));
        assert!(matches!(
            wrong(vec![file("tokenizer.json", &["x"])]),
            ManifestError::DuplicateFile { .. }
        ));
        assert!(matches!(
            wrong(vec![file("../a", &["x"])]),
            ManifestError::StrayFile { .. }
        ));
        assert!(matches!(wrong(vec![file("a", &[])]), ManifestError::Empty));
    }
}

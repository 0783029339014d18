use std::{
    fs, io,
    path::{Path, PathBuf},
};

use muster_spec::RunSpec;
use uuid::Uuid;

use crate::{failure::Failure, run_record::RunRecord};

/// Where runs go that name no directory.
const RUNS: &str = "runs";

/// The directory of one `muster run`.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    record: RunRecord,
    origin: Origin,
}

/// What was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Nothing: the directory was made just now.
    Made,
    /// An empty directory.
    Empty,
    /// The run itself.
    Run,
}

impl RunDirectory {
    /// Makes the directory of a new run, or opens that of an earlier one of the same spec, to go on with it. Without a path,
    /// it is a new one below `runs/`.
    pub fn claim(path: Option<PathBuf>, spec: RunSpec) -> Result<Self, Failure> {
        let path = match path {
            Some(path) => path,
            None => Path::new(RUNS).join(format!("{}-{}", spec.name, now())),
        };
        let wrong = |error: io::Error| {
            Failure::operation(format!(
                "cannot use {} as the run's directory: {error}",
                path.display()
            ))
        };
        if path.exists() && !path.is_dir() {
            return Err(Failure::usage(format!(
                "{} is not a directory",
                path.display()
            )));
        }
        if let Some(record) = RunRecord::read(&path).map_err(wrong)? {
            let path = fs::canonicalize(&path).map_err(wrong)?;
            return match differences(&record.spec, &spec).as_slice() {
                [] => Ok(Self {
                    path,
                    record,
                    origin: Origin::Run,
                }),
                keys => Err(Failure::usage(format!(
                    "{} holds a run of another spec: {} {}",
                    path.display(),
                    keys.join(", "),
                    if keys.len() == 1 { "differs" } else { "differ" }
                ))
                .help(
                    "choose another --out, or go on with the spec that the run was started with",
                )),
            };
        }
        let origin = match path.exists() {
            true if fs::read_dir(&path).map_err(wrong)?.next().is_some() => {
                return Err(Failure::usage(format!(
                    "{} is not empty, and no run's directory",
                    path.display()
                ))
                .help("choose another --out"));
            }
            true => Origin::Empty,
            false => Origin::Made,
        };
        fs::create_dir_all(&path).map_err(wrong)?;
        let absolute = fs::canonicalize(&path).map_err(wrong)?;
        let record = RunRecord {
            job_id: Uuid::now_v7().to_string(),
            spec,
        };
        record.write(&absolute).map_err(wrong)?;
        Ok(Self {
            path: absolute,
            record,
            origin,
        })
    }

    /// Where it is: absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's job.
    pub fn job_id(&self) -> &str {
        &self.record.job_id
    }

    /// What is trained.
    pub fn spec(&self) -> &RunSpec {
        &self.record.spec
    }

    /// The run did not come to be: nothing of it stays, unless it was there before.
    pub fn give_up(self, failure: Failure) -> Failure {
        let outcome = match self.origin {
            Origin::Run => Ok(()),
            Origin::Made => fs::remove_dir_all(&self.path),
            Origin::Empty => empty(&self.path),
        };
        if let Err(error) = outcome {
            tracing::warn!(path = %self.path.display(), %error, "the directory of a run that did not start stays behind");
        }
        failure
    }
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The keys in which two specs differ.
fn differences(one: &RunSpec, other: &RunSpec) -> Vec<String> {
    let values = |spec| serde_json::to_value(spec).unwrap_or_default();
    let mut keys = Vec::new();
    compare("", &values(one), &values(other), &mut keys);
    keys
}

fn compare(path: &str, one: &serde_json::Value, other: &serde_json::Value, keys: &mut Vec<String>) {
    match (one.as_object(), other.as_object()) {
        (Some(ones), Some(others)) => {
            for (key, value) in ones {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                compare(
                    &path,
                    value,
                    others.get(key).unwrap_or(&serde_json::Value::Null),
                    keys,
                );
            }
        }
        _ if one != other => keys.push(path.to_owned()),
        _ => {}
    }
}

/// `20260131-080500`, local time.
fn now() -> String {
    jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_run_goes_on_with_its_own_spec_only() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let first = RunDirectory::claim(Some(path.clone()), RunSpec::default()).unwrap();
        let again = RunDirectory::claim(Some(path.clone()), RunSpec::default()).unwrap();
        assert_eq!(first.job_id(), again.job_id());
        let mut other = RunSpec::default();
        other.train.seed += 1;
        other.name = "other".into();
        assert_eq!(
            differences(&RunSpec::default(), &other),
            ["name", "train.seed"]
        );
        assert!(RunDirectory::claim(Some(path.clone()), other).is_err());
        // One that was there before is left alone by whoever gives up.
        again.give_up(Failure::told());
        assert!(path.join("run.json").exists());
        first.give_up(Failure::told());
        assert!(!path.exists());
    }

    #[test]
    fn other_peoples_directories_are_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("thesis.tex"), "…").unwrap();
        let taken = RunDirectory::claim(Some(parent.path().into()), RunSpec::default());
        assert!(taken.is_err());
        let empty = parent.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let claimed = RunDirectory::claim(Some(empty.clone()), RunSpec::default()).unwrap();
        claimed.give_up(Failure::told());
        assert!(empty.read_dir().unwrap().next().is_none());
    }
}

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Existing, PrepareError, writer::failed};
use crate::{INDEX_FILE, TOKENIZER_FILE};

/// A directory beside the dataset's, in which it is made. Dropped without [`Staging::commit`], nothing of it remains.
pub(super) struct Staging {
    dir: PathBuf,
    out: PathBuf,
    /// Directories above the dataset that were made for it, innermost first.
    made: Vec<PathBuf>,
}

impl Staging {
    /// Checks that the dataset may go to `out`, and makes the directory beside it.
    pub(super) fn create(out: &Path, existing: Existing) -> Result<Self, PrepareError> {
        // A link is replaced where it points to. Only a name can be renamed, not `.` or `/`.
        let out = fs::canonicalize(out).unwrap_or_else(|_| out.to_path_buf());
        check(&out, existing)?;
        if out.file_name().is_none() {
            return Err(failed(
                &out,
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "not a name for a new directory",
                ),
            ));
        }
        let dir = beside(&out, "partial");
        let mut staging = Self {
            dir,
            out,
            made: vec![],
        };
        let missing = staging
            .out
            .ancestors()
            .skip(1)
            .take_while(|above| !above.as_os_str().is_empty() && !above.exists());
        let missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
        for above in missing.into_iter().rev() {
            fs::create_dir(&above).map_err(|error| failed(&above, error))?;
            staging.made.insert(0, above);
        }
        fs::create_dir(&staging.dir).map_err(|error| failed(&staging.dir, error))?;
        Ok(staging)
    }

    /// Where the files go.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the finished directory in its place, durably. A dataset that was there is gone only once the new one is there;
    /// between the two renames, a crash leaves both under their temporary names.
    pub(super) fn commit(mut self) -> Result<PathBuf, PrepareError> {
        sync(&self.dir)?;
        let replaced = beside(&self.out, "replaced");
        let occupied = self.out.exists();
        if occupied {
            fs::rename(&self.out, &replaced).map_err(|error| failed(&self.out, error))?;
        }
        if let Err(error) = fs::rename(&self.dir, &self.out) {
            if occupied {
                fs::rename(&replaced, &self.out).map_err(|error| failed(&replaced, error))?;
            }
            return Err(failed(&self.out, error));
        }
        self.made.clear();
        sync(parent(&self.out))?;
        if occupied {
            fs::remove_dir_all(&replaced).map_err(|error| failed(&replaced, error))?;
        }
        Ok(self.out.clone())
    }
}

impl Drop for Staging {
    /// There is nobody to tell about what cannot be removed; the error that led here is on its way.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
        for above in &self.made {
            let _ = fs::remove_dir(above);
        }
    }
}

/// A name in the same directory, hence on the same file system, that no other process and no other call uses.
fn beside(out: &Path, purpose: &str) -> PathBuf {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(out.file_name().unwrap_or_default());
    name.push(format!(".{purpose}-{}-{call}", process::id()));
    out.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync(dir: &Path) -> Result<(), PrepareError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| failed(dir, error))
}

/// Whether a dataset may be put at `out`: it is not there, or empty, or a dataset and nothing else and to be replaced.
fn check(out: &Path, existing: Existing) -> Result<(), PrepareError> {
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(out, error)),
    };
    let paths: Result<Vec<PathBuf>, io::Error> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    let mut paths = paths.map_err(|error| failed(out, error))?;
    paths.sort();
    if paths.is_empty() {
        return Ok(());
    }
    if existing == Existing::Refuse {
        return Err(PrepareError::Exists { path: out.into() });
    }
    let foreign =
        paths
            .iter()
            .find(|path| !is_part(path))
            .or(match out.join(INDEX_FILE).exists() {
                true => None,
                false => paths.first(),
            });
    match foreign {
        None => Ok(()),
        Some(found) => Err(PrepareError::NotReplaceable {
            path: out.into(),
            found: found.clone(),
        }),
    }
}

fn is_part(path: &Path) -> bool {
    let named = |name: &str| path.file_name().is_some_and(|found| found == name);
    let shard = path
        .extension()
        .is_some_and(|extension| extension == "tokens" || extension == "docs");
    path.is_file() && (named(INDEX_FILE) || named(TOKENIZER_FILE) || shard)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_dropped_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::create(&root.path().join("a/b/set"), Existing::Refuse).unwrap();
        fs::write(staging.dir().join("x"), "x").unwrap();
        assert_eq!(names(root.path()), ["a"]);
        drop(staging);
        assert_eq!(names(root.path()), [""; 0]);
    }

    #[test]
    fn what_is_committed_replaces_only_datasets() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("deep/set");
        let make = |content: &str| {
            let staging = Staging::create(&out, Existing::Replace)?;
            fs::write(staging.dir().join(INDEX_FILE), content).unwrap();
            staging.commit()
        };
        make("one").unwrap();
        make("two").unwrap();
        assert_eq!(fs::read_to_string(out.join(INDEX_FILE)).unwrap(), "two");
        assert_eq!(names(&root.path().join("deep")), ["set"]);
        assert!(matches!(
            Staging::create(&out, Existing::Refuse),
            Err(PrepareError::Exists { .. })
        ));
        fs::write(out.join("notes.txt"), "mine").unwrap();
        assert!(matches!(
            make("three"),
            Err(PrepareError::NotReplaceable { .. })
        ));
        fs::remove_file(out.join(INDEX_FILE)).unwrap();
        fs::rename(out.join("notes.txt"), out.join("old.tokens")).unwrap();
        assert!(matches!(
            make("four"),
            Err(PrepareError::NotReplaceable { .. })
        ));
        assert_eq!(names(&out), ["old.tokens"]);
        assert_eq!(names(&root.path().join("deep")), ["set"]);
    }

    #[test]
    fn an_empty_directory_is_taken_and_a_file_is_not() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("set");
        fs::create_dir(&out).unwrap();
        Staging::create(&out, Existing::Refuse)
            .unwrap()
            .commit()
            .unwrap();
        let file = root.path().join("file");
        fs::write(&file, "mine").unwrap();
        assert!(Staging::create(&file, Existing::Replace).is_err());
        assert!(Staging::create(&file.join("set"), Existing::Replace).is_err());
        assert_eq!(names(root.path()), ["file", "set"]);
    }
}

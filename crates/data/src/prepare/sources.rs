use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::PrepareError;

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) kind: SourceKind,
    pub(super) bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceKind {
    Text,
    JsonLines,
}

/// All input files, ordered by path.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) files: Vec<Source>,
    /// Files of other kinds in directories.
    pub(super) ignored: u64,
}

impl Sources {
    /// Looks through the inputs. A file that is reached twice is taken once. Links to files are followed; links to
    /// directories only if they are inputs themselves, so that no circle can arise.
    pub(super) fn find(inputs: &[PathBuf]) -> Result<Self, PrepareError> {
        let mut sources = Self::default();
        for input in inputs {
            let found = fs::metadata(input).map_err(|source| unreadable(input, source))?;
            if found.is_dir() {
                sources.descend(input)?;
            } else if let Some(kind) = kind(input) {
                sources.files.push(Source {
                    path: input.clone(),
                    kind,
                    bytes: found.len(),
                });
            } else {
                return Err(PrepareError::UnknownKind {
                    path: input.clone(),
                });
            }
        }
        sources.files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut seen = BTreeSet::new();
        let mut once = Vec::with_capacity(sources.files.len());
        for source in sources.files {
            let real =
                fs::canonicalize(&source.path).map_err(|error| unreadable(&source.path, error))?;
            if seen.insert(real) {
                once.push(source);
            }
        }
        if once.is_empty() {
            return Err(PrepareError::NoInput {
                ignored: sources.ignored,
            });
        }
        Ok(Self {
            files: once,
            ignored: sources.ignored,
        })
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|source| source.bytes).sum()
    }

    fn descend(&mut self, dir: &Path) -> Result<(), PrepareError> {
        for entry in fs::read_dir(dir).map_err(|source| unreadable(dir, source))? {
            let entry = entry.map_err(|source| unreadable(dir, source))?;
            let path = entry.path();
            let linked = entry
                .file_type()
                .map_err(|source| unreadable(&path, source))?;
            if linked.is_dir() {
                self.descend(&path)?;
                continue;
            }
            let Some(kind) = kind(&path) else {
                self.ignored += 1;
                continue;
            };
            let found = fs::metadata(&path).map_err(|source| unreadable(&path, source))?;
            if found.is_file() {
                self.files.push(Source {
                    path,
                    kind,
                    bytes: found.len(),
                });
            }
        }
        Ok(())
    }
}

fn kind(path: &Path) -> Option<SourceKind> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "txt" => Some(SourceKind::Text),
        "jsonl" => Some(SourceKind::JsonLines),
        _ => None,
    }
}

fn unreadable(path: &Path, source: io::Error) -> PrepareError {
    PrepareError::Input {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/deep")).unwrap();
        for (name, text) in [
            ("z.txt", "z"),
            ("a.JSONL", "{}"),
            ("b/deep/k.txt", "deep"),
            ("b/m.md", "#"),
            ("b/noext", ""),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn directories_are_searched_in_order_of_path() {
        let dir = tree();
        let inputs = [dir.path().join("z.txt"), dir.path().to_path_buf()];
        let sources = Sources::find(&inputs).unwrap();
        let names: Vec<_> = sources
            .files
            .iter()
            .map(|file| {
                file.path
                    .strip_prefix(dir.path())
                    .unwrap()
                    .to_str()
                    .unwrap()
            })
            .collect();
        assert_eq!(names, ["a.JSONL", "b/deep/k.txt", "z.txt"]);
        assert_eq!((sources.bytes(), sources.ignored), (7, 2));
    }

    #[cfg(unix)]
    #[test]
    fn links_make_no_circle() {
        let dir = tree();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("b/up")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("z.txt"), dir.path().join("again.txt")).unwrap();
        let sources = Sources::find(&[dir.path().into()]).unwrap();
        assert_eq!(sources.files.len(), 3);
    }

    #[test]
    fn what_holds_no_text_is_named() {
        let dir = tree();
        let missing = Sources::find(&[dir.path().join("gone.txt")]).unwrap_err();
        assert!(missing.to_string().contains("gone.txt"));
        let other = Sources::find(&[dir.path().join("b/m.md")]).unwrap_err();
        assert!(matches!(other, PrepareError::UnknownKind { .. }));
        fs::remove_file(dir.path().join("b/deep/k.txt")).unwrap();
        let none = Sources::find(&[dir.path().join("b")]).unwrap_err();
        assert!(matches!(none, PrepareError::NoInput { ignored: 2 }));
    }
}

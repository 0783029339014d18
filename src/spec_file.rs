use std::path::{Path, PathBuf};

use clap::Args;
use muster_spec::{Format, RunSpec};

use crate::{checkpoints, failure::Failure};

/// A run spec on the command line.
#[derive(Clone, Debug, Args)]
pub struct SpecArgs {
    /// The run spec: a .toml, .yaml or .json file
    #[arg(value_name = "SPEC")]
    pub spec: PathBuf,
    /// Set a key of the spec, such as `train.steps=200`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

impl SpecArgs {
    /// The spec, resolved from all its layers and validated.
    pub fn load(&self) -> Result<RunSpec, Failure> {
        read(&self.spec, &self.set)
    }
}

/// Reads `KEY=VALUE`.
pub fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("expected KEY=VALUE, such as train.steps=200".into()),
    }
}

/// Loads the spec in `path`, under the environment and `set`.
fn read(path: &Path, set: &[(String, String)]) -> Result<RunSpec, Failure> {
    let file_name = path.display().to_string();
    let format = Format::of(&file_name)?;
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!(
            "cannot read the run spec {}: {error}",
            path.display()
        ))
    })?;
    // A variable that is not Unicode cannot set a key.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(muster_spec::load(
        &text,
        &file_name,
        format,
        environment,
        set,
    )?)
}

/// Makes the spec's paths absolute, so that they mean the same to a process that runs in another directory.
pub fn make_paths_absolute(spec: &mut RunSpec) -> Result<(), Failure> {
    spec.data.path = absolute("data.path", &spec.data.path)?;
    let uri = &spec.checkpoint.uri;
    if !uri.is_empty() && !uri.contains("://") {
        spec.checkpoint.uri = absolute("checkpoint.uri", uri)?;
    }
    let from = &spec.init.from;
    if !from.is_empty() && !from.contains("://") {
        spec.init.from = absolute("init.from", from)?;
    }
    Ok(())
}

/// Puts the newest checkpoint that reads back in place of what `init.from` names.
pub async fn resolve_init(spec: &mut RunSpec) -> Result<(), Failure> {
    if !spec.init.from.is_empty() {
        let found = checkpoints::newest_valid(&spec.init.from).await;
        let found =
            found.map_err(|failure| Failure::usage(format!("init.from: {}", failure.words())))?;
        spec.init.from = found.uri().to_owned();
    }
    Ok(())
}

fn absolute(key: &str, path: &str) -> Result<String, Failure> {
    let wrong = |reason: String| Failure::usage(format!("{key}: {path:?} {reason}"));
    std::path::absolute(path)
        .map_err(|error| wrong(format!("cannot be made absolute: {error}")))?
        .into_os_string()
        .into_string()
        .map_err(|_| wrong("lies in a directory whose name is not Unicode".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn assignments_have_a_key() {
        let pair = assignment("data.path = a=b").unwrap();
        assert_eq!(pair, ("data.path".into(), "a=b".into()));
        assert_eq!(assignment("name=").unwrap(), ("name".into(), String::new()));
        for bad in ["train.steps", "=3", ""] {
            assert!(assignment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_plain_paths_are_made_absolute() {
        let mut spec = RunSpec::default();
        spec.data.path = "data/x".into();
        spec.checkpoint.uri = "file:///shared/c".into();
        make_paths_absolute(&mut spec).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(Path::new(&spec.data.path), here.join("data/x"));
        assert_eq!(spec.checkpoint.uri, "file:///shared/c");
        spec.checkpoint.uri = "c".into();
        make_paths_absolute(&mut spec).unwrap();
        assert_eq!(Path::new(&spec.checkpoint.uri), here.join("c"));
    }
}

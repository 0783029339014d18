//! What the commands that `muster` calls for their tensors have in common: they print one JSON object, or say what is wrong.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
};

use muster_model::Model;
use muster_spec::RunSpec;
use muster_store::{Checkpoint, Location};
use muster_types::Seed;
use serde_json::Value;
use tch::Device;

/// Why such a command did not do what it was asked for.
pub enum Fault {
    /// What it was given cannot be used.
    Input(String),
    /// It could not be done.
    Operation(String),
}

impl Fault {
    /// What was given cannot be used.
    pub fn input(cause: impl Display) -> Self {
        Self::Input(cause.to_string())
    }

    /// It could not be done.
    pub fn operation(cause: impl Display) -> Self {
        Self::Operation(cause.to_string())
    }

    /// Says so; returns the exit status.
    pub fn tell(self) -> i32 {
        let (cause, status) = match self {
            Self::Operation(cause) => (cause, 1),
            Self::Input(cause) => (cause, 2),
        };
        eprintln!("{cause}");
        status
    }
}

/// Prints the outcome; returns the exit status.
pub fn tell(outcome: Result<Value, Fault>) -> i32 {
    match outcome {
        Ok(result) => {
            println!("{result}");
            0
        }
        Err(fault) => fault.tell(),
    }
}

/// Waits for something that is asynchronous.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Fault::operation)?;
    Ok(runtime.block_on(future))
}

/// A checkpoint with its model, on the CPU.
pub struct Loaded {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Where its files lie.
    pub directory: PathBuf,
    /// What it was trained by.
    pub spec: RunSpec,
    /// Its model.
    pub model: Box<dyn Model>,
}

impl Loaded {
    /// Reads the model of the checkpoint at `uri`.
    pub fn open(uri: &str) -> Result<Self, Fault> {
        let checkpoint = block_on(Checkpoint::open(uri))?.map_err(Fault::operation)?;
        let manifest = checkpoint.manifest();
        let spec: RunSpec = serde_json::from_value(manifest.spec.clone()).map_err(|cause| {
            Fault::operation(format!(
                "the run spec in {} cannot be used: {cause}",
                checkpoint.uri()
            ))
        })?;
        let location = Location::parse(checkpoint.uri()).map_err(Fault::operation)?;
        let directory = location.directory().to_path_buf();
        let model = muster_model::build(&spec.model, Device::Cpu, Seed(spec.train.seed))
            .map_err(Fault::operation)?;
        muster_train::restore_model(&*model, &directory, manifest).map_err(Fault::operation)?;
        Ok(Self {
            checkpoint,
            directory,
            spec,
            model,
        })
    }
}

/// A directory beside the one that is to be made. Dropped without [`Staging::commit`], nothing of it remains.
pub struct Staging {
    directory: PathBuf,
    out: PathBuf,
}

impl Staging {
    /// Checks that there is nothing at `out` yet, and makes a directory beside it.
    pub fn create(out: &Path) -> Result<Self, Fault> {
        let shown = out.display();
        if out.exists() {
            return Err(Fault::input(format!(
                "{shown} is there already; name a directory that is not"
            )));
        }
        let Some(name) = out.file_name() else {
            return Err(Fault::input(format!(
                "{shown} is no name for a new directory"
            )));
        };
        let name = format!(".{}.partial-{}", name.to_string_lossy(), std::process::id());
        let directory = out.with_file_name(name);
        fs::create_dir_all(&directory)
            .map_err(|cause| Fault::operation(format!("cannot create {shown}: {cause}")))?;
        Ok(Self {
            directory,
            out: out.into(),
        })
    }

    /// Where the files go.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives `made`, which is the directory or lies in it, its name.
    pub fn commit(self, made: &Path) -> Result<(), Fault> {
        let finish = || -> io::Result<()> {
            fs::rename(made, &self.out)?;
            let above = self.out.parent().filter(|it| !it.as_os_str().is_empty());
            fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()
        };
        finish().map_err(|cause| {
            Fault::operation(format!("cannot create {}: {cause}", self.out.display()))
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Committed, it is gone already; else what led here is what is worth telling.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

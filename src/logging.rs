use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use indicatif::MultiProgress;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::failure::Failure;

/// Sends the log to stderr. `filter` is `--log`; without it RUST_LOG decides, and without that `default`.
pub fn start(filter: Option<&str>, default: &str) -> Result<(), Failure> {
    let from_environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let (said_by, text) = match (filter, from_environment.as_deref()) {
        (Some(text), _) => ("--log", text),
        (None, Some(text)) if !text.is_empty() => (EnvFilter::DEFAULT_ENV, text),
        _ => ("the default", default),
    };
    let filter = EnvFilter::try_new(text).map_err(|error| {
        Failure::usage(format!("{said_by}: {text:?} is no log filter: {error}"))
            .help("give a level such as `info`, or `module=level` pairs separated by commas")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(())
}

/// The progress bars of this process. Log lines are written above them.
pub fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// stderr, with progress bars out of the way while a line is written.
#[derive(Clone, Copy, Debug)]
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bars().suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Stderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

use std::{fmt, io, process::ExitCode};

use miette::{MietteHandlerOpts, Report, miette};
use muster_spec::SpecError;
use tonic::{Code, Status};

/// Why a command did not succeed, and with which exit code.
#[derive(Debug)]
pub struct Failure {
    exit: u8,
    /// What to say; nothing where it was said already.
    reports: Vec<Report>,
}

/// The job or the operation failed.
const OPERATION: u8 = 1;
/// Bad usage or bad configuration.
const USAGE: u8 = 2;

impl Failure {
    /// The operation failed.
    pub fn operation(message: impl fmt::Display) -> Self {
        Self::new(OPERATION, miette!("{message}"))
    }

    /// Bad usage or bad configuration.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(USAGE, miette!("{message}"))
    }

    /// The job failed, and the summary has said so.
    pub fn told() -> Self {
        Self {
            exit: OPERATION,
            reports: Vec::new(),
        }
    }

    /// Another process failed with this exit status, and said why.
    pub fn of_worker(status: Option<i32>, said: &str) -> Self {
        let exit = if status == Some(i32::from(USAGE)) {
            USAGE
        } else {
            OPERATION
        };
        let said = match said.trim() {
            "" => "the worker process ended without a word",
            said => said,
        };
        Self::new(exit, miette!("{said}"))
    }

    /// Says what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl fmt::Display) -> Self {
        if let Some(report) = self.reports.pop() {
            self.reports
                .push(miette!(help = help.to_string(), "{report}"));
        }
        self
    }

    /// What went wrong, on one line, without the help.
    pub fn words(&self) -> String {
        let words: Vec<_> = self.reports.iter().map(ToString::to_string).collect();
        words.join("; ")
    }

    fn new(exit: u8, report: Report) -> Self {
        Self {
            exit,
            reports: vec![report],
        }
    }

    /// Says why on stderr.
    pub fn report(self) -> ExitCode {
        for report in &self.reports {
            eprintln!("{report:?}");
        }
        ExitCode::from(self.exit)
    }
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        let problems = error.problems().iter().cloned();
        Self {
            exit: USAGE,
            reports: problems.map(Report::new).collect(),
        }
    }
}

impl From<Status> for Failure {
    /// What a coordinator answered. What it does not accept is the client's to put right.
    fn from(status: Status) -> Self {
        match (status.code(), status.message()) {
            (Code::InvalidArgument, message) => Self::usage(message),
            (Code::Unavailable, message) => {
                Self::operation(format!("the coordinator went away: {message}"))
                    .help("its jobs go on without it; try again once it is back")
            }
            (Code::Unauthenticated, message) => Self::operation(message)
                .help("name the directory of your token or certificate with --credentials or MUSTER_CREDENTIALS"),
            (code, "") => Self::operation(code.description()),
            (_, message) => Self::operation(message),
        }
    }
}

impl From<io::Error> for Failure {
    /// Output that could not be written. Whoever closed the pipe has read enough.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                exit: 0,
                reports: Vec::new(),
            };
        }
        Self::operation(format!("cannot write the output: {error}"))
    }
}

/// Errors are shown with help and source lines. Messages are not wrapped, so that they can be searched for.
pub fn install_hook() {
    // It is installed once, before any report is made; were it not, reports would only look different.
    let _ = miette::set_hook(Box::new(|_| {
        let options = MietteHandlerOpts::new().wrap_lines(false).context_lines(1);
        Box::new(options.build())
    }));
}

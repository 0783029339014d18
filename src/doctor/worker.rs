use std::path::PathBuf;

use serde::Deserialize;

use super::Finding;

const CHECK: &str = "worker";

/// What `muster-worker report` prints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WorkerReport {
    /// The binary's version.
    pub version: String,
    /// libtorch's version and build, on one line.
    pub numerics: String,
    /// NCCL's version, where libtorch's CUDA part loads.
    pub nccl: Option<String>,
    /// Why it does not load.
    pub cuda_error: Option<String>,
    /// The GPUs that libtorch sees.
    pub gpus: i64,
}

/// What became of asking the worker binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerReading {
    /// There is none.
    Missing(String),
    /// It did not start, or ended with an error.
    Failed {
        /// The binary.
        path: PathBuf,
        /// What it or the system said.
        said: String,
    },
    /// It starts, with libtorch.
    Works {
        /// The binary.
        path: PathBuf,
        /// What it said.
        report: WorkerReport,
    },
}

impl WorkerReading {
    /// What the binary said, if it works.
    pub fn report(&self) -> Option<&WorkerReport> {
        match self {
            Self::Works { report, .. } => Some(report),
            _ => None,
        }
    }
}

/// Whether workers start here.
pub fn judge_worker(reading: &WorkerReading, own_version: &str) -> Finding {
    match reading {
        WorkerReading::Missing(said) => Finding::fail(
            CHECK,
            said,
            "build it with `make build`, put muster-worker beside muster, or name it in MUSTER_WORKER",
        ),
        WorkerReading::Failed { path, said } => {
            let fix = if said.contains("shared librar") {
                "libtorch is not where the binary looks for it: run `make setup build` here, or install the libtorch that \
                 it was built with"
            } else {
                "run it by hand with `report` to see more; `make build` makes it anew"
            };
            Finding::fail(
                CHECK,
                format!("{} does not start: {said}", path.display()),
                fix,
            )
        }
        WorkerReading::Works { path, report } if report.version != own_version => Finding::fail(
            CHECK,
            format!(
                "{} is version {}, muster is {own_version}",
                path.display(),
                report.version
            ),
            "build both from one commit with `make build`",
        ),
        WorkerReading::Works { path, report } => {
            let libtorch = report
                .numerics
                .split_whitespace()
                .next()
                .unwrap_or_default();
            let libtorch = libtorch.replace('=', " ");
            Finding::ok(CHECK, format!("{} starts, with {libtorch}", path.display()))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::doctor::Verdict;

    pub fn report(nccl: Option<&str>, gpus: i64) -> WorkerReport {
        WorkerReport {
            version: "0.1.0".into(),
            numerics: "libtorch=2.11.0 build=1f isa=AVX2".into(),
            nccl: nccl.map(str::to_owned),
            cuda_error: nccl.is_none().then(|| "this libtorch is CPU-only".into()),
            gpus,
        }
    }

    #[test]
    fn a_worker_has_to_start_and_to_be_of_this_version() {
        let path = PathBuf::from("/bin/muster-worker");
        let works = WorkerReading::Works {
            path: path.clone(),
            report: report(None, 0),
        };
        let good = judge_worker(&works, "0.1.0");
        assert_eq!(good.verdict, Verdict::Ok);
        assert_eq!(
            good.found,
            "/bin/muster-worker starts, with libtorch 2.11.0"
        );
        let other = judge_worker(&works, "0.2.0");
        assert_eq!(other.verdict, Verdict::Fail);
        assert!(other.found.contains("is version 0.1.0, muster is 0.2.0"));

        let said = "error while loading shared libraries: libtorch_cpu.so".to_owned();
        let broken = judge_worker(&WorkerReading::Failed { path, said }, "0.1.0");
        assert_eq!(broken.verdict, Verdict::Fail);
        assert!(broken.fix.contains("make setup"), "{broken:?}");
        let none = judge_worker(&WorkerReading::Missing("there is none".into()), "0.1.0");
        assert!(none.fix.contains("MUSTER_WORKER"), "{none:?}");
    }
}

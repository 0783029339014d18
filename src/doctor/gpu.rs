use muster_agent::{Gpu, GpuSurvey};

use super::{Finding, WorkerReport};
use crate::words;

const GPU: &str = "gpu";
const NCCL: &str = "nccl";

/// Whether the GPUs are fit for use: one finding for each that is not. `has_driver`: the kernel has NVIDIA's module loaded.
pub fn judge_gpus(survey: &Result<GpuSurvey, String>, has_driver: bool) -> Vec<Finding> {
    let survey = match survey {
        Ok(survey) => survey,
        Err(reason) if has_driver => {
            let found = format!("NVIDIA's driver is loaded, but NVML does not answer: {reason}");
            let fix = "see what `nvidia-smi` says; after an update of the driver, restart the machine; in a container, pass \
                       the GPUs through";
            return vec![Finding::fail(GPU, found, fix)];
        }
        Err(_) => return vec![Finding::ok(GPU, "no NVIDIA driver: agents offer CPU slots")],
    };
    if survey.gpus.is_empty() {
        let found = format!("driver {}, but no GPU", survey.driver);
        return vec![Finding::warn(
            GPU,
            found,
            "see whether `nvidia-smi -L` lists one",
        )];
    }
    let mut findings = Vec::new();
    let mut good = Vec::new();
    for (index, gpu) in survey.gpus.iter().enumerate() {
        match gpu {
            Ok(gpu) => match trouble(index, gpu) {
                Some(finding) => findings.push(finding),
                None => good.push(format!("{} ({})", gpu.name, words::bytes(gpu.memory_bytes))),
            },
            Err(reason) => findings.push(Finding::fail(
                GPU,
                format!("GPU {index} does not answer: {reason}"),
                "reset it with `nvidia-smi --gpu-reset`, or restart the machine; agents leave it out meanwhile",
            )),
        }
    }
    if !good.is_empty() {
        let found = format!("driver {}: {}", survey.driver, counted(good));
        findings.insert(0, Finding::ok(GPU, found));
    }
    findings
}

fn trouble(index: usize, gpu: &Gpu) -> Option<Finding> {
    let name = &gpu.name;
    if gpu.mig {
        return Some(Finding::warn(
            GPU,
            format!("GPU {index} ({name}) is cut into MIG instances; slots are whole GPUs"),
            format!(
                "switch MIG off with `nvidia-smi -i {index} -mig 0`, or leave the GPU out with CUDA_VISIBLE_DEVICES"
            ),
        ));
    }
    let errors = gpu.uncorrected_errors.filter(|errors| *errors > 0)?;
    Some(Finding::warn(
        GPU,
        format!(
            "GPU {index} ({name}) had {errors} uncorrected memory errors since its driver was loaded"
        ),
        "reset it with `nvidia-smi --gpu-reset`; have it replaced where they come back",
    ))
}

/// Equal names together: `8 × A (80 GiB)`.
fn counted(mut names: Vec<String>) -> String {
    names.sort();
    let groups = names.chunk_by(|one, other| one == other);
    let words = groups.map(|group| format!("{} × {}", group.len(), group[0]));
    words.collect::<Vec<_>>().join(", ")
}

/// Whether workers can use the GPUs that there are.
pub fn judge_nccl(survey: &Result<GpuSurvey, String>, report: Option<&WorkerReport>) -> Finding {
    let gpus = survey.as_ref().map_or(0, |survey| survey.gpus.len());
    let Some(report) = report else {
        return match gpus {
            0 => Finding::ok(NCCL, "not needed without a GPU"),
            _ => Finding::fail(
                NCCL,
                "unknown, since the worker does not start",
                "see `worker`",
            ),
        };
    };
    let seen = usize::try_from(report.gpus).unwrap_or(0);
    match &report.nccl {
        Some(version) if seen < gpus => Finding::warn(
            NCCL,
            format!("NCCL {version} loads, but libtorch sees {seen} of {gpus} GPUs"),
            "look at CUDA_VISIBLE_DEVICES; a driver that is older than libtorch's CUDA shows none: update it",
        ),
        Some(version) => Finding::ok(
            NCCL,
            format!("NCCL {version} loads; libtorch sees {seen} GPUs"),
        ),
        None if gpus == 0 => Finding::ok(NCCL, "not needed without a GPU"),
        None => Finding::fail(
            NCCL,
            report
                .cuda_error
                .clone()
                .unwrap_or_else(|| "it does not load".into()),
            "fetch the libtorch for GPUs with `make setup DEVICE=cuda` and run `make build`; jobs on CPUs work without",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Verdict, worker::tests::report};

    fn gpu(mig: bool, uncorrected_errors: Option<u64>) -> Result<Gpu, String> {
        Ok(Gpu {
            name: "H100".into(),
            memory_bytes: 80 << 30,
            uncorrected_errors,
            mig,
        })
    }

    fn survey(gpus: Vec<Result<Gpu, String>>) -> Result<GpuSurvey, String> {
        Ok(GpuSurvey {
            driver: "580.1".into(),
            gpus,
        })
    }

    #[test]
    fn good_gpus_are_counted_and_each_bad_one_is_named() {
        let gpus = vec![
            gpu(false, Some(0)),
            gpu(true, None),
            gpu(false, None),
            gpu(false, Some(3)),
            Err("fell off the bus".into()),
        ];
        let findings = judge_gpus(&survey(gpus), true);
        let verdicts: Vec<_> = findings.iter().map(|it| it.verdict).collect();
        assert_eq!(
            verdicts,
            [Verdict::Ok, Verdict::Warn, Verdict::Warn, Verdict::Fail]
        );
        assert_eq!(findings[0].found, "driver 580.1: 2 × H100 (80.0 GiB)");
        assert!(findings[1].found.contains("GPU 1 (H100) is cut into MIG"));
        assert!(findings[2].found.contains("GPU 3 (H100) had 3 uncorrected"));
        assert!(
            findings[3]
                .found
                .contains("GPU 4 does not answer: fell off")
        );
    }

    #[test]
    fn a_machine_without_gpus_is_fine_unless_its_driver_is_there() {
        let silent = Err("no library".to_owned());
        assert_eq!(judge_gpus(&silent, false)[0].verdict, Verdict::Ok);
        assert_eq!(judge_gpus(&silent, true)[0].verdict, Verdict::Fail);
        assert_eq!(judge_gpus(&survey(vec![]), true)[0].verdict, Verdict::Warn);
        assert_eq!(judge_nccl(&silent, None).verdict, Verdict::Ok);
        assert_eq!(
            judge_nccl(&silent, Some(&report(None, 0))).verdict,
            Verdict::Ok
        );
    }

    #[test]
    fn with_gpus_nccl_has_to_load_and_libtorch_to_see_them() {
        let two = survey(vec![gpu(false, None), gpu(false, None)]);
        let judge = |it: Option<WorkerReport>| judge_nccl(&two, it.as_ref()).verdict;
        assert_eq!(judge(Some(report(Some("2.28.9"), 2))), Verdict::Ok);
        assert_eq!(judge(Some(report(Some("2.28.9"), 1))), Verdict::Warn);
        assert_eq!(judge(Some(report(None, 0))), Verdict::Fail);
        assert_eq!(judge(None), Verdict::Fail);
    }
}

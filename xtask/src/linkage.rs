//! `muster` starts in milliseconds and installs anywhere because it links the C library and nothing else; `muster-worker`
//! finds libtorch by itself, and CUDA only at run time.

use std::path::Path;
use std::process::Command;

use crate::Outcome;

/// What every Linux with glibc has.
const EVERYWHERE: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
];

/// The dynamic section of a binary: what it needs, and where it looks.
struct Dynamic {
    needed: Vec<String>,
    run_path: Option<String>,
}

/// Reads the dynamic sections of both binaries in `directory` with `readelf`.
///
/// # Errors
/// One line a violation, or why a binary cannot be read.
pub fn check(directory: &Path) -> Outcome {
    let muster = read(&directory.join("muster")).map_err(|error| vec![error])?;
    let worker = read(&directory.join("muster-worker")).map_err(|error| vec![error])?;
    let mut problems = control_plane_problems(&muster);
    problems.extend(worker_problems(&worker));
    if problems.is_empty() {
        Ok(format!("muster needs only {}", muster.needed.join(", ")))
    } else {
        Err(problems)
    }
}

fn control_plane_problems(muster: &Dynamic) -> Vec<String> {
    if muster.needed.is_empty() {
        return vec!["muster lists no libraries at all: is it a binary?".into()];
    }
    muster
        .needed
        .iter()
        .filter(|name| !EVERYWHERE.contains(&name.as_str()))
        .map(|name| format!("muster needs {name}, which is not everywhere; it must do without"))
        .collect()
}

fn worker_problems(worker: &Dynamic) -> Vec<String> {
    let needs = |part: &str| worker.needed.iter().find(|name| name.contains(part));
    let mut problems = Vec::new();
    if needs("libtorch_cpu").is_none() {
        problems.push("muster-worker does not need libtorch_cpu: is it the worker?".into());
    }
    for part in ["cuda", "nccl"] {
        if let Some(name) = needs(part) {
            problems.push(format!(
                "muster-worker needs {name}; it must load CUDA at run time, to start where there is none"
            ));
        }
    }
    if worker.run_path.is_none() {
        problems.push(
            "muster-worker has no run path, so it does not find libtorch: its build.rs sets it"
                .into(),
        );
    }
    problems
}

fn read(binary: &Path) -> Result<Dynamic, String> {
    let output = Command::new("readelf")
        .arg("-d")
        .arg(binary)
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| format!("cannot run readelf, of package binutils: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cannot read {}; run `make build` first",
            binary.display()
        ));
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

fn parse(section: &str) -> Dynamic {
    let values = |tags: &'static [&'static str]| {
        section
            .lines()
            .filter(move |line| tags.iter().any(|tag| line.contains(tag)))
            .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
    };
    let run_path = values(&["(RUNPATH)", "(RPATH)"]).next();
    Dynamic {
        needed: values(&["(NEEDED)"]).collect(),
        run_path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: &str = "
 0x0000000000000001 (NEEDED)             Shared library: [libtorch_cpu.so]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000001d (RUNPATH)            Library runpath: [/somewhere/torch/lib]
 0x000000000000000e (SONAME)             Library soname: [x.so]
";

    #[test]
    fn a_dynamic_section_is_read() {
        let worker = parse(WORKER);
        assert_eq!(worker.needed, ["libtorch_cpu.so", "libc.so.6"]);
        assert_eq!(worker.run_path.as_deref(), Some("/somewhere/torch/lib"));
        assert_eq!(worker_problems(&worker), [""; 0]);
    }

    #[test]
    fn libtorch_in_the_control_plane_is_named() {
        let found = control_plane_problems(&parse(WORKER));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("muster needs libtorch_cpu.so"),
            "{found:?}"
        );
    }

    #[test]
    fn something_that_is_no_binary_is_not_taken_for_a_good_one() {
        assert_eq!(control_plane_problems(&parse("")).len(), 1);
    }

    #[test]
    fn cuda_at_link_time_and_a_missing_run_path_are_named() {
        let section = WORKER
            .replace("libc.so.6", "libtorch_cuda.so")
            .replace("(RUNPATH)", "(DEBUG)");
        let found = worker_problems(&parse(&section)).join("\n");
        assert!(found.contains("needs libtorch_cuda.so"), "{found}");
        assert!(found.contains("no run path"), "{found}");
    }
}

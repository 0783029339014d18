use std::{net::SocketAddr, path::Path};

use super::Finding;
use crate::words;

/// A checkpoint of a small model with its optimizer state.
const LEAST_DISK: u64 = 1 << 30;
const GOOD_DISK: u64 = 10 << 30;
/// Each worker costs the coordinator a connection, and an agent a few files.
const LEAST_FILES: u64 = 256;
const GOOD_FILES: u64 = 1024;
/// libtorch starts threads by the core, and each counts.
const GOOD_PROCESSES: u64 = 4096;
/// NCCL takes some dozen megabytes of shared memory for each GPU.
const SHM_A_GPU: u64 = 64 << 20;

/// Limits of this process; `None`: unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Open files: as many as the coordinator and agents make use of when they start.
    pub files: Option<u64>,
    /// Processes and threads of this user.
    pub processes: Option<u64>,
    /// Memory that may be locked, in bytes.
    pub locked_memory: Option<u64>,
}

impl Limits {
    /// Reads what the kernel shows in `/proc/self/limits`. `None` where a line is missing.
    pub fn parse(text: &str) -> Option<Self> {
        const SOFT: usize = 0;
        const HARD: usize = 1;
        let limit = |name: &str, which| -> Option<Option<u64>> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            match line.split_whitespace().nth(which)? {
                "unlimited" => Some(None),
                number => number.parse().ok().map(Some),
            }
        };
        Some(Self {
            files: limit("Max open files", HARD)?,
            processes: limit("Max processes", SOFT)?,
            locked_memory: limit("Max locked memory", SOFT)?,
        })
    }
}

/// Whether a worker can open, start and lock what it needs.
pub fn judge_limits(limits: Limits, gpus: usize) -> Vec<Finding> {
    let number = |limit: Option<u64>| limit.map_or("unlimited".into(), words::count);
    let files = format!("{} open files", number(limits.files));
    let raise = |option: &str, line: &str| {
        format!(
            "raise it with `ulimit {option}`, in /etc/security/limits.conf, or with {line} in a systemd unit"
        )
    };
    let more_files = raise("-n 65536", "LimitNOFILE=65536");
    let mut findings = vec![match limits.files {
        Some(limit) if limit < LEAST_FILES => Finding::fail("files", files, more_files),
        Some(limit) if limit < GOOD_FILES => Finding::warn("files", files, more_files),
        _ => Finding::ok("files", files),
    }];
    let processes = format!("{} processes and threads", number(limits.processes));
    findings.push(match limits.processes {
        Some(limit) if limit < GOOD_PROCESSES => Finding::warn(
            "processes",
            processes,
            raise("-u 65536", "LimitNPROC=65536"),
        ),
        _ => Finding::ok("processes", processes),
    });
    let locked = limits
        .locked_memory
        .map_or("unlimited".into(), words::bytes);
    findings.push(match limits.locked_memory {
        Some(_) if gpus > 0 => Finding::warn(
            "locked memory",
            format!("{locked}: NCCL over InfiniBand wants it unlimited"),
            raise("-l unlimited", "LimitMEMLOCK=infinity"),
        ),
        Some(_) => Finding::ok(
            "locked memory",
            format!("{locked}; it matters with GPUs only"),
        ),
        None => Finding::ok("locked memory", locked),
    });
    findings
}

/// Whether NCCL finds the shared memory that it needs. `reading`: the bytes that are free in /dev/shm.
pub fn judge_shm(reading: &Result<u64, String>, gpus: usize) -> Finding {
    const CHECK: &str = "shared memory";
    let needed = SHM_A_GPU * gpus as u64;
    let fix = "in a container, pass `--shm-size=1g` or `--ipc=host`; else mount a larger tmpfs at /dev/shm";
    match reading {
        Ok(free) if *free >= needed => {
            Finding::ok(CHECK, format!("{} free in /dev/shm", words::bytes(*free)))
        }
        Ok(free) => {
            let (free, needed) = (words::bytes(*free), words::bytes(needed));
            let found = format!("{free} free in /dev/shm; NCCL may need {needed} for {gpus} GPUs");
            Finding::warn(CHECK, found, fix)
        }
        Err(reason) if gpus > 0 => Finding::warn(CHECK, format!("/dev/shm: {reason}"), fix),
        Err(reason) => Finding::ok(
            CHECK,
            format!("/dev/shm: {reason}; it matters with GPUs only"),
        ),
    }
}

/// Whether files of jobs can be written. `reading`: the bytes that are free.
pub fn judge_data_dir(path: &Path, reading: &Result<u64, String>) -> Finding {
    const CHECK: &str = "data directory";
    let path = path.display();
    match reading {
        Err(reason) => Finding::fail(
            CHECK,
            format!("{path}: {reason}"),
            "name a directory that you may write to with --data-dir, here and for `muster coordinator` and `muster agent`",
        ),
        Ok(free) => {
            let found = format!("{path}: {} free", words::bytes(*free));
            let fix = "free some space, or name a directory on a larger disk with --data-dir; checkpoints may lie elsewhere \
                       with checkpoint.uri";
            match *free {
                free if free < LEAST_DISK => Finding::fail(CHECK, found, fix),
                free if free < GOOD_DISK => Finding::warn(CHECK, found, fix),
                _ => Finding::ok(CHECK, found),
            }
        }
    }
}

/// Whether a coordinator could listen there. `taken`: something listens already.
pub fn judge_port(address: SocketAddr, reading: &Result<(), (bool, String)>) -> Finding {
    const CHECK: &str = "port";
    match reading {
        Ok(()) => Finding::ok(CHECK, format!("{address} is free for a coordinator")),
        Err((true, _)) => Finding::warn(
            CHECK,
            format!("{address} is taken"),
            "fine where a coordinator runs here already (`muster jobs` reaches it then); else see `ss -ltnp`, or choose \
             another with --listen",
        ),
        Err((false, reason)) => Finding::fail(
            CHECK,
            format!("a coordinator cannot listen on {address}: {reason}"),
            "name an address of this machine, and a port above 1023, with --listen",
        ),
    }
}

/// Whether the node's usual name is one.
pub fn judge_name(name: &str) -> Finding {
    const CHECK: &str = "node name";
    if matches!(name, "node" | "localhost" | "localhost.localdomain") {
        return Finding::warn(
            CHECK,
            format!("{name}: no two nodes may have the same"),
            "give the machine a host name of its own, or each agent a --name",
        );
    }
    Finding::ok(CHECK, name)
}

/// Whether workers of other nodes could reach those here at the address that an agent would advertise.
pub fn judge_address(address: &str, coordinator: &str) -> Finding {
    const CHECK: &str = "address";
    let is_loopback = |text: &str| {
        text.starts_with("127.")
            || text.starts_with("[::1]")
            || text == "::1"
            || text.starts_with("localhost")
    };
    let host = coordinator
        .split_once("://")
        .map_or(coordinator, |(_, rest)| rest);
    if is_loopback(address) && !is_loopback(host) {
        return Finding::warn(
            CHECK,
            format!("{address} would be advertised, at which other nodes do not reach this one"),
            "see that the coordinator's name resolves, and give the agent an --advertise",
        );
    }
    let found = match is_loopback(address) {
        true => {
            format!("{address} would be advertised: enough where all workers are on this machine")
        }
        false => format!("{address} would be advertised to other nodes"),
    };
    Finding::ok(CHECK, found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::Verdict::{self, Fail, Ok as Fine, Warn};

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     \n\
Max processes             127456               127456               processes \n\
Max open files            1024                 1048576              files     \n\
Max locked memory         8388608              unlimited            bytes     \n";

    fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
        findings.iter().map(|it| it.verdict).collect()
    }

    #[test]
    fn limits_are_read_as_the_kernel_shows_them() {
        let limits = Limits::parse(LIMITS).unwrap();
        assert_eq!(
            limits,
            Limits {
                files: Some(1_048_576),
                processes: Some(127_456),
                locked_memory: Some(8 << 20)
            }
        );
        let unlimited = LIMITS.replace("8388608", "unlimited");
        assert_eq!(Limits::parse(&unlimited).unwrap().locked_memory, None);
        assert_eq!(Limits::parse("Max open files"), None);
        assert_eq!(verdicts(&judge_limits(limits, 0)), [Fine, Fine, Fine]);
        assert_eq!(verdicts(&judge_limits(limits, 8)), [Fine, Fine, Warn]);
    }

    #[test]
    fn limits_that_are_too_low_are_told() {
        let low = |files, processes| Limits {
            files: Some(files),
            processes: Some(processes),
            locked_memory: None,
        };
        assert_eq!(
            verdicts(&judge_limits(low(255, 100), 8)),
            [Fail, Warn, Fine]
        );
        assert_eq!(
            verdicts(&judge_limits(low(256, 4096), 8)),
            [Warn, Fine, Fine]
        );
        assert_eq!(verdicts(&judge_limits(Limits::default(), 8)), [Fine; 3]);
    }

    #[test]
    fn room_on_disk_and_in_shared_memory_is_weighed() {
        let disk = |reading| judge_data_dir(Path::new("/d"), &reading).verdict;
        assert_eq!(disk(Ok(10 << 30)), Fine);
        assert_eq!(disk(Ok(1 << 30)), Warn);
        assert_eq!(disk(Ok(0)), Fail);
        assert_eq!(disk(Err("read-only".into())), Fail);
        let shm = |reading, gpus| judge_shm(&reading, gpus).verdict;
        assert_eq!(shm(Ok(64 << 20), 0), Fine);
        assert_eq!(shm(Ok(64 << 20), 1), Fine);
        assert_eq!(shm(Ok(64 << 20), 8), Warn);
        assert_eq!(shm(Err("not there".into()), 8), Warn);
        assert_eq!(shm(Err("not there".into()), 0), Fine);
    }

    #[test]
    fn a_port_may_be_taken_by_a_coordinator_but_has_to_be_one() {
        let port = |reading| judge_port("10.0.0.1:7070".parse().unwrap(), &reading).verdict;
        assert_eq!(port(Ok(())), Fine);
        assert_eq!(port(Err((true, "in use".into()))), Warn);
        assert_eq!(port(Err((false, "no such address".into()))), Fail);
    }

    #[test]
    fn names_and_addresses_are_those_of_one_machine() {
        assert_eq!(judge_name("gpu-17").verdict, Fine);
        assert_eq!(judge_name("localhost").verdict, Warn);
        let address = |own, coordinator| judge_address(own, coordinator).verdict;
        assert_eq!(address("10.0.0.2", "http://head:7070"), Fine);
        assert_eq!(address("127.0.0.1", "http://127.0.0.1:7070"), Fine);
        assert_eq!(address("127.0.0.1", "http://head:7070"), Warn);
    }
}

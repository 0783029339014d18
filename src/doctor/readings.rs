//! Takes readings of this machine.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use jiff::Timestamp;
use muster_proto::v1::DescribeRequest;
use nix::sys::statvfs::statvfs;
use tokio::{process::Command, time::timeout};

use super::{CoordinatorReading, Limits, WorkerReading};
use crate::{client::Coordinator, worker_binary};

/// libtorch on a slow network disk takes its time.
const WORKER_PATIENCE: Duration = Duration::from_secs(120);
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(10);

/// Asks the worker binary.
pub async fn worker() -> WorkerReading {
    let path = match worker_binary::find() {
        Ok(path) => path,
        Err(failure) => return WorkerReading::Missing(failure.words()),
    };
    let asked = Command::new(&path)
        .arg("report")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let failed = |path, said: String| WorkerReading::Failed { path, said };
    let output = match timeout(WORKER_PATIENCE, asked).await {
        Err(_) => {
            let said = format!("no answer within {} s", WORKER_PATIENCE.as_secs());
            return failed(path, said);
        }
        Ok(Err(error)) => return failed(path, error.to_string()),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().last().unwrap_or_default().trim().to_owned();
        return failed(path, format!("{}: {last}", output.status));
    }
    match serde_json::from_slice(&output.stdout) {
        Ok(report) => WorkerReading::Works { path, report },
        Err(error) => failed(path, format!("its answer is not understood: {error}")),
    }
}

/// Whether the kernel has NVIDIA's module loaded.
pub fn has_nvidia_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

/// Asks a coordinator.
pub async fn coordinator(asked: &Coordinator) -> Result<CoordinatorReading, String> {
    let asked = async {
        let mut client = asked.connect().await.map_err(|it| it.words())?;
        // The connection is made; what is timed is one question.
        let before = Timestamp::now();
        let answer = client.describe(DescribeRequest {}).await;
        let after = Timestamp::now();
        let answer = answer.map_err(|status| status.message().to_owned())?;
        let answer = answer.into_inner();
        let theirs: Timestamp = answer
            .now
            .parse()
            .map_err(|_| format!("its clock shows {:?}", answer.now))?;
        let middle = (before.as_millisecond() + after.as_millisecond()) / 2;
        Ok(CoordinatorReading {
            version: answer.version,
            protocol: answer.protocol,
            ahead_ms: theirs.as_millisecond() - middle,
        })
    };
    match timeout(COORDINATOR_PATIENCE, asked).await {
        Ok(reading) => reading,
        Err(_) => Err(format!(
            "no answer within {} s",
            COORDINATOR_PATIENCE.as_secs()
        )),
    }
}

/// Tries to listen. `Err((true, _))`: someone else does.
pub fn port(address: SocketAddr) -> Result<(), (bool, String)> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) => Err((error.kind() == ErrorKind::AddrInUse, error.to_string())),
    }
}

/// The bytes that are free where `path` is or would be made, if a file can be written there.
pub fn free_space(path: &Path) -> Result<u64, String> {
    let absolute = std::path::absolute(path).map_err(|error| error.to_string())?;
    let there = absolute.ancestors().find(|path| path.exists());
    let there = there.ok_or("no part of the path exists")?;
    if !there.is_dir() {
        return Err(format!("{} is not a directory", there.display()));
    }
    let probe = there.join(format!(".muster-doctor-{}", std::process::id()));
    let written = fs::write(&probe, "probe");
    // It may not have been made.
    let _ = fs::remove_file(&probe);
    written.map_err(|error| format!("nothing can be written to {}: {error}", there.display()))?;
    free(there)
}

/// The bytes that are free in /dev/shm.
pub fn free_shm() -> Result<u64, String> {
    free(&PathBuf::from("/dev/shm"))
}

fn free(path: &Path) -> Result<u64, String> {
    let system = statvfs(path).map_err(|error| error.to_string())?;
    Ok(system.blocks_available() * system.fragment_size())
}

/// The limits of this process.
pub fn limits() -> Result<Limits, String> {
    let text = fs::read_to_string("/proc/self/limits").map_err(|error| error.to_string())?;
    Limits::parse(&text).ok_or_else(|| "the kernel shows them in a form that is not known".into())
}

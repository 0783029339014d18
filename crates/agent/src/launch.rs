use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use muster_proto::v1::Slot;

/// All that a worker's process is started with.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) binary: PathBuf,
    pub(crate) coordinator: String,
    pub(crate) advertise: String,
    pub(crate) node: String,
    pub(crate) job: String,
    pub(crate) worker: String,
    pub(crate) slot: Slot,
    /// Whether other slots of this node are on the same GPU.
    pub(crate) gpu_sharing: GpuSharing,
    /// `cpu` or `cuda:INDEX`, as the coordinator asked.
    pub(crate) device: String,
    pub(crate) threads: u32,
    pub(crate) directory: PathBuf,
    pub(crate) log: PathBuf,
}

/// Whether a slot has its GPU for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GpuSharing {
    Alone,
    Shared,
}

impl Launch {
    /// Starts the process in a group of its own. The calling thread must live as long as the worker: the worker asks the
    /// kernel to be killed when the thread that forked it ends, so that none outlives its agent.
    pub(crate) fn spawn(&self) -> io::Result<Child> {
        let log = open_log(&self.log)?;
        let on_gpu = self.device.starts_with("cuda");
        let mut command = Command::new(&self.binary);
        command
            .arg("train")
            .args(["--coordinator", &self.coordinator])
            .args(["--job", &self.job])
            .args(["--worker", &self.worker])
            // The worker sees its own GPU only, so that it is the first there.
            .args(["--device", if on_gpu { "cuda:0" } else { "cpu" }])
            .args(["--threads", &self.threads.to_string()])
            .args(["--advertise", &self.advertise])
            .arg("--dir")
            .arg(&self.directory)
            .env("OMP_NUM_THREADS", self.threads.to_string())
            .env(
                "CUDA_VISIBLE_DEVICES",
                if on_gpu {
                    self.slot.gpu_uuid.as_str()
                } else {
                    ""
                },
            )
            .env("MUSTER_PARENT_PID", std::process::id().to_string())
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .process_group(0);
        if on_gpu && self.gpu_sharing == GpuSharing::Shared {
            // NCCL takes two ranks on one GPU for a mistake, unless they seem to be on different hosts.
            command.env("NCCL_HOSTID", format!("{}-{}", self.node, self.slot.index));
        }
        command.spawn()
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::options().create(true).append(true).open(path)
}

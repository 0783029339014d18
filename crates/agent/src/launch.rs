use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use muster_proto::v1::Slot;

use crate::{Lifetime, worker_dir::Order};

/// All that a worker's process is started with.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) binary: PathBuf,
    pub(crate) coordinator: String,
    pub(crate) credentials: Option<PathBuf>,
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
    pub(crate) lifetime: Lifetime,
    /// What collectives use; empty: no particular one.
    pub(crate) interface: String,
    /// Cores that it stays on; none: all.
    pub(crate) cores: BTreeSet<usize>,
}

/// Whether a slot has its GPU for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GpuSharing {
    Alone,
    Shared,
}

impl Launch {
    /// What the worker's shim is to do.
    pub(crate) fn order(&self) -> Order {
        let on_gpu = self.device.starts_with("cuda");
        let mut arguments = vec![
            "train".to_owned(),
            "--coordinator".into(),
            self.coordinator.clone(),
            "--job".into(),
            self.job.clone(),
            "--worker".into(),
            self.worker.clone(),
            // The worker sees its own GPU only, so that it is the first there.
            "--device".into(),
            if on_gpu { "cuda:0" } else { "cpu" }.into(),
            "--threads".into(),
            self.threads.to_string(),
            "--advertise".into(),
            self.advertise.clone(),
            "--dir".into(),
            // The data directory is the agent's own, made absolute; its name came from a command line.
            self.directory.to_string_lossy().into_owned(),
        ];
        if let Some(path) = &self.credentials {
            // Where its secrets lie, not what they are: a process list shows the latter to nobody.
            arguments.push("--credentials".into());
            arguments.push(path.to_string_lossy().into_owned());
        }
        let visible = if on_gpu { &self.slot.gpu_uuid } else { "" };
        let mut environment = BTreeMap::from([
            ("OMP_NUM_THREADS".to_owned(), self.threads.to_string()),
            ("CUDA_VISIBLE_DEVICES".to_owned(), visible.to_owned()),
        ]);
        if on_gpu && self.gpu_sharing == GpuSharing::Shared {
            // NCCL takes two ranks on one GPU for a mistake, unless they seem to be on different hosts.
            let host = format!("{}-{}", self.node, self.slot.index);
            environment.insert("NCCL_HOSTID".to_owned(), host);
        }
        if !self.interface.is_empty() {
            // The equals sign: this one, and none whose name begins with it.
            let exactly = format!("={}", self.interface);
            environment.insert("NCCL_SOCKET_IFNAME".to_owned(), exactly);
        }
        Order {
            job: self.job.clone(),
            worker: self.worker.clone(),
            slot: self.slot.index,
            binary: self.binary.clone(),
            arguments,
            environment,
            log: self.log.clone(),
            cores: self.cores.clone(),
            bound_to: (self.lifetime == Lifetime::Agent).then(std::process::id),
        }
    }
}

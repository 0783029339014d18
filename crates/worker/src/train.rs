//! `muster-worker train`: starts the control thread and the training thread and waits for either to end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    time::Duration,
};

use muster_access::Dial;
use muster_types::WorkerId;
use tch::Device;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::{
    control::{Control, Ended, Identity},
    shared::Shared,
    training::{self, Surroundings},
};

/// How long what was said last may take to reach the coordinator.
const FAREWELL: Duration = Duration::from_secs(5);

/// How often a quiet connection is checked for a coordinator that is gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What the agent tells a worker.
#[derive(clap::Args)]
pub struct Arguments {
    /// The coordinator, as http://HOST:PORT or https://HOST:PORT
    #[arg(long)]
    coordinator: String,
    /// Directory of what this worker proves itself with: ca.crt, tls.crt and tls.key, or token
    #[arg(long)]
    credentials: Option<std::path::PathBuf>,
    /// The job to work for
    #[arg(long)]
    job: String,
    /// This worker's id
    #[arg(long)]
    worker: String,
    /// cpu or cuda:INDEX
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    device: Device,
    /// CPU threads; 0: libtorch's choice
    #[arg(long, default_value_t = 0)]
    threads: u32,
    /// Where peers reach this worker for collectives
    #[arg(long, default_value = "127.0.0.1")]
    advertise: String,
    /// The job's directory on this node
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

fn parse_device(text: &str) -> Result<Device, String> {
    match text.split_once(':') {
        None if text == "cpu" => Ok(Device::Cpu),
        Some(("cuda", index)) => index
            .parse()
            .map(Device::Cuda)
            .map_err(|_| format!("{index:?} is no GPU index")),
        _ => Err(format!("{text:?} is neither cpu nor cuda:INDEX")),
    }
}

/// Names the process of the worker's shim; without it the worker was started by hand and lives by itself.
const PARENT: &str = "MUSTER_PARENT_PID";

/// Has the kernel kill this process when its shim dies: a worker that nobody waits for would hold a slot unseen.
fn end_with_shim() -> Result<(), String> {
    let Ok(parent) = std::env::var(PARENT) else {
        return Ok(());
    };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|error| format!("cannot bind this worker's life to its shim's: {error}"))?;
    // It may have died before the kernel was asked.
    match nix::unistd::getppid().to_string() == parent {
        true => Ok(()),
        false => Err(format!("its shim (process {parent}) is gone")),
    }
}

/// Has this process pass SIGTERM over: what signals all that an agent has started means the agent, and that one has its workers
/// leave in good order. One that was started by hand ends.
async fn pass_over_sigterm() {
    if std::env::var_os(PARENT).is_none() {
        return;
    }
    match signal(SignalKind::terminate()) {
        Ok(mut asked) => {
            while asked.recv().await.is_some() {
                info!(
                    "SIGTERM is passed over: the agent decides when this worker ends; SIGINT ends it"
                );
            }
        }
        Err(error) => warn!(%error, "cannot pass SIGTERM over"),
    }
}

/// Runs to the end; returns the exit status: 0 left in good order, 1 failed or expelled, 2 cannot work at all.
pub fn run(arguments: Arguments) -> i32 {
    if let Err(cause) = end_with_shim() {
        error!("{cause}");
        return 1;
    }
    // Before libtorch is asked anything: it remembers for ever whether there was a GPU side.
    if let Device::Cuda(_) = arguments.device
        && let Err(unavailable) = muster_c10d::cuda::load()
    {
        error!("this slot is a GPU, but {unavailable}");
        return 2;
    }
    if let Some(directory) = &arguments.dir
        && let Err(cause) = std::env::set_current_dir(directory)
    {
        error!(
            "cannot use the job's directory {}: {cause}",
            directory.display()
        );
        return 2;
    }
    let dial = match Dial::new(&arguments.coordinator, arguments.credentials.as_deref()) {
        Ok(dial) => dial.keep_alive(KEEP_ALIVE),
        Err(cause) => {
            error!("{cause}");
            return 2;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(cause) => {
            error!("cannot start the control thread: {cause}");
            return 1;
        }
    };
    // For as long as the process lives.
    runtime.spawn(pass_over_sigterm());
    let connection = {
        // Connecting lazily needs a runtime at hand.
        let _context = runtime.enter();
        match dial.connect_lazy() {
            Ok(connection) => connection,
            Err(cause) => {
                error!("{cause}");
                return 2;
            }
        }
    };
    let identity = Identity {
        job: arguments.job,
        worker: WorkerId::new(arguments.worker),
        collective_address: arguments.advertise,
    };
    let (shared, said) = Shared::new();
    let shared = Arc::new(shared);
    let (to_training, inbox) = mpsc::channel();
    let control = Control::new(identity.clone(), shared.clone(), to_training.clone(), said);
    let surroundings = Surroundings {
        identity,
        device: arguments.device,
        threads: arguments.threads,
        connection: connection.clone(),
        runtime: runtime.handle().clone(),
    };
    let control = runtime.spawn(control.run(connection));
    let (ended, end) = mpsc::channel();
    let expelled = ended.clone();
    runtime.spawn(async move {
        let _ = expelled.send(match control.await {
            Ok(Ended::Expelled(reason)) => End::Expelled(reason),
            Ok(Ended::Done) => End::Said,
            Err(panic) => End::Expelled(format!("the control thread failed: {panic}")),
        });
    });
    let training = std::thread::Builder::new()
        .name("training".into())
        .spawn(move || {
            let train = || training::run(&surroundings, &shared, &inbox, to_training);
            // What it panicked with is on stderr already.
            let end = match catch_unwind(AssertUnwindSafe(train)) {
                Ok(result) => End::Trained(result),
                Err(_) => End::Expelled("the training thread panicked".into()),
            };
            let _ = ended.send(end);
            shared.finish();
        });
    if let Err(cause) = training {
        error!("cannot start the training thread: {cause}");
        return 1;
    }
    let mut all_is_said = false;
    let status = loop {
        match end.recv() {
            Ok(End::Trained(Ok(reason))) => {
                info!(reason, "leaving");
                break 0;
            }
            Ok(End::Trained(Err(fatal))) => {
                error!("{fatal}");
                break fatal.exit_code();
            }
            Ok(End::Expelled(reason)) => {
                error!(reason, "expelled");
                // The training thread may be deep in libtorch: nothing waits for it.
                muster_c10d::exit_now(1)
            }
            // The training thread has let go of the control thread, and is about to say why.
            Ok(End::Said) => all_is_said = true,
            Err(_) => break 1,
        }
    };
    if !all_is_said {
        // What the training thread said last is still on its way.
        let _ = end.recv_timeout(FAREWELL);
    }
    muster_c10d::exit_now(status)
}

enum End {
    Trained(Result<String, training::Fatal>),
    /// Nothing more can be said or done.
    Expelled(String),
    /// The control thread has passed on all that was said.
    Said,
}

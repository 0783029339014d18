use std::{net::SocketAddr, path::PathBuf, time::Duration};

use muster_agent::{Agent, Lifetime, SlotsOption, discover_slots};
use muster_coordinator::Coordinator;
use muster_proto::v1::{
    CancelRequest, Event, GetStatusRequest, JobStatus, ListEventsRequest, ResumeRequest,
    StopRequest, WatchStatusRequest,
};
use muster_spec::{DeviceKind, RunSpec, SpecError};
use tonic::Streaming;

use crate::{
    client::{self, Client},
    commands,
    failure::Failure,
    output::Output,
    progress::{Progress, summary},
    run_directory::RunDirectory,
    run_record,
    signals::Signals,
    spec_file::{self, SpecArgs},
    worker_binary,
};

/// The name of the one node.
const NODE: &str = "local";
/// How long workers that outlive their job may take to leave.
const GRACE: Duration = Duration::from_secs(10);
/// Between two statuses.
const INTERVAL_MS: u32 = 250;

/// Arguments of `muster run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster run configs/quickstart.toml --workers 2
  muster run configs/quickstart.toml --set train.steps=100 --out runs/first

The first Ctrl-C saves a checkpoint and stops; a second one ends everything at once. The same command with the same --out \
goes on where the run was stopped, whatever --workers is then. Exit code 0 means that every step is done.")]
pub struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    /// Workers to train with [default: one a GPU; without a GPU the spec's workers.max, at most one a core];
    /// workers.spares come on top
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Option<u32>,
    /// The run's directory: metrics, logs, checkpoints [default: runs/NAME-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Port on 127.0.0.1 at which `muster status` and the like reach the run; 0: any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// How to tell of the run; JSON is two lines: where it is, and at its end the job's status
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Trains to the end, on this machine.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let worker = worker_binary::find()?;
    let mut spec = args.spec.load()?;
    spec_file::make_paths_absolute(&mut spec)?;
    spec_file::resolve_init(&mut spec).await?;
    let slots = slots(&spec, args.workers)?;
    if let Some(workers) = args.workers
        && workers > spec.workers.max
    {
        spec.workers.max = workers;
        spec.validate().map_err(SpecError::from)?;
    }

    let directory = RunDirectory::claim(args.out, spec)?;
    let path = directory.path();
    let listen = SocketAddr::from(([127, 0, 0, 1], args.port));
    let mut options = muster_coordinator::Options::new(listen, path.join(run_record::COORDINATOR));
    options.job_dir = Some(path.to_owned());
    let coordinator = match Coordinator::start(options).await {
        Ok(coordinator) => coordinator,
        Err(error) => return Err(directory.give_up(commands::coordinator::failure(error))),
    };
    let url = coordinator.url();
    let mut client = client::connect(&url, None).await?;
    let job = match commands::submit::submit(
        &mut client,
        directory.spec(),
        directory.job_id().to_owned(),
    )
    .await
    {
        Ok(job) => job,
        Err(failure) => {
            // The journal is closed before its directory goes.
            coordinator
                .shutdown()
                .await
                .map_err(commands::coordinator::failure)?;
            return Err(directory.give_up(failure));
        }
    };

    let mut job = Job::open(client, job).await?;
    if job.status.state == "finished" {
        coordinator
            .shutdown()
            .await
            .map_err(commands::coordinator::failure)?;
        return summary(&job.status, path, args.output);
    }
    let mut options =
        muster_agent::Options::new(&url, NODE, path, worker, commands::shim::command()?);
    // Whatever becomes of this process, it takes its workers with it.
    options.lifetime = Lifetime::Agent;
    options.job_dir = Some(path.to_owned());
    options.slots = slots;
    let agent = Agent::start(options)
        .await
        .map_err(commands::agent::failure)?;
    let mut progress = Progress::start(path, &url, &job.status, args.output)?;
    let mut coordinator = coordinator;
    let outcome = tokio::select! {
        outcome = job.follow(&mut signals, &mut progress) => outcome,
        // It stops by itself only where it cannot go on.
        outcome = coordinator.join() => Err(match outcome {
            Ok(()) => Failure::operation("the coordinator stopped"),
            Err(error) => commands::coordinator::failure(error),
        }),
    };
    progress.finish();
    // On a failure, dropping the agent kills what still runs.
    outcome?;
    agent.shutdown(GRACE).await;
    coordinator
        .shutdown()
        .await
        .map_err(commands::coordinator::failure)?;
    summary(&job.status, path, args.output)
}

/// What the one node offers.
fn slots(spec: &RunSpec, workers: Option<u32>) -> Result<SlotsOption, Failure> {
    let device = spec.workers.device;
    let found = match device {
        DeviceKind::Cpu => Vec::new(),
        DeviceKind::Auto | DeviceKind::Cuda => discover_slots(SlotsOption::Auto),
    };
    let gpus = found
        .iter()
        .filter(|slot| slot.device.starts_with("cuda"))
        .count();
    if gpus == 0 && device == DeviceKind::Cuda {
        return Err(
            Failure::usage("workers.device is cuda, but no GPU answers on this machine")
                .help("pass --set workers.device=cpu, or see whether `nvidia-smi` lists a GPU"),
        );
    }
    let spares = spec.workers.spares;
    let usual = match gpus {
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
            spec.workers
                .max
                .saturating_add(spares)
                .min(u32::try_from(cores).unwrap_or(u32::MAX))
        }
        gpus => u32::try_from(gpus).unwrap_or(u32::MAX),
    };
    let asked = workers.map(|workers| workers.saturating_add(spares));
    let count = match (asked, gpus) {
        (None, _) => usual,
        (Some(asked), 0) => asked,
        // A GPU for each worker has to be there; what is left may be a spare's.
        (Some(asked), _) => asked.min(usual.max(workers.unwrap_or(0))),
    };
    if count < spec.workers.min {
        return Err(Failure::usage(format!(
            "workers.min is {}, but this machine offers {count} slots",
            spec.workers.min
        ))
        .help(format!(
            "pass --workers {0}, or lower workers.min",
            spec.workers.min
        )));
    }
    Ok(match gpus {
        0 => SlotsOption::Cpu(count),
        _ => SlotsOption::Count(count),
    })
}

/// The run's job at its coordinator.
struct Job {
    client: Client,
    status: JobStatus,
    events: Streaming<Event>,
}

impl Job {
    /// Takes the job up again if it was stopped or has failed, and subscribes to what happens from now on.
    async fn open(mut client: Client, job_id: String) -> Result<Self, Failure> {
        let request = |job_id: &String| GetStatusRequest {
            job_id: job_id.clone(),
            ..GetStatusRequest::default()
        };
        let mut status = client.get_status(request(&job_id)).await?.into_inner();
        // A run was ended while its workers saved. They went with it, so nobody is left to wait for.
        if status.state == "draining" {
            let cancel = CancelRequest {
                job_id: job_id.clone(),
                reason: "the run ended before its workers had left".into(),
            };
            client.cancel(cancel).await?;
            status = client.get_status(request(&job_id)).await?.into_inner();
        }
        let mut request_events = ListEventsRequest {
            job_id: job_id.clone(),
            follow: false,
            after: 0,
        };
        let mut before = client
            .list_events(request_events.clone())
            .await?
            .into_inner();
        while let Some(event) = before.message().await? {
            request_events.after = event.sequence;
        }
        if matches!(status.state.as_str(), "stopped" | "failed") {
            let resume = ResumeRequest {
                job_id: job_id.clone(),
            };
            client.resume(resume).await?;
            status = client.get_status(request(&job_id)).await?.into_inner();
        }
        request_events.follow = true;
        let events = client.list_events(request_events).await?.into_inner();
        Ok(Self {
            client,
            status,
            events,
        })
    }

    /// Shows the job until it has ended. The first signal asks it to stop.
    async fn follow(
        &mut self,
        signals: &mut Signals,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let request = WatchStatusRequest {
            job_id: self.status.job_id.clone(),
            interval_ms: INTERVAL_MS,
            ..WatchStatusRequest::default()
        };
        let mut statuses = self.client.watch_status(request).await?.into_inner();
        let (mut has_events, mut asked) = (true, false);
        loop {
            tokio::select! {
                // What has happened is told before the state that came of it.
                biased;
                event = self.events.message(), if has_events => match event? {
                    Some(event) => progress.event(&event)?,
                    None => has_events = false,
                },
                status = statuses.message() => match status? {
                    Some(status) => {
                        progress.status(&status)?;
                        self.status = status;
                    }
                    None => break,
                },
                () = signals.next() => {
                    if asked {
                        return Err(Failure::operation("ended at once; the workers were killed")
                            .help("the same command goes on from the newest checkpoint"));
                    }
                    asked = true;
                    let request = StopRequest { job_id: self.status.job_id.clone(), grace_seconds: 0 };
                    self.client.stop(request).await?;
                    progress.note("stopping: the workers save a checkpoint and leave (Ctrl-C again ends them at once)")?;
                }
            }
        }
        while has_events {
            match self.events.message().await? {
                Some(event) => progress.event(&event)?,
                None => has_events = false,
            }
        }
        Ok(())
    }
}

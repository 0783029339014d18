use std::sync::{Arc, atomic::Ordering};

use muster_proto::v1::{
    self, Activity, WorkerCommand, WorkerMessage, resume_point::Source, worker_command,
    worker_message::Kind, worker_service_client::WorkerServiceClient,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::world::{End, How, Mark, STEP, Training, World};

/// What a worker of so large a job may have to say at once.
const QUEUE: usize = 16;
const NUMERICS: &str = "none: a simulated worker";
/// As of a job of 10,000 sequences of 64 tokens.
const TOKENS: u64 = 640_000;

/// A worker's control thread, with a training thread that only keeps time.
#[derive(Debug)]
pub struct Worker {
    pub world: Arc<World>,
    pub job: String,
    pub id: String,
    pub pid: u32,
    /// Whoever is not to be warm before this is told.
    pub hold: Option<Arc<Notify>>,
}

/// Where a worker stands in the newest generation that it knows.
#[derive(Debug, Default)]
struct Standing {
    generation: u64,
    rank: u32,
    world: u32,
    /// (generation, step) of what it holds.
    holdings: Option<v1::StateId>,
    /// The newest step that it has reported.
    reported: u64,
}

impl Worker {
    /// Lives until the coordinator ends its stream, or it is aborted.
    pub async fn run(self, channel: Channel) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut standing = Standing::default();
        let attach = Kind::Attach(v1::Attach {
            pid: self.pid,
            collective_address: format!("10.0.0.1:{}", self.pid),
            ..v1::Attach::default()
        });
        self.say(&sender, 0, attach).await;
        let mut client = WorkerServiceClient::new(channel);
        let mut commands = match client.session(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return eprintln!("{}: {}", self.id, status.message()),
        };
        let mut training = self.world.training();
        let mut due = None;
        loop {
            let report_at = due.unwrap_or_else(|| Instant::now() + STEP);
            tokio::select! {
                command = commands.message() => match command {
                    Ok(Some(command)) => self.obey(&mut standing, command, &sender).await,
                    Ok(None) => return,
                    Err(status) => return eprintln!("{}: {}", self.id, status.message()),
                },
                changed = training.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = *training.borrow_and_update();
                    due = self.heed(&mut standing, now, &sender).await;
                }
                () = sleep_until(report_at), if due.is_some() => {
                    let now = self.world.now();
                    if now.generation == standing.generation && now.end.is_none() {
                        self.report(&mut standing, now.step_at(Instant::now()), &sender).await;
                        due = Some(report_at + STEP);
                    } else {
                        due = None;
                    }
                }
            }
        }
    }

    /// Training has begun or ended. Returns when the first step is to be reported.
    async fn heed(
        &self,
        standing: &mut Standing,
        now: Training,
        sender: &mpsc::Sender<WorkerMessage>,
    ) -> Option<Instant> {
        if now.generation != standing.generation {
            return None;
        }
        let Some(End { step, how }) = now.end else {
            // The reports of all are spread evenly over the time of a step; the first rank's come first.
            let share = f64::from(standing.rank) / f64::from(standing.world.max(1));
            return Some(now.since + STEP + STEP.mul_f64(share * 0.9));
        };
        self.report(standing, step, sender).await;
        let generation = standing.generation;
        let last = match how {
            How::Broken => Kind::Failed(v1::Failed {
                cause: "a simulated collective failed: connection closed by peer".into(),
                class: "collective".into(),
                phase: "training".into(),
                step,
            }),
            How::Boundary => Kind::AtBoundary(v1::AtBoundary {
                state: standing.holdings,
            }),
        };
        self.say(sender, generation, last).await;
        None
    }

    async fn obey(
        &self,
        standing: &mut Standing,
        command: WorkerCommand,
        sender: &mpsc::Sender<WorkerMessage>,
    ) {
        use worker_command::Kind as Order;
        let generation = command.generation;
        match command.kind {
            Some(Order::Welcome(_)) => {
                self.world.mark(Mark::Welcomed);
                if let Some(hold) = &self.hold {
                    hold.notified().await;
                }
                let warm = Kind::Warm(v1::Warm {
                    numerics_fingerprint: NUMERICS.into(),
                    reach_address: String::new(),
                });
                self.say(sender, 0, warm).await;
            }
            Some(Order::Supersede(supersede)) => {
                let training = self.world.now();
                if training.generation == standing.generation {
                    let step = training.step_at(Instant::now());
                    self.report(standing, step, sender).await;
                }
                let fenced = Kind::Fenced(v1::Fenced {
                    superseded: supersede.superseded,
                    holdings: standing.holdings,
                });
                self.say(sender, standing.generation, fenced).await;
            }
            Some(Order::Form(form)) => self.form(standing, generation, form, sender).await,
            Some(Order::Reconfigure(_)) if generation == standing.generation => {
                self.world.stop(generation, How::Boundary)
            }
            Some(Order::Probe(probe)) => {
                let answer = v1::ProbeAnswer {
                    number: probe.number,
                    activity: match standing.generation {
                        0 => Activity::Idle.into(),
                        _ => Activity::Computing.into(),
                    },
                    quiet_ms: 1,
                    usual_ms: 1000,
                };
                self.say(sender, standing.generation, Kind::ProbeAnswer(answer))
                    .await;
            }
            Some(Order::Expelled(expelled)) => eprintln!("{}: {}", self.id, expelled.reason),
            _ => {}
        }
    }

    /// Joins a generation: builds and heals in no time, and says so as a worker does.
    async fn form(
        &self,
        standing: &mut Standing,
        generation: u64,
        form: v1::Form,
        sender: &mpsc::Sender<WorkerMessage>,
    ) {
        let world = form.world_size;
        self.world.mark(Mark::Formed { generation, world });
        let resume = form.resume.unwrap_or_default();
        let state = resume.state.unwrap_or_default();
        let healed_from = match resume.source {
            _ if standing.holdings == Some(state) => "none",
            Some(Source::Initialise(_)) | None => "init",
            Some(Source::Live(_)) => "live",
            Some(Source::Checkpoint(_)) => "checkpoint",
        };
        *standing = Standing {
            generation,
            rank: form.rank,
            world,
            holdings: Some(state),
            reported: state.step,
        };
        let phase = |phase: &str| {
            Kind::Phase(v1::PhaseChange {
                phase: phase.into(),
                step: state.step,
            })
        };
        self.say(sender, generation, phase("building")).await;
        self.say(sender, generation, phase("healing")).await;
        let ready = Kind::Ready(v1::Ready {
            state_hash: generation,
            heal_ms: 1,
            healed_bytes: 1,
            healed_from: healed_from.into(),
        });
        self.say(sender, generation, ready).await;
        self.say(sender, generation, phase("training")).await;
        self.world.ready(generation, world, state.step);
    }

    /// Says which steps were committed since the last report.
    async fn report(
        &self,
        standing: &mut Standing,
        step: u64,
        sender: &mpsc::Sender<WorkerMessage>,
    ) {
        if step <= standing.reported {
            return;
        }
        let metrics = |step| v1::StepMetrics {
            step,
            loss: 5.0,
            learning_rate: 1e-4,
            gradient_norm: 1.0,
            tokens: TOKENS,
            step_ms: STEP.as_secs_f64() * 1000.0,
            evidence: step,
            samples: 10_000,
            slot_ms: STEP.as_secs_f64() * 1000.0,
        };
        let steps = (standing.reported + 1..=step).map(metrics).collect();
        let generation = standing.generation;
        standing.reported = step;
        standing.holdings = Some(v1::StateId { generation, step });
        self.say(sender, generation, Kind::Report(v1::Report { steps }))
            .await;
    }

    async fn say(&self, sender: &mpsc::Sender<WorkerMessage>, generation: u64, kind: Kind) {
        self.world.said.fetch_add(1, Ordering::Relaxed);
        let message = WorkerMessage {
            job_id: self.job.clone(),
            worker_id: self.id.clone(),
            generation,
            kind: Some(kind),
        };
        // A stream that is gone is noticed where it is read.
        let _ = sender.send(message).await;
    }
}

//! The control thread: one stream to the coordinator, kept up for as long as the process lives.
//!
//! It never waits for the training thread. It answers `Supersede` at once by raising the fence, and ends the old
//! generation's collectives only when `Form` says that every candidate has fenced.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use muster_access::Connection;
use muster_proto::v1::{
    self, WorkerCommand, WorkerMessage, worker_command, worker_message::Kind,
    worker_service_client::WorkerServiceClient,
};
use muster_types::{Generation, StateId, Step, WorkerId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use crate::{
    agreement::Requests,
    reach::unreachable,
    shared::{Directive, Outgoing, Shared},
};

/// Metrics of so many steps are said again after a reconnect; the coordinator drops what it has.
const REMEMBERED_STEPS: usize = 1024;
const RECONNECT: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// Who this worker is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The job it works for.
    pub job: String,
    /// Its own id.
    pub worker: WorkerId,
    /// Where peers reach it for collectives.
    pub collective_address: String,
}

/// Why the control thread has ended.
#[derive(Debug)]
pub enum Ended {
    /// The coordinator has put this worker out of the job.
    Expelled(String),
    /// The training thread is done and everything it said was sent.
    Done,
}

/// The control thread's memory: what must be said again on a new stream.
pub struct Control {
    identity: Identity,
    shared: Arc<Shared>,
    training: Sender<Directive>,
    said: mpsc::UnboundedReceiver<Outgoing>,
    generation: Generation,
    started: bool,
    warm: Option<v1::Warm>,
    rank_zero: bool,
    report_every: Duration,
    unsent_steps: Vec<v1::StepMetrics>,
    recent_steps: VecDeque<v1::StepMetrics>,
    /// The last of Ready, Failed, AtBoundary and Left in this generation.
    standing: Option<Outgoing>,
    unacknowledged: Vec<v1::PartWritten>,
    /// What was said once while there was no stream.
    unsent: Vec<WorkerMessage>,
}

/// What ends one stream.
enum StreamEnd {
    Broken(String),
    Final(Ended),
}

impl Control {
    /// `said` is what the training thread says; `training` is how it is told.
    pub fn new(
        identity: Identity,
        shared: Arc<Shared>,
        training: Sender<Directive>,
        said: mpsc::UnboundedReceiver<Outgoing>,
    ) -> Self {
        Self {
            identity,
            shared,
            training,
            said,
            generation: Generation(0),
            started: false,
            warm: None,
            rank_zero: false,
            report_every: Duration::from_secs(1),
            unsent_steps: Vec::new(),
            recent_steps: VecDeque::new(),
            standing: None,
            unacknowledged: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// Serves until the worker is expelled or done. A coordinator that is away is waited for, with back-off.
    pub async fn run(mut self, connection: Connection) -> Ended {
        let mut failures = 0;
        loop {
            match self.stream(&connection, &mut failures).await {
                StreamEnd::Final(ended) => return ended,
                StreamEnd::Broken(cause) => {
                    if failures == 0 {
                        warn!(
                            cause,
                            "lost the coordinator; training goes on, reconnecting"
                        );
                    }
                    let pause = RECONNECT[failures.min(RECONNECT.len() - 1)];
                    failures += 1;
                    if let Some(ended) = self.pause(pause).await {
                        return ended;
                    }
                }
            }
        }
    }

    /// Keeps emptying the training thread's messages while there is no stream.
    async fn pause(&mut self, pause: Duration) -> Option<Ended> {
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return None,
                said = self.said.recv() => match said {
                    // Whoever leaves has nobody to tell; the agent reports the exit.
                    None => return Some(Ended::Done),
                    Some(outgoing) => {
                        let is_remembered = !matches!(outgoing.kind, Kind::Evaluated(_) | Kind::PartFailed(_));
                        let messages = self.remember(outgoing);
                        if !is_remembered {
                            self.unsent.extend(messages);
                        }
                    }
                },
            }
        }
    }

    async fn stream(&mut self, connection: &Connection, failures: &mut usize) -> StreamEnd {
        let (sender, receiver) = mpsc::channel(64);
        if sender.send(self.attach()).await.is_err() {
            return StreamEnd::Broken("the outgoing stream is closed".into());
        }
        let mut client =
            WorkerServiceClient::new(connection.clone()).max_decoding_message_size(64 << 20);
        let mut commands = match client.session(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return StreamEnd::Broken(status.message().to_owned()),
        };
        if *failures > 0 {
            info!(generation = %self.generation, "attached to the coordinator again");
        }
        *failures = 0;
        for message in self.standing_messages() {
            if sender.send(message).await.is_err() {
                return StreamEnd::Broken("the outgoing stream is closed".into());
            }
        }
        let interval = |every| {
            let mut flush = tokio::time::interval(every);
            flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            flush
        };
        let mut flush = interval(self.report_every);
        loop {
            // `Welcome` may have changed it.
            if flush.period() != self.report_every {
                flush = interval(self.report_every);
            }
            let outgoing = tokio::select! {
                command = commands.message() => match command {
                    Ok(Some(command)) => match self.obey(command) {
                        Ok(answers) => answers,
                        Err(ended) => return StreamEnd::Final(ended),
                    },
                    Ok(None) => return StreamEnd::Broken("the coordinator closed the stream".into()),
                    Err(status) => return StreamEnd::Broken(status.message().to_owned()),
                },
                said = self.said.recv() => match said {
                    Some(outgoing) => self.remember(outgoing).into_iter().collect(),
                    None => {
                        if let Some(message) = self.report() {
                            let _ = sender.send(message).await;
                        }
                        drop(sender);
                        // The coordinator ends the stream once it has read everything up to here.
                        let drain = async { while let Ok(Some(_)) = commands.message().await {} };
                        let _ = tokio::time::timeout(Duration::from_secs(2), drain).await;
                        return StreamEnd::Final(Ended::Done);
                    }
                },
                _ = flush.tick() => self.report().into_iter().collect(),
            };
            for message in outgoing {
                if sender.send(message).await.is_err() {
                    return StreamEnd::Broken("the outgoing stream is closed".into());
                }
            }
        }
    }

    fn envelope(&self, generation: Generation, kind: Kind) -> WorkerMessage {
        WorkerMessage {
            job_id: self.identity.job.clone(),
            worker_id: self.identity.worker.to_string(),
            generation: generation.get(),
            kind: Some(kind),
        }
    }

    fn attach(&self) -> WorkerMessage {
        let warm = self.warm.clone().unwrap_or_default();
        self.envelope(
            self.generation,
            Kind::Attach(v1::Attach {
                pid: std::process::id(),
                collective_address: self.identity.collective_address.clone(),
                holdings: self.shared.fence.holdings().map(to_proto),
                warm: self.warm.is_some(),
                numerics_fingerprint: warm.numerics_fingerprint,
                reach_address: warm.reach_address,
            }),
        )
    }

    /// What was said before and may not have been heard.
    fn standing_messages(&mut self) -> Vec<WorkerMessage> {
        let mut messages = Vec::new();
        self.unsent_steps.clear();
        if !self.recent_steps.is_empty() {
            let steps = self.recent_steps.iter().copied().collect();
            messages.push(self.envelope(self.generation, Kind::Report(v1::Report { steps })));
        }
        if let Some(standing) = &self.standing {
            messages.push(self.envelope(standing.generation, standing.kind.clone()));
        }
        for part in &self.unacknowledged {
            messages.push(self.envelope(self.generation, Kind::PartWritten(part.clone())));
        }
        messages.append(&mut self.unsent);
        messages
    }

    /// Takes note of what the training thread says; returns what is to be sent now.
    fn remember(&mut self, outgoing: Outgoing) -> Vec<WorkerMessage> {
        let Outgoing { generation, kind } = outgoing;
        match &kind {
            Kind::Report(report) => {
                self.unsent_steps.extend(report.steps.iter().copied());
                self.recent_steps.extend(report.steps.iter().copied());
                while self.recent_steps.len() > REMEMBERED_STEPS {
                    self.recent_steps.pop_front();
                }
                // One rank reports each step as it is committed; the others stand by with theirs, in case it dies.
                let first = self.recent_steps.len() == report.steps.len();
                return if self.rank_zero || first {
                    self.report().into_iter().collect()
                } else {
                    Vec::new()
                };
            }
            Kind::Warm(warm) => self.warm = Some(warm.clone()),
            Kind::Ready(_)
            | Kind::Failed(_)
            | Kind::AtBoundary(_)
            | Kind::Left(_)
            | Kind::Unreadable(_) => {
                self.standing = Some(Outgoing {
                    generation,
                    kind: kind.clone(),
                });
            }
            Kind::PartWritten(part) => self.unacknowledged.push(part.clone()),
            _ => {}
        }
        // A step's report never comes after what it led to.
        let mut messages: Vec<_> = self.report().into_iter().collect();
        messages.push(self.envelope(generation, kind));
        messages
    }

    fn report(&mut self) -> Option<WorkerMessage> {
        if self.unsent_steps.is_empty() {
            return None;
        }
        let steps = std::mem::take(&mut self.unsent_steps);
        Some(self.envelope(self.generation, Kind::Report(v1::Report { steps })))
    }

    /// Does what the coordinator says; returns the answers.
    fn obey(&mut self, command: WorkerCommand) -> Result<Vec<WorkerMessage>, Ended> {
        use worker_command::Kind as Order;
        let generation = Generation(command.generation);
        let Some(order) = command.kind else {
            return Ok(Vec::new());
        };
        match order {
            Order::Welcome(welcome) => {
                if welcome.report_interval_ms > 0 {
                    self.report_every = Duration::from_millis(welcome.report_interval_ms.into());
                }
                if !std::mem::replace(&mut self.started, true) {
                    self.tell(Directive::Start(welcome));
                }
            }
            Order::Supersede(supersede) => {
                let superseded = Generation(supersede.superseded);
                let holdings = self.shared.fence.raise(superseded);
                info!(%superseded, reason = supersede.reason, ?holdings, "fenced");
                // What was committed is reported before it is stated.
                let mut messages = Vec::new();
                while let Ok(outgoing) = self.said.try_recv() {
                    messages.extend(self.remember(outgoing));
                }
                messages.extend(self.report());
                messages.push(self.envelope(
                    self.generation,
                    Kind::Fenced(v1::Fenced {
                        superseded: superseded.get(),
                        holdings: holdings.map(to_proto),
                    }),
                ));
                return Ok(messages);
            }
            Order::Form(form) => {
                if generation > self.generation {
                    self.form(generation, form);
                }
            }
            Order::Reconfigure(_) if generation == self.generation => {
                self.shared.request(Requests::RECONFIGURE)
            }
            Order::SaveNow(_) if generation == self.generation => {
                self.shared.request(Requests::SAVE)
            }
            Order::Leave(leave) => {
                let save = if leave.save {
                    Requests::SAVE
                } else {
                    Requests::NONE
                };
                self.shared.request(Requests::LEAVE | save);
                // A rank that is to save first leaves with the others at a boundary: of the next generation, if need be.
                if !leave.save {
                    self.tell(Directive::Leave(leave.reason));
                }
            }
            Order::Expelled(expelled) => return Err(Ended::Expelled(expelled.reason)),
            Order::PartAcknowledged(acknowledged) => {
                if let Some(state) = acknowledged.state {
                    // Parts of older states are overtaken by it.
                    self.unacknowledged
                        .retain(|part| part.state.is_some_and(|other| other.step > state.step));
                    self.tell(Directive::Acknowledged(from_proto(state)));
                }
            }
            Order::Probe(probe) => {
                let reading = self.shared.pulse.read();
                let answer = v1::ProbeAnswer {
                    number: probe.number,
                    activity: reading.activity.into(),
                    quiet_ms: milliseconds(reading.quiet),
                    usual_ms: milliseconds(reading.usual),
                };
                return Ok(vec![
                    self.envelope(self.generation, Kind::ProbeAnswer(answer)),
                ]);
            }
            Order::Reach(reach) => {
                let (shared, generation) = (Arc::clone(&self.shared), self.generation);
                tokio::spawn(async move {
                    let reached = v1::Reached {
                        number: reach.number,
                        unreachable: unreachable(reach.peers).await,
                    };
                    shared.say(generation, Kind::Reached(reached));
                });
            }
            Order::Reconfigure(_) | Order::SaveNow(_) => {}
        }
        Ok(Vec::new())
    }

    fn form(&mut self, generation: Generation, form: v1::Form) {
        // Every candidate has fenced: now the old group may be aborted, and no peer can be fooled by what it leaves behind.
        self.shared.fence.raise(Generation(generation.get() - 1));
        self.shared
            .settle(Requests::RECONFIGURE | Requests::SAVE | Requests::LEAVE);
        self.shared.abort_group("the generation is over");
        self.generation = generation;
        self.rank_zero = form.rank == 0;
        self.unsent_steps.clear();
        self.recent_steps.clear();
        self.standing = None;
        self.tell(Directive::Form(generation, form));
    }

    fn tell(&self, directive: Directive) {
        // The training thread is gone only while the process ends.
        let _ = self.training.send(directive);
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// As the wire has it.
pub fn to_proto(state: StateId) -> v1::StateId {
    v1::StateId {
        generation: state.generation.get(),
        step: state.step.get(),
    }
}

/// From the wire.
pub fn from_proto(state: v1::StateId) -> StateId {
    StateId::new(Generation(state.generation), Step(state.step))
}

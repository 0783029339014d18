use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use jiff::Timestamp;
use muster_access::{ClientCertificates, ServerTls, TokenFile};
use muster_cluster::{Cluster, ClusterOptions, Record, Superseded};
use muster_store::Journal;
use muster_types::JobId;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    CoordinatorError, Options,
    access::{Guard, Listener},
    actor::Actor,
    clock::Clock,
    convert,
    inbox::{Core, Message, Progress},
    job_files::{JobDirs, JobFiles},
    replay::Replay,
    server::{self, ServeError, Services},
    spaces::Spaces,
};

/// How long calls under way may take to end when the coordinator stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// So long before its end a certificate is worth a warning.
const RENEW_IN_TIME: jiff::SignedDuration = jiff::SignedDuration::from_hours(30 * 24);

/// The journal's name in the data directory.
pub const JOURNAL: &str = "journal.sqlite";

/// The coordinator.
#[derive(Debug)]
pub struct Coordinator;

/// A started coordinator. Dropping it stops it; [`Handle::shutdown`] waits until it has stopped.
#[derive(Debug)]
pub struct Handle {
    local_addr: SocketAddr,
    scheme: &'static str,
    stop: CancellationToken,
    /// What the actor ended with; `None` once that was seen.
    ended: Option<oneshot::Receiver<Result<(), CoordinatorError>>>,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Coordinator {
    /// Starts a coordinator: takes the journal, replays it, listens. It serves when this returns.
    ///
    /// # Errors
    /// If the address or the data directory cannot be used, or the journal is in use, newer than this build, or damaged.
    pub async fn start(options: Options) -> Result<Handle, CoordinatorError> {
        let Options {
            listen,
            data_dir,
            job_dir,
            tls,
            tokens,
            insecure,
            user_quotas,
        } = options;
        let now = Timestamp::now();
        let tls = tls.map(|dir| ServerTls::read(&dir, now)).transpose()?;
        let guard = guard(tls.as_ref(), tokens.as_deref())?;
        if !listen.ip().is_loopback() {
            if matches!(guard, Guard::Open) && !insecure {
                return Err(CoordinatorError::Exposed { listen });
            }
            if tls.is_none() {
                tracing::warn!(%listen, "without TLS whoever sees the network reads along, tokens included");
            }
        }
        if let Some(tls) = &tls
            && tls.not_after() < now + RENEW_IN_TIME
        {
            tracing::warn!(at = %tls.not_after(), "the coordinator's certificate expires soon; renew it with `muster certs issue`");
        }
        let dirs = JobDirs {
            data_dir: directory(&data_dir)?,
            job_dir: job_dir.as_deref().map(directory).transpose()?,
        };
        let mut journal = Journal::<Record>::open(dirs.data_dir.join(JOURNAL))?;
        let journal_path = journal.path().to_path_buf();
        let in_use = |source| CoordinatorError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(in_use)?;
        let local_addr = listener.local_addr().map_err(in_use)?;
        let files = JobFiles::start(dirs.clone()).map_err(|source| CoordinatorError::DataDir {
            path: dirs.data_dir.clone(),
            source,
        })?;
        let cluster_options = ClusterOptions {
            user_quotas,
            ..ClusterOptions::default()
        };
        let (cluster, superseded) = replay(&mut journal, &files, cluster_options)?;

        let stop = CancellationToken::new();
        let sequence = journal.last_sequence();
        let progress = watch::Sender::new(Progress {
            events: 0,
            sequence,
        });
        let (core, inbox) = Core::new(progress.subscribe());
        let spaces = Arc::<Spaces>::default();
        let actor = Actor {
            cluster,
            superseded,
            journal,
            clock: Clock::start(),
            core: core.clone(),
            progress,
            spaces: Arc::clone(&spaces),
            files,
            agents: BTreeMap::new(),
            workers: BTreeMap::new(),
            orders: convert::Orders::default(),
            heard: Vec::new(),
        };
        let ended = run(actor, inbox, stop.clone())?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = Listener {
            listener,
            tls,
            stop: stop.clone(),
        };
        let services = Services {
            core,
            spaces,
            dirs,
            journal: journal_path,
            guard,
            stop: stop.clone(),
        };
        // Ends when `stop` is cancelled and all calls have ended; a failure is part of what `shutdown` returns.
        let server = tokio::spawn(server::serve(listener, services));
        tracing::info!(address = %local_addr, "the coordinator listens");
        Ok(Handle {
            local_addr,
            scheme,
            stop,
            ended: Some(ended),
            server: Some(server),
        })
    }
}

impl Handle {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// A URL at which this machine reaches it.
    pub fn url(&self) -> String {
        let ip = match self.local_addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!(
            "{}://{}",
            self.scheme,
            SocketAddr::new(ip, self.local_addr.port())
        )
    }

    /// Returns when the coordinator has stopped by itself, which it does only when it cannot go on. Cancel-safe.
    ///
    /// # Errors
    /// Why it stopped.
    pub async fn join(&mut self) -> Result<(), CoordinatorError> {
        let Some(ended) = &mut self.ended else {
            return Ok(());
        };
        let outcome = ended.await.unwrap_or_else(|_| {
            Err(CoordinatorError::Stopped {
                reason: "a rule that must always hold was found broken (see the log)".into(),
            })
        });
        self.ended = None;
        outcome
    }

    /// Stops serving. Agents and workers are left alone: they go on and connect again to the next coordinator.
    ///
    /// # Errors
    /// What went wrong before or while it stopped.
    pub async fn shutdown(mut self) -> Result<(), CoordinatorError> {
        self.stop.cancel();
        let outcome = self.join().await;
        if let Some(mut server) = self.server.take() {
            match tokio::time::timeout(FAREWELL, &mut server).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => {
                    return outcome.and(Err(CoordinatorError::Stopped {
                        reason: error.to_string(),
                    }));
                }
                Ok(Err(error)) => {
                    return outcome.and(Err(CoordinatorError::Stopped {
                        reason: error.to_string(),
                    }));
                }
                Err(_) => server.abort(),
            }
        }
        outcome
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Callers have to be known as soon as there is anything to know them by, on loopback too.
fn guard(tls: Option<&ServerTls>, tokens: Option<&Path>) -> Result<Guard, CoordinatorError> {
    let certificates = tls.map(ServerTls::client_certificates);
    Ok(match (tokens, certificates) {
        (Some(path), _) => Guard::Closed(Arc::new(TokenFile::read(path)?)),
        (None, Some(ClientCertificates::Known)) => Guard::Closed(Arc::default()),
        (None, _) => Guard::Open,
    })
}

/// Runs the actor on a thread of its own: it waits for the disk, which no thread of the runtime should. The thread ends when
/// `stop` is cancelled or the actor fails, and cancels `stop` when it ends.
fn run(
    actor: Actor,
    inbox: mpsc::Receiver<Message>,
    stop: CancellationToken,
) -> Result<oneshot::Receiver<Result<(), CoordinatorError>>, CoordinatorError> {
    let (sender, ended) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    thread::Builder::new()
        .name("coordinator".into())
        .spawn(move || {
            // Dropped on a panic too, so that nothing is served without an actor.
            let _stop = stop.clone().drop_guard();
            let outcome = runtime.block_on(actor.run(inbox, stop));
            if let Err(error) = &outcome {
                tracing::error!(%error, "the coordinator cannot go on");
            }
            // The handle may be gone.
            let _ = sender.send(outcome);
        })
        .map_err(|error| CoordinatorError::Stopped {
            reason: error.to_string(),
        })?;
    Ok(ended)
}

/// The state that the journal's records make, with the files of jobs that are not over brought up to it.
fn replay(
    journal: &mut Journal<Record>,
    files: &JobFiles,
    options: ClusterOptions,
) -> Result<(Cluster, Superseded), CoordinatorError> {
    let mut replay = Replay::new(options);
    let (mut superseded, mut forgettable) = (Superseded::default(), Vec::new());
    let mut records: BTreeMap<JobId, Vec<Record>> = BTreeMap::new();
    journal.replay(|sequence, record| {
        replay.apply(sequence, &record);
        forgettable.extend(superseded.by(sequence, &record.kind));
        let Some(job) = record.kind.job() else {
            return;
        };
        match &record.kind {
            muster_cluster::RecordKind::JobState { state, .. } if state.is_over() => {
                records.remove(&job);
            }
            _ => records.entry(job).or_default().push(record),
        }
    })?;
    let cluster = replay.finish(journal.path())?;
    // What an earlier build has left.
    journal.replace(&[], &forgettable)?;
    for record in records.values().flatten() {
        files.replayed(record);
    }
    tracing::info!(
        newest = journal.last_sequence(),
        jobs = cluster.jobs().len(),
        "journal replayed"
    );
    Ok((cluster, superseded))
}

fn directory(path: &Path) -> Result<std::path::PathBuf, CoordinatorError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::canonicalize(path))
        .map_err(|source| CoordinatorError::DataDir {
            path: path.to_path_buf(),
            source,
        })
}

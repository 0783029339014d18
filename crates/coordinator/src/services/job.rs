use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use muster_cluster::{Cluster, Event, JobState};
use muster_proto::v1::{
    self, CancelRequest, CancelResponse, CordonNodeRequest, CordonNodeResponse, DescribeRequest,
    DescribeResponse, DrainNodeRequest, DrainNodeResponse, GetHistoryRequest, GetLogsRequest,
    GetStatusRequest, JobHistory, JobStatus, ListCheckpointsRequest, ListCheckpointsResponse,
    ListEventsRequest, ListJobsRequest, ListJobsResponse, ListNodesRequest, ListNodesResponse,
    ListStepsRequest, LogChunk, ResumeRequest, ResumeResponse, StatusView, StopRequest,
    StopResponse, SubmitRequest, SubmitResponse, UncordonNodeRequest, UncordonNodeResponse,
    WatchStatusRequest, job_service_server::JobService,
};
use muster_types::{JobId, NodeName, Now};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Answers, answers,
    events::{Events, Until},
    follow::Follow,
    logs::Logs,
    pages::{Pages, blocking, internal},
    roster::Roster,
    selection::Selection,
    steps,
};
use crate::{
    access::Caller,
    convert,
    history::read_history,
    inbox::{Core, stopping},
    job_files::JobDirs,
    log_router::LogRouter,
    submission,
};

/// Answers that wait for a client.
const QUEUE: usize = 64;
/// How often a status is sent when the client does not say.
const WATCH_INTERVAL_MS: u32 = 500;
/// A watched status is looked at again after this long, even if nothing happened: rates and estimates change by themselves.
const WATCH_REFRESH: Duration = Duration::from_secs(2);

/// What clients ask of jobs.
pub(crate) struct Jobs {
    pub(crate) core: Core,
    pub(crate) dirs: JobDirs,
    pub(crate) journal: PathBuf,
    pub(crate) logs: Arc<LogRouter>,
    pub(crate) stop: CancellationToken,
}

impl Jobs {
    async fn state(&self, job: JobId) -> Result<JobState, Status> {
        let status = self
            .core
            .read(move |cluster, now| cluster.summary(job, now))
            .await?;
        status.map(|status| status.state).ok_or_else(|| gone(job))
    }

    /// Refuses who may not stop or resume the job.
    async fn may_change(&self, caller: &Caller, job: JobId) -> Result<(), Status> {
        let user = self.core.read(move |cluster, _| {
            let submission = cluster.submission(job);
            submission.map(|it| it.spec.queue.user.clone())
        });
        caller.may_change(&user.await?.ok_or_else(|| gone(job))?)
    }

    /// The node of that name, if it was ever here.
    async fn node(&self, name: String) -> Result<NodeName, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument(
                "node is empty; give a node's name",
            ));
        }
        let node = NodeName::new(name);
        let wanted = node.clone();
        let is_known = self.core.read(move |cluster, _| cluster.has_seen(&wanted));
        if is_known.await? {
            return Ok(node);
        }
        Err(Status::not_found(format!(
            "no node named {node} was ever here; `muster nodes` lists those there are"
        )))
    }
}

/// The package of these services.
const PROTOCOL: &str = "muster.v1";
/// A reason is shown in a line.
const LONGEST_REASON: usize = 500;

fn check_reason(reason: &str) -> Result<(), Status> {
    if reason.len() > LONGEST_REASON || reason.contains(char::is_control) {
        return Err(Status::invalid_argument(format!(
            "reason must be one line of at most {LONGEST_REASON} bytes"
        )));
    }
    Ok(())
}

/// As much of a job's status as is wanted.
fn status(
    cluster: &Cluster,
    job: JobId,
    view: StatusView,
    now: Now,
) -> Option<muster_cluster::JobStatus> {
    match view {
        StatusView::Full => cluster.status(job, now),
        StatusView::Summary => cluster.summary(job, now),
    }
}

fn gone(job: JobId) -> Status {
    Status::not_found(format!("there is no job {job}"))
}

#[tonic::async_trait]
impl JobService for Jobs {
    type WatchStatusStream = Answers<JobStatus>;
    type ListEventsStream = Answers<v1::Event>;
    type GetLogsStream = Answers<LogChunk>;
    type ListStepsStream = Answers<v1::Fed>;

    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let caller = Caller::of(&request)?;
        let SubmitRequest { spec_json, job_id } = request.into_inner();
        let job: JobId = match job_id.as_str() {
            "" => JobId::new(Uuid::now_v7()),
            text => text
                .parse()
                .map_err(|error| Status::invalid_argument(format!("{error}")))?,
        };
        let response = Response::new(SubmitResponse {
            job_id: job.to_string(),
        });
        if self
            .core
            .read(move |cluster, _| cluster.submission(job).is_some())
            .await?
        {
            return Ok(response);
        }
        let dirs = self.dirs.clone();
        let mut submission =
            tokio::task::spawn_blocking(move || submission::prepare(&spec_json, job, &dirs))
                .await
                .map_err(|error| Status::internal(error.to_string()))?
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let owner = caller.owner(&submission.spec.queue.user)?;
        submission.spec.queue.user = owner;
        self.core
            .event(Event::Submitted(Box::new(submission)))
            .await?;
        Ok(response)
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let view = request.into_inner().view();
        let newest_first = self.core.read(move |cluster, now| {
            let jobs = cluster.jobs().into_iter().rev();
            jobs.filter_map(|job| status(cluster, job, view, now))
                .collect::<Vec<_>>()
        });
        let jobs = newest_first
            .await?
            .into_iter()
            .map(convert::job_status)
            .collect();
        Ok(Response::new(ListJobsResponse { jobs }))
    }

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<JobStatus>, Status> {
        let request = request.into_inner();
        let (job, view) = (self.core.resolve(&request.job_id).await?, request.view());
        let status = self
            .core
            .read(move |cluster, now| status(cluster, job, view, now))
            .await?;
        Ok(Response::new(convert::job_status(
            status.ok_or_else(|| gone(job))?,
        )))
    }

    async fn watch_status(
        &self,
        request: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let request = request.into_inner();
        let view = request.view();
        let WatchStatusRequest {
            job_id,
            interval_ms,
            ..
        } = request;
        let job = self.core.resolve(&job_id).await?;
        let interval_ms = if interval_ms == 0 {
            WATCH_INTERVAL_MS
        } else {
            interval_ms
        };
        let interval = Duration::from_millis(u64::from(interval_ms));
        let (client, queue) = mpsc::channel(1);
        let (core, stop) = (self.core.clone(), self.stop.clone());
        // Ends with the job, the client or the coordinator.
        tokio::spawn(async move {
            let watching = watch(&core, job, view, interval, &client);
            let outcome = tokio::select! {
                outcome = watching => outcome,
                () = client.closed() => return,
                () = stop.cancelled() => Err(stopping()),
            };
            if let Err(status) = outcome {
                // The client may have gone meanwhile.
                let _ = client.send(Err(status)).await;
            }
        });
        Ok(Response::new(answers(queue)))
    }

    async fn list_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<Self::ListEventsStream>, Status> {
        let ListEventsRequest {
            job_id,
            follow,
            after,
        } = request.into_inner();
        let job = self.core.resolve(&job_id).await?;
        let events = Events {
            core: self.core.clone(),
            journal: self.journal.clone(),
            job,
            after,
            until: if follow { Until::JobEnded } else { Until::Now },
            stop: self.stop.clone(),
        };
        let (client, queue) = mpsc::channel(QUEUE);
        // Ends as `Events::run` says.
        tokio::spawn(events.run(client));
        Ok(Response::new(answers(queue)))
    }

    async fn get_history(
        &self,
        request: Request<GetHistoryRequest>,
    ) -> Result<Response<JobHistory>, Status> {
        let job = self.core.resolve(&request.into_inner().job_id).await?;
        let journal = self.journal.clone();
        let read = blocking(move || read_history(&journal, job)).await?;
        let history = read.map_err(internal)?;
        Ok(Response::new(history.ok_or_else(|| gone(job))?))
    }

    async fn list_steps(
        &self,
        request: Request<ListStepsRequest>,
    ) -> Result<Response<Self::ListStepsStream>, Status> {
        let job = self.core.resolve(&request.into_inner().job_id).await?;
        let (client, queue) = mpsc::channel(QUEUE);
        // Ends as it says.
        tokio::spawn(steps::send(self.dirs.of(job), client, self.stop.clone()));
        Ok(Response::new(answers(queue)))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let caller = Caller::of(&request)?;
        let StopRequest {
            job_id,
            grace_seconds,
        } = request.into_inner();
        let job = self.core.resolve(&job_id).await?;
        self.may_change(&caller, job).await?;
        let state = self.state(job).await?;
        if state.is_over() {
            let reason = format!("job {job} is {} already", state.as_str());
            return Err(Status::failed_precondition(reason));
        }
        let usual = self.core.read(move |cluster, _| {
            cluster
                .submission(job)
                .map_or(0, |it| it.spec.workers.grace_seconds)
        });
        let grace_seconds = if grace_seconds == 0 {
            usual.await?
        } else {
            grace_seconds
        };
        self.core
            .event(Event::StopRequested { job, grace_seconds })
            .await?;
        Ok(Response::new(StopResponse {}))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        let caller = Caller::of(&request)?;
        let CancelRequest { job_id, reason } = request.into_inner();
        check_reason(&reason)?;
        let job = self.core.resolve(&job_id).await?;
        self.may_change(&caller, job).await?;
        let state = self.state(job).await?;
        match state {
            JobState::Finished | JobState::Failed => {
                let reason = format!("job {job} is {} already", state.as_str());
                return Err(Status::failed_precondition(reason));
            }
            // Of a request that comes twice, the second finds what it asked for.
            JobState::Stopped => {}
            _ => {
                self.core
                    .event(Event::CancelRequested { job, reason })
                    .await?
            }
        }
        Ok(Response::new(CancelResponse {}))
    }

    async fn resume(
        &self,
        request: Request<ResumeRequest>,
    ) -> Result<Response<ResumeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let job = self.core.resolve(&request.into_inner().job_id).await?;
        self.may_change(&caller, job).await?;
        let state = self.state(job).await?;
        if !matches!(state, JobState::Stopped | JobState::Failed) {
            let state = state.as_str();
            let reason = format!("job {job} is {state}; only a stopped or failed job is resumed");
            return Err(Status::failed_precondition(reason));
        }
        self.core.event(Event::ResumeRequested { job }).await?;
        Ok(Response::new(ResumeResponse {}))
    }

    async fn get_logs(
        &self,
        request: Request<GetLogsRequest>,
    ) -> Result<Response<Self::GetLogsStream>, Status> {
        let request = request.into_inner();
        let named = |text: String| Some(text).filter(|text| !text.is_empty());
        let job = self.core.resolve(&request.job_id).await?;
        let selection = Selection {
            worker: named(request.worker_id),
            node: named(request.node),
            rank: request.rank,
        };
        let mut roster = match selection.rank {
            Some(rank) => {
                let pages = Pages::open(self.journal.clone(), job, 0).await?;
                Some(Roster::new(rank, pages))
            }
            None => None,
        };
        let holders = match &mut roster {
            Some(roster) => Some(roster.update().await?),
            None => None,
        };
        let is_over = self.state(job).await?.is_over();
        let mut workers = self
            .core
            .read(move |cluster, _| cluster.placements(job).to_vec())
            .await?;
        workers.retain(|(worker, node)| selection.means(worker, node, holders));
        let may_come = request.follow && !is_over && selection.worker.is_none();
        if workers.is_empty() && !selection.is_all() && !may_come {
            let reason = format!("job {job} never had a {}", selection.words());
            return Err(Status::not_found(reason));
        }
        let logs = Logs {
            core: self.core.clone(),
            router: Arc::clone(&self.logs),
            job,
            tail_lines: request.tail_lines,
        };
        let (client, queue) = mpsc::channel(QUEUE);
        // Both end as their `run` says.
        if request.follow && !is_over {
            let follow = Follow {
                logs,
                selection,
                roster,
                stop: self.stop.clone(),
                readings: BTreeMap::new(),
            };
            tokio::spawn(follow.run(client));
        } else {
            tokio::spawn(logs.run(workers, client));
        }
        Ok(Response::new(answers(queue)))
    }

    async fn list_checkpoints(
        &self,
        request: Request<ListCheckpointsRequest>,
    ) -> Result<Response<ListCheckpointsResponse>, Status> {
        let job = self.core.resolve(&request.into_inner().job_id).await?;
        let checkpoints = self
            .core
            .read(move |cluster, _| cluster.checkpoints(job))
            .await?;
        let checkpoints = checkpoints.into_iter().map(convert::checkpoint).collect();
        Ok(Response::new(ListCheckpointsResponse { checkpoints }))
    }

    async fn list_nodes(
        &self,
        _request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let nodes = self.core.read(|cluster, _| cluster.nodes()).await?;
        let nodes = nodes.into_iter().map(convert::node_status).collect();
        Ok(Response::new(ListNodesResponse { nodes }))
    }

    async fn cordon_node(
        &self,
        request: Request<CordonNodeRequest>,
    ) -> Result<Response<CordonNodeResponse>, Status> {
        let CordonNodeRequest { node, reason } = request.into_inner();
        check_reason(&reason)?;
        let node = self.node(node).await?;
        self.core
            .event(Event::CordonRequested { node, reason })
            .await?;
        Ok(Response::new(CordonNodeResponse {}))
    }

    async fn drain_node(
        &self,
        request: Request<DrainNodeRequest>,
    ) -> Result<Response<DrainNodeResponse>, Status> {
        let DrainNodeRequest { node, reason } = request.into_inner();
        check_reason(&reason)?;
        let node = self.node(node).await?;
        self.core
            .event(Event::DrainRequested { node, reason })
            .await?;
        Ok(Response::new(DrainNodeResponse {}))
    }

    async fn describe(
        &self,
        _request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let now = self.core.read(|_, now| now.wall).await?;
        Ok(Response::new(DescribeResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL.into(),
            now: now.to_string(),
        }))
    }

    async fn uncordon_node(
        &self,
        request: Request<UncordonNodeRequest>,
    ) -> Result<Response<UncordonNodeResponse>, Status> {
        let node = self.node(request.into_inner().node).await?;
        self.core.event(Event::UncordonRequested { node }).await?;
        Ok(Response::new(UncordonNodeResponse {}))
    }
}

/// Sends the status now and after each change. Ends when the job has ended.
async fn watch(
    core: &Core,
    job: JobId,
    view: StatusView,
    interval: Duration,
    client: &mpsc::Sender<Result<JobStatus, Status>>,
) -> Result<(), Status> {
    let mut progress = core.progress();
    let mut last = None;
    loop {
        progress.borrow_and_update();
        let status = core
            .read(move |cluster, now| status(cluster, job, view, now))
            .await?;
        let status = status.ok_or_else(|| gone(job))?;
        let is_over = status.state.is_over();
        let status = convert::job_status(status);
        if last.as_ref() != Some(&status) {
            last = Some(status.clone());
            if client.send(Ok(status)).await.is_err() {
                return Ok(());
            }
        }
        if is_over {
            return Ok(());
        }
        tokio::time::sleep(interval).await;
        tokio::select! {
            changed = progress.changed() => changed.map_err(|_| stopping())?,
            () = tokio::time::sleep(WATCH_REFRESH) => {}
        }
    }
}

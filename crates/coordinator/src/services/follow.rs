use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use muster_types::{NodeName, WorkerId};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    logs::{Client, Logs, failure, report},
    roster::Roster,
    selection::Selection,
};
use crate::inbox::stopping;

/// Between two looks at the logs.
const INTERVAL: Duration = Duration::from_millis(500);

/// Logs as they grow, over deaths and replacements of workers.
pub(super) struct Follow {
    pub(super) logs: Logs,
    pub(super) selection: Selection,
    pub(super) roster: Option<Roster>,
    pub(super) stop: CancellationToken,
    pub(super) readings: BTreeMap<WorkerId, Reading>,
}

/// How far one log was read.
#[derive(Default)]
pub(super) struct Reading {
    next: Option<u64>,
    /// Nothing more is wanted of it, unless it comes back to its rank.
    done: bool,
    /// Why it could not be read the last time.
    failure: Option<String>,
}

/// A job at one moment.
struct Scene {
    is_over: bool,
    /// Every worker ever placed.
    placed: Vec<(WorkerId, NodeName)>,
    /// Those whose process is not known to have ended.
    running: BTreeSet<WorkerId>,
}

impl Follow {
    /// Sends what is written until the job is over and its workers are gone, the one worker that was asked for is gone, the
    /// client has gone, or the coordinator stops. Workers that had ended before are left out, unless one was named.
    pub(super) async fn run(mut self, client: Client) {
        match self.follow(&client).await {
            Ok(()) => {
                let failures = self.readings.into_values().filter_map(|it| it.failure);
                report(failures.collect(), &client).await;
            }
            Err(Some(status)) => {
                // The client may have gone meanwhile.
                let _ = client.send(Err(status)).await;
            }
            Err(None) => {}
        }
    }

    /// `Err(None)`: the client has gone.
    async fn follow(&mut self, client: &Client) -> Result<(), Option<Status>> {
        let mut is_first = true;
        loop {
            // Looked at before logs are read, so that the last lines of whoever has ended are among those that are sent.
            let scene = scene(&self.logs).await?;
            let waits = self.look(&scene, is_first, client).await?;
            let is_named = self.selection.worker.is_some();
            if !waits && (scene.is_over || is_named) {
                return Ok(());
            }
            is_first = false;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = client.closed() => return Err(None),
                () = self.stop.cancelled() => return Err(Some(stopping())),
            }
        }
    }

    /// Sends what is new of each log that is meant. Whether more can come of one of them.
    async fn look(
        &mut self,
        scene: &Scene,
        is_first: bool,
        client: &Client,
    ) -> Result<bool, Option<Status>> {
        let holders = match &mut self.roster {
            Some(roster) => Some(roster.update().await?),
            None => None,
        };
        let mut waits = false;
        for (worker, node) in &scene.placed {
            if !self.selection.means(worker, node, holders) {
                continue;
            }
            let is_wanted = scene.running.contains(worker)
                && holders.is_none_or(|holders| holders.is_newest(worker));
            let is_old = is_first && self.selection.worker.is_none();
            let reading = self.readings.entry(worker.clone()).or_insert(Reading {
                done: is_old && !is_wanted,
                ..Reading::default()
            });
            if reading.done && !is_wanted {
                continue;
            }
            let outcome = self.logs.read(worker, node, reading.next, client).await;
            reading.failure = match outcome {
                Ok(end) => {
                    reading.next = Some(end);
                    None
                }
                Err(Some(status)) => Some(failure(worker, node, &status)),
                Err(None) => return Err(None),
            };
            // Of a job that is over, an agent that is away is not waited for.
            reading.done = !is_wanted || scene.is_over && reading.failure.is_some();
            waits |= !reading.done;
        }
        Ok(waits)
    }
}

async fn scene(logs: &Logs) -> Result<Scene, Status> {
    let job = logs.job;
    let scene = logs.core.read(move |cluster, now| {
        let placed = cluster.placements(job).to_vec();
        let runs = |worker: &&WorkerId| cluster.worker_slot(job, worker).is_some();
        let running = placed.iter().map(|(worker, _)| worker).filter(runs);
        let status = cluster.status(job, now);
        Scene {
            is_over: status.is_none_or(|status| status.state.is_over()),
            running: running.cloned().collect(),
            placed,
        }
    });
    scene.await
}

use crate::{
    ClusterOptions, JobState,
    job::{Job, Phase},
    job_turn::is_finishing,
    spares::spares,
    volatile::{Volatile, with_views},
};

/// Where a job that is not over stands, and why, in words. `Pending` is explained by placement.
pub(crate) fn stance(
    job: &Job,
    volatile: &Volatile,
    options: &ClusterOptions,
) -> (JobState, String) {
    if job.stop.is_some() {
        return (
            JobState::Draining,
            "stopping on request: the workers save and leave".into(),
        );
    }
    if let Some(preemption) = &job.preemption {
        let reason = format!("{}: the workers save and leave", preemption.reason);
        return (JobState::Draining, reason);
    }
    if job.is_done() {
        return (
            JobState::Draining,
            "all steps are done: the workers leave".into(),
        );
    }
    let lost = job.lost();
    let lost = lost.iter().any(|it| !volatile.left.contains_key(*it));
    let standing = job.phase == Phase::Active && !lost;
    if standing && is_finishing(job, volatile) {
        return (
            JobState::Draining,
            "all steps are committed: the last checkpoint is being written".into(),
        );
    }
    if standing {
        let world = job.members.len();
        if volatile.round.ready {
            let workers = plural(world, "worker", "workers");
            let reason = match spares(job, volatile) {
                0 => format!("training on {world} {workers}"),
                count => {
                    let spares = plural(count, "spare stands", "spares stand");
                    format!("training on {world} {workers}; {count} {spares} by")
                }
            };
            return (JobState::Training, reason);
        }
        let resume = job
            .resume
            .as_ref()
            .map(|resume| resume.state)
            .unwrap_or(muster_types::StateId::INITIAL);
        return (
            JobState::Restoring,
            format!("generation {} is being built at {resume}", job.generation),
        );
    }
    let present = with_views(job, volatile).filter(|(worker, placement, _)| {
        !placement.expelled && !placement.released && !volatile.left.contains_key(*worker)
    });
    let (mut count, mut warm) = (0, 0);
    for (_, _, view) in present {
        count += 1;
        warm += usize::from(view.is_some_and(|view| view.warm));
    }
    if count == 0 {
        let reason = match volatile.strikes.causes.last() {
            Some(cause) => format!("waits for slots; last: {cause}"),
            None => "waits for slots".into(),
        };
        return (JobState::Pending, reason);
    }
    (
        JobState::Rendezvous,
        rendezvous(job, volatile, options, count, warm),
    )
}

fn rendezvous(
    job: &Job,
    volatile: &Volatile,
    options: &ClusterOptions,
    count: usize,
    warm: usize,
) -> String {
    if let Some((cause, _)) = &volatile.storage
        && job.newest_checkpoint().is_some()
    {
        return format!(
            "waits for storage, and tries again every {} s at the latest: {cause}",
            options.backoff_max.as_secs()
        );
    }
    if let Phase::Forming { candidates } = &job.phase
        && candidates.len() >= job.required()
    {
        if job.ever_committed && job.newest_checkpoint().is_none() {
            return format!(
                "generation {}: no worker holds a state, and of the checkpoints on record none can be read; \
                 the job never starts again from step 0 by itself",
                job.generation
            );
        }
        return format!(
            "{} {} on generation {}",
            candidates.len(),
            plural(candidates.len(), "worker agrees", "workers agree"),
            job.generation
        );
    }
    let required = job.required();
    if count < required {
        return format!("{count} of at least {required} workers; waits for slots for the others");
    }
    let are = plural(required, "is", "are");
    format!("{warm} of {count} workers are warm; at least {required} {are} needed")
}

fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

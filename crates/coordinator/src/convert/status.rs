use muster_cluster::{CheckpointRef, DrainStage, JobStatus, NodeStatus, PublicEvent, WorkerStatus};
use muster_proto::v1;

use super::down::batch_slots;

/// A job's status, field by field.
pub(crate) fn job_status(status: JobStatus) -> v1::JobStatus {
    v1::JobStatus {
        job_id: status.job_id.to_string(),
        name: status.name,
        state: status.state.as_str().to_owned(),
        state_reason: status.state_reason,
        generation: status.generation.get(),
        step: status.step.get(),
        total_steps: status.total_steps.get(),
        tokens_seen: status.tokens_seen,
        loss: status.loss,
        validation_loss: status.validation_loss,
        tokens_per_second: status.tokens_per_second,
        world_size: status.world_size,
        worker_count: status.worker_count,
        workers: status.workers.into_iter().map(worker_status).collect(),
        last_checkpoint: status.last_checkpoint.map(checkpoint),
        recoveries: status.recoveries,
        started_at: status.started_at.map(|at| at.to_string()),
        eta_seconds: status.eta_seconds,
        submitted_at: status.submitted_at.to_string(),
        ended_at: status.ended_at.map(|at| at.to_string()),
        numerics_fingerprint: status.numerics_fingerprint,
        assignment: status.assignment.into_iter().map(batch_slots).collect(),
        user: status.user,
        priority: status.priority,
    }
}

fn worker_status(status: WorkerStatus) -> v1::WorkerStatus {
    v1::WorkerStatus {
        worker_id: status.worker_id.to_string(),
        node: status.node.to_string(),
        slot: status.slot,
        pid: status.pid,
        rank: status.rank.map(|rank| rank.get()),
        state: status.state.as_str().to_owned(),
        step: status.step.map(|step| step.get()),
        slot_ms: status.slot_ms,
    }
}

/// A checkpoint, as clients name it.
pub(crate) fn checkpoint(checkpoint: CheckpointRef) -> v1::CheckpointRef {
    v1::CheckpointRef {
        step: checkpoint.state.step.get(),
        uri: checkpoint.uri,
    }
}

/// A node's status.
pub(crate) fn node_status(status: NodeStatus) -> v1::NodeStatus {
    v1::NodeStatus {
        name: status.name.to_string(),
        address: status.address,
        connected: status.connected,
        slots: status.slots,
        slots_used: status.slots_used,
        device: status.device,
        cordoned: status.cordon.is_some(),
        cordon_reason: status.cordon.unwrap_or_default(),
        drain: status.drain.map_or("", DrainStage::as_str).to_owned(),
    }
}

/// A record of the journal as people see it.
pub(crate) fn event(sequence: u64, event: PublicEvent) -> v1::Event {
    let details = serde_json::to_value(event.details).unwrap_or_default();
    v1::Event {
        sequence,
        at: event.at.to_string(),
        kind: event.kind,
        generation: event.generation.get(),
        step: event.step.get(),
        reason: event.reason,
        details_json: details.to_string(),
    }
}

use muster_cluster::{Record, RecordKind};
use muster_store::Entry;

/// A record as the journal keeps it.
pub(crate) fn entry(record: &Record) -> Entry<Record> {
    Entry {
        sequence: 0,
        at: record.at,
        job: record.kind.job(),
        kind: label(&record.kind).to_owned(),
        body: record.clone(),
    }
}

fn label(kind: &RecordKind) -> &'static str {
    use RecordKind as K;
    match kind {
        K::JobSubmitted(_) => "job_submitted",
        K::JobState { .. } => "job_state",
        K::StopRequested { .. } => "stop_requested",
        K::JobPreempted { .. } => "job_preempted",
        K::JobRequeued { .. } => "job_requeued",
        K::SegmentOpened { .. } => "segment_opened",
        K::BatchSkipped { .. } => "batch_skipped",
        K::WorkerPlaced { .. } => "worker_placed",
        K::WorkerExpelled { .. } => "worker_expelled",
        K::WorkerReleased { .. } => "worker_released",
        K::WorkerGone { .. } => "worker_gone",
        K::GenerationOpened { .. } => "generation_opened",
        K::GenerationFormed { .. } => "generation_formed",
        K::NumericsSeen { .. } => "numerics_seen",
        K::CheckpointCommitted { .. } => "checkpoint_committed",
        K::CheckpointCondemned { .. } => "checkpoint_condemned",
        K::CheckpointDeleted { .. } => "checkpoint_deleted",
        K::Watermark { .. } => "watermark",
        K::Evaluated { .. } => "evaluated",
        K::NodeCordoned { .. } => "node_cordoned",
        K::NodeUncordoned { .. } => "node_uncordoned",
        K::Noted { .. } => "noted",
    }
}

use muster_types::Step;

/// Why a plan cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The dataset is too small for one sample.
    #[error(
        "the data shards hold no sample: no shard has more tokens than the context length; use more text or a shorter context"
    )]
    NoSamples,
    /// More samples than a position can count.
    #[error("the data shards hold more than 2^63 samples; check the dataset's index")]
    TooManySamples,
    /// A world without ranks.
    #[error("cannot deal {slots} slots of the batch to 0 workers")]
    NoWorkers {
        /// Slots to deal.
        slots: u32,
    },
    /// Some rank would get no slot.
    #[error(
        "{world} workers share {slots} slots of the batch, but each needs at least one; \
         lower workers.max, or raise train.global_batch, or lower train.micro_batch"
    )]
    TooManyWorkers {
        /// Slots to deal.
        slots: u32,
        /// Ranks to deal them to.
        world: u32,
    },
    /// No segment says what the step trains on.
    #[error("no segment of the data order covers step {step}: the first one starts at {first:?}")]
    StepNotCovered {
        /// The step asked for, 0-based.
        step: Step,
        /// Where the first segment starts; `None` when there is no segment.
        first: Option<Step>,
    },
    /// Segments must start at ever later steps.
    #[error(
        "segment {index} of the data order starts at step {start}, not after the segment before it"
    )]
    SegmentsOutOfOrder {
        /// Index of the offending segment.
        index: usize,
        /// Its start.
        start: Step,
    },
    /// A segment that trains on nothing.
    #[error("the segment from step {start} has a global batch of 0 sequences")]
    EmptyBatch {
        /// Where the segment starts.
        start: Step,
    },
    /// Positions are 64-bit.
    #[error("step {step} lies beyond the last position that the data order can name")]
    PositionOverflow {
        /// The step asked for, 0-based.
        step: Step,
    },
    /// A slot beyond the step's batch.
    #[error(
        "slot {slot} of {micro_batch} sequences lies outside a step of {global_batch} sequences; \
         train.global_batch must be a multiple of train.micro_batch"
    )]
    SlotOutside {
        /// Index of the slot.
        slot: u32,
        /// Sequences a slot.
        micro_batch: u32,
        /// Sequences a step.
        global_batch: u64,
    },
}

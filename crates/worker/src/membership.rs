use muster_proto::v1;
use muster_types::{BatchSlots, Generation, Position, Rank, Segment, StateId, Step, WorldSize};

use crate::{control::from_proto, heal::Source};

/// What a member was told when the generation was formed.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Which generation.
    pub generation: Generation,
    /// This worker's place in it.
    pub rank: Rank,
    /// How many there are.
    pub world_size: WorldSize,
    /// The state to go on from.
    pub resume: StateId,
    /// Where it comes from.
    pub source: Source,
    /// The slots of the batch that this rank trains.
    pub slots: BatchSlots,
    /// The slots of all ranks, in their order.
    pub dealt: Vec<BatchSlots>,
    /// The data order.
    pub segments: Vec<Segment>,
    /// The step after this one may be a spike.
    pub accept_spike_after: Option<Step>,
}

impl Membership {
    /// Reads what the coordinator sent.
    ///
    /// # Errors
    /// In words, where something is missing or does not fit.
    pub fn from_wire(generation: Generation, form: v1::Form) -> Result<Self, String> {
        let rank = Rank(form.rank);
        let resume = form
            .resume
            .ok_or("the generation has no state to go on from")?;
        let source = match resume
            .source
            .ok_or("the generation's state comes from nowhere")?
        {
            v1::resume_point::Source::Initialise(_) => Source::Initialise,
            v1::resume_point::Source::Live(live) => {
                let runs = live.runs.into_iter();
                Source::Live(runs.flat_map(ranks).collect())
            }
            v1::resume_point::Source::Checkpoint(checkpoint) => Source::Checkpoint(checkpoint.uri),
        };
        let world_size = WorldSize(form.world_size);
        let dealt = muster_plan::deal(form.batch_slots, world_size)
            .map_err(|error| format!("the slots of the batch cannot be dealt: {error}"))?;
        let slots = *dealt
            .get(rank.get() as usize)
            .ok_or_else(|| format!("rank {rank} has no slots of the batch"))?;
        Ok(Self {
            generation,
            rank,
            world_size,
            resume: from_proto(resume.state.ok_or("the generation's state has no name")?),
            source,
            slots,
            dealt,
            segments: form
                .segments
                .into_iter()
                .map(segment)
                .collect::<Result<_, _>>()?,
            accept_spike_after: form.accept_spike_after.map(Step),
        })
    }
}

fn ranks(run: v1::RankRun) -> impl Iterator<Item = Rank> {
    (run.first..run.first.saturating_add(run.count)).map(Rank)
}

fn segment(segment: v1::Segment) -> Result<Segment, String> {
    Ok(Segment {
        start_step: Step(segment.start_step),
        start_position: Position(segment.start_position),
        global_batch: segment.global_batch,
        dataset_digest: segment
            .dataset_digest
            .parse()
            .map_err(|error| format!("a segment's dataset: {error}"))?,
    })
}

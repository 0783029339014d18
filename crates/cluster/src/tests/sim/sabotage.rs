/// A rule of the shells, or of a worker, that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A worker commits though its generation was given up.
    NoFence,
    /// A worker names what it holds by the step alone.
    StateNamedByStepAlone,
    /// A worker aborts its group as soon as it fences.
    AbortBeforeForm,
    /// A worker does not mark its state invalid while it is overwritten.
    HalfHealedStated,
    /// The coordinator acts on a decision before it is on disk.
    ActBeforeJournal,
    /// A restarted agent takes its slots to be empty.
    AdoptsNothing,
    /// A worker loads what it reads without looking at the digests.
    CorruptLoaded,
    /// A rank trains on as much as it would if all ranks always had the same share.
    BatchFollowsWorldSize,
    /// A worker starts to count the data order anew in each generation.
    PositionFollowsGeneration,
    /// Parts are not said again on a new stream.
    PartsSaidOnce,
    /// A worker says that a part is durable while it is still being written.
    PartSaidEarly,
}

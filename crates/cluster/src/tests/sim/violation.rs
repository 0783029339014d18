/// A rule that must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// What is of an older generation changes nothing.
    Fencing,
    /// Committed steps form one line.
    OneHistory,
    /// Every sample of the line is trained once.
    ExactlyOnce,
    /// World size never changes what a step trains on.
    ConstantBatch,
    /// All members of a generation hold the same bits.
    ReplicasAgree,
    /// Only whole, verified checkpoints of the line are loaded, and the newest is kept.
    AllOrNothing,
    /// What was acknowledged survives; nothing that can be held is thrown away.
    NothingLost,
    /// A slot runs at most one worker.
    OneWorkerASlot,
    /// The journal alone gives the durable state.
    Replay,
    /// Former members keep their order, newcomers follow.
    RankOrder,
    /// Slots are taken from whom they may be taken from, and given where they may be given.
    FairShare,
    /// Nobody gives up while it gets on.
    Perseverance,
    /// Once nothing fails any more, everything comes to its end.
    Convergence,
    /// The core's own assertions.
    Assertion,
}

/// A broken rule; the simulation ends with it.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    pub words: String,
}

/// Ends the simulation.
pub fn violated(invariant: Invariant, words: String) -> ! {
    std::panic::panic_any(Violation { invariant, words })
}

/// Ends the simulation unless something holds.
macro_rules! must {
    ($holds:expr, $invariant:ident, $($words:tt)+) => {
        if !$holds {
            $crate::tests::sim::violation::violated(
                $crate::tests::sim::violation::Invariant::$invariant,
                format!($($words)+),
            )
        }
    };
}
pub(crate) use must;

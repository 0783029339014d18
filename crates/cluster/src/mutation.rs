//! Rules of the core that tests break on purpose, to show that the simulation finds it. Outside tests nothing is ever broken,
//! and the questions compile to nothing.

/// A rule of the core, broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A generation is formed as soon as one candidate has fenced.
    FormBeforeAllFenced,
    /// A fence of any older generation counts.
    StaleFence,
    /// What a former member said before it fenced counts as what it holds.
    UnstatedState,
    /// What a worker holds counts whatever has become of its branch.
    DiscardedState,
    /// A manifest that comes when its state is discarded is put on record.
    LateManifest,
    /// A checkpoint is made as soon as one part is there.
    ManifestOfSomeParts,
    /// A part counts as saved before the manifest is on record.
    PartAcknowledgedEarly,
    /// Without a checkpoint that reads back, a job starts from the seed.
    SeedAgain,
    /// A checkpoint that cannot be read is tried again for ever.
    NothingCondemned,
    /// A report counts whatever generation it is of.
    StaleReport,
    /// A report counts as often as it comes.
    RepeatedReport,
    /// A worker that is silent, or does not move, stays.
    SilentStays,
    /// A candidate that is gone is waited for.
    GoneCandidateStays,
    /// A slot is empty as soon as its worker is out of the job.
    SlotEmptyEarly,
    /// Newcomers come first.
    NewcomersFirst,
    /// A committed step does not show that a job gets on.
    StrikesStay,
    /// A formed generation goes on with a member less.
    LossUnnoticed,
    /// A rollback changes what is planned, and not where the job goes on.
    DiscardedBeyondRollback,
    /// Where an agent is about to end, its slots are filled nevertheless.
    LeavingOffered,
}

/// Whether a rule is broken.
#[cfg(not(test))]
pub(crate) const fn is_planted(_: Mutation) -> bool {
    false
}

#[cfg(test)]
pub(crate) use planted::{is_planted, plant};

#[cfg(test)]
mod planted {
    use std::cell::Cell;

    use super::Mutation;

    std::thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether a rule is broken on this thread.
    pub(crate) fn is_planted(mutation: Mutation) -> bool {
        PLANTED.get() == Some(mutation)
    }

    /// Breaks a rule on this thread, until what is returned is dropped.
    pub(crate) fn plant(mutation: Option<Mutation>) -> Planted {
        PLANTED.set(mutation);
        Planted
    }

    pub(crate) struct Planted;

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}

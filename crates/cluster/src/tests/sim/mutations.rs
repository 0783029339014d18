//! The simulation bites: whatever rule is broken, one of the first seeds finds it, and says which invariant is.

use rstest::rstest;

use super::{
    run::Broken,
    sabotage::Sabotage,
    seeds::{sweep, words},
    violation::Invariant::{
        self, AllOrNothing, Assertion, ConstantBatch, Convergence, ExactlyOnce, FairShare, Fencing,
        NothingLost, OneHistory, OneWorkerASlot, Perseverance, RankOrder, ReplicasAgree,
    },
};
use crate::mutation::Mutation;

fn is_found(broken: Broken, seeds: u64, expected: &[Invariant]) {
    let (_, found) = sweep(1, seeds, broken);
    let Some(report) = found else {
        panic!("{broken:?} is not found in {seeds} seeds");
    };
    let violation = report.violation.as_ref().unwrap();
    println!(
        "{broken:?}: seed {}, {:?}: {}",
        report.seed, violation.invariant, violation.words
    );
    assert!(
        expected.contains(&violation.invariant),
        "{}",
        words(&report)
    );
}

#[rstest]
#[case(Mutation::FormBeforeAllFenced, 50, &[Fencing, NothingLost])]
#[case(Mutation::StaleFence, 50, &[Fencing, NothingLost])]
#[case(Mutation::UnstatedState, 50, &[NothingLost, ReplicasAgree])]
#[case(Mutation::DiscardedState, 200, &[ExactlyOnce, OneHistory, Assertion])]
#[case(Mutation::DiscardedBeyondRollback, 200, &[ExactlyOnce])]
#[case(Mutation::LateManifest, 4000, &[NothingLost, AllOrNothing, Assertion, Convergence])]
#[case(Mutation::ManifestOfSomeParts, 20, &[AllOrNothing])]
#[case(Mutation::PartAcknowledgedEarly, 20, &[AllOrNothing])]
#[case(Mutation::SeedAgain, 200, &[Assertion, NothingLost])]
#[case(Mutation::NothingCondemned, 200, &[Convergence])]
#[case(Mutation::StaleReport, 4000, &[Fencing, Assertion])]
#[case(Mutation::RepeatedReport, 20, &[ExactlyOnce])]
#[case(Mutation::SilentStays, 800, &[Convergence])]
#[case(Mutation::GoneCandidateStays, 100, &[Convergence, Assertion])]
#[case(Mutation::SlotEmptyEarly, 50, &[OneWorkerASlot])]
#[case(Mutation::NewcomersFirst, 100, &[RankOrder])]
#[case(Mutation::StrikesStay, 800, &[Perseverance])]
#[case(Mutation::LossUnnoticed, 100, &[Convergence])]
#[case(Mutation::LeavingOffered, 100, &[FairShare])]
fn a_broken_rule_of_the_core_is_found(
    #[case] mutation: Mutation,
    #[case] seeds: u64,
    #[case] expected: &[Invariant],
) {
    is_found(Broken::Core(mutation), seeds, expected);
}

#[rstest]
#[case(Sabotage::NoFence, 200, &[Fencing])]
#[case(Sabotage::StateNamedByStepAlone, 100, &[NothingLost, ReplicasAgree, Assertion])]
#[case(Sabotage::AbortBeforeForm, 800, &[Fencing, ReplicasAgree])]
#[case(Sabotage::HalfHealedStated, 200, &[ReplicasAgree])]
#[case(Sabotage::ActBeforeJournal, 50, &[OneWorkerASlot, NothingLost, OneHistory, Fencing])]
#[case(Sabotage::AdoptsNothing, 50, &[OneWorkerASlot])]
#[case(Sabotage::CorruptLoaded, 200, &[ReplicasAgree])]
#[case(Sabotage::BatchFollowsWorldSize, 20, &[ConstantBatch])]
#[case(Sabotage::PositionFollowsGeneration, 20, &[ExactlyOnce])]
#[case(Sabotage::PartsSaidOnce, 800, &[Convergence])]
#[case(Sabotage::PartSaidEarly, 200, &[Convergence])]
fn a_broken_rule_around_the_core_is_found(
    #[case] sabotage: Sabotage,
    #[case] seeds: u64,
    #[case] expected: &[Invariant],
) {
    is_found(Broken::Around(sabotage), seeds, expected);
}

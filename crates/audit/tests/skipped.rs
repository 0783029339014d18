//! Samples that the guard left out: they are missing on purpose, and only those.
#![allow(clippy::unwrap_used)]

use std::{convert::Infallible, ops::Range};

use muster_audit::{Fact, Flaw, JobHistory, Report, Standing, Totals, Verdict, audit};
use muster_types::{Digest, Generation, Position, Segment, StateId, Step};

const BATCH: u64 = 4;
const STEPS: u64 = 20;

fn state(generation: u64, step: u64) -> StateId {
    StateId::new(Generation(generation), Step(step))
}

fn segment(step: u64, position: u64) -> Fact {
    Fact::Segment(Segment {
        start_step: Step(step),
        start_position: Position(position),
        global_batch: BATCH as u32,
        dataset_digest: Digest::new([7; 32]),
    })
}

fn formed(generation: u64, resume: StateId) -> Fact {
    Fact::Formed {
        generation: Generation(generation),
        resume,
    }
}

fn skipped(positions: Range<u64>) -> Fact {
    Fact::Skipped {
        from: Position(positions.start),
        to: Position(positions.end),
    }
}

/// Evidence that is easy to sum up: each position's own number.
fn sum(stretch: &Range<u64>) -> u64 {
    stretch.clone().map(|position| position * 1_000 + 1).sum()
}

/// A watermark over everything that was fed.
fn mark(state: StateId, fed: &[Range<u64>]) -> Fact {
    let samples = fed.iter().map(|stretch| stretch.end - stretch.start).sum();
    Fact::Watermark {
        state,
        fed: Totals {
            tokens: samples,
            samples,
            evidence: fed.iter().map(sum).sum(),
        },
    }
}

fn judge(facts: Vec<Fact>) -> Report {
    let history = JobHistory {
        total_steps: Step(STEPS),
        global_batch: BATCH as u32,
        context_length: 1,
        dataset: Digest::new([7; 32]),
        standing: Standing::Finished,
        committed: Step(STEPS),
        facts,
    };
    let recompute =
        |stretches: &[Range<u64>]| Ok::<_, Infallible>(stretches.iter().map(sum).collect());
    let Ok(report) = audit(&history, std::iter::empty(), recompute);
    report
}

#[test]
fn a_skipped_batch_is_counted_and_what_came_after_it_was_trained_on() {
    let report = judge(vec![
        segment(0, 0),
        formed(1, StateId::INITIAL),
        skipped(28..32),
        segment(7, 32),
        formed(2, state(1, 7)),
        // The next one was no better.
        skipped(32..36),
        segment(7, 36),
        formed(3, state(1, 7)),
        mark(state(3, STEPS), &[0..28, 36..88]),
    ]);
    assert_eq!(report.verdict(), Verdict::Clean, "{report:?}");
    assert_eq!((report.skipped, report.audited), (8, STEPS));
}

#[test]
fn what_a_rollback_discarded_counts_as_left_out_once() {
    let report = judge(vec![
        segment(0, 0),
        formed(1, StateId::INITIAL),
        mark(state(1, 5), &[0..10, 10..20]),
        skipped(28..32),
        segment(7, 32),
        formed(2, state(1, 7)),
        mark(state(2, 8), &[0..28, 32..36]),
        // Back to step 5: the positions of the steps 6 to 9, and what was left out among them.
        skipped(20..40),
        segment(5, 40),
        formed(3, state(1, 5)),
        mark(state(3, STEPS), &[0..20, 40..100]),
    ]);
    assert_eq!(report.verdict(), Verdict::Clean, "{report:?}");
    assert_eq!(report.skipped, 20);
}

#[test]
fn more_left_out_than_was_said_is_a_flaw_and_training_on_it_a_difference() {
    let skip = |positions, start| {
        judge(vec![
            segment(0, 0),
            formed(1, StateId::INITIAL),
            skipped(positions),
            segment(7, start),
            formed(2, state(1, 7)),
            mark(state(2, STEPS), &[0..28, 32..84]),
        ])
    };
    assert_eq!(skip(28..32, 32).verdict(), Verdict::Clean);
    assert!(matches!(
        skip(24..32, 32).flaws[..],
        [Flaw::OtherSkip { .. }]
    ));
    assert!(matches!(
        skip(28..32, 36).flaws[..],
        [Flaw::NotContiguous { .. }]
    ));
    // It says that the batch was left out, but what it fed says otherwise.
    let report = judge(vec![
        segment(0, 0),
        formed(1, StateId::INITIAL),
        skipped(28..32),
        segment(7, 32),
        formed(2, state(1, 7)),
        mark(state(2, STEPS), &[0..28, 28..80]),
    ]);
    assert_eq!(report.verdict(), Verdict::Differs);
}

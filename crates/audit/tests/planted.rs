//! Jobs whose workers go wrong, and histories that were tampered with: each has to be found, and where.
#![allow(clippy::unwrap_used)]

use std::{convert::Infallible, ops::Range};

use muster_audit::{Fact, Flaw, JobHistory, Report, Standing, StepRecord, Totals, Verdict, audit};
use muster_plan::{SampleOrder, combine, deal, evidence, positions, slot_positions};
use muster_types::{Digest, Generation, Position, Seed, Segment, StateId, Step, WorldSize};

const CONTEXT: u32 = 8;
const BATCH: u32 = 12;
const MICRO_BATCH: u32 = 2;
/// Steps between two watermarks.
const EVERY: u64 = 5;
const STEPS: u64 = 30;

/// What a rank puts into a forward pass: tokens, under the position that it takes them for.
type Sample = (u64, Vec<i64>);

fn state(generation: u64, step: u64) -> StateId {
    StateId::new(Generation(generation), Step(step))
}

fn segment() -> Segment {
    Segment {
        start_step: Step(0),
        start_position: Position(0),
        global_batch: BATCH,
        dataset_digest: Digest::new([7; 32]),
    }
}

fn order() -> SampleOrder {
    SampleOrder::new(Seed(3), &[100, 0, 57]).unwrap()
}

/// The dataset: made up, each sample of its own.
fn tokens(position: u64) -> Vec<i64> {
    let sample = order().sample(Position(position));
    let first = i64::from(sample.shard) * 10_000 + i64::try_from(sample.index).unwrap() * 10;
    (first..=first + i64::from(CONTEXT)).collect()
}

fn proof(samples: &[Sample]) -> u64 {
    samples.iter().fold(0, |sum, (position, tokens)| {
        combine(sum, evidence(Position(*position), tokens))
    })
}

/// What the ranks of a world feed in the step after `step`, a list a rank.
fn fed(step: u64, world: u32) -> Vec<Vec<Sample>> {
    let (_, range) = positions(&[segment()], Step(step)).unwrap();
    let dealt = deal(BATCH / MICRO_BATCH, WorldSize(world)).unwrap();
    dealt
        .into_iter()
        .map(|slots| {
            let mine = slots.first..slots.first + slots.count;
            mine.flat_map(|slot| slot_positions(&range, MICRO_BATCH, slot).unwrap())
                .map(|position| (position, tokens(position)))
                .collect()
        })
        .collect()
}

/// A job that trained all its steps with three workers; `fault` sees what the ranks feed in each step.
struct Trained {
    history: JobHistory,
    steps: Vec<StepRecord>,
}

fn train(mut fault: impl FnMut(u64, &mut Vec<Vec<Sample>>)) -> Trained {
    let mut facts = vec![
        Fact::Segment(segment()),
        Fact::Formed {
            generation: Generation(1),
            resume: StateId::INITIAL,
        },
    ];
    let (mut steps, mut sum) = (Vec::new(), Totals::default());
    for step in 1..=STEPS {
        let mut ranks = fed(step - 1, 3);
        fault(step, &mut ranks);
        let samples: Vec<_> = ranks.into_iter().flatten().collect();
        let totals = Totals {
            tokens: samples.len() as u64 * u64::from(CONTEXT),
            samples: samples.len() as u64,
            evidence: proof(&samples),
        };
        sum = sum.plus(totals);
        steps.push(StepRecord {
            state: state(1, step),
            fed: totals,
        });
        if step % EVERY == 0 {
            facts.push(Fact::Watermark {
                state: state(1, step),
                fed: sum,
            });
        }
    }
    let history = JobHistory {
        total_steps: Step(STEPS),
        global_batch: BATCH,
        context_length: CONTEXT,
        dataset: Digest::new([7; 32]),
        standing: Standing::Finished,
        committed: Step(STEPS),
        facts,
    };
    Trained { history, steps }
}

fn recompute(stretches: &[Range<u64>]) -> Result<Vec<u64>, Infallible> {
    let one = |range: &Range<u64>| {
        let samples: Vec<_> = range.clone().map(|at| (at, tokens(at))).collect();
        proof(&samples)
    };
    Ok(stretches.iter().map(one).collect())
}

fn judge(job: &Trained) -> Report {
    let steps = job.steps.iter().map(|step| Ok(*step));
    let Ok(report) = audit(&job.history, steps, recompute);
    report
}

/// Step 13 goes wrong: it has to be found in the window of the steps 11 to 15, with the steps on record and without.
fn assert_caught(fault: impl Fn(&mut Vec<Vec<Sample>>)) {
    let mut job = train(|step, ranks| {
        if step == 13 {
            fault(ranks);
        }
    });
    let report = judge(&job);
    assert_eq!(report.verdict(), Verdict::Differs);
    assert_eq!((report.windows, report.differing), (6, 1));
    let difference = report.difference.unwrap();
    assert_eq!(difference.steps, Step(11)..=Step(15));
    assert_eq!(difference.positions, 120..180);
    assert_eq!(difference.generations, Some(Generation(1)..=Generation(1)));
    assert_ne!(difference.found, Some(difference.expected));
    let first = difference.first_step.unwrap();
    assert_eq!(first.planned.step, Step(13));
    assert_eq!(first.planned.positions, 144..156);
    assert_ne!(first.found, first.planned.totals);

    job.steps.clear();
    let difference = judge(&job).difference.unwrap();
    assert_eq!(difference.steps, Step(11)..=Step(15));
    assert_eq!((difference.first_step, difference.on_record), (None, 0));
}

#[test]
fn a_job_that_did_what_it_should_is_clean() {
    let mut job = train(|_, _| {});
    let report = judge(&job);
    assert_eq!(report.verdict(), Verdict::Clean);
    assert_eq!((report.audited, report.committed), (STEPS, Step(STEPS)));
    assert_eq!(report.fed, report.expected);
    assert_eq!(report.fed.samples, STEPS * u64::from(BATCH));
    assert_eq!(report.fed.tokens, STEPS * u64::from(BATCH * CONTEXT));
    job.steps.clear();
    assert_eq!(judge(&job), report, "the watermarks alone are enough");
}

#[test]
fn a_skipped_sample_is_caught() {
    assert_caught(|ranks| drop(ranks[1].remove(2)));
}

#[test]
fn a_doubled_sample_is_caught() {
    assert_caught(|ranks| {
        let again = ranks[0][0].clone();
        ranks[0].push(again);
    });
    // In the place of another, so that the counts are right.
    assert_caught(|ranks| ranks[2][1] = ranks[2][0].clone());
}

#[test]
fn samples_under_each_others_positions_are_caught() {
    assert_caught(|ranks| {
        let one = ranks[0][0].1.clone();
        ranks[0][0].1 = std::mem::replace(&mut ranks[2][3].1, one);
    });
}

#[test]
fn an_altered_token_is_caught() {
    assert_caught(|ranks| ranks[1][3].1[5] ^= 1);
}

#[test]
fn a_rank_that_trains_anothers_slots_is_caught() {
    assert_caught(|ranks| ranks[1] = ranks[0].clone());
}

#[test]
fn a_rank_that_feeds_another_step_is_caught() {
    assert_caught(|ranks| ranks[2] = fed(20, 3).swap_remove(2));
}

#[test]
fn a_sample_that_changed_places_with_one_of_another_step_shows_where_steps_are_on_record() {
    let mut kept = Vec::new();
    let job = train(|step, ranks| match step {
        13 => {
            kept = ranks[0].clone();
            ranks[0] = fed(13, 3).swap_remove(0);
        }
        14 => ranks[0] = kept.clone(),
        _ => {}
    });
    let difference = judge(&job).difference.unwrap();
    assert_eq!(
        difference.found,
        Some(difference.expected),
        "the sum is right"
    );
    assert_eq!(difference.first_step.unwrap().planned.step, Step(13));
}

#[test]
fn a_watermark_that_was_tampered_with_is_named_by_its_window() {
    let mut job = train(|_, _| {});
    let Fact::Watermark { fed, .. } = &mut job.history.facts[4] else {
        panic!("the third watermark");
    };
    fed.evidence ^= 1 << 40;
    let report = judge(&job);
    assert_eq!(report.differing, 2, "what follows builds on it");
    let difference = report.difference.unwrap();
    assert_eq!(difference.steps, Step(11)..=Step(15));
    assert_eq!((difference.first_step, difference.on_record), (None, 5));
}

#[test]
fn a_discarded_branch_does_not_count_and_the_new_one_does() {
    // Generation 1 came to step 15 and had a watermark there; generation 2 went on from step 12.
    let mut job = train(|_, _| {});
    let facts = &mut job.history.facts;
    let at_ten = facts[3];
    let rest: Vec<_> = facts.split_off(5);
    facts.push(Fact::Formed {
        generation: Generation(2),
        resume: state(1, 12),
    });
    facts.extend(rest.into_iter().map(|fact| match fact {
        Fact::Watermark { state, fed } => Fact::Watermark {
            state: StateId::new(Generation(2), state.step),
            fed,
        },
        other => other,
    }));
    for step in &mut job.steps[12..] {
        step.state.generation = Generation(2);
    }
    let report = judge(&job);
    assert_eq!(report.verdict(), Verdict::Clean);
    assert_eq!((report.generations, report.windows), (2, 5));

    // A watermark of the discarded branch, journaled afterwards, is on no line; nor is a resume from there.
    let stale = |fact: Fact, expected: Flaw| {
        let mut job = Trained {
            history: job.history.clone(),
            steps: job.steps.clone(),
        };
        job.history.facts.push(fact);
        assert_eq!(judge(&job).flaws.first(), Some(&expected));
    };
    let state = state(1, 14);
    let fed = Totals::default();
    stale(Fact::Watermark { state, fed }, Flaw::MarkOffLine { state });
    let generation = Generation(3);
    stale(
        Fact::Formed {
            generation,
            resume: state,
        },
        Flaw::ResumeOffLine {
            generation,
            resume: state,
        },
    );
    let Fact::Watermark { state, fed } = at_ten else {
        panic!("the second watermark");
    };
    let fed = Totals {
        samples: fed.samples + 1,
        ..fed
    };
    stale(
        Fact::Watermark { state, fed },
        Flaw::MarksContradict { state },
    );
}

#[test]
fn steps_without_evidence_are_not_covered_unless_they_are_on_record_one_by_one() {
    // Steps 11 and 12 were never reported: the sums from there on lack them.
    let mut job = train(|_, _| {});
    let lost = job.steps[10].fed.plus(job.steps[11].fed);
    for fact in &mut job.history.facts[4..] {
        if let Fact::Watermark { fed, .. } = fact {
            fed.evidence = fed.evidence.wrapping_sub(lost.evidence);
        }
    }
    let gap = Fact::Gap {
        state: state(1, 15),
        steps: 2,
    };
    job.history.facts.insert(4, gap);
    assert_eq!(judge(&job).verdict(), Verdict::Clean, "all are on record");
    job.steps.drain(10..12);
    let report = judge(&job);
    assert_eq!(report.verdict(), Verdict::Incomplete);
    assert_eq!(report.audited, STEPS - 2);
    assert_eq!(report.fed, report.expected);
    assert_eq!(report.uncovered.len(), 1);
    assert_eq!(report.uncovered[0].steps, Step(11)..=Step(12));
}

#[test]
fn what_lies_beyond_the_newest_watermark_is_pending_or_audited_step_by_step() {
    let mut job = train(|_, _| {});
    job.history.facts.pop();
    job.history.standing = Standing::Open;
    let report = judge(&job);
    assert_eq!(report.verdict(), Verdict::Clean);
    assert_eq!((report.audited, report.pending), (25, 5));

    job.history.standing = Standing::Over;
    assert_eq!(judge(&job).audited, STEPS);
    job.steps[27].fed.evidence ^= 1;
    let difference = judge(&job).difference.unwrap();
    assert_eq!(difference.first_step.unwrap().planned.step, Step(28));
    assert_eq!(difference.found, None);
    job.steps.truncate(27);
    let report = judge(&job);
    assert_eq!(report.verdict(), Verdict::Incomplete);
    assert_eq!(report.uncovered[0].steps, Step(28)..=Step(30));
}

#[test]
fn a_history_that_does_not_hold_together_is_broken() {
    let flaw = |change: &dyn Fn(&mut JobHistory)| {
        let mut job = train(|_, _| {});
        change(&mut job.history);
        judge(&job).flaws.into_iter().next()
    };
    let later = |step, position| {
        Fact::Segment(Segment {
            start_step: Step(step),
            start_position: Position(position),
            ..segment()
        })
    };
    assert_eq!(flaw(&|it| it.facts.insert(1, later(10, 120))), None);
    let hole = flaw(&|it| it.facts.insert(1, later(10, 121)));
    assert!(matches!(hole, Some(Flaw::NotContiguous { .. })), "{hole:?}");
    let late = flaw(&|it| it.facts[0] = later(1, 12));
    assert!(matches!(late, Some(Flaw::LateStart { .. })), "{late:?}");
    let none = flaw(&|it| it.facts = it.facts.split_off(1));
    assert!(matches!(none, Some(Flaw::NoPlan { .. })), "{none:?}");
    let other = flaw(&|it| it.dataset = Digest::new([8; 32]));
    assert!(
        matches!(other, Some(Flaw::OtherDataset { .. })),
        "{other:?}"
    );
    let batch = flaw(&|it| it.global_batch = 6);
    assert!(matches!(batch, Some(Flaw::OtherBatch { .. })), "{batch:?}");
    let short = flaw(&|it| it.total_steps = Step(STEPS + 1));
    assert!(matches!(short, Some(Flaw::NotDone { .. })), "{short:?}");
    let again = flaw(&|it| {
        it.facts.push(Fact::Formed {
            generation: Generation(1),
            resume: state(1, 30),
        });
    });
    assert!(matches!(again, Some(Flaw::NotNewer { .. })), "{again:?}");
}

#[test]
fn a_watermark_that_came_late_counts_where_it_is_sure() {
    // A checkpoint of step 10 took until step 20.
    let mut job = train(|_, _| {});
    let facts = &mut job.history.facts;
    let late = facts.remove(3);
    facts.insert(5, late);
    let report = judge(&job);
    assert_eq!(report.verdict(), Verdict::Clean);
    assert_eq!(report.windows, 6);
    if let Fact::Watermark { fed, .. } = &mut job.history.facts[5] {
        fed.evidence ^= 1;
    }
    assert_eq!(judge(&job).differing, 2);
    // The coordinator no longer knew the steps 1 to 10 one by one: the sums before and after are right all the same.
    let gap = Fact::Gap {
        state: state(1, 10),
        steps: 10,
    };
    job.history.facts.insert(5, gap);
    assert_eq!(judge(&job).verdict(), Verdict::Clean);
    // A generation that starts from there builds on it; that its sum lacks those steps is known.
    job.history.facts.truncate(7);
    job.history.facts.push(Fact::Formed {
        generation: Generation(2),
        resume: state(1, 10),
    });
    job.history.standing = Standing::Open;
    job.history.committed = Step(10);
    job.steps.truncate(8);
    let report = judge(&job);
    assert_eq!(report.verdict(), Verdict::Incomplete);
    assert_eq!(report.uncovered[0].steps, Step(9)..=Step(10));
}

//! What an audit found, for people and for programs.

use std::{
    fmt::Write,
    ops::{Range, RangeInclusive},
    path::PathBuf,
};

use muster_audit::{Difference, Report, StepDifference, Totals, Verdict};
use muster_types::{Digest, Step};
use serde_json::{Value, json};

use crate::{output, words};

/// Which job was audited.
pub struct Job {
    /// Its id.
    pub id: String,
    /// Its spec's name.
    pub name: String,
    /// Its lifecycle.
    pub state: String,
    /// Steps in all.
    pub total_steps: u64,
    /// Where its dataset was read.
    pub dataset: PathBuf,
    /// The dataset's content.
    pub digest: Digest,
}

/// For people.
pub fn describe(job: &Job, report: &Report) -> String {
    let mut pairs = output::pairs();
    let mut add = |name: &str, value: String| {
        pairs.add_row([name, &value]);
    };
    add("job", format!("{} ({}), {}", job.id, job.name, job.state));
    let dataset = format!("{}, blake3 {}", job.dataset.display(), job.digest);
    add("dataset", dataset);
    let audited = format!(
        "{} audited, {} committed, {} in all",
        words::count(report.audited),
        words::count(report.committed.get()),
        words::count(job.total_steps),
    );
    add("steps", audited);
    add("generations", report.generations.to_string());
    let compared = |expected, fed| {
        let (expected, fed) = (words::count(expected), words::count(fed));
        format!("{fed} fed, {expected} expected")
    };
    let (expected, fed) = (report.expected, report.fed);
    add("samples", compared(expected.samples, fed.samples));
    add("tokens", compared(expected.tokens, fed.tokens));
    if report.skipped > 0 {
        let skipped = format!("{} samples, by the guard", words::count(report.skipped));
        add("left out", skipped);
    }
    let windows = match report.differing {
        0 => format!("{}, none differs", words::count(report.windows)),
        differing => format!(
            "{}, of which {} differ",
            words::count(report.windows),
            words::count(differing)
        ),
    };
    add("windows", windows);
    add("verdict", verdict(report));
    let mut text = pairs.to_string();
    for flaw in &report.flaws {
        let _ = write!(text, "\n\nthe history contradicts itself: {flaw}");
    }
    for uncovered in &report.uncovered {
        let (steps, reason) = (span(&uncovered.steps), uncovered.reason);
        let _ = write!(text, "\n\nnot covered: steps {steps}: {reason}");
    }
    if let Some(difference) = &report.difference {
        let _ = write!(text, "\n\n{}", explain(difference));
    }
    text
}

fn verdict(report: &Report) -> String {
    let word = report.verdict().as_str();
    let meaning = match report.verdict() {
        Verdict::Clean if report.audited == 0 => "no step was committed that could be audited",
        Verdict::Clean => "every audited step was fed what the data order says, each sample once",
        Verdict::Incomplete => "nothing differs, but not all that was committed is accounted for",
        Verdict::Broken => "the job's history does not hold together",
        Verdict::Differs => "what is on record as fed is not what the data order says",
    };
    match report.pending {
        0 => format!("{word}: {meaning}"),
        pending => format!(
            "{word}: {meaning}; {} newer steps have no watermark yet",
            words::count(pending)
        ),
    }
}

/// The first stretch that differs.
fn explain(difference: &Difference) -> String {
    let generations = difference
        .generations
        .as_ref()
        .map_or_else(String::new, |all| match all.start() == all.end() {
            true => format!(" of generation {}", all.start()),
            false => format!(" of generations {} to {}", all.start(), all.end()),
        });
    let mut text = format!(
        "first window that differs: steps {}{generations}, positions {}\n",
        span(&difference.steps),
        places(&difference.positions)
    );
    if let Some(found) = difference.found {
        let _ = writeln!(text, "{}", compare(difference.expected, found));
    }
    let steps = difference.steps.end().get() - difference.steps.start().get() + 1;
    let on_record = difference.on_record;
    let told = match &difference.first_step {
        Some(first) => step(first),
        None if on_record == steps => {
            "each of its steps is on record with what it should have been fed: the watermark at its end, or the one before it, \
             is not their sum"
                .into()
        }
        None => format!(
            "{on_record} of its {steps} steps are on record one by one, and none of those differs"
        ),
    };
    text + &told
}

fn step(first: &StepDifference) -> String {
    let planned = &first.planned;
    let generation = first
        .generation
        .map_or_else(String::new, |it| format!(" of generation {it}"));
    format!(
        "first step that differs: step {}{generation}, positions {}\n{}",
        planned.step,
        places(&planned.positions),
        compare(planned.totals, first.found)
    )
}

fn compare(expected: Totals, found: Totals) -> comfy_table::Table {
    let mut table = output::table(["", "EXPECTED", "FED"]);
    for (name, expected, found) in [
        ("samples", expected.samples, found.samples),
        ("tokens", expected.tokens, found.tokens),
    ] {
        table.add_row([name.into(), words::count(expected), words::count(found)]);
    }
    table.add_row([
        "evidence".into(),
        hexadecimal(expected.evidence),
        hexadecimal(found.evidence),
    ]);
    table
}

fn span(steps: &RangeInclusive<Step>) -> String {
    format!("{} to {}", steps.start(), steps.end())
}

fn places(positions: &Range<u64>) -> String {
    format!(
        "{} to {}",
        positions.start,
        positions.end.saturating_sub(1).max(positions.start)
    )
}

/// Programs that read numbers as floats would round it.
fn hexadecimal(evidence: u64) -> String {
    format!("{evidence:016x}")
}

/// For programs.
pub fn as_json(job: &Job, report: &Report) -> Value {
    let uncovered = report.uncovered.iter();
    let flaws = report.flaws.iter();
    json!({
        "job_id": job.id,
        "name": job.name,
        "state": job.state,
        "dataset": job.dataset,
        "dataset_digest": job.digest,
        "verdict": report.verdict().as_str(),
        "steps": {
            "total": job.total_steps,
            "committed": report.committed,
            "audited": report.audited,
            "pending": report.pending,
        },
        "generations": report.generations,
        "windows": { "compared": report.windows, "differing": report.differing },
        "samples": { "expected": report.expected.samples, "fed": report.fed.samples },
        "tokens": { "expected": report.expected.tokens, "fed": report.fed.tokens },
        "skipped_samples": report.skipped,
        "difference": report.difference.as_ref().map(difference),
        "uncovered": uncovered.map(|it| json!({
            "from_step": it.steps.start(),
            "to_step": it.steps.end(),
            "reason": it.reason,
        })).collect::<Vec<_>>(),
        "flaws": flaws.map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn difference(difference: &Difference) -> Value {
    let generations = difference.generations.as_ref();
    json!({
        "from_generation": generations.map(|all| *all.start()),
        "to_generation": generations.map(|all| *all.end()),
        "from_step": difference.steps.start(),
        "to_step": difference.steps.end(),
        "from_position": difference.positions.start,
        "to_position": difference.positions.end.saturating_sub(1),
        "expected": totals(difference.expected),
        "fed": difference.found.map(totals),
        "steps_on_record": difference.on_record,
        "first_step": difference.first_step.as_ref().map(|first| json!({
            "step": first.planned.step,
            "generation": first.generation,
            "from_position": first.planned.positions.start,
            "to_position": first.planned.positions.end.saturating_sub(1),
            "expected": totals(first.planned.totals),
            "fed": totals(first.found),
        })),
    })
}

fn totals(totals: Totals) -> Value {
    json!({
        "samples": totals.samples,
        "tokens": totals.tokens,
        "evidence": hexadecimal(totals.evidence),
    })
}

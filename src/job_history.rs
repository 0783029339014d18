//! Finding what is on record of a job: at its coordinator, or in a run's directory.

use std::path::Path;

use muster_audit::{Fact, JobHistory, Standing, StepRecord, Totals};
use muster_coordinator::{JOURNAL, read_history, read_steps};
use muster_proto::v1::{self, GetHistoryRequest, ListStepsRequest, history_entry::Kind};
use muster_spec::RunSpec;
use muster_types::{Digest, Generation, Position, Segment, StateId, Step};
use tokio::runtime::Handle;

use crate::{
    client::{self, Coordinator},
    failure::Failure,
    run_record::{COORDINATOR, RunRecord},
};

/// The records of single steps, in order.
pub type Steps = Box<dyn Iterator<Item = Result<StepRecord, Failure>> + Send>;

/// What is on record of a job.
pub struct Found {
    /// The job's id.
    pub job_id: String,
    /// Its lifecycle, in a word.
    pub state: String,
    /// What it was to be trained on.
    pub spec: RunSpec,
    /// What it did.
    pub history: JobHistory,
    /// The records of its steps. Reading them may wait for the coordinator: keep them off the runtime's threads.
    pub steps: Steps,
}

/// Asks a coordinator.
pub async fn of_job(coordinator: &Coordinator, job: Option<String>) -> Result<Found, Failure> {
    let mut client = coordinator.connect().await?;
    let job_id = client::job_or_newest(&mut client, job).await?;
    let request = GetHistoryRequest { job_id };
    let history = client.get_history(request).await?.into_inner();
    let request = ListStepsRequest {
        job_id: history.job_id.clone(),
    };
    // Asked for afterwards, so that what the history knows of is among them.
    let mut steps = client.list_steps(request).await?.into_inner();
    let runtime = Handle::current();
    let next = move || {
        let step = runtime.block_on(steps.message()).transpose()?;
        Some(step.map_err(Failure::from).and_then(|fed| record(&fed)))
    };
    found(history, Box::new(std::iter::from_fn(next)))
}

/// Reads the journal and the metrics in a run's directory. The run may go on meanwhile.
pub fn of_run(directory: &Path) -> Result<Found, Failure> {
    let here = directory.display();
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::operation(format!("cannot read the run in {here}: {error}"))
    };
    let run = RunRecord::read(directory).map_err(|error| unreadable(&error))?;
    let Some(run) = run else {
        return Err(
            Failure::usage(format!("{here} is not the directory of a `muster run`")).help(
                "name a directory with a run.json in it; a coordinator's job is audited by its id",
            ),
        );
    };
    let journal = directory.join(COORDINATOR).join(JOURNAL);
    let job = run.job_id.parse().map_err(|error| unreadable(&error))?;
    let history = read_history(&journal, job).map_err(Failure::operation)?;
    let Some(history) = history else {
        return Err(Failure::operation(format!(
            "the journal {} does not know of the run's job {job}",
            journal.display()
        )));
    };
    let steps = read_steps(directory).map_err(|error| unreadable(&error))?;
    let steps = steps.map(|step| {
        let fed = step.map_err(|error| Failure::operation(format!("metrics.jsonl: {error}")))?;
        record(&fed)
    });
    found(history, Box::new(steps))
}

fn found(history: v1::JobHistory, steps: Steps) -> Result<Found, Failure> {
    let spec: RunSpec = serde_json::from_str(&history.spec_json).map_err(not_understood)?;
    let facts = history.entries.iter().map(fact);
    Ok(Found {
        history: JobHistory {
            total_steps: Step(spec.train.steps),
            global_batch: spec.train.global_batch,
            context_length: spec.model.context_length,
            dataset: digest(&history.dataset_digest)?,
            standing: match history.state.as_str() {
                "finished" => Standing::Finished,
                state if client::is_over(state) => Standing::Over,
                _ => Standing::Open,
            },
            committed: Step(history.step),
            facts: facts.collect::<Result<_, _>>()?,
        },
        job_id: history.job_id,
        state: history.state,
        spec,
        steps,
    })
}

fn fact(entry: &v1::HistoryEntry) -> Result<Fact, Failure> {
    match entry.kind.as_ref() {
        Some(Kind::Segment(segment)) => Ok(Fact::Segment(Segment {
            start_step: Step(segment.start_step),
            start_position: Position(segment.start_position),
            global_batch: segment.global_batch,
            dataset_digest: digest(&segment.dataset_digest)?,
        })),
        Some(Kind::Formed(formed)) => Ok(Fact::Formed {
            generation: Generation(formed.generation),
            resume: state(formed.resume.as_ref())?,
        }),
        Some(Kind::Watermark(fed)) => {
            let StepRecord { state, fed } = record(fed)?;
            Ok(Fact::Watermark { state, fed })
        }
        Some(Kind::Gap(gap)) => Ok(Fact::Gap {
            state: state(gap.state.as_ref())?,
            steps: gap.steps,
        }),
        Some(Kind::Skipped(skipped)) => Ok(Fact::Skipped {
            from: Position(skipped.from_position),
            to: Position(skipped.to_position),
        }),
        None => Err(not_understood("an entry of a kind that is not known here")),
    }
}

fn record(fed: &v1::Fed) -> Result<StepRecord, Failure> {
    Ok(StepRecord {
        state: state(fed.state.as_ref())?,
        fed: Totals {
            tokens: fed.tokens,
            samples: fed.samples,
            evidence: fed.evidence,
        },
    })
}

fn state(state: Option<&v1::StateId>) -> Result<StateId, Failure> {
    let state = state.ok_or_else(|| not_understood("an entry without its state"))?;
    Ok(StateId::new(Generation(state.generation), Step(state.step)))
}

fn digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(not_understood)
}

fn not_understood(error: impl std::fmt::Display) -> Failure {
    Failure::operation(format!("the job's history cannot be understood: {error}"))
        .help("use a muster of the coordinator's version")
}

use muster_proto::v1::{Event, ListEventsRequest};
use serde_json::{Map, Value};

use crate::{
    client::{self, Coordinator},
    failure::Failure,
    output::{self, Output},
};

/// Arguments of `muster events`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster events                      # of the newest job, from the first
  muster events -f                   # new ones too, until the job has ended
  muster events -o json | jq 'select(.kind == \"worker_exit\")'")]
pub struct Args {
    /// The job; the newest one if left out
    #[arg(value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    coordinator: Coordinator,
    /// Go on with new ones until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// How to print them; JSON is one object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Shows what happened to a job.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = ListEventsRequest {
        job_id: client::job_or_newest(&mut client, args.job).await?,
        follow: args.follow,
        after: 0,
    };
    let mut events = client.list_events(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        match args.output {
            Output::Json => output::json_line(&flat(&event))?,
            Output::Table => output::line(format_args!(
                "{}  {:<20}  {:>3} {:>7}  {}",
                event.at,
                event.kind,
                event.generation,
                event.step,
                told(&event)
            ))?,
        }
    }
    Ok(())
}

/// The reason, and whose it is where it does not say so itself.
fn told(event: &Event) -> String {
    let details = details(event);
    let text = |key: &str| details.get(key).and_then(Value::as_str);
    match (text("worker"), text("node")) {
        (Some(worker), _) if event.reason.contains(worker) => event.reason.clone(),
        (Some(worker), Some(node)) => format!("worker {worker} on node {node}: {}", event.reason),
        (Some(worker), None) => format!("worker {worker}: {}", event.reason),
        (None, _) => event.reason.clone(),
    }
}

/// An event with its details beside what every event has.
fn flat(event: &Event) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("at".into(), event.at.clone().into());
    all.insert("kind".into(), event.kind.clone().into());
    all.insert("generation".into(), event.generation.into());
    all.insert("step".into(), event.step.into());
    all.insert("reason".into(), event.reason.clone().into());
    for (key, value) in details(event) {
        all.entry(key).or_insert(value);
    }
    all.insert("sequence".into(), event.sequence.into());
    all
}

/// What an event of its kind says besides.
pub fn details(event: &Event) -> Map<String, Value> {
    // What is no object has no keys to show.
    serde_json::from_str(&event.details_json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn details_lie_beside_what_every_event_has_and_hide_none_of_it() {
        let event = Event {
            sequence: 7,
            at: "2026-01-31T08:05:00.123456Z".into(),
            kind: "worker_exit".into(),
            generation: 2,
            step: 40,
            reason: "killed".into(),
            details_json: r#"{"signal":9,"kind":"other","worker":"w-1"}"#.into(),
        };
        assert_eq!(
            serde_json::to_string(&flat(&event)).unwrap(),
            r#"{"at":"2026-01-31T08:05:00.123456Z","kind":"worker_exit","generation":2,"step":40,"reason":"killed","signal":9,"worker":"w-1","sequence":7}"#
        );
        let bare = Event {
            details_json: String::new(),
            ..event
        };
        assert_eq!(flat(&bare).len(), 6);
    }

    #[test]
    fn people_are_told_which_worker_it_was_and_no_more_than_once() {
        let event = |reason: &str, details: &str| Event {
            reason: reason.into(),
            details_json: details.into(),
            ..Event::default()
        };
        let placed = r#"{"worker":"w-1","node":"node-a","slot":0}"#;
        assert_eq!(
            told(&event("the job starts", placed)),
            "worker w-1 on node node-a: the job starts"
        );
        assert_eq!(
            told(&event("worker w-1 attached", placed)),
            "worker w-1 attached"
        );
        assert_eq!(
            told(&event("cancelled on request", r#"{"worker":"w-1"}"#)),
            "worker w-1: cancelled on request"
        );
        assert_eq!(told(&event("training", "")), "training");
    }
}

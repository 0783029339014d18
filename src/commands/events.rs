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
                event.at, event.kind, event.generation, event.step, event.reason
            ))?,
        }
    }
    Ok(())
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
}

//! What `muster run` shows: a live bar on a terminal, plain lines elsewhere, a summary at the end.

use std::{
    io::{self, IsTerminal},
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use muster_proto::v1::{Event, JobStatus};

use serde_json::json;

use crate::{
    client,
    commands::events::details,
    failure::Failure,
    logging::bars,
    output::{self, Output},
    words,
};

/// Between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Shows how a job gets on.
#[derive(Debug)]
pub struct Progress {
    display: Display,
    /// When the first of the losses happened that no step has followed yet.
    lost_at: Option<Timestamp>,
    /// State and reason, as they were told last.
    told: (String, String),
}

#[derive(Debug)]
enum Display {
    Bar(ProgressBar),
    Plain {
        told_at: Option<Instant>,
        step: u64,
    },
    /// Programs ask for what they want to know.
    Silent,
}

impl Progress {
    /// Says where the run is and how to reach it.
    pub fn start(
        directory: &Path,
        url: &str,
        status: &JobStatus,
        output: Output,
    ) -> Result<Self, Failure> {
        if output == Output::Json {
            output::json_line(&json!({
                "directory": directory,
                "job_id": status.job_id,
                "coordinator": url,
            }))?;
        } else {
            output::line(format_args!("run   {}", directory.display()))?;
            output::line(format_args!("job   {} ({})", status.job_id, status.name))?;
            output::line(format_args!("watch muster status --coordinator {url}"))?;
        }
        let display = if output == Output::Json {
            Display::Silent
        } else if io::stdout().is_terminal() && io::stderr().is_terminal() {
            let bar = ProgressBar::new(status.total_steps).with_style(style());
            let bar = bars().add(bar);
            bar.enable_steady_tick(Duration::from_millis(250));
            Display::Bar(bar)
        } else {
            Display::Plain {
                told_at: None,
                step: status.step,
            }
        };
        Ok(Self {
            display,
            lost_at: None,
            told: (String::new(), String::new()),
        })
    }

    /// Shows a status.
    pub fn status(&mut self, status: &JobStatus) -> Result<(), Failure> {
        match &mut self.display {
            Display::Silent => Ok(()),
            Display::Bar(bar) => {
                bar.set_position(status.step);
                bar.set_message(describe(status));
                Ok(())
            }
            Display::Plain { told_at, step } => {
                if status.state != "training" {
                    let now = (status.state.clone(), status.state_reason.clone());
                    // How it ended, the summary tells.
                    if self.told == now || client::is_over(&now.0) {
                        return Ok(());
                    }
                    output::line(format_args!("{}: {}", now.0, now.1))?;
                    self.told = now;
                    return Ok(());
                }
                let due = told_at.is_none_or(|at| at.elapsed() >= PLAIN_INTERVAL);
                if !due || *step == status.step {
                    return Ok(());
                }
                (*told_at, *step) = (Some(Instant::now()), status.step);
                output::line(format_args!(
                    "step {}/{}  {}",
                    status.step,
                    status.total_steps,
                    describe(status)
                ))
            }
        }
    }

    /// Tells of an event, if it is worth a line.
    pub fn event(&mut self, event: &Event) -> Result<(), Failure> {
        let at: Option<Timestamp> = event.at.parse().ok();
        let details = details(event);
        let text = |key: &str| details.get(key).and_then(|value| value.as_str());
        match event.kind.as_str() {
            "worker_exit" => {
                if details.get("code").and_then(serde_json::Value::as_i64) == Some(0) {
                    return Ok(());
                }
                self.lost_at = self.lost_at.or(at);
                self.note(&event.reason)
            }
            "expelled" => {
                self.lost_at = self.lost_at.or(at);
                self.note(&event.reason)
            }
            "generation_opened" => {
                if text("cause") == Some("lost") {
                    self.lost_at = self.lost_at.or(at);
                }
                Ok(())
            }
            "generation_formed" => {
                let resume = details.get("resume");
                match resume.and_then(|it| it.get("from")?.as_str()) {
                    Some("checkpoint") => self.note(&format!(
                        "goes on from the checkpoint of step {}",
                        event.step
                    )),
                    _ => Ok(()),
                }
            }
            "first_step" => {
                let workers = details
                    .get("world_size")
                    .and_then(serde_json::Value::as_u64)
                    .unwrap_or(0);
                let noun = if workers == 1 { "worker" } else { "workers" };
                let after = match (self.lost_at.take(), at) {
                    (Some(lost), Some(at)) => {
                        let seconds = at.duration_since(lost).as_secs_f64();
                        format!(", {} after the loss", words::span(seconds))
                    }
                    _ => String::new(),
                };
                self.note(&format!(
                    "generation {}: step {} is committed by {workers} {noun}{after}",
                    event.generation, event.step
                ))
            }
            "evaluation" => {
                let loss = details
                    .get("validation_loss")
                    .and_then(serde_json::Value::as_f64);
                let loss = loss.map_or("is not finite".into(), words::loss);
                self.note(&format!("step {}: validation loss {loss}", event.step))
            }
            "checkpoint_committed" => {
                self.note(&format!("step {}: checkpoint complete", event.step))
            }
            "checkpoint_failed" | "checkpoint_condemned" | "storage_unreachable" => {
                self.note(&event.reason)
            }
            _ => Ok(()),
        }
    }

    /// Tells something, above the bar.
    pub fn note(&mut self, text: &str) -> Result<(), Failure> {
        match self.display {
            Display::Silent => Ok(()),
            _ => bars().suspend(|| output::line(text)),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{wide_bar} {pos}/{len} {msg}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One line: state, loss, rate, time left, workers, checkpoint.
fn describe(status: &JobStatus) -> String {
    if status.state != "training" {
        return format!("{}: {}", status.state, status.state_reason);
    }
    let mut parts = vec![
        format!("loss {}", words::known(status.loss, words::loss)),
        format!(
            "{} tokens/s",
            words::known(status.tokens_per_second, words::rounded)
        ),
        format!("{} left", words::known(status.eta_seconds, words::span)),
        match status.world_size {
            1 => "1 worker".into(),
            workers => format!("{workers} workers"),
        },
    ];
    if let Some(checkpoint) = &status.last_checkpoint {
        parts.push(format!("checkpoint {}", checkpoint.step));
    }
    parts.join("  ")
}

/// Says how the run ended, and gives the outcome of the command.
pub fn summary(status: &JobStatus, directory: &Path, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        output::json_line(status)?;
    } else {
        describe_end(status, directory)?;
    }
    match status.state.as_str() {
        "finished" => Ok(()),
        _ => Err(Failure::told()),
    }
}

fn describe_end(status: &JobStatus, directory: &Path) -> Result<(), Failure> {
    let time = |text: &Option<String>| text.as_deref()?.parse::<Timestamp>().ok();
    let took = match (time(&status.started_at), time(&status.ended_at)) {
        (Some(start), Some(end)) => {
            let seconds = end.duration_since(start).as_secs_f64();
            format!(" in {}", words::span(seconds))
        }
        _ => String::new(),
    };
    output::line(format_args!(
        "\n{}: {} of {} steps, {} tokens{took}",
        status.state,
        status.step,
        status.total_steps,
        words::count(status.tokens_seen)
    ))?;
    let mut pairs = output::pairs();
    let mut add = |name: &str, value: String| {
        pairs.add_row([name, &value]);
    };
    if status.state != "finished" {
        add("reason", status.state_reason.clone());
    }
    add("loss", words::known(status.loss, words::loss));
    add(
        "validation loss",
        words::known(status.validation_loss, words::loss),
    );
    add("recoveries", status.recoveries.to_string());
    let checkpoint = words::known(status.last_checkpoint.as_ref(), |it| it.uri.clone());
    add("checkpoint", checkpoint);
    add(
        "metrics",
        directory.join("metrics.jsonl").display().to_string(),
    );
    output::line(pairs)
}

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use muster_cluster::{CommittedStep, Record, RecordKind};
use muster_types::{Generation, JobId, Step};
use serde::Serialize;

use crate::step_log::StepLog;

const SPEC: &str = "spec.json";
pub(crate) const METRICS: &str = "metrics.jsonl";
const EVALUATIONS: &str = "evaluations.jsonl";
/// Lines that wait for the disk; the actor waits when there are more.
const QUEUE: usize = 1 << 16;

/// Where the files of jobs lie.
#[derive(Clone, Debug)]
pub(crate) struct JobDirs {
    pub(crate) data_dir: PathBuf,
    pub(crate) job_dir: Option<PathBuf>,
}

impl JobDirs {
    pub(crate) fn of(&self, job: JobId) -> PathBuf {
        let below = || self.data_dir.join("jobs").join(job.to_string());
        self.job_dir.clone().unwrap_or_else(below)
    }
}

/// Writes what people and tools read beside a job: its spec, a line a committed step, a line an evaluation. A thread of its
/// own keeps the disk off the actor. Nothing is decided by these files, so a failed write is a warning.
#[derive(Debug)]
pub(crate) struct JobFiles {
    notes: Option<mpsc::SyncSender<Note>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Note {
    /// A new job: what an earlier one left in its directory is moved aside.
    Fresh {
        job: JobId,
    },
    Spec {
        job: JobId,
        spec: Box<muster_spec::RunSpec>,
    },
    Resumed {
        job: JobId,
        generation: Generation,
        step: Step,
    },
    Committed(CommittedStep),
    Evaluated {
        job: JobId,
        line: EvaluationLine,
    },
    Over {
        job: JobId,
    },
}

#[derive(Debug, Serialize)]
struct MetricsLine {
    step: u64,
    loss: f64,
    learning_rate: f64,
    gradient_norm: f64,
    tokens: u64,
    step_ms: f64,
    tokens_per_second: f64,
    generation: u64,
    samples: u64,
    /// 16 hexadecimal digits: programs that read numbers as floats would round it.
    evidence: String,
}

#[derive(Debug, Serialize)]
struct EvaluationLine {
    step: u64,
    validation_loss: Option<f64>,
    tokens: u64,
    generation: u64,
}

impl JobFiles {
    pub(crate) fn start(dirs: JobDirs) -> io::Result<Self> {
        let (notes, queue) = mpsc::sync_channel(QUEUE);
        // Ends when `notes` is dropped, after all that waits was written.
        let writer = thread::Builder::new()
            .name("job-files".into())
            .spawn(move || {
                let mut writer = Writer {
                    dirs,
                    open: BTreeMap::new(),
                };
                for note in queue {
                    writer.take(note);
                }
            })?;
        Ok(Self {
            notes: Some(notes),
            writer: Some(writer),
        })
    }

    /// Takes note of a record that was just decided.
    pub(crate) fn decided(&self, record: &Record) {
        if let RecordKind::JobSubmitted(submission) = &record.kind {
            self.send(Note::Fresh {
                job: submission.job,
            });
        }
        self.replayed(record);
    }

    /// Takes note of a record of the journal: brings the files up to it, if they are not.
    pub(crate) fn replayed(&self, record: &Record) {
        let note = match &record.kind {
            RecordKind::JobSubmitted(submission) => Note::Spec {
                job: submission.job,
                spec: Box::new(submission.spec.clone()),
            },
            RecordKind::GenerationFormed {
                job,
                generation,
                resume,
                ..
            } => Note::Resumed {
                job: *job,
                generation: *generation,
                step: resume.state.step,
            },
            RecordKind::Evaluated {
                job,
                state,
                validation_loss,
                tokens,
            } => Note::Evaluated {
                job: *job,
                line: EvaluationLine {
                    step: state.step.get(),
                    validation_loss: *validation_loss,
                    tokens: *tokens,
                    generation: state.generation.get(),
                },
            },
            RecordKind::JobState { job, state, .. } if state.is_over() => Note::Over { job: *job },
            _ => return,
        };
        self.send(note);
    }

    /// Takes note of a committed step.
    pub(crate) fn committed(&self, step: CommittedStep) {
        self.send(Note::Committed(step));
    }

    fn send(&self, note: Note) {
        if let Some(notes) = &self.notes
            && notes.send(note).is_err()
        {
            tracing::error!("the writer of job files is gone; metrics are not written any more");
        }
    }
}

impl Drop for JobFiles {
    fn drop(&mut self) {
        drop(self.notes.take());
        if let Some(writer) = self.writer.take() {
            // A panic there was reported by the panic hook.
            let _ = writer.join();
        }
    }
}

struct Writer {
    dirs: JobDirs,
    open: BTreeMap<JobId, Logs>,
}

struct Logs {
    metrics: StepLog,
    evaluations: StepLog,
}

impl Writer {
    fn take(&mut self, note: Note) {
        let (job, outcome) = match note {
            Note::Fresh { job } => (job, self.set_aside(job)),
            Note::Spec { job, spec } => (job, self.write_spec(job, &spec)),
            Note::Resumed {
                job,
                generation,
                step,
            } => (job, self.resume(job, generation.get(), step.get())),
            Note::Committed(CommittedStep {
                job,
                state,
                metrics,
            }) => {
                let line = MetricsLine {
                    step: metrics.step.get(),
                    loss: metrics.loss,
                    learning_rate: metrics.learning_rate,
                    gradient_norm: metrics.gradient_norm,
                    tokens: metrics.tokens,
                    step_ms: metrics.step_ms,
                    tokens_per_second: metrics.tokens as f64 * 1000.0 / metrics.step_ms,
                    generation: state.generation.get(),
                    samples: metrics.samples,
                    evidence: format!("{:016x}", metrics.evidence),
                };
                (
                    job,
                    self.logs(job)
                        .and_then(|logs| logs.metrics.append(line.step, &line)),
                )
            }
            Note::Evaluated { job, line } => (
                job,
                self.logs(job)
                    .and_then(|logs| logs.evaluations.append(line.step, &line)),
            ),
            Note::Over { job } => {
                self.open.remove(&job);
                return;
            }
        };
        if let Err(error) = outcome {
            let directory = self.dirs.of(job);
            tracing::warn!(%job, directory = %directory.display(), %error, "a job's files could not be written");
            // Opened again, a log cuts off what was written of a line.
            self.open.remove(&job);
        }
    }

    fn set_aside(&mut self, job: JobId) -> io::Result<()> {
        let directory = self.dirs.of(job);
        for name in [SPEC, METRICS, EVALUATIONS] {
            let old = directory.join(name);
            if old.exists() {
                fs::rename(&old, directory.join(format!("{name}.previous")))?;
            }
        }
        Ok(())
    }

    fn write_spec(&mut self, job: JobId, spec: &muster_spec::RunSpec) -> io::Result<()> {
        let directory = self.dirs.of(job);
        let path = directory.join(SPEC);
        if path.exists() {
            return Ok(());
        }
        fs::create_dir_all(&directory)?;
        let unfinished = directory.join(format!("{SPEC}.tmp"));
        let mut text = serde_json::to_vec_pretty(spec)?;
        text.push(b'\n');
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, &path)
    }

    fn resume(&mut self, job: JobId, generation: u64, step: u64) -> io::Result<()> {
        let logs = self.logs(job)?;
        logs.metrics.resume(generation, step)?;
        logs.evaluations.resume(generation, step)
    }

    fn logs(&mut self, job: JobId) -> io::Result<&mut Logs> {
        use std::collections::btree_map::Entry;
        match self.open.entry(job) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let directory = self.dirs.of(job);
                let open = |name: &str| StepLog::open(&Path::new(&directory).join(name));
                let (metrics, evaluations) = (open(METRICS)?, open(EVALUATIONS)?);
                Ok(entry.insert(Logs {
                    metrics,
                    evaluations,
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use muster_cluster::{JobState, Resume, ResumeSource, StepMetrics, Submission};
    use muster_types::{Digest, StateId, Timestamp};
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;

    fn job(last: u8) -> JobId {
        format!("01890a5d-ac96-774b-bcce-b302099a80{last:02x}")
            .parse()
            .unwrap()
    }

    fn record(kind: RecordKind) -> Record {
        Record {
            at: Timestamp(1),
            generation: Generation(1),
            step: Step(0),
            kind,
        }
    }

    fn submitted(job: JobId) -> Record {
        record(RecordKind::JobSubmitted(Box::new(Submission {
            job,
            spec: muster_spec::RunSpec::default(),
            dataset_digest: Digest::new([0; 32]),
            dataset_samples: 1,
            checkpoint_root: "/c".into(),
        })))
    }

    fn formed(job: JobId, generation: u64, from: StateId) -> Record {
        record(RecordKind::GenerationFormed {
            job,
            generation: Generation(generation),
            members: vec![],
            resume: Resume {
                state: from,
                source: ResumeSource::Initialise,
            },
        })
    }

    fn evaluated(job: JobId, generation: u64, step: u64) -> Record {
        let state = StateId::new(Generation(generation), Step(step));
        record(RecordKind::Evaluated {
            job,
            state,
            validation_loss: Some(2.5),
            tokens: 64,
        })
    }

    fn committed(files: &JobFiles, job: JobId, generation: u64, steps: std::ops::Range<u64>) {
        for step in steps {
            let metrics = StepMetrics {
                step: Step(step),
                loss: 3.5,
                learning_rate: 1e-3,
                gradient_norm: 0.5,
                tokens: 512,
                step_ms: 250.0,
                evidence: 7,
                samples: 8,
                slot_ms: 0.0,
            };
            let state = StateId::new(Generation(generation), Step(step));
            files.committed(CommittedStep {
                job,
                state,
                metrics,
            });
        }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn steps(path: &Path) -> Vec<(u64, u64)> {
        let number = |line: &Value, key: &str| line[key].as_u64().unwrap();
        let lines = lines(path);
        lines
            .iter()
            .map(|line| (number(line, "generation"), number(line, "step")))
            .collect()
    }

    #[test]
    fn a_line_a_committed_step_and_the_discarded_branch_is_dropped() {
        let dir = TempDir::new().unwrap();
        let dirs = JobDirs {
            data_dir: dir.path().into(),
            job_dir: None,
        };
        let here = dirs.of(job(1));
        let files = JobFiles::start(dirs.clone()).unwrap();
        files.decided(&submitted(job(1)));
        files.decided(&formed(job(1), 1, StateId::INITIAL));
        committed(&files, job(1), 1, 1..6);
        files.decided(&evaluated(job(1), 1, 2));
        files.decided(&evaluated(job(1), 1, 4));
        let resumed = formed(job(1), 2, StateId::new(Generation(1), Step(3)));
        files.decided(&resumed);
        committed(&files, job(1), 2, 4..6);
        drop(files);
        let spec: muster_spec::RunSpec =
            serde_json::from_slice(&fs::read(here.join(SPEC)).unwrap()).unwrap();
        assert_eq!(spec, muster_spec::RunSpec::default());
        let expected = [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)];
        assert_eq!(steps(&here.join(METRICS)), expected);
        assert_eq!(steps(&here.join(EVALUATIONS)), [(1, 2)]);
        let keys = [
            "step",
            "loss",
            "learning_rate",
            "gradient_norm",
            "tokens",
            "step_ms",
            "tokens_per_second",
            "generation",
            "samples",
            "evidence",
        ];
        let first = &lines(&here.join(METRICS))[0];
        assert_eq!(first.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
        assert_eq!(first["tokens_per_second"], 2048.0);
        assert_eq!(first["evidence"], "0000000000000007");

        // A crash came before the second generation's resume reached the files: replay brings them up to it.
        let files = JobFiles::start(dirs).unwrap();
        files.replayed(&submitted(job(1)));
        files.replayed(&evaluated(job(1), 1, 2));
        files.replayed(&resumed);
        files.replayed(&formed(job(1), 3, StateId::new(Generation(2), Step(4))));
        files.replayed(&evaluated(job(1), 3, 6));
        committed(&files, job(1), 3, 5..6);
        drop(files);
        assert_eq!(
            steps(&here.join(METRICS)),
            [(1, 1), (1, 2), (1, 3), (2, 4), (3, 5)]
        );
        assert_eq!(steps(&here.join(EVALUATIONS)), [(1, 2), (3, 6)]);
    }

    #[test]
    fn jobs_do_not_mix_and_a_directory_that_is_used_again_keeps_what_was_there() {
        let dir = TempDir::new().unwrap();
        let dirs = JobDirs {
            data_dir: dir.path().into(),
            job_dir: None,
        };
        let files = JobFiles::start(dirs.clone()).unwrap();
        committed(&files, job(1), 1, 1..3);
        committed(&files, job(2), 1, 1..4);
        let over = RecordKind::JobState {
            job: job(1),
            state: JobState::Finished,
            reason: "all steps are done".into(),
        };
        files.decided(&record(over));
        drop(files);
        assert_eq!(steps(&dirs.of(job(1)).join(METRICS)).len(), 2);
        assert_eq!(steps(&dirs.of(job(2)).join(METRICS)).len(), 3);

        let out = dir.path().join("out");
        let dirs = JobDirs {
            data_dir: dir.path().into(),
            job_dir: Some(out.clone()),
        };
        let files = JobFiles::start(dirs).unwrap();
        for (one, count) in [(job(1), 5), (job(2), 2)] {
            files.decided(&submitted(one));
            committed(&files, one, 1, 1..count);
            files.decided(&record(RecordKind::JobState {
                job: one,
                state: JobState::Finished,
                reason: String::new(),
            }));
        }
        drop(files);
        assert_eq!(steps(&out.join(METRICS)).len(), 1);
        assert_eq!(steps(&out.join("metrics.jsonl.previous")).len(), 4);
    }
}

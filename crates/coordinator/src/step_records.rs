use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use muster_proto::v1;
use serde::Deserialize;

use crate::job_files::METRICS;

/// The lines of `metrics.jsonl` that say what a step was fed.
#[derive(Debug)]
pub struct StepRecords {
    lines: Option<BufReader<File>>,
}

#[derive(Deserialize)]
struct Line {
    step: u64,
    generation: u64,
    tokens: u64,
    samples: Option<u64>,
    /// 16 hexadecimal digits: programs that read numbers as floats would round it.
    evidence: Option<String>,
}

/// What each committed step was fed, by the metrics in a job's directory. None where they are not there, or do not say: those
/// of older versions. What is being written meanwhile ends them.
///
/// # Errors
/// If there are metrics, but they cannot be read.
pub fn read_steps(job_dir: &Path) -> io::Result<StepRecords> {
    let lines = match File::open(job_dir.join(METRICS)) {
        Ok(file) => Some(BufReader::new(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(StepRecords { lines })
}

impl Iterator for StepRecords {
    type Item = io::Result<v1::Fed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut text = Vec::new();
            if let Err(error) = self.lines.as_mut()?.read_until(b'\n', &mut text) {
                self.lines = None;
                return Some(Err(error));
            }
            let line = text.strip_suffix(b"\n").map(serde_json::from_slice::<Line>);
            let Some(Ok(line)) = line else {
                self.lines = None;
                return None;
            };
            let evidence = line.evidence.map(|text| u64::from_str_radix(&text, 16));
            if let (Some(samples), Some(Ok(evidence))) = (line.samples, evidence) {
                return Some(Ok(v1::Fed {
                    state: Some(v1::StateId {
                        generation: line.generation,
                        step: line.step,
                    }),
                    tokens: line.tokens,
                    samples,
                    evidence,
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_without_evidence_are_passed_over_and_a_torn_one_is_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"step\":1,\"generation\":1,\"tokens\":8}\n\
            {\"step\":2,\"generation\":3,\"tokens\":8,\"samples\":2,\"evidence\":\"fffffffffffffffe\"}\n\
            {\"step\":3,\"generation\":3,\"tokens\":8,\"samples\":2,\"evidence\":\"0\"";
        std::fs::write(dir.path().join(METRICS), text).unwrap();
        let steps: Vec<_> = read_steps(dir.path())
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(steps.len(), 1);
        let state = v1::StateId {
            generation: 3,
            step: 2,
        };
        assert_eq!(steps[0].state, Some(state));
        assert_eq!((steps[0].evidence, steps[0].samples), (u64::MAX - 1, 2));
        assert_eq!(read_steps(&dir.path().join("absent")).unwrap().count(), 0);
    }
}

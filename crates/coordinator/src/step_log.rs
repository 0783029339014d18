use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// A file of JSON objects, a line a step, in order of steps. Every line carries `step` and `generation`.
#[derive(Debug)]
pub(crate) struct StepLog {
    file: File,
    last_step: Option<u64>,
}

#[derive(Deserialize)]
struct Line {
    step: u64,
    generation: u64,
}

impl StepLog {
    /// Opens the file where there is one, else makes it. What a crash left of a line is cut off.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)?;
        let mut end = 0;
        let mut last_step = None;
        for (offset, line) in lines(&mut file)? {
            let Some(line) = line else { break };
            last_step = Some(line.step);
            end = offset;
        }
        file.set_len(end)?;
        Ok(Self { file, last_step })
    }

    /// Drops the lines of older generations than `generation` above `step`, from which it went on: that branch is discarded.
    pub(crate) fn resume(&mut self, generation: u64, step: u64) -> io::Result<()> {
        let mut end = 0;
        self.last_step = None;
        for (offset, line) in lines(&mut self.file)? {
            let Some(line) = line else { break };
            if line.step > step && line.generation < generation {
                break;
            }
            self.last_step = Some(line.step);
            end = offset;
        }
        self.file.set_len(end)
    }

    /// Writes the line of `step`, unless that step or a later one is there already.
    pub(crate) fn append(&mut self, step: u64, line: &impl Serialize) -> io::Result<()> {
        if self.last_step.is_some_and(|last| last >= step) {
            return Ok(());
        }
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(&text)?;
        self.last_step = Some(step);
        Ok(())
    }
}

/// Each line with the offset of its end; `None` for one that is torn or no line of ours.
fn lines(file: &mut File) -> io::Result<Vec<(u64, Option<Line>)>> {
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut content)?;
    let mut end = 0;
    let parse = |line: &[u8]| {
        end += line.len() as u64;
        let whole = line
            .ends_with(b"\n")
            .then(|| serde_json::from_slice(line).ok())
            .flatten();
        (end, whole)
    };
    Ok(content
        .split_inclusive(|byte| *byte == b'\n')
        .map(parse)
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    fn file() -> (TempDir, PathBuf) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("jobs/x/metrics.jsonl");
        (dir, path)
    }

    fn write(log: &mut StepLog, generation: u64, steps: std::ops::RangeInclusive<u64>) {
        for step in steps {
            log.append(step, &json!({ "step": step, "generation": generation }))
                .unwrap();
        }
    }

    fn read(path: &Path) -> Vec<(u64, u64)> {
        let text = fs::read_to_string(path).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Line>(line).unwrap());
        lines.map(|line| (line.generation, line.step)).collect()
    }

    #[test]
    fn a_step_is_written_once() {
        let (_dir, path) = file();
        let mut log = StepLog::open(&path).unwrap();
        write(&mut log, 1, 1..=3);
        write(&mut log, 1, 2..=4);
        assert_eq!(read(&path), [(1, 1), (1, 2), (1, 3), (1, 4)]);
    }

    #[test]
    fn a_generation_that_resumed_below_drops_the_discarded_branch() {
        let (_dir, path) = file();
        let mut log = StepLog::open(&path).unwrap();
        write(&mut log, 1, 1..=5);
        log.resume(2, 3).unwrap();
        write(&mut log, 2, 4..=6);
        let expected = [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)];
        assert_eq!(read(&path), expected);
        // Said again, as after a restart, it changes nothing.
        log.resume(2, 3).unwrap();
        assert_eq!(read(&path), expected);
        log.resume(3, 0).unwrap();
        assert_eq!(read(&path), []);
    }

    #[test]
    fn it_goes_on_after_a_reopen_and_without_the_line_that_a_crash_tore() {
        let (_dir, path) = file();
        write(&mut StepLog::open(&path).unwrap(), 1, 1..=3);
        let mut content = fs::read(&path).unwrap();
        content.truncate(content.len() - 4);
        fs::write(&path, content).unwrap();
        let mut log = StepLog::open(&path).unwrap();
        write(&mut log, 1, 2..=4);
        assert_eq!(read(&path), [(1, 1), (1, 2), (1, 3), (1, 4)]);
    }
}

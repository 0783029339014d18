use std::{collections::VecDeque, fmt};

/// Lines that are shown where a rule is broken.
const SHOWN: usize = 80;

/// What has happened, line by line: the last lines, a digest of all, and all of them where someone wants to compare.
#[derive(Debug, Default)]
pub struct Trace {
    last: VecDeque<String>,
    pub all: Option<String>,
    pub lines: u64,
    pub digest: u64,
}

impl Trace {
    pub fn line(&mut self, at_ms: u64, what: fmt::Arguments<'_>) {
        let line = format!("{:>10.3} {what}", at_ms as f64 / 1000.0);
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.lines += 1;
        if let Some(all) = &mut self.all {
            all.push_str(&line);
            all.push('\n');
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub fn tail(&self) -> String {
        self.last.iter().map(|line| format!("{line}\n")).collect()
    }
}

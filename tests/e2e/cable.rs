//! A cable that delays, reorders and loses frames. `cable.py` carries them, so that this is the same on every kernel.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

/// What happens to each frame, either way.
#[derive(Clone, Copy)]
pub struct Flaws {
    pub delay: Duration,
    /// By how much a frame may be earlier or later.
    pub jitter: Duration,
    /// The part that is lost.
    pub loss: f64,
}

/// What went over a cable, both ways together.
pub struct Carried {
    pub frames: u64,
    pub lost: u64,
}

/// Gone, with both its ends, when it is dropped.
pub struct Cable {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Cable {
    /// Its ends are devices in the namespace, both down.
    pub fn lay(namespace: &str, ends: [&str; 2], flaws: Flaws, seed: usize) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/cable.py");
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1000.0).to_string();
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace, "python3", script])
            .args(ends)
            .args(["--delay-ms", &milliseconds(flaws.delay)])
            .args(["--jitter-ms", &milliseconds(flaws.jitter)])
            .args(["--loss", &flaws.loss.to_string()])
            .args(["--seed", &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut cable = Self { child, said };
        assert_eq!(cable.line(), "ready\n", "python3 {script}");
        cable
    }

    pub fn take_up(mut self) -> Carried {
        drop(self.child.stdin.take());
        let counts: Value = serde_json::from_str(&self.line()).unwrap();
        Carried {
            frames: counts["frames"].as_u64().unwrap(),
            lost: counts["lost"].as_u64().unwrap(),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

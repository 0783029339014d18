use std::{fs, io};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// A process, named so that another one that gets its id later is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks from the machine's start to the process's.
    pub(crate) start_ticks: u64,
}

impl Process {
    /// The process that has this id now.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path)?;
        let start_ticks = start_ticks(&stat)
            .ok_or_else(|| io::Error::other(format!("{path} holds no start time: {stat:?}")))?;
        Ok(Self { pid, start_ticks })
    }

    /// Signals the group that the process leads. One that is gone is left alone.
    ///
    /// Its parent reaps it, so the id could be free by the time of the signal; ids are dealt in turn, and a whole turn does not
    /// fit between the look and the signal.
    pub(crate) fn signal_group(self, signal: Signal) {
        if Self::of(self.pid).is_ok_and(|now| now == self) {
            // It may be gone just now, which is what was wanted.
            let _ = killpg(pid_of(self.pid), signal);
        }
    }
}

pub(crate) fn pid_of(pid: u32) -> Pid {
    // The kernel's process ids fit.
    Pid::from_raw(pid.cast_signed())
}

/// Field 22 of `/proc/PID/stat`. The second field, the command in parentheses, may hold blanks and parentheses itself.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "42 (a (odd) name) S 1 42 42 0 -1 4194304 100 0 0 0 1 2 3 4 20 0 1 0 987654 1000 10 18446744073709551615";
        assert_eq!(start_ticks(stat), Some(987_654));
        assert_eq!(start_ticks("42 (short) S 1"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn a_process_is_itself_and_no_other() {
        let own = Process::of(std::process::id()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Process::of(own.pid).ok(), Some(own));
        let earlier = Process {
            start_ticks: own.start_ticks - 1,
            ..own
        };
        // Were it taken for this process, this signal would end the test.
        earlier.signal_group(Signal::SIGKILL);
        assert!(Process::of(u32::MAX / 2).is_err());
    }
}

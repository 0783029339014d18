use std::{fs, io, path::Path, time::Instant};

/// What a process has used of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    at: Instant,
    /// CPU seconds, of the kernel's on its behalf too.
    cpu_s: f64,
}

/// Of the kernel's clock that /proc counts in; the same on every Linux.
const TICKS: f64 = 100.0;

impl Usage {
    /// # Errors
    /// If there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold anything.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok());
        Ok(Self {
            at: Instant::now(),
            cpu_s: ticks.sum::<f64>() / TICKS,
        })
    }

    /// Cores used from then to now.
    pub fn cores_since(self, earlier: Self) -> f64 {
        let wall = self.at.duration_since(earlier.at).as_secs_f64();
        (self.cpu_s - earlier.cpu_s) / wall
    }
}

/// Resident memory of a process, in MiB: now, and at its largest.
///
/// # Errors
/// If there is no such process.
pub fn memory_mib(pid: u32) -> io::Result<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or_default() / 1024.0
    };
    Ok((field("VmRSS:"), field("VmHWM:")))
}

/// Bytes of the journal, with what is not yet written back into it.
pub fn journal_bytes(data_dir: &Path) -> u64 {
    let bytes = |name| fs::metadata(data_dir.join(name)).map_or(0, |it| it.len());
    bytes("journal.sqlite") + bytes("journal.sqlite-wal")
}

//! What a node has to have before a worker is worth starting on it. What a GPU computes is its worker's own to check.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Logs and the orders of workers have to fit.
const LEAST_DISK_BYTES: u64 = 64 << 20;
/// libtorch alone takes more.
const LEAST_MEMORY_BYTES: u64 = 128 << 20;

/// Why no worker could run here, now that the node joins.
pub(crate) fn on_joining(data_dir: &Path) -> Option<String> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    judge_disk(data_dir, free_bytes(data_dir)).or_else(|| judge_memory(system.available_memory()))
}

/// Why no other worker could run here. What those that run have allocated says nothing against the node.
pub(crate) fn while_working(data_dir: &Path) -> Option<String> {
    judge_disk(data_dir, free_bytes(data_dir))
}

fn free_bytes(directory: &Path) -> Result<u64, String> {
    let system = statvfs(directory).map_err(|error| error.to_string())?;
    if system
        .flags()
        .contains(nix::sys::statvfs::FsFlags::ST_RDONLY)
    {
        return Err("the file system is read-only".into());
    }
    Ok(system
        .blocks_available()
        .saturating_mul(system.fragment_size()))
}

fn judge_disk(directory: &Path, free: Result<u64, String>) -> Option<String> {
    let directory = directory.display();
    match free {
        Err(reason) => Some(format!(
            "its data directory {directory} cannot be used: {reason}"
        )),
        Ok(free) if free < LEAST_DISK_BYTES => Some(format!(
            "its data directory {directory} has {} MiB left, and workers need {}",
            free >> 20,
            LEAST_DISK_BYTES >> 20
        )),
        Ok(_) => None,
    }
}

fn judge_memory(available: u64) -> Option<String> {
    (available < LEAST_MEMORY_BYTES).then(|| {
        format!(
            "{} MiB of memory are available, and a worker needs {} to start",
            available >> 20,
            LEAST_MEMORY_BYTES >> 20
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_room_says_what_it_lacks() {
        let disk = |free| judge_disk(Path::new("/d"), free);
        assert_eq!(disk(Ok(1 << 30)), None);
        assert_eq!(
            disk(Ok(3 << 20)).as_deref(),
            Some("its data directory /d has 3 MiB left, and workers need 64")
        );
        let broken = disk(Err("Input/output error".into()));
        assert!(broken.is_some_and(|it| it.ends_with("cannot be used: Input/output error")));
        assert_eq!(judge_memory(1 << 30), None);
        assert!(judge_memory(1 << 20).is_some_and(|it| it.starts_with("1 MiB of memory")));
    }

    #[test]
    fn this_machine_can_be_read() {
        assert!(free_bytes(Path::new("/")).is_ok());
        let reason = while_working(Path::new("/nowhere/at/all"));
        assert!(reason.is_some_and(|it| it.contains("No such file")));
    }
}

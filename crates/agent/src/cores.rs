use std::{collections::BTreeSet, fs, path::Path};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

const NODES: &str = "/sys/devices/system/node";
const CPUS: &str = "/sys/devices/system/cpu";
const PCI: &str = "/sys/bus/pci/devices";

/// Whether workers are bound to cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// Where each slot can have cores of its own, its worker stays on them; a worker on a GPU stays near it. A single CPU
    /// slot is left to the kernel.
    #[default]
    Slots,
    /// The kernel moves workers about.
    Never,
}

/// The cores that this process may use, by NUMA node; hardware threads of one core are neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cores {
    nodes: Vec<(u32, Vec<usize>)>,
}

impl Cores {
    /// Those of this machine. Empty where the kernel does not say.
    pub(crate) fn of_this_machine() -> Self {
        let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else {
            return Self::default();
        };
        let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
        let mut nodes = Vec::new();
        for entry in fs::read_dir(NODES).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(node) = name.strip_prefix("node").and_then(|it| it.parse().ok()) else {
                continue;
            };
            let cpus = read_list(&entry.path().join("cpulist"));
            nodes.push((node, cpus.into_iter().filter(is_allowed).collect()));
        }
        if nodes.is_empty() {
            nodes.push((0, (0..CpuSet::count()).filter(is_allowed).collect()));
        }
        Self::new(nodes, |cpu| {
            let siblings = format!("{CPUS}/cpu{cpu}/topology/thread_siblings_list");
            let siblings = read_list(Path::new(&siblings));
            siblings.first().copied().unwrap_or(cpu)
        })
    }

    fn new(mut nodes: Vec<(u32, Vec<usize>)>, first_sibling: impl Fn(usize) -> usize) -> Self {
        nodes.retain(|(_, cpus)| !cpus.is_empty());
        nodes.sort();
        for (_, cpus) in &mut nodes {
            cpus.sort_by_key(|cpu| (first_sibling(*cpu), *cpu));
        }
        Self { nodes }
    }

    /// Cores for each of `count` CPU slots: as many for each, of one NUMA node where that can be. None where there are more slots
    /// than cores, or where the one slot has all of them.
    pub(crate) fn for_slots(&self, count: u32) -> Vec<Vec<usize>> {
        let total: usize = self.nodes.iter().map(|(_, cpus)| cpus.len()).sum();
        let count = count as usize;
        let each = total / count.max(1);
        if count < 2 || each == 0 {
            return vec![Vec::new(); count];
        }
        let (mut slots, mut rest) = (Vec::new(), Vec::new());
        for (_, cpus) in &self.nodes {
            let whole = cpus.chunks_exact(each);
            rest.extend(whole.remainder());
            slots.extend(whole.map(<[usize]>::to_vec));
        }
        slots.extend(rest.chunks_exact(each).map(<[usize]>::to_vec));
        slots.truncate(count);
        slots
    }

    /// The cores near a GPU, by its PCI address as NVML spells it; none where the machine does not say.
    pub(crate) fn near_gpu(&self, bus_id: &str) -> Vec<usize> {
        let node = fs::read_to_string(format!("{PCI}/{}/numa_node", sysfs_name(bus_id)));
        let node = node.ok().and_then(|text| text.trim().parse().ok());
        self.of_node(node)
    }

    fn of_node(&self, node: Option<u32>) -> Vec<usize> {
        let found = self.nodes.iter().find(|(it, _)| Some(*it) == node);
        found.map(|(_, cpus)| cpus.clone()).unwrap_or_default()
    }
}

/// Has this process, and all that it starts, stay on these cores.
pub(crate) fn stay_on(cores: &BTreeSet<usize>) -> Result<(), nix::Error> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}

fn read_list(path: &Path) -> Vec<usize> {
    parse_list(&fs::read_to_string(path).unwrap_or_default())
}

/// `0-3,8` as the kernel writes it. What cannot be read is left out.
fn parse_list(text: &str) -> Vec<usize> {
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            all.extend(first..=last);
        }
    }
    all
}

/// NVML writes `00000000:3B:00.0`, the kernel `0000:3b:00.0`.
fn sysfs_name(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() > 4 => {
            format!("{}:{rest}", &domain[domain.len() - 4..])
        }
        _ => lower,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_nodes() -> Cores {
        // Core n and n + 8 are threads of one core.
        let nodes = vec![
            (1, (4..8).chain(12..16).collect()),
            (0, (0..4).chain(8..12).collect()),
        ];
        Cores::new(nodes, |cpu| cpu % 8)
    }

    #[test]
    fn a_slot_has_whole_cores_of_one_node() {
        let slots = two_nodes().for_slots(4);
        assert_eq!(slots[0], [0, 8, 1, 9]);
        assert_eq!(slots[1], [2, 10, 3, 11]);
        assert_eq!(slots[2], [4, 12, 5, 13]);
        let all: BTreeSet<_> = slots.concat().into_iter().collect();
        assert_eq!(all.len(), 16);
    }

    #[test]
    fn what_does_not_divide_is_shared_out_all_the_same() {
        let slots = two_nodes().for_slots(3);
        assert_eq!(slots.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 5]);
        let all: BTreeSet<_> = slots.concat().into_iter().collect();
        assert_eq!(all.len(), 15, "no core is in two slots");
    }

    #[test]
    fn one_slot_and_too_many_are_left_to_the_kernel() {
        assert_eq!(two_nodes().for_slots(1), [Vec::<usize>::new()]);
        assert_eq!(two_nodes().for_slots(17), vec![Vec::<usize>::new(); 17]);
        assert_eq!(Cores::default().for_slots(2), vec![Vec::<usize>::new(); 2]);
    }

    #[test]
    fn a_gpu_has_the_cores_of_its_node() {
        assert_eq!(two_nodes().of_node(Some(1)).len(), 8);
        assert!(two_nodes().of_node(None).is_empty());
        assert!(two_nodes().of_node(Some(7)).is_empty());
        assert_eq!(sysfs_name("00000000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(sysfs_name("0000:3b:00.0"), "0000:3b:00.0");
    }

    #[test]
    fn lists_are_as_the_kernel_writes_them() {
        assert_eq!(parse_list("0-2,8,10-11\n"), [0, 1, 2, 8, 10, 11]);
        assert_eq!(parse_list(""), [0; 0]);
    }

    #[test]
    fn this_machine_has_cores() {
        let count: usize = Cores::of_this_machine()
            .nodes
            .iter()
            .map(|(_, it)| it.len())
            .sum();
        assert_eq!(
            count,
            std::thread::available_parallelism().map_or(0, usize::from)
        );
    }
}

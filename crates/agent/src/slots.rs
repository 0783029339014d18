use std::{collections::BTreeSet, thread::available_parallelism};

use muster_proto::v1::Slot;

use crate::{Pinning, SlotsOption, cores::Cores, gpus::nvml};

/// The slots that `option` makes of this machine. GPUs are found by NVML; a machine without its driver has none.
/// `CUDA_VISIBLE_DEVICES` narrows them down as it does for CUDA itself.
pub fn discover_slots(option: SlotsOption) -> Vec<Slot> {
    let gpus = match option {
        SlotsOption::Cpu(_) => Vec::new(),
        _ => visible(
            gpu_uuids(),
            std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref(),
        ),
    };
    let cores = available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    deal(option, &gpus, cores)
}

/// The cores that the worker of each slot is to stay on; none: all.
pub(crate) fn pins(pinning: Pinning, slots: &[Slot]) -> Vec<BTreeSet<usize>> {
    if pinning == Pinning::Never {
        return vec![BTreeSet::new(); slots.len()];
    }
    let cores = Cores::of_this_machine();
    let of_cpu_slots = cores.for_slots(u32::try_from(slots.len()).unwrap_or(u32::MAX));
    let on_gpu = |slot: &Slot| !slot.gpu_uuid.is_empty();
    let driver = slots.iter().any(on_gpu).then(nvml).and_then(Result::ok);
    let of_slot = |(slot, own): (&Slot, Vec<usize>)| match on_gpu(slot) {
        false => own.into_iter().collect(),
        true => {
            let gpu = driver
                .as_ref()
                .map(|driver| driver.device_by_uuid(slot.gpu_uuid.as_str()));
            let address = gpu.and_then(Result::ok).and_then(|gpu| gpu.pci_info().ok());
            let near = address.map(|address| cores.near_gpu(&address.bus_id));
            near.unwrap_or_default().into_iter().collect()
        }
    };
    slots.iter().zip(of_cpu_slots).map(of_slot).collect()
}

/// (index, UUID) of every GPU.
fn gpu_uuids() -> Vec<(u32, String)> {
    let nvml = match nvml() {
        Ok(nvml) => nvml,
        Err(reason) => {
            tracing::debug!(%reason, "no NVIDIA driver: offering CPU slots");
            return Vec::new();
        }
    };
    let count = nvml.device_count().unwrap_or(0);
    let mut gpus = Vec::new();
    for index in 0..count {
        match nvml.device_by_index(index).and_then(|gpu| gpu.uuid()) {
            Ok(uuid) => gpus.push((index, uuid)),
            Err(reason) => {
                tracing::warn!(index, %reason, "a GPU does not answer; it is not offered")
            }
        }
    }
    gpus
}

/// What `CUDA_VISIBLE_DEVICES` leaves, in its order. As in CUDA, the list ends at the first entry that names no GPU.
fn visible(gpus: Vec<(u32, String)>, filter: Option<&str>) -> Vec<(u32, String)> {
    let Some(filter) = filter else { return gpus };
    filter
        .split(',')
        .map(|entry| {
            let entry = entry.trim();
            let found = gpus
                .iter()
                .find(|(index, uuid)| match entry.parse::<u32>() {
                    Ok(number) => number == *index,
                    Err(_) => !entry.is_empty() && uuid.starts_with(entry),
                });
            found.cloned()
        })
        .map_while(|found| found)
        .collect()
}

fn deal(option: SlotsOption, gpus: &[(u32, String)], cores: u32) -> Vec<Slot> {
    let count = match option {
        SlotsOption::Auto => u32::try_from(gpus.len()).unwrap_or(u32::MAX).max(1),
        SlotsOption::Count(count) | SlotsOption::Cpu(count) => count,
    };
    let threads = (cores / count.max(1)).max(1);
    (0..count)
        .map(|index| {
            let gpu = gpus.get(index as usize % gpus.len().max(1));
            let (device, gpu_uuid) = match gpu {
                Some((gpu, uuid)) => (format!("cuda:{gpu}"), uuid.clone()),
                None => ("cpu".to_owned(), String::new()),
            };
            Slot {
                index,
                device,
                gpu_uuid,
                threads,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(count: u32) -> Vec<(u32, String)> {
        (0..count)
            .map(|index| (index, format!("GPU-{index}a")))
            .collect()
    }

    fn devices(slots: &[Slot]) -> Vec<(&str, u32)> {
        slots
            .iter()
            .map(|slot| (slot.device.as_str(), slot.threads))
            .collect()
    }

    #[test]
    fn without_a_gpu_there_is_one_cpu_slot_or_as_many_as_asked_for() {
        assert_eq!(devices(&deal(SlotsOption::Auto, &[], 8)), [("cpu", 8)]);
        assert_eq!(
            devices(&deal(SlotsOption::Count(3), &[], 8)),
            [("cpu", 2); 3]
        );
        assert_eq!(
            devices(&deal(SlotsOption::Count(4), &[], 2)),
            [("cpu", 1); 4]
        );
    }

    #[test]
    fn gpus_are_dealt_in_turn() {
        let slots = deal(SlotsOption::Auto, &gpus(2), 8);
        assert_eq!(devices(&slots), [("cuda:0", 4), ("cuda:1", 4)]);
        assert_eq!(slots[1].gpu_uuid, "GPU-1a");
        let slots = deal(SlotsOption::Count(3), &gpus(2), 8);
        assert_eq!(
            devices(&slots),
            [("cuda:0", 2), ("cuda:1", 2), ("cuda:0", 2)]
        );
        assert_eq!(slots[2].index, 2);
    }

    #[test]
    fn cpu_slots_have_no_gpu() {
        let found = discover_slots(SlotsOption::Cpu(2));
        assert!(
            found
                .iter()
                .all(|slot| slot.device == "cpu" && slot.gpu_uuid.is_empty())
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn the_visible_devices_narrow_and_order_the_gpus() {
        let indices = |filter| -> Vec<u32> {
            visible(gpus(3), filter)
                .into_iter()
                .map(|(index, _)| index)
                .collect()
        };
        assert_eq!(indices(None), [0, 1, 2]);
        assert_eq!(indices(Some("2,0")), [2, 0]);
        assert_eq!(indices(Some("GPU-1")), [1]);
        assert_eq!(indices(Some("1,-1,2")), [1]);
        assert_eq!(indices(Some("")), [0; 0]);
    }
}

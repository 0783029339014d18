use std::ops::Range;

use muster_types::{Segment, Step};

use crate::PlanError;

/// What a step trains on: its segment, and its positions in the data order. `step` is 0-based: the number of steps
/// committed before it. `segments` are in the order of their journaling, each from a later step than the one before.
///
/// # Errors
/// When the segments are out of order, none covers the step, or its numbers don't fit.
pub fn positions(segments: &[Segment], step: Step) -> Result<(Segment, Range<u64>), PlanError> {
    if let Some(at) = segments
        .windows(2)
        .position(|pair| pair[1].start_step <= pair[0].start_step)
    {
        return Err(PlanError::SegmentsOutOfOrder {
            index: at + 1,
            start: segments[at + 1].start_step,
        });
    }
    let covering = segments.partition_point(|segment| segment.start_step <= step);
    let Some(segment) = covering.checked_sub(1).map(|last| segments[last]) else {
        return Err(PlanError::StepNotCovered {
            step,
            first: segments.first().map(|first| first.start_step),
        });
    };
    if segment.global_batch == 0 {
        return Err(PlanError::EmptyBatch {
            start: segment.start_step,
        });
    }
    let batch = u64::from(segment.global_batch);
    let start = (step.get() - segment.start_step.get())
        .checked_mul(batch)
        .and_then(|offset| segment.start_position.get().checked_add(offset));
    match start.and_then(|start| Some((start, start.checked_add(batch)?))) {
        Some((start, end)) => Ok((segment, start..end)),
        None => Err(PlanError::PositionOverflow { step }),
    }
}

/// The part of a step's positions that lies in one slot of the batch.
///
/// # Errors
/// When the slot does not lie wholly inside the step.
pub fn slot_positions(
    step: &Range<u64>,
    micro_batch: u32,
    slot: u32,
) -> Result<Range<u64>, PlanError> {
    let offset = u64::from(slot) * u64::from(micro_batch);
    let global_batch = step.end.saturating_sub(step.start);
    if micro_batch == 0 || offset + u64::from(micro_batch) > global_batch {
        return Err(PlanError::SlotOutside {
            slot,
            micro_batch,
            global_batch,
        });
    }
    let start = step.start + offset;
    Ok(start..start + u64::from(micro_batch))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use muster_types::{Digest, Position};

    use super::*;

    fn segment(step: u64, position: u64, global_batch: u32) -> Segment {
        Segment {
            start_step: Step(step),
            start_position: Position(position),
            global_batch,
            dataset_digest: Digest::new([0; 32]),
        }
    }

    #[test]
    fn the_newest_segment_that_has_begun_decides() {
        let segments = [segment(0, 0, 8), segment(10, 80, 16), segment(20, 1000, 16)];
        assert_eq!(
            positions(&segments, Step(9)).unwrap(),
            (segments[0], 72..80)
        );
        assert_eq!(
            positions(&segments, Step(10)).unwrap(),
            (segments[1], 80..96)
        );
        assert_eq!(
            positions(&segments, Step(19)).unwrap(),
            (segments[1], 224..240)
        );
        assert_eq!(
            positions(&segments, Step(21)).unwrap(),
            (segments[2], 1016..1032)
        );
    }

    #[test]
    fn refuses_what_has_no_answer() {
        assert_eq!(
            positions(&[], Step(0)),
            Err(PlanError::StepNotCovered {
                step: Step(0),
                first: None
            })
        );
        let late = [segment(5, 0, 8)];
        assert_eq!(
            positions(&late, Step(4)),
            Err(PlanError::StepNotCovered {
                step: Step(4),
                first: Some(Step(5))
            })
        );
        let twice = [segment(0, 0, 8), segment(5, 40, 8), segment(5, 40, 4)];
        assert_eq!(
            positions(&twice, Step(0)),
            Err(PlanError::SegmentsOutOfOrder {
                index: 2,
                start: Step(5)
            })
        );
        assert_eq!(
            positions(&[segment(0, 0, 0)], Step(3)),
            Err(PlanError::EmptyBatch { start: Step(0) })
        );
        let far = [segment(0, u64::MAX - 8, 8)];
        assert!(positions(&far, Step(0)).is_ok());
        assert_eq!(
            positions(&far, Step(1)),
            Err(PlanError::PositionOverflow { step: Step(1) })
        );
        assert!(positions(&far, Step(u64::MAX)).is_err());
    }

    #[test]
    fn slots_tile_the_step() {
        let step = 100..112;
        let slots: Vec<_> = (0..3)
            .map(|slot| slot_positions(&step, 4, slot).unwrap())
            .collect();
        assert_eq!(slots, [100..104, 104..108, 108..112]);
        assert!(slot_positions(&step, 4, 3).is_err());
        assert!(
            slot_positions(&step, 5, 2).is_err(),
            "a slot that reaches beyond the step"
        );
        assert!(slot_positions(&step, 0, 0).is_err());
        assert!(slot_positions(&step, u32::MAX, u32::MAX).is_err());
    }
}

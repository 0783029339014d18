use std::f64::consts::PI;

use muster_spec::{ScheduleKind, ScheduleSpec};
use muster_types::Step;

/// The learning rate with which the step after `step` committed ones is made, out of `steps` in all.
///
/// Warm-up rises linearly from `peak / warmup_steps` at the first step to `peak`. What follows is a function of how far
/// the step lies between the end of the warm-up and `steps`, which is where `min_ratio` of the peak would be reached: the
/// last step, `steps - 1`, lies just above it. Steps from `steps` on stay at the minimum.
pub fn learning_rate(schedule: &ScheduleSpec, peak: f64, steps: u64, step: Step) -> f64 {
    let (step, warmup) = (step.get(), schedule.warmup_steps);
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let low = schedule.min_ratio;
    let share = match schedule.kind {
        ScheduleKind::Constant => 1.0,
        // Loshchilov & Hutter 2017, SGDR, equation 5, with one period.
        ScheduleKind::Cosine => {
            low + (1.0 - low) * 0.5 * (1.0 + (PI * progress(step, warmup, steps)).cos())
        }
        ScheduleKind::Linear => low + (1.0 - low) * (1.0 - progress(step, warmup, steps)),
        // Hu et al. 2024, MiniCPM, §4.
        ScheduleKind::Wsd => {
            let start = steps.saturating_sub(schedule.decay_steps).max(warmup);
            low + (1.0 - low) * (1.0 - progress(step, start, steps))
        }
    };
    peak * share
}

/// How far `step` lies between `start` and `end`: 0 up to `start`, 1 from `end` on.
fn progress(step: u64, start: u64, end: u64) -> f64 {
    if step >= end {
        1.0
    } else {
        step.saturating_sub(start) as f64 / (end - start.min(end)).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(kind: ScheduleKind) -> ScheduleSpec {
        ScheduleSpec {
            kind,
            warmup_steps: 30,
            min_ratio: 0.1,
            decay_steps: 100,
        }
    }

    fn rate(kind: ScheduleKind, step: u64) -> f64 {
        learning_rate(&schedule(kind), 1e-3, 300, Step(step))
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-15
    }

    #[test]
    fn warm_up_starts_at_its_first_fraction_and_reaches_the_peak() {
        for kind in [
            ScheduleKind::Cosine,
            ScheduleKind::Linear,
            ScheduleKind::Wsd,
            ScheduleKind::Constant,
        ] {
            assert!(close(rate(kind, 0), 1e-3 / 30.0));
            assert!(close(rate(kind, 14), 0.5e-3));
            assert!(close(rate(kind, 29), 1e-3));
            assert!(close(rate(kind, 30), 1e-3));
        }
    }

    #[test]
    fn each_shape_passes_through_its_known_points() {
        // Half-way between warm-up and the end is step 165.
        assert!(close(rate(ScheduleKind::Cosine, 165), 0.55e-3));
        assert!(close(
            rate(ScheduleKind::Cosine, 75),
            1e-3 * (0.1 + 0.45 * (1.0 + (PI / 6.0).cos()))
        ));
        assert!(close(rate(ScheduleKind::Linear, 165), 0.55e-3));
        assert!(close(rate(ScheduleKind::Linear, 210), 0.4e-3));
        assert!(close(rate(ScheduleKind::Wsd, 200), 1e-3));
        assert!(close(rate(ScheduleKind::Wsd, 250), 0.55e-3));
        assert!(close(rate(ScheduleKind::Constant, 299), 1e-3));
        for kind in [
            ScheduleKind::Cosine,
            ScheduleKind::Linear,
            ScheduleKind::Wsd,
        ] {
            assert!(close(rate(kind, 300), 1e-4), "{kind:?}");
            assert!(close(rate(kind, 10_000), 1e-4), "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn after_warm_up_the_rate_never_rises_and_stays_between_minimum_and_peak(
            kind in prop_oneof![
                Just(ScheduleKind::Cosine), Just(ScheduleKind::Linear),
                Just(ScheduleKind::Wsd), Just(ScheduleKind::Constant),
            ],
            warmup_steps in 0u64..50,
            decay_steps in 0u64..200,
            steps in 0u64..200,
            min_ratio in 0.0f64..=1.0,
        ) {
            let schedule = ScheduleSpec { kind, warmup_steps, min_ratio, decay_steps };
            let rates: Vec<f64> = (0..250).map(|s| learning_rate(&schedule, 2.0, steps, Step(s))).collect();
            for (step, pair) in rates.windows(2).enumerate() {
                let (now, next) = (pair[0], pair[1]);
                prop_assert!(now > 0.0 || min_ratio == 0.0);
                prop_assert!(now <= 2.0 + 1e-12);
                if (step as u64) < warmup_steps.saturating_sub(1) {
                    prop_assert!(next > now);
                } else {
                    prop_assert!(next <= now + 1e-12);
                    prop_assert!(next >= 2.0 * min_ratio - 1e-12);
                }
            }
        }
    }
}

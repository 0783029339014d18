use std::ops::{Add, AddAssign};

/// Fixed-point units of a nat. Sums of integers are exact and do not depend on their order, so all ranks, whatever the
/// world size, agree on the loss to the last bit of what each slot measured.
pub const UNITS_PER_NAT: f64 = (1_u64 << 20) as f64;

/// The largest loss of a slot that is counted: 2^30 nats, or 2^50 units. 2^13 such slots fit an i64. A slot beyond it
/// (over a hundred million tokens, or a model that has diverged) is counted as not finite.
pub const MAX_SLOT_NATS: f64 = (1_u64 << 30) as f64;

/// The loss of some slots of the batch. Adds up exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotLoss {
    /// Cross-entropy summed over tokens, in units of 2^-20 nats; 0 for a slot that is not finite.
    pub loss_sum_fixed: i64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Slots whose loss was no finite number, or beyond [`MAX_SLOT_NATS`].
    pub nonfinite: u64,
}

impl SlotLoss {
    /// One slot's loss, from its sum in nats.
    pub fn of(nats: f64, tokens: u64) -> Self {
        let counts = nats.is_finite() && nats.abs() <= MAX_SLOT_NATS;
        let loss_sum_fixed = if counts {
            (nats * UNITS_PER_NAT).round() as i64
        } else {
            0
        };
        Self {
            loss_sum_fixed,
            tokens,
            nonfinite: u64::from(!counts),
        }
    }

    /// Nats a token; `None` without tokens, or if a slot was not finite.
    pub fn mean(self) -> Option<f64> {
        (self.tokens > 0 && self.nonfinite == 0)
            .then(|| nats(self.loss_sum_fixed) / self.tokens as f64)
    }
}

impl Add for SlotLoss {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            loss_sum_fixed: self.loss_sum_fixed + other.loss_sum_fixed,
            tokens: self.tokens + other.tokens,
            nonfinite: self.nonfinite + other.nonfinite,
        }
    }
}

impl AddAssign for SlotLoss {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Fixed-point units as nats.
pub fn nats(fixed: i64) -> f64 {
    fixed as f64 / UNITS_PER_NAT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_loss_survives_to_half_a_unit(loss in -MAX_SLOT_NATS..MAX_SLOT_NATS) {
            let fixed = SlotLoss::of(loss, 1);
            prop_assert_eq!(fixed.nonfinite, 0);
            prop_assert!((nats(fixed.loss_sum_fixed) - loss).abs() <= 0.5 / UNITS_PER_NAT);
        }

        #[test]
        fn a_sum_does_not_depend_on_its_order(losses in prop::collection::vec(0.0f64..1e6, 1..40)) {
            let sum = |losses: &mut dyn Iterator<Item = &f64>| {
                losses.fold(SlotLoss::default(), |sum, &loss| sum + SlotLoss::of(loss, 3))
            };
            prop_assert_eq!(sum(&mut losses.iter()), sum(&mut losses.iter().rev()));
        }
    }

    #[test]
    fn what_is_no_loss_is_counted_and_spoils_the_mean() {
        for loss in [f64::NAN, f64::INFINITY, 2.0 * MAX_SLOT_NATS] {
            let spoilt = SlotLoss::of(loss, 4);
            assert_eq!((spoilt.loss_sum_fixed, spoilt.nonfinite), (0, 1));
            assert_eq!((spoilt + SlotLoss::of(1.0, 4)).mean(), None);
        }
        assert_eq!(SlotLoss::default().mean(), None);
        assert_eq!(
            (SlotLoss::of(6.0, 4) + SlotLoss::of(2.0, 4)).mean(),
            Some(1.0)
        );
    }

    #[test]
    fn the_documented_number_of_largest_slots_does_not_overflow() {
        let one = SlotLoss::of(MAX_SLOT_NATS, 1).loss_sum_fixed;
        assert!(one.checked_mul((1 << 13) - 1).is_some());
    }
}

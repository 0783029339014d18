use std::ops::BitOr;

use muster_train::SlotLoss;

/// What a rank asks of the others at the next boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests(u8);

impl Requests {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Leave the generation together after this step, so that its membership can change.
    pub const RECONFIGURE: Self = Self(1);
    /// Save a checkpoint of the state that this step makes.
    pub const SAVE: Self = Self(2);
    /// Leave the job after this step.
    pub const LEAVE: Self = Self(4);

    /// Whether all of `other` is asked for.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is asked for in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Its bits, for an atomic.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From an atomic's bits.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl BitOr for Requests {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What one rank brings to a step's last collective, and what all ranks read from it.
///
/// It travels as int64 and is summed: every field's sum is exact and independent of the order of the ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// The loss of the rank's slots.
    pub loss: SlotLoss,
    /// Wrapping sum of hash(position, tokens) over the samples that were fed.
    pub evidence: u64,
    /// How many samples that was.
    pub samples: u64,
    /// Ranks that asked for each of: reconfigure, save, leave.
    requests: [i64; 3],
}

/// Elements of the vector.
pub const LENGTH: usize = 8;

const ORDER: [Requests; 3] = [Requests::RECONFIGURE, Requests::SAVE, Requests::LEAVE];

impl Agreement {
    /// Adds what this rank asks for.
    #[must_use]
    pub fn asking(mut self, requests: Requests) -> Self {
        for (count, request) in self.requests.iter_mut().zip(ORDER) {
            *count = i64::from(requests.contains(request));
        }
        self
    }

    /// What any rank asked for.
    pub fn requests(&self) -> Requests {
        ORDER
            .into_iter()
            .zip(self.requests)
            .filter(|(_, count)| *count > 0)
            .fold(Requests::NONE, |all, (request, _)| all | request)
    }

    /// As the vector that is all-reduced. Counts stay far below 2^63; evidence wraps, as its sum is meant to.
    pub fn to_vector(self) -> [i64; LENGTH] {
        [
            self.loss.loss_sum_fixed,
            self.loss.tokens as i64,
            self.loss.nonfinite as i64,
            self.evidence as i64,
            self.samples as i64,
            self.requests[0],
            self.requests[1],
            self.requests[2],
        ]
    }

    /// From the all-reduced vector.
    pub fn from_vector(vector: [i64; LENGTH]) -> Self {
        let [
            loss_sum_fixed,
            tokens,
            nonfinite,
            evidence,
            samples,
            a,
            b,
            c,
        ] = vector;
        Self {
            loss: SlotLoss {
                loss_sum_fixed,
                tokens: tokens as u64,
                nonfinite: nonfinite as u64,
            },
            evidence: evidence as u64,
            samples: samples as u64,
            requests: [a, b, c],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(parts: &[Agreement]) -> Agreement {
        let mut total = [0i64; LENGTH];
        for part in parts {
            for (sum, element) in total.iter_mut().zip(part.to_vector()) {
                *sum = sum.wrapping_add(element);
            }
        }
        Agreement::from_vector(total)
    }

    #[test]
    fn sums_are_exact_and_wrap_where_meant() {
        let part = |loss_sum_fixed, tokens, nonfinite, evidence| Agreement {
            loss: SlotLoss {
                loss_sum_fixed,
                tokens,
                nonfinite,
            },
            evidence,
            samples: 1,
            ..Agreement::default()
        };
        let (a, b) = (part(-5, 3, 0, u64::MAX), part(9, 4, 1, 2));
        let both = sum(&[a, b]);
        assert_eq!(
            both.loss,
            SlotLoss {
                loss_sum_fixed: 4,
                tokens: 7,
                nonfinite: 1
            }
        );
        assert_eq!((both.evidence, both.samples), (1, 2));
        assert_eq!(both, sum(&[b, a]));
    }

    #[test]
    fn one_rank_asking_is_enough() {
        let quiet = Agreement::default();
        assert_eq!(sum(&[quiet, quiet]).requests(), Requests::NONE);
        let asking = quiet.asking(Requests::SAVE | Requests::LEAVE);
        let all = sum(&[quiet, asking, asking]).requests();
        assert!(
            all.contains(Requests::SAVE)
                && all.contains(Requests::LEAVE)
                && !all.contains(Requests::RECONFIGURE)
        );
    }
}

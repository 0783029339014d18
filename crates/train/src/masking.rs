use std::collections::BTreeSet;

use muster_model::counter;

/// Sets masks apart from the other uses of a run's seed.
const PURPOSE: u64 = 0x6d61_736b;
/// Which of a row's draws are meant: what is masked, and what stands there instead.
const CHOICE: u64 = 0;
const REPLACEMENT: u64 = 1;

/// Where sequences come from: a sequence's masks follow from it and the run's seed alone, whichever rank trains it, and
/// however often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Consecutive positions of the data order, from this one on.
    Training(u64),
    /// Consecutive sequences of the held-out split, from this one on. Every evaluation masks them alike.
    HeldOut(u64),
}

/// Hides tokens of sequences, as Devlin et al. 2019 §3.1: a share of the tokens is to be predicted; of these 80 % are replaced
/// by the mask token, 10 % by a token drawn from the whole vocabulary, and 10 % stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Masking {
    /// What draws are derived from.
    pub seed: u64,
    /// Which share of a sequence's tokens is to be predicted; at least one token is.
    pub fraction: f64,
    /// The mask token.
    pub mask_id: i64,
    /// Tokens to draw from.
    pub vocabulary: i64,
    /// Tokens that are never hidden: those that mark where documents begin and end.
    pub special: BTreeSet<i64>,
}

impl Masking {
    /// Hides tokens of one sequence, `offset` sequences after its origin's first. Returns the places of the hidden tokens,
    /// ascending.
    pub fn hide(&self, ids: &mut [i64], origin: Origin, offset: u64) -> Vec<usize> {
        let (split, first) = match origin {
            Origin::Training(first) => (0, first),
            Origin::HeldOut(first) => (1, first),
        };
        let key = |draws| counter::key(&[PURPOSE, self.seed, split, first + offset, draws]);
        let places = self.choose(ids, key(CHOICE));
        let replacement = key(REPLACEMENT);
        for (draw, &place) in (0..).zip(&places) {
            let share = counter::uniform(replacement, 2 * draw);
            if share < 0.8 {
                ids[place] = self.mask_id;
            } else if share < 0.9 {
                let drawn = counter::uniform(replacement, 2 * draw + 1);
                ids[place] = (drawn * self.vocabulary as f64) as i64;
            }
        }
        places
    }

    /// Places of a sequence, without repetition: the first of a shuffle (Fisher & Yates 1938) that is not finished.
    fn choose(&self, ids: &[i64], key: u64) -> Vec<usize> {
        let eligible = |place: &usize| !self.special.contains(&ids[*place]);
        let mut candidates: Vec<usize> = (0..ids.len()).filter(eligible).collect();
        let wanted = (ids.len() as f64 * self.fraction).round().max(1.0) as usize;
        let count = wanted.min(candidates.len());
        for place in 0..count {
            let left = (candidates.len() - place) as f64;
            let other = place + (counter::uniform(key, place as u64) * left) as usize;
            candidates.swap(place, other);
        }
        candidates.truncate(count);
        candidates.sort_unstable();
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masking() -> Masking {
        Masking {
            seed: 7,
            fraction: 0.15,
            mask_id: 100,
            vocabulary: 100,
            special: BTreeSet::from([99]),
        }
    }

    fn hidden(origin: Origin, offset: u64) -> (Vec<i64>, Vec<usize>) {
        let mut ids: Vec<i64> = (0..40).collect();
        let places = masking().hide(&mut ids, origin, offset);
        (ids, places)
    }

    #[test]
    fn masks_are_a_function_of_seed_and_position() {
        // Known answers: a resumed run has to mask as the run before it did, under any later build.
        let (ids, places) = hidden(Origin::Training(1000), 3);
        assert_eq!(
            hidden(Origin::Training(1003), 0),
            (ids.clone(), places.clone())
        );
        assert_ne!(hidden(Origin::Training(1000), 4).1, places);
        assert_ne!(hidden(Origin::HeldOut(1000), 3).1, places);
        assert_eq!(places.len(), 6);
        assert_eq!(places, [0, 9, 10, 19, 20, 21]);
        let there: Vec<i64> = places.iter().map(|&place| ids[place]).collect();
        assert_eq!(there, [56, 100, 38, 100, 100, 100]);
    }

    #[test]
    fn eighty_ten_ten_of_fifteen_in_a_hundred() {
        let masking = masking();
        let original: Vec<i64> = (0..80).collect();
        let (mut masked, mut other, mut same, mut all) = (0, 0, 0, 0);
        let mut per_place = [0; 80];
        for position in 0..4000 {
            let mut ids = original.clone();
            for place in masking.hide(&mut ids, Origin::Training(position), 0) {
                all += 1;
                per_place[place] += 1;
                match ids[place] {
                    100 => masked += 1,
                    id if id == original[place] => same += 1,
                    _ => other += 1,
                }
            }
        }
        assert_eq!(all, 4000 * 12);
        let share = |count: i32| f64::from(count) / f64::from(all);
        assert!((share(masked) - 0.8).abs() < 0.01);
        // One in a hundred draws is the token itself.
        assert!((share(same) - 0.101).abs() < 0.01);
        assert!((share(other) - 0.099).abs() < 0.01);
        // Five standard deviations around 4000 · 0.15.
        assert!(
            per_place
                .iter()
                .all(|&count: &i32| (count - 600).abs() < 113)
        );
    }

    #[test]
    fn special_tokens_stay_and_nothing_else_changes() {
        let mut ids = vec![99; 20];
        assert!(masking().hide(&mut ids, Origin::Training(0), 0).is_empty());
        ids[5] = 1;
        assert_eq!(masking().hide(&mut ids, Origin::Training(0), 0), [5]);
        let (ids, places) = hidden(Origin::Training(5), 0);
        let touched = |place: usize| places.contains(&place);
        assert!((0..40).all(|place| touched(place) || ids[place] == place as i64));
    }
}

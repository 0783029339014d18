use std::collections::BTreeSet;

use muster_types::StateId;

use crate::History;

/// A committed checkpoint, as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its state.
    pub state: StateId,
    /// Whether it turned out not to read back.
    pub condemned: bool,
}

/// Which of the committed checkpoints may go, oldest first.
///
/// Of the usable ones, on the line and not condemned, the `keep_last` newest stay (0: all). Those of discarded branches go.
/// A condemned one stays for people to look at until it is older than everything that is kept; with `keep_last` 0 it stays.
/// The newest usable one always stays, and so does `in_use`, which a generation is loading.
pub fn deletable(
    checkpoints: &[Committed],
    history: &History,
    keep_last: u32,
    in_use: Option<StateId>,
) -> Vec<StateId> {
    let by_age = |state: &StateId| (state.step, state.generation);
    let mut usable: Vec<StateId> = checkpoints
        .iter()
        .filter(|checkpoint| !checkpoint.condemned && history.is_eligible(checkpoint.state))
        .map(|checkpoint| checkpoint.state)
        .collect();
    usable.sort_by_key(|state| std::cmp::Reverse(by_age(state)));
    let limit = if keep_last == 0 {
        usable.len()
    } else {
        keep_last as usize
    };
    let kept: BTreeSet<StateId> = usable.into_iter().take(limit).collect();
    let oldest_kept = kept.iter().map(by_age).min();

    let mut deletable: Vec<StateId> = checkpoints
        .iter()
        .filter(|checkpoint| !kept.contains(&checkpoint.state) && in_use != Some(checkpoint.state))
        .filter(|checkpoint| {
            !checkpoint.condemned
                || !history.is_eligible(checkpoint.state)
                || (keep_last > 0
                    && oldest_kept.is_some_and(|oldest| by_age(&checkpoint.state) < oldest))
        })
        .map(|checkpoint| checkpoint.state)
        .collect();
    deletable.sort_by_key(by_age);
    deletable
}

#[cfg(test)]
mod tests {
    use muster_types::{Generation, Step};
    use proptest::prelude::*;

    use super::*;

    fn good(generation: u64, step: u64) -> Committed {
        Committed {
            state: StateId::new(Generation(generation), Step(step)),
            condemned: false,
        }
    }

    fn history() -> History {
        let mut history = History::default();
        history.form(Generation(1), StateId::INITIAL);
        history.form(Generation(2), StateId::new(Generation(1), Step(20)));
        history
    }

    #[test]
    fn the_newest_stay() {
        let all = [good(1, 10), good(1, 20), good(2, 30), good(2, 40)];
        assert_eq!(
            deletable(&all, &history(), 2, None),
            [all[0].state, all[1].state]
        );
        assert_eq!(deletable(&all, &history(), 0, None), []);
        assert_eq!(
            deletable(&all, &history(), 2, Some(all[1].state)),
            [all[0].state]
        );
    }

    #[test]
    fn discarded_branches_go_whatever_is_kept() {
        let all = [good(1, 20), good(1, 30)];
        assert_eq!(deletable(&all, &history(), 0, None), [all[1].state]);
    }

    #[test]
    fn a_condemned_one_does_not_count_and_goes_when_it_is_old() {
        let bad = Committed {
            condemned: true,
            ..good(2, 30)
        };
        assert_eq!(deletable(&[good(1, 20), bad], &history(), 1, None), []);
        let newer = good(2, 40);
        assert_eq!(
            deletable(&[good(1, 20), bad, newer], &history(), 1, None),
            [good(1, 20).state, bad.state]
        );
        assert_eq!(
            deletable(&[good(1, 20), bad, newer], &history(), 0, None),
            []
        );
    }

    proptest! {
        #[test]
        fn the_newest_usable_one_never_goes(
            steps in prop::collection::btree_set((1u64..3, 1u64..50), 1..12),
            condemned in any::<u16>(),
            keep_last in 0u32..4,
            in_use in prop::option::of(0usize..12),
        ) {
            let history = history();
            let all: Vec<_> = steps
                .iter()
                .enumerate()
                .map(|(index, (generation, step))| Committed {
                    condemned: condemned >> index & 1 == 1,
                    ..good(*generation, *step)
                })
                .collect();
            let in_use = in_use.and_then(|index| all.get(index)).map(|checkpoint| checkpoint.state);
            let gone = deletable(&all, &history, keep_last, in_use);
            let usable: Vec<_> =
                all.iter().filter(|c| !c.condemned && history.is_eligible(c.state)).map(|c| c.state).collect();
            let newest = usable.iter().max_by_key(|state| (state.step, state.generation));
            if let Some(newest) = newest {
                prop_assert!(!gone.contains(newest));
            }
            if let Some(in_use) = in_use {
                prop_assert!(!gone.contains(&in_use));
            }
            let left = usable.iter().filter(|state| !gone.contains(state)).count();
            let wanted = if keep_last == 0 { usable.len() } else { usable.len().min(keep_last as usize) };
            prop_assert!(left >= wanted);
            prop_assert!(left <= wanted + 1, "only one in use may be left over");
        }
    }
}

use std::collections::BTreeMap;

use muster_types::{Generation, StateId, Step};
use serde::{Deserialize, Serialize};

/// Which generation owns which steps of a job: generation g owns the steps from its resume step to the next generation's.
///
/// Only generations that were formed are in it; one that was opened and given up never committed anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The state that each formed generation started from.
    resumed: BTreeMap<Generation, StateId>,
}

impl History {
    /// Takes note that `generation` was formed and starts from `resume`. What lies above that on older branches is
    /// discarded for ever.
    ///
    /// A generation that is not newer than all before it changes nothing.
    pub fn form(&mut self, generation: Generation, resume: StateId) {
        debug_assert!(self.is_eligible(resume), "{resume} is not on the line");
        debug_assert!(
            self.newest().is_none_or(|(newest, _)| newest < generation),
            "generation {generation} is not new"
        );
        if self.newest().is_none_or(|(newest, _)| newest < generation) {
            self.resumed.insert(generation, resume);
        }
    }

    /// The newest formed generation and the state that it started from.
    pub fn newest(&self) -> Option<(Generation, StateId)> {
        self.resumed
            .last_key_value()
            .map(|(generation, resume)| (*generation, *resume))
    }

    /// The state that `generation` started from, if it was formed.
    pub fn resume_of(&self, generation: Generation) -> Option<StateId> {
        self.resumed.get(&generation).copied()
    }

    /// Whether a state of this name lies on the one line of the job: its generation was formed and starts below it, and no
    /// later generation resumed below its step. The initial state always does.
    ///
    /// Whether the state was ever reached is not known here.
    pub fn is_eligible(&self, state: StateId) -> bool {
        if state == StateId::INITIAL {
            return true;
        }
        self.resume_of(state.generation)
            .is_some_and(|resume| resume.step < state.step)
            && self
                .resumed
                .range(state.generation.next()..)
                .all(|(_, resume)| resume.step >= state.step)
    }

    /// The generation in which the line's step `step` was, or would be, committed; `None` for step 0.
    pub fn owner_of(&self, step: Step) -> Option<Generation> {
        self.resumed
            .keys()
            .rev()
            .copied()
            .find(|generation| self.is_eligible(StateId::new(*generation, step)) && step > Step(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(generation: u64, step: u64) -> StateId {
        StateId::new(Generation(generation), Step(step))
    }

    #[test]
    fn a_cut_off_commit_never_comes_back() {
        // A alone commits (1, 11); generation 2 resumes at (1, 10) and redoes step 11.
        let mut history = History::default();
        history.form(Generation(1), StateId::INITIAL);
        assert!(history.is_eligible(state(1, 11)));
        history.form(Generation(2), state(1, 10));
        assert!(history.is_eligible(state(1, 10)));
        assert!(!history.is_eligible(state(1, 11)));
        assert!(history.is_eligible(state(2, 11)));
        assert!(
            !history.is_eligible(state(2, 10)),
            "generation 2 never committed step 10"
        );
    }

    #[test]
    fn a_generation_that_was_never_formed_owns_nothing() {
        let mut history = History::default();
        history.form(Generation(1), StateId::INITIAL);
        history.form(Generation(3), state(1, 4));
        assert!(!history.is_eligible(state(2, 5)));
        assert!(!history.is_eligible(state(0, 5)));
        assert!(history.is_eligible(StateId::INITIAL));
    }

    /// What really happened: a line of states, cut back to where each generation resumed.
    #[derive(Debug, Default)]
    struct Line {
        states: Vec<StateId>,
        discarded: Vec<StateId>,
    }

    proptest! {
        #[test]
        fn eligible_is_what_lies_on_the_line(
            generations in prop::collection::vec((0usize..12, 0u64..10, 1u64..3), 1..12),
        ) {
            let mut history = History::default();
            let mut line = Line::default();
            let mut generation = Generation(0);
            for (keep, commits, skip) in generations {
                generation = Generation(generation.get() + skip);
                let keep = keep.min(line.states.len());
                line.discarded.extend(line.states.split_off(keep));
                let resume = line.states.last().copied().unwrap_or(StateId::INITIAL);
                history.form(generation, resume);
                for step in 1..=commits {
                    line.states.push(StateId::new(generation, Step(resume.step.get() + step)));
                }
            }
            for on_line in &line.states {
                prop_assert!(history.is_eligible(*on_line), "{on_line} is on the line");
                prop_assert_eq!(history.owner_of(on_line.step), Some(on_line.generation));
            }
            for off_line in &line.discarded {
                prop_assert!(!history.is_eligible(*off_line), "{off_line} was discarded");
            }
        }
    }
}

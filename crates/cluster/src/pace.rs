use std::{collections::VecDeque, time::Duration};

/// So many of the last durations are what is usual.
const KEPT: usize = 16;

/// How long things lately took in a job. Volatile: a restarted coordinator learns anew.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pace {
    /// From one committed step to the next.
    pub steps: Recent,
    /// From a generation's forming to its being ready.
    pub ready: Recent,
    /// Evaluations.
    pub evaluations: Recent,
}

/// The last durations of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recent(VecDeque<Duration>);

impl Recent {
    pub fn push(&mut self, took: Duration) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    /// The longest of them; `None` before there are `enough`.
    pub fn longest(&self, enough: usize) -> Option<Duration> {
        (self.0.len() >= enough)
            .then(|| self.0.iter().max().copied())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_needs_a_few_examples_and_forgets_the_old_ones() {
        let mut recent = Recent::default();
        let ms = Duration::from_millis;
        recent.push(ms(900));
        recent.push(ms(100));
        assert_eq!(recent.longest(3), None);
        recent.push(ms(200));
        assert_eq!(recent.longest(3), Some(ms(900)));
        for _ in 0..KEPT {
            recent.push(ms(150));
        }
        assert_eq!(recent.longest(3), Some(ms(150)));
    }
}

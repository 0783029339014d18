use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_types::{Generation, StateId, Step};

/// The lock under which a step is committed, or a generation is given up: never both.
///
/// The training thread commits through [`Fence::commit`]; the control thread ends a generation with [`Fence::raise`]. Once
/// `raise` has returned, nothing is ever committed in that generation, however deep the training thread was in a step.
/// The fence also knows which state this rank holds, and says so only while that state is whole.
#[derive(Debug, Default)]
pub struct Fence {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The newest generation that is over.
    superseded: Generation,
    /// The valid state in hand; `None` while it is being overwritten.
    holdings: Option<StateId>,
}

/// The generation is over: whatever was in flight in it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {0} is over")]
pub struct Superseded(pub Generation);

impl Fence {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock leaves `holdings` empty, which is the truth: the state may be half-written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits the step that leads to `step` in `generation`, by running `update` under the lock.
    ///
    /// An error of `update` leaves the state invalid: it may be half-written.
    ///
    /// # Errors
    /// [`Superseded`] where the generation is over; `update` was not run then, and the state in hand is untouched.
    pub fn commit<T, E>(
        &self,
        generation: Generation,
        step: Step,
        update: impl FnOnce() -> Result<T, E>,
    ) -> Result<Result<T, E>, Superseded> {
        let mut inner = self.lock();
        if generation <= inner.superseded {
            return Err(Superseded(generation));
        }
        inner.holdings = None;
        let result = update();
        if result.is_ok() {
            inner.holdings = Some(StateId::new(generation, step));
        }
        Ok(result)
    }

    /// Ends `generation` and all before it; returns what this rank holds.
    pub fn raise(&self, generation: Generation) -> Option<StateId> {
        let mut inner = self.lock();
        inner.superseded = inner.superseded.max(generation);
        inner.holdings
    }

    /// Whether `generation` is over.
    pub fn is_over(&self, generation: Generation) -> bool {
        generation <= self.lock().superseded
    }

    /// The valid state in hand.
    pub fn holdings(&self) -> Option<StateId> {
        self.lock().holdings
    }

    /// Says that `generation` is about to overwrite the state. Comes before the first byte changes.
    ///
    /// # Errors
    /// [`Superseded`] where the generation is over: the state in hand may have been stated, and must stay as it is.
    pub fn invalidate(&self, generation: Generation) -> Result<(), Superseded> {
        let mut inner = self.lock();
        if generation <= inner.superseded {
            return Err(Superseded(generation));
        }
        inner.holdings = None;
        Ok(())
    }

    /// Says that the state is whole, and is `state`. Comes after the last byte has changed and the hashes have agreed.
    ///
    /// # Errors
    /// [`Superseded`] where `generation`, in which the state was healed, is over: the state stays unstated, because the
    /// coordinator has been told that this rank holds nothing.
    pub fn validate(&self, generation: Generation, state: StateId) -> Result<(), Superseded> {
        let mut inner = self.lock();
        if generation <= inner.superseded {
            return Err(Superseded(generation));
        }
        inner.holdings = Some(state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    const G1: Generation = Generation(1);

    fn commit(fence: &Fence, generation: Generation, step: u64) -> Result<(), Superseded> {
        fence
            .commit(generation, Step(step), || Ok::<_, ()>(()))
            .map(|_| ())
    }

    #[test]
    fn a_commit_names_the_state_in_hand() {
        let fence = Fence::default();
        assert_eq!(fence.holdings(), None);
        commit(&fence, G1, 1).unwrap();
        assert_eq!(fence.holdings(), Some(StateId::new(G1, Step(1))));
    }

    #[test]
    fn nothing_is_committed_once_the_fence_is_raised() {
        let fence = Fence::default();
        commit(&fence, G1, 1).unwrap();
        assert_eq!(fence.raise(G1), Some(StateId::new(G1, Step(1))));
        let mut ran = false;
        let result = fence.commit(G1, Step(2), || {
            ran = true;
            Ok::<_, ()>(())
        });
        assert_eq!(result, Err(Superseded(G1)));
        assert!(!ran);
        assert_eq!(fence.holdings(), Some(StateId::new(G1, Step(1))));
        commit(&fence, Generation(2), 2).unwrap();
    }

    #[test]
    fn an_older_raise_does_not_reopen_a_generation() {
        let fence = Fence::default();
        fence.raise(Generation(5));
        fence.raise(Generation(3));
        assert!(fence.is_over(Generation(5)));
        assert!(!fence.is_over(Generation(6)));
    }

    #[test]
    fn a_failed_update_leaves_nothing_to_state() {
        let fence = Fence::default();
        commit(&fence, G1, 1).unwrap();
        assert_eq!(
            fence.commit(G1, Step(2), || Err::<(), _>("half")),
            Ok(Err("half"))
        );
        assert_eq!(fence.raise(G1), None);
    }

    #[test]
    fn a_half_healed_state_is_never_stated() {
        let fence = Fence::default();
        commit(&fence, G1, 1).unwrap();
        fence.invalidate(G1).unwrap();
        assert_eq!(fence.raise(Generation(2)), None);
        let healed = StateId::new(G1, Step(4));
        assert_eq!(
            fence.validate(Generation(2), healed),
            Err(Superseded(Generation(2)))
        );
        assert_eq!(fence.holdings(), None);
        fence.validate(Generation(3), healed).unwrap();
        assert_eq!(fence.holdings(), Some(healed));
    }

    #[test]
    fn raising_waits_for_a_commit_under_way_and_states_it() {
        let fence = Arc::new(Fence::default());
        let (entered, proceed) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let committer = std::thread::spawn({
            let (fence, entered, proceed) = (fence.clone(), entered.clone(), proceed.clone());
            move || {
                fence.commit(G1, Step(7), || {
                    entered.wait();
                    proceed.wait();
                    Ok::<_, ()>(())
                })
            }
        });
        entered.wait();
        let raiser = std::thread::spawn({
            let fence = fence.clone();
            move || fence.raise(G1)
        });
        proceed.wait();
        assert_eq!(raiser.join().unwrap(), Some(StateId::new(G1, Step(7))));
        committer.join().unwrap().unwrap().unwrap();
    }
}

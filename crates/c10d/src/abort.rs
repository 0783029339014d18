//! One switch that ends a group's construction and its collectives, from any thread.
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ends whatever a [`Group`](crate::Group) formed under it is doing, at once and for good.
///
/// Clones share the switch. It is thrown once: a new generation takes a new one.
#[derive(Clone, Default)]
pub struct Abort {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    reason: Option<String>,
    hooks: BTreeMap<u64, Hook>,
    next: u64,
}

type Hook = Arc<dyn Fn() + Send + Sync>;

impl Abort {
    /// A switch that has not been thrown.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the construction and the collectives of every group formed under this switch. Later calls change nothing.
    pub fn abort(&self, reason: &str) {
        let hooks = {
            let mut state = self.lock();
            if state.reason.is_some() {
                return;
            }
            state.reason = Some(reason.to_owned());
            std::mem::take(&mut state.hooks)
        };
        // Outside the lock: a hook may take a while, and whoever it wakes asks for the reason.
        for hook in hooks.values() {
            hook();
        }
    }

    /// Whether [`abort`](Self::abort) was called.
    pub fn is_aborted(&self) -> bool {
        self.lock().reason.is_some()
    }

    /// The reason given to [`abort`](Self::abort), if it was called.
    pub fn reason(&self) -> Option<String> {
        self.lock().reason.clone()
    }

    /// Has `hook` run by [`abort`](Self::abort), until the registration is dropped. Thrown already: the reason.
    pub(crate) fn on_abort(
        &self,
        hook: impl Fn() + Send + Sync + 'static,
    ) -> Result<Registration, String> {
        let mut state = self.lock();
        if let Some(reason) = &state.reason {
            return Err(reason.clone());
        }
        let id = state.next;
        state.next += 1;
        state.hooks.insert(id, Arc::new(hook));
        drop(state);
        Ok(Registration {
            abort: self.clone(),
            id,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Abort")
            .field("reason", &self.reason())
            .finish_non_exhaustive()
    }
}

/// A hook's place in an [`Abort`]; dropping it takes the hook out.
#[derive(Debug)]
pub(crate) struct Registration {
    abort: Abort,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.abort.lock().hooks.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn counter() -> (Arc<AtomicU32>, impl Fn() + Send + Sync + 'static) {
        let count = Arc::new(AtomicU32::new(0));
        let hook = {
            let count = Arc::clone(&count);
            move || {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        (count, hook)
    }

    #[test]
    fn runs_each_hook_once_and_keeps_the_first_reason() {
        let abort = Abort::new();
        let (count, hook) = counter();
        let registration = abort.on_abort(hook).unwrap();
        assert!(!abort.is_aborted());
        abort.clone().abort("first");
        abort.abort("second");
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert_eq!(abort.reason().as_deref(), Some("first"));
        drop(registration);
    }

    #[test]
    fn a_dropped_registration_is_not_called() {
        let abort = Abort::new();
        let (count, hook) = counter();
        drop(abort.on_abort(hook).unwrap());
        abort.abort("over");
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn nothing_registers_after_the_abort() {
        let abort = Abort::new();
        abort.abort("over");
        assert_eq!(abort.on_abort(|| {}).unwrap_err(), "over");
    }
}

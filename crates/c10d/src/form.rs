//! Forms a group on a thread that can be left behind.
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Abort, Group, GroupError, GroupOptions, StoreBackend};

/// How much longer than the form timeout the caller waits. libtorch's own bound should end the construction, since it
/// knows what was missing; this one holds where libtorch starts its bound anew for each peer.
const GRACE: Duration = Duration::from_secs(1);

/// Where builder and caller meet.
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Building,
    Built(Result<Group, GroupError>),
    /// The caller is gone.
    Abandoned,
}

/// Runs [`Group::connect`], and returns when it does or as soon as `abort` is called.
///
/// Gloo connects to its peers inside a constructor, and a connection to a frozen peer cannot be interrupted: until the
/// constructor is done there is no object to abort. So it runs on a thread of its own. If the caller gives up, the
/// thread ends by itself: at its next look at the store (waits go in slices and see the abort), or when the form timeout
/// ends Gloo's wait for the peer. Then it drops what it has built. It holds the store, some sockets and nothing else.
pub(crate) fn on_a_thread(
    store: Arc<dyn StoreBackend>,
    options: &GroupOptions,
    abort: &Abort,
) -> Result<Group, GroupError> {
    let slot = Arc::new(Slot {
        state: Mutex::new(State::Building),
        changed: Condvar::new(),
    });
    let hook = Arc::downgrade(&slot);
    let _registration = abort
        .on_abort(move || {
            if let Some(slot) = hook.upgrade() {
                // Under the lock, or the call could fall between the caller's look at the abort and its wait.
                let _state = slot.lock();
                slot.changed.notify_all();
            }
        })
        .map_err(|reason| GroupError::Aborted { reason })?;

    let builder = {
        let (slot, options, abort) = (Arc::clone(&slot), options.clone(), abort.clone());
        move || slot.finish(Group::connect(store, &options, &abort))
    };
    std::thread::Builder::new()
        .name("group-form".into())
        .spawn(builder)
        .map_err(|error| GroupError::Failed {
            cause: format!("no thread: {error}"),
        })?;
    slot.take(options.form_timeout.saturating_add(GRACE), abort)
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, built: Result<Group, GroupError>) {
        let mut state = self.lock();
        if matches!(*state, State::Abandoned) {
            // Ends connections and threads: not under the lock.
            drop(state);
            drop(built);
            return;
        }
        *state = State::Built(built);
        self.changed.notify_all();
    }

    fn take(&self, patience: Duration, abort: &Abort) -> Result<Group, GroupError> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(reason) = abort.reason() {
                let built = std::mem::replace(&mut *state, State::Abandoned);
                drop(state);
                drop(built);
                return Err(GroupError::Aborted { reason });
            }
            let left = patience.saturating_sub(start.elapsed());
            match std::mem::replace(&mut *state, State::Building) {
                State::Built(built) => return built,
                _ if left.is_zero() => {
                    *state = State::Abandoned;
                    let waited = patience.as_secs_f64();
                    let cause = format!("no peer answered within {waited} s");
                    return Err(GroupError::TimedOut { cause });
                }
                _ => {}
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

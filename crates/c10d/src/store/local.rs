//! A store inside the process.
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{StoreBackend, StoreError};

/// A [`StoreBackend`] in memory: for a group of one, and for several groups in one process.
#[derive(Debug, Default)]
pub struct LocalStore {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    values: BTreeMap<String, Vec<u8>>,
    cancelled: Option<String>,
}

impl LocalStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every wait under way, and every later one, with [`StoreError::Cancelled`].
    pub fn cancel(&self, reason: &str) {
        self.lock()
            .cancelled
            .get_or_insert_with(|| reason.to_owned());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each update is one assignment, so a panicking holder leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until<T>(
        &self,
        timeout: Duration,
        mut found: impl FnMut(&State) -> Option<T>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(reason) = &state.cancelled {
                return Err(StoreError::Cancelled(reason.clone()));
            }
            if let Some(value) = found(&state) {
                return Ok(value);
            }
            let Some(left) = timeout
                .checked_sub(start.elapsed())
                .filter(|left| !left.is_zero())
            else {
                return Err(StoreError::TimedOut(timeout));
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl StoreBackend for LocalStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.lock().values.insert(key.to_owned(), value.to_vec());
        self.changed.notify_all();
        Ok(())
    }

    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        self.wait_until(timeout, |state| state.values.get(key).cloned())
    }

    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        let mut state = self.lock();
        let before = match state.values.get(key) {
            None => 0,
            Some(value) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| StoreError::Other(format!("`{key}` holds no decimal number")))?,
        };
        let sum = before
            .checked_add(delta)
            .ok_or_else(|| StoreError::Other(format!("`{key}` would overflow")))?;
        state
            .values
            .insert(key.to_owned(), sum.to_string().into_bytes());
        drop(state);
        self.changed.notify_all();
        Ok(sum)
    }

    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let mut state = self.lock();
        let current = state.values.get(key);
        if current.map_or(expected.is_empty(), |current| current == expected) {
            state.values.insert(key.to_owned(), desired.to_vec());
            drop(state);
            self.changed.notify_all();
            return Ok(desired.to_vec());
        }
        Ok(current.map_or_else(|| expected.to_vec(), Clone::clone))
    }

    fn check(&self, keys: &[&str]) -> Result<bool, StoreError> {
        let state = self.lock();
        Ok(keys.iter().all(|key| state.values.contains_key(*key)))
    }

    fn wait(&self, keys: &[&str], timeout: Duration) -> Result<(), StoreError> {
        self.wait_until(timeout, |state| {
            keys.iter()
                .all(|key| state.values.contains_key(*key))
                .then_some(())
        })
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.lock().values.remove(key).is_some())
    }

    fn num_keys(&self) -> Result<i64, StoreError> {
        Ok(i64::try_from(self.lock().values.len()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn keeps_what_was_set() {
        let store = LocalStore::new();
        store.set("a", b"1").unwrap();
        store.set("a", b"2").unwrap();
        assert_eq!(store.get("a", SHORT).unwrap(), b"2");
        assert_eq!(store.num_keys().unwrap(), 1);
        assert!(store.delete("a").unwrap());
        assert!(!store.delete("a").unwrap());
        assert!(!store.check(&["a"]).unwrap());
    }

    #[test]
    fn an_absent_key_times_out() {
        let store = LocalStore::new();
        assert_eq!(store.get("a", SHORT), Err(StoreError::TimedOut(SHORT)));
        store.set("a", b"").unwrap();
        assert_eq!(
            store.wait(&["a", "b"], SHORT),
            Err(StoreError::TimedOut(SHORT))
        );
        assert_eq!(store.wait(&["a"], Duration::ZERO), Ok(()));
    }

    #[test]
    fn counts_in_decimal_text() {
        let store = LocalStore::new();
        assert_eq!(store.add("n", 3), Ok(3));
        assert_eq!(store.add("n", -5), Ok(-2));
        assert_eq!(store.get("n", SHORT).unwrap(), b"-2");
        store.set("n", b"many").unwrap();
        assert!(matches!(store.add("n", 1), Err(StoreError::Other(_))));
        store.set("n", i64::MAX.to_string().as_bytes()).unwrap();
        assert!(matches!(store.add("n", 1), Err(StoreError::Other(_))));
    }

    #[test]
    fn compares_before_it_sets() {
        let store = LocalStore::new();
        assert_eq!(store.compare_set("a", b"x", b"y").unwrap(), b"x");
        assert!(!store.check(&["a"]).unwrap());
        assert_eq!(store.compare_set("a", b"", b"y").unwrap(), b"y");
        assert_eq!(store.compare_set("a", b"x", b"z").unwrap(), b"y");
        assert_eq!(store.compare_set("a", b"y", b"z").unwrap(), b"z");
        assert_eq!(store.get("a", SHORT).unwrap(), b"z");
    }

    #[test]
    fn a_wait_ends_when_the_key_comes() {
        let store = Arc::new(LocalStore::new());
        let waiter = std::thread::spawn({
            let store = Arc::clone(&store);
            move || store.get("a", LONG)
        });
        store.set("b", b"0").unwrap();
        store.set("a", b"1").unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), b"1");
    }

    #[test]
    fn cancelling_ends_waits_now_and_later() {
        let store = Arc::new(LocalStore::new());
        let waiter = std::thread::spawn({
            let store = Arc::clone(&store);
            move || store.wait(&["a"], LONG)
        });
        store.cancel("over");
        assert_eq!(
            waiter.join().unwrap(),
            Err(StoreError::Cancelled("over".into()))
        );
        assert_eq!(
            store.get("a", LONG),
            Err(StoreError::Cancelled("over".into()))
        );
    }
}

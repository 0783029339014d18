//! What the C++ store calls: a backend, and the abort that ends its waits.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{StoreBackend, StoreError};
use crate::Abort;

/// The longest that a wait goes without looking at the abort.
const SLICE: Duration = Duration::from_millis(250);

/// A [`StoreBackend`] as C++ holds it. Its errors, and its panics, become C++ exceptions with their text.
pub(crate) struct StoreHandle {
    backend: Arc<dyn StoreBackend>,
    abort: Abort,
}

impl StoreHandle {
    pub(crate) fn new(backend: Arc<dyn StoreBackend>, abort: Abort) -> Box<Self> {
        Box::new(Self { backend, abort })
    }

    pub(crate) fn duplicate(&self) -> Box<Self> {
        Self::new(Arc::clone(&self.backend), self.abort.clone())
    }

    pub(crate) fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.call(|backend| backend.set(key, value))
    }

    pub(crate) fn get(&self, key: &str, timeout_ms: i64) -> Result<Vec<u8>, StoreError> {
        self.patiently(key, timeout_ms, |backend, slice| backend.get(key, slice))
    }

    pub(crate) fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        self.call(|backend| backend.add(key, delta))
    }

    pub(crate) fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        self.call(|backend| backend.compare_set(key, expected, desired))
    }

    pub(crate) fn check(&self, keys: Vec<String>) -> Result<bool, StoreError> {
        self.call(|backend| backend.check(&borrowed(&keys)))
    }

    pub(crate) fn wait(&self, keys: Vec<String>, timeout_ms: i64) -> Result<(), StoreError> {
        self.patiently(&keys.join(", "), timeout_ms, |backend, slice| {
            backend.wait(&borrowed(&keys), slice)
        })
    }

    pub(crate) fn remove(&self, key: &str) -> Result<bool, StoreError> {
        self.call(|backend| backend.delete(key))
    }

    pub(crate) fn num_keys(&self) -> Result<i64, StoreError> {
        self.call(|backend| backend.num_keys())
    }

    /// Waits in slices: an abort ends it, and a backend's own cancellation is not needed for that.
    fn patiently<T>(
        &self,
        keys: &str,
        timeout_ms: i64,
        wait: impl Fn(&dyn StoreBackend, Duration) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let timeout = Duration::from_millis(timeout_ms.try_into().unwrap_or(0));
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            match self.call(|backend| wait(backend, left.min(SLICE))) {
                Err(StoreError::TimedOut(_)) if left > SLICE => {}
                Err(StoreError::TimedOut(_)) => {
                    let waited = timeout.as_secs_f64();
                    return Err(StoreError::Other(format!(
                        "timed out after {waited} s waiting for key {keys}"
                    )));
                }
                outcome => return outcome,
            }
        }
    }

    fn call<T>(
        &self,
        operation: impl FnOnce(&dyn StoreBackend) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(reason) = self.abort.reason() {
            return Err(StoreError::Cancelled(reason));
        }
        // A panic must not unwind into C++, where it would end the process.
        catch_unwind(AssertUnwindSafe(|| operation(&*self.backend)))
            .unwrap_or_else(|_| Err(StoreError::Other("the backend panicked".into())))
    }
}

fn borrowed(keys: &[String]) -> Vec<&str> {
    keys.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalStore;

    #[test]
    fn a_wait_outlasts_its_slices_and_names_the_key() {
        let handle = StoreHandle::new(Arc::new(LocalStore::new()), Abort::new());
        let start = Instant::now();
        let error = handle.get("rank_1", 600);
        assert!(start.elapsed() >= Duration::from_millis(600));
        assert_eq!(
            error,
            Err(StoreError::Other(
                "timed out after 0.6 s waiting for key rank_1".into()
            ))
        );
    }

    #[test]
    fn an_abort_ends_a_wait_and_every_later_call() {
        let abort = Abort::new();
        let handle = StoreHandle::new(Arc::new(LocalStore::new()), abort.clone());
        let waiter = std::thread::spawn(move || (handle.get("a", 60_000), handle.set("a", b"")));
        abort.abort("superseded");
        let cancelled = StoreError::Cancelled("superseded".into());
        assert_eq!(
            waiter.join().ok(),
            Some((Err(cancelled.clone()), Err(cancelled)))
        );
    }

    #[test]
    fn a_panic_of_the_backend_is_an_error() {
        struct Broken;
        impl StoreBackend for Broken {
            fn set(&self, _: &str, _: &[u8]) -> Result<(), StoreError> {
                panic!("broken on purpose")
            }
            fn get(&self, _: &str, _: Duration) -> Result<Vec<u8>, StoreError> {
                Err(StoreError::Other("down".into()))
            }
            fn add(&self, _: &str, _: i64) -> Result<i64, StoreError> {
                Ok(0)
            }
            fn compare_set(&self, _: &str, _: &[u8], _: &[u8]) -> Result<Vec<u8>, StoreError> {
                Ok(vec![])
            }
            fn check(&self, _: &[&str]) -> Result<bool, StoreError> {
                Ok(false)
            }
            fn wait(&self, _: &[&str], _: Duration) -> Result<(), StoreError> {
                Ok(())
            }
            fn delete(&self, _: &str) -> Result<bool, StoreError> {
                Ok(false)
            }
            fn num_keys(&self) -> Result<i64, StoreError> {
                Ok(0)
            }
        }
        let handle = StoreHandle::new(Arc::new(Broken), Abort::new());
        assert_eq!(
            handle.set("a", b""),
            Err(StoreError::Other("the backend panicked".into()))
        );
        assert_eq!(
            handle.get("a", 10_000),
            Err(StoreError::Other("down".into()))
        );
    }
}

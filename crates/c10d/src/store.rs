//! The key-value store through which the ranks of a generation find each other.
mod handle;
mod local;

use std::time::Duration;

pub(crate) use handle::StoreHandle;
pub use local::LocalStore;

/// What a process group asks of a store. One store serves one generation: two generations never share keys.
///
/// [`get`](Self::get) and [`wait`](Self::wait) block until the keys are there. They are called with timeouts of at
/// most a quarter of a second, again and again, so that an [`Abort`](crate::Abort) takes effect between two calls
/// whatever the backend does.
pub trait StoreBackend: Send + Sync {
    /// Sets `key` to `value`, whether or not it was there.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;

    /// The value of `key`, as soon as it is there; [`StoreError::TimedOut`] if that takes longer than `timeout`.
    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError>;

    /// Adds `delta` to a counter (0 where the key is absent) and returns the sum, which is kept as decimal text.
    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError>;

    /// Sets `desired` if the key holds `expected`, or if it is absent and `expected` is empty.
    ///
    /// Returns what the key holds afterwards; `expected` itself where the key is absent and `expected` is not empty.
    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError>;

    /// Whether all of `keys` are there now.
    fn check(&self, keys: &[&str]) -> Result<bool, StoreError>;

    /// Returns once all of `keys` are there; [`StoreError::TimedOut`] if that takes longer than `timeout`.
    fn wait(&self, keys: &[&str], timeout: Duration) -> Result<(), StoreError>;

    /// Removes `key`; false where it was not there.
    fn delete(&self, key: &str) -> Result<bool, StoreError>;

    /// How many keys there are.
    fn num_keys(&self) -> Result<i64, StoreError>;
}

/// Why a store operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The keys did not come in time.
    #[error("the key did not come within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The generation is over: nobody will set the key any more.
    #[error("store wait cancelled: {0}")]
    Cancelled(String),
    /// The store could not be reached, or refused.
    #[error("store: {0}")]
    Other(String),
}

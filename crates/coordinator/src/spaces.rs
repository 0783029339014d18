use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use muster_types::{Generation, JobId};
use tokio::sync::watch;

/// The longest value of a key.
pub(crate) const MAX_VALUE_BYTES: usize = 4 << 20;
/// The longest key.
pub(crate) const MAX_KEY_BYTES: usize = 4 << 10;
/// The most keys of a generation.
const MAX_KEYS: usize = 1 << 16;
/// The most that all keys and values of a generation may hold.
const MAX_SPACE_BYTES: usize = 256 << 20;

/// The key-value stores of the generations that are open. They live in memory: a generation that is over needs none, and
/// one that outlives a coordinator has built its groups already.
#[derive(Debug, Default)]
pub(crate) struct Spaces {
    open: Mutex<BTreeMap<(JobId, Generation), Arc<Space>>>,
}

/// The store of one generation.
#[derive(Debug)]
pub(crate) struct Space {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<String, Bytes>,
    bytes: usize,
    is_closed: bool,
}

/// Why a store did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpaceError {
    #[error("generation {generation} of job {job} is over, or not agreed yet")]
    NotOpen { job: JobId, generation: Generation },
    #[error("the generation is over")]
    Closed,
    #[error("{0}")]
    TooLarge(String),
    #[error(
        "the key {key} holds {length} bytes that are no decimal number, so nothing can be added to it"
    )]
    NotANumber { key: String, length: usize },
}

impl Spaces {
    /// Opens a generation's store; one that is open stays as it is.
    pub(crate) fn open(&self, job: JobId, generation: Generation) {
        self.lock().entry((job, generation)).or_insert_with(|| {
            Arc::new(Space {
                state: Mutex::default(),
                changed: watch::Sender::new(0),
            })
        });
    }

    /// Closes a generation's store: all its waits end with an error, now.
    pub(crate) fn close(&self, job: JobId, generation: Generation) {
        if let Some(space) = self.lock().remove(&(job, generation)) {
            space.lock().is_closed = true;
            space.bump();
        }
    }

    pub(crate) fn get(&self, job: JobId, generation: Generation) -> Result<Arc<Space>, SpaceError> {
        let space = self.lock().get(&(job, generation)).cloned();
        space.ok_or(SpaceError::NotOpen { job, generation })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(JobId, Generation), Arc<Space>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Space {
    pub(crate) fn set(&self, key: String, value: Bytes) -> Result<(), SpaceError> {
        self.change(|state| state.put(key, value))
    }

    /// The value, as soon as there is one.
    pub(crate) async fn get(&self, key: &str) -> Result<Bytes, SpaceError> {
        self.until(|state| state.keys.get(key).cloned()).await
    }

    /// Returns as soon as all keys are there.
    pub(crate) async fn wait(&self, keys: &[String]) -> Result<(), SpaceError> {
        self.until(|state| state.has(keys).then_some(())).await
    }

    pub(crate) fn check(&self, keys: &[String]) -> Result<bool, SpaceError> {
        let state = self.lock();
        state.alive().map(|()| state.has(keys))
    }

    /// Adds to a key that holds a decimal number, or nothing, and returns the sum.
    pub(crate) fn add(&self, key: String, delta: i64) -> Result<i64, SpaceError> {
        self.change(|state| {
            let held = match state.keys.get(&key) {
                None => 0,
                Some(bytes) => str::from_utf8(bytes)
                    .ok()
                    .and_then(|text| text.parse::<i64>().ok())
                    .ok_or_else(|| SpaceError::NotANumber {
                        key: key.clone(),
                        length: bytes.len(),
                    })?,
            };
            let sum = held.wrapping_add(delta);
            state.put(key, Bytes::from(sum.to_string()))?;
            Ok(sum)
        })
    }

    /// Puts `desired` where the key holds `expected`, or is absent and `expected` is empty. Returns what the key holds then;
    /// `expected` itself where the key is absent and was expected to be there, as libtorch's own stores do.
    pub(crate) fn compare_set(
        &self,
        key: String,
        expected: Bytes,
        desired: Bytes,
    ) -> Result<Bytes, SpaceError> {
        self.change(|state| match state.keys.get(&key) {
            Some(held) if *held != expected => Ok(held.clone()),
            None if !expected.is_empty() => Ok(expected),
            _ => {
                state.put(key, desired.clone())?;
                Ok(desired)
            }
        })
    }

    pub(crate) fn delete(&self, key: &str) -> Result<bool, SpaceError> {
        self.change(|state| match state.keys.remove(key) {
            Some(value) => {
                state.bytes -= key.len() + value.len();
                Ok(true)
            }
            None => Ok(false),
        })
    }

    pub(crate) fn count(&self) -> Result<usize, SpaceError> {
        let state = self.lock();
        state.alive().map(|()| state.keys.len())
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, SpaceError>,
    ) -> Result<T, SpaceError> {
        let mut state = self.lock();
        state.alive()?;
        let outcome = change(&mut state)?;
        drop(state);
        self.bump();
        Ok(outcome)
    }

    async fn until<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> Result<T, SpaceError> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            {
                let state = self.lock();
                state.alive()?;
                if let Some(found) = look(&state) {
                    return Ok(found);
                }
            }
            // The sender is part of `self`, so this cannot fail while somebody waits.
            if changed.changed().await.is_err() {
                return Err(SpaceError::Closed);
            }
        }
    }

    fn bump(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn alive(&self) -> Result<(), SpaceError> {
        if self.is_closed {
            Err(SpaceError::Closed)
        } else {
            Ok(())
        }
    }

    fn has(&self, keys: &[String]) -> bool {
        keys.iter().all(|key| self.keys.contains_key(key))
    }

    fn put(&mut self, key: String, value: Bytes) -> Result<(), SpaceError> {
        let too_large = |what: String| Err(SpaceError::TooLarge(what));
        if key.len() > MAX_KEY_BYTES {
            return too_large(format!(
                "a key of {} bytes; at most {MAX_KEY_BYTES}",
                key.len()
            ));
        }
        if value.len() > MAX_VALUE_BYTES {
            let length = value.len();
            return too_large(format!(
                "the value of {key} has {length} bytes; at most {MAX_VALUE_BYTES}"
            ));
        }
        let held = self.keys.get(&key).map_or(0, |old| key.len() + old.len());
        let bytes = self.bytes - held + key.len() + value.len();
        if bytes > MAX_SPACE_BYTES || (held == 0 && self.keys.len() >= MAX_KEYS) {
            return too_large(format!(
                "the generation's store is full: {} keys, {} bytes",
                self.keys.len(),
                self.bytes
            ));
        }
        self.bytes = bytes;
        self.keys.insert(key, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn space() -> (Spaces, Arc<Space>) {
        let spaces = Spaces::default();
        let job = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        spaces.open(job, Generation(1));
        let space = spaces.get(job, Generation(1)).unwrap();
        (spaces, space)
    }

    #[test]
    fn the_bytes_that_are_held_are_counted_through_every_change() {
        let (_spaces, space) = space();
        space.set("k".into(), Bytes::from_static(b"12345")).unwrap();
        space.set("k".into(), Bytes::from_static(b"1")).unwrap();
        assert_eq!(space.lock().bytes, 2);
        space.add("k".into(), 999).unwrap();
        assert_eq!(space.lock().bytes, 5);
        space
            .compare_set("k".into(), Bytes::from_static(b"1000"), Bytes::new())
            .unwrap();
        assert_eq!(space.lock().bytes, 1);
        assert!(space.delete("k").unwrap());
        assert_eq!(space.lock().bytes, 0);
        assert!(!space.delete("k").unwrap());
    }

    #[test]
    fn a_store_has_bounds() {
        let (_spaces, space) = space();
        let large = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
        assert!(matches!(
            space.set("k".into(), large.clone()),
            Err(SpaceError::TooLarge(_))
        ));
        let longest = "k".repeat(MAX_KEY_BYTES + 1);
        assert!(matches!(
            space.set(longest, Bytes::new()),
            Err(SpaceError::TooLarge(_))
        ));
        for i in 0..MAX_KEYS {
            space.set(i.to_string(), Bytes::new()).unwrap();
        }
        assert!(matches!(
            space.set("one more".into(), Bytes::new()),
            Err(SpaceError::TooLarge(_))
        ));
        space
            .set("0".into(), Bytes::from_static(b"an old key may change"))
            .unwrap();
        let fill = large.slice(1..);
        let full = (0..MAX_KEYS).find(|i| space.set(i.to_string(), fill.clone()).is_err());
        assert_eq!(full, Some(MAX_SPACE_BYTES / MAX_VALUE_BYTES - 1));
    }
}

//! Signs of life of the training thread, for whoever asks why nothing moves.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use muster_ops::Gate;
use muster_proto::v1::Activity;

/// One activity more than there are.
const ACTIVITIES: usize = Activity::Saving as usize + 1;

/// Each sign of life takes this share off what was usual until then, so that one slow moment is forgotten.
const FORGETTING: u32 = 64;

/// What the training thread is at, and since when it has been quiet.
#[derive(Debug)]
pub struct Pulse {
    inner: Mutex<Inner>,
    /// Whether the pass that is running ends with the wait for other ranks' gradients.
    reduces: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    activity: Activity,
    /// The last sign of life.
    at: Instant,
    /// The longest quiet lately, by activity.
    usual: [Duration; ACTIVITIES],
    /// In work of its own, since that was last asked.
    own_work: Duration,
}

/// A look at the training thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What it is at.
    pub activity: Activity,
    /// How long ago it last gave a sign of life.
    pub quiet: Duration,
    /// The longest that it was lately quiet in this activity; zero where it has never been in it.
    pub usual: Duration,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                activity: Activity::Idle,
                at: Instant::now(),
                usual: [Duration::ZERO; ACTIVITIES],
                own_work: Duration::ZERO,
            }),
            reduces: AtomicBool::new(false),
        }
    }
}

impl Pulse {
    /// The training thread turns to something.
    pub fn enter(&self, activity: Activity) {
        self.lock().turn_to(activity, Instant::now());
    }

    /// It begins a pass, at whose end it may wait for the sum over all ranks.
    pub fn enter_pass(&self, end: PassEnd) {
        self.reduces
            .store(end == PassEnd::Reduced, Ordering::Relaxed);
        self.enter(Activity::Computing);
    }

    /// It is still at it.
    pub fn beat(&self) {
        self.lock().beat(Instant::now());
    }

    /// A pass has come to a gate.
    pub fn at_gate(&self, gate: Gate) {
        match gate {
            Gate::End if self.reduces.load(Ordering::Relaxed) => self.enter(Activity::Reducing),
            Gate::Within | Gate::End => self.beat(),
        }
    }

    /// How it stands.
    pub fn read(&self) -> Reading {
        let inner = self.lock();
        Reading {
            activity: inner.activity,
            quiet: inner.at.elapsed(),
            usual: inner.usual[inner.activity as usize],
        }
    }

    /// For how long it has read and computed since this was last asked, and not waited for others.
    pub fn take_own_work(&self) -> Duration {
        let mut inner = self.lock();
        inner.beat(Instant::now());
        std::mem::take(&mut inner.own_work)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a pass ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassEnd {
    /// Its own gradients.
    Own,
    /// The sum of all ranks' gradients.
    Reduced,
}

impl Inner {
    fn beat(&mut self, now: Instant) {
        let quiet = now - self.at;
        let usual = &mut self.usual[self.activity as usize];
        *usual = (*usual - *usual / FORGETTING).max(quiet);
        if matches!(self.activity, Activity::Reading | Activity::Computing) {
            self.own_work += quiet;
        }
        self.at = now;
    }

    fn turn_to(&mut self, activity: Activity, now: Instant) {
        self.beat(now);
        self.activity = activity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_quiet_is_remembered_by_activity_and_forgotten_slowly() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut inner = Pulse::default().inner.into_inner().unwrap();
        inner.at = start;
        inner.turn_to(Activity::Computing, at(0));
        inner.beat(at(100));
        inner.beat(at(700));
        inner.turn_to(Activity::Reducing, at(710));
        let usual = |inner: &Inner, of: Activity| inner.usual[of as usize].as_millis();
        assert!((580..=600).contains(&usual(&inner, Activity::Computing)));
        assert_eq!(usual(&inner, Activity::Reducing), 0);
        inner.turn_to(Activity::Computing, at(760));
        assert_eq!(usual(&inner, Activity::Reducing), 50);
        for step in 1..=200 {
            inner.beat(at(760 + 10 * step));
        }
        assert!((10..60).contains(&usual(&inner, Activity::Computing)));
    }

    #[test]
    fn own_work_is_what_is_read_and_computed() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let pulse = Pulse::default();
        let mut inner = pulse.lock();
        inner.at = start;
        inner.turn_to(Activity::Reading, at(10));
        inner.turn_to(Activity::Computing, at(30));
        inner.beat(at(70));
        inner.turn_to(Activity::Reducing, at(130));
        inner.turn_to(Activity::Saving, at(930));
        inner.turn_to(Activity::Idle, at(950));
        assert_eq!(inner.own_work, Duration::from_millis(20 + 100));
        drop(inner);
        assert_eq!(pulse.take_own_work(), Duration::from_millis(120));
        assert_eq!(pulse.take_own_work(), Duration::ZERO);
    }

    #[test]
    fn a_pass_that_reduces_waits_for_its_peers_once_it_is_back_at_its_start() {
        let pulse = Pulse::default();
        for (end, then) in [
            (PassEnd::Own, Activity::Computing),
            (PassEnd::Reduced, Activity::Reducing),
        ] {
            pulse.enter_pass(end);
            pulse.at_gate(Gate::Within);
            assert_eq!(pulse.read().activity, Activity::Computing);
            pulse.at_gate(Gate::End);
            assert_eq!(pulse.read().activity, then);
        }
    }
}

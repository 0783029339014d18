//! A peer dies or freezes while a group is at work: the survivor gets an error and goes on in the same process.
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use muster_c10d::{Abort, CollectiveError, Group, LocalStore, Op, ops};

use crate::alone::form_alone;
use crate::peer::{Peer, Role, ones, options};
use crate::{finished, model, until, within_watchdog};

/// What an abort says that stands for the coordinator's news.
const KILLED: &str = "its peer was killed";
/// How soon a survivor nearly always hears of its peer's end by itself.
const SOON: Duration = Duration::from_secs(5);

/// What became of a survivor whose peer was killed. About once in a hundred times, on a loaded machine, Gloo misses that a
/// connection has ended while it sends (`waitSend` goes on to the timeout): then it is the news of the death that ends the wait,
/// as it comes from the coordinator.
fn after_a_kill<T>(survivor: &mpsc::Receiver<T>, abort: &Abort) -> T {
    survivor.recv_timeout(SOON).unwrap_or_else(|_| {
        abort.abort(KILLED);
        finished("survivor", survivor)
    })
}

fn is_loss(error: &CollectiveError) -> bool {
    match error {
        CollectiveError::PeerLost { .. } => true,
        CollectiveError::Aborted { reason, .. } => reason == KILLED,
        _ => false,
    }
}

#[test]
fn a_killed_peer_is_lost_at_once() {
    let store = Arc::new(LocalStore::new());
    let peer = Peer::start(Role::Reduces, 1, &store);
    let abort = Abort::new();
    let rounds = Arc::new(AtomicU32::new(0));
    let (counted, switch) = (Arc::clone(&rounds), abort.clone());
    let survivor = within_watchdog("survivor", move || {
        let group = Group::form(store, &options(0), &switch).unwrap();
        let error = loop {
            match group.all_reduce(&ones(), Op::Sum) {
                Ok(()) => counted.fetch_add(1, Ordering::Relaxed),
                Err(error) => break error,
            };
        };
        drop(group);
        form_alone();
        error
    });
    until("rounds", || rounds.load(Ordering::Relaxed) >= 20);
    peer.kill();
    let error = after_a_kill(&survivor, &abort);
    assert!(is_loss(&error), "{error}");
}

#[test]
fn a_peer_killed_during_backward_leaves_a_usable_model() {
    let store = Arc::new(LocalStore::new());
    let peer = Peer::start(Role::TrainsForEver, 1, &store);
    let steps = Arc::new(AtomicU32::new(0));
    let abort = Abort::new();
    let (counted, switch) = (Arc::clone(&steps), abort.clone());
    let survivor = within_watchdog("survivor", move || {
        let group = Group::form(store, &options(0), &switch).unwrap();
        let parameters = model::parameters();
        let reducer = model::reducer(&group, &parameters);
        let mut step = 0;
        let message = loop {
            match model::step(&reducer, &parameters, step, &group) {
                Ok(()) => step = counted.fetch_add(1, Ordering::Relaxed) + 1,
                Err(message) => break message,
            }
        };
        let error = group.explain("backward", &message);
        drop(reducer);
        drop(group);

        ops::clear_grads(&parameters).unwrap();
        let group = form_alone();
        let reducer = model::reducer(&group, &parameters);
        for step in step..step + 3 {
            model::step(&reducer, &parameters, step, &group).unwrap();
        }
        error
    });
    until("steps", || steps.load(Ordering::Relaxed) >= 3);
    peer.kill();
    let error = after_a_kill(&survivor, &abort);
    assert!(is_loss(&error), "{error}");
}

#[test]
fn an_abort_wakes_a_collective_that_waits_for_a_frozen_peer() {
    let store = Arc::new(LocalStore::new());
    let peer = Peer::start(Role::Reduces, 1, &store);
    let abort = Abort::new();
    let rounds = Arc::new(AtomicU32::new(0));
    let (counted, switch) = (Arc::clone(&rounds), abort.clone());
    let survivor = within_watchdog("survivor", move || {
        let group = Group::form(store, &options(0), &switch).unwrap();
        let first = loop {
            match group.all_reduce(&ones(), Op::Sum) {
                Ok(()) => counted.fetch_add(1, Ordering::Relaxed),
                Err(error) => break error,
            };
        };
        let second = group.all_reduce(&ones(), Op::Sum).unwrap_err();
        drop(group);
        form_alone();
        [first, second]
    });
    until("rounds", || rounds.load(Ordering::Relaxed) >= 20);
    peer.freeze();
    // Blocked, once the rounds no longer go on.
    let mut before = u32::MAX;
    while before != rounds.load(Ordering::Relaxed) {
        before = rounds.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
    }
    abort.abort("generation 2 is open");
    for error in finished("survivor", &survivor) {
        let aborted = CollectiveError::Aborted {
            operation: "all-reduce".into(),
            reason: "generation 2 is open".into(),
        };
        assert_eq!(error, aborted);
    }
}

#[test]
fn dropping_a_group_ends_what_waits_for_a_frozen_peer() {
    let store = Arc::new(LocalStore::new());
    let peer = Peer::start(Role::Reduces, 1, &store);
    let dropped = within_watchdog("dropping", move || {
        let group = Group::form(store, &options(0), &Abort::new()).unwrap();
        group.all_reduce(&ones(), Op::Sum).unwrap();
        peer.freeze();
        // Some of these find what the peer has sent before it froze; the last cannot.
        let work: Vec<_> = (0..64)
            .map(|_| group.start_all_reduce(&ones(), Op::Sum).unwrap())
            .collect();
        drop(group);
        work.into_iter()
            .map(|work| work.wait())
            .next_back()
            .unwrap()
    });
    let error = finished("dropping", &dropped).unwrap_err();
    assert!(
        error.to_string().contains("the group was dropped"),
        "{error}"
    );
}

#[test]
fn a_silent_peer_times_out() {
    let store = Arc::new(LocalStore::new());
    let peer = Peer::start(Role::Reduces, 1, &store);
    let survivor = within_watchdog("survivor", move || {
        let impatient = muster_c10d::GroupOptions {
            timeout: Duration::from_millis(700),
            ..options(0)
        };
        let group = Group::form(store, &impatient, &Abort::new()).unwrap();
        group.all_reduce(&ones(), Op::Sum).unwrap();
        peer.freeze();
        loop {
            if let Err(error) = group.all_reduce(&ones(), Op::Sum) {
                break error;
            }
        }
    });
    let error = finished("survivor", &survivor);
    assert!(
        matches!(&error, CollectiveError::TimedOut { .. }),
        "{error}"
    );
}

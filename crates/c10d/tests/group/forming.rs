//! A group that does not get formed.
use std::sync::Arc;
use std::time::Duration;

use muster_c10d::{Abort, Group, GroupError, LocalStore, Op, StoreBackend};

use crate::alone::form_alone;
use crate::peer::{Peer, Role, ones, options};
use crate::{finished, until, within_watchdog};

const REASON: &str = "a candidate is gone";

fn aborted() -> GroupError {
    GroupError::Aborted {
        reason: REASON.into(),
    }
}

#[test]
fn an_abort_ends_the_wait_for_a_peer_that_never_comes() {
    let store = Arc::new(LocalStore::new());
    let abort = Abort::new();
    let (shared, switch) = (Arc::clone(&store), abort.clone());
    let forming = within_watchdog("forming", move || {
        Group::form(shared, &options(0), &switch).map(drop)
    });
    // It has published its own address, and waits for the other's.
    until("an address", || store.num_keys().unwrap() > 0);
    abort.abort(REASON);
    assert_eq!(finished("forming", &forming), Err(aborted()));
    form_alone();
}

/// One side of a Gloo connection calls and the other is called, as their port numbers will have it. Where the frozen peer
/// was to be called, its kernel answers for it and the group forms: then the first collective is what waits. So this is
/// tried until the construction itself has waited.
#[test]
fn an_abort_ends_the_wait_for_a_peer_that_froze_while_forming() {
    for attempt in 0..20 {
        let peer_rank = attempt % 2;
        let store = Arc::new(LocalStore::new());
        let peer = Peer::start(Role::FreezesWhileForming, peer_rank, &store);
        peer.wait_until_frozen();
        let abort = Abort::new();
        let switch = abort.clone();
        let forming = within_watchdog("forming", move || {
            let group = Group::form(store, &options(1 - peer_rank), &switch)?;
            Ok::<_, GroupError>(group.all_reduce(&ones(), Op::Sum))
        });
        // Long enough to have come to where it waits. If not, the abort comes earlier and must work as well.
        std::thread::sleep(Duration::from_millis(300));
        abort.abort(REASON);
        match finished("forming", &forming) {
            Ok(collective) => assert_eq!(collective.unwrap_err().cause(), REASON),
            Err(error) => {
                assert_eq!(error, aborted());
                form_alone();
                return;
            }
        }
        form_alone();
    }
    panic!("the construction never waited");
}

#[test]
fn a_peer_that_never_comes_is_named_when_the_time_is_over() {
    let options = muster_c10d::GroupOptions {
        form_timeout: Duration::from_millis(600),
        ..options(0)
    };
    let error = Group::form(Arc::new(LocalStore::new()), &options, &Abort::new()).unwrap_err();
    let GroupError::TimedOut { cause } = &error else {
        panic!("{error}")
    };
    // Gloo's key of rank 1 on its first device.
    assert!(
        cause.contains("timed out after 0.6 s waiting for key 0/1"),
        "{cause}"
    );
}

#[test]
fn a_store_whose_generation_is_over_ends_the_forming() {
    let store = Arc::new(LocalStore::new());
    let shared = Arc::clone(&store);
    let forming = within_watchdog("forming", move || {
        Group::form(shared, &options(0), &Abort::new()).map(drop)
    });
    store.cancel("generation 3 is over");
    let error = finished("forming", &forming).unwrap_err();
    assert!(matches!(&error, GroupError::Aborted { .. }), "{error}");
    assert!(
        error.to_string().contains("generation 3 is over"),
        "{error}"
    );
}

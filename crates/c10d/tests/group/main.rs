//! Groups of real processes, and what becomes of them when one is killed or frozen.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod alone;
mod failures;
mod forming;
mod kv;
mod model;
mod peer;
mod reducing;
mod two;

use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Far above what any step here takes: only a hang runs into it.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Runs `body` on its own thread, and fails if it hangs.
fn within_watchdog<T: Send + 'static>(
    what: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name(what.into())
        .spawn(move || {
            let _ = sender.send(body());
        })
        .unwrap();
    receiver
}

fn finished<T>(what: &str, receiver: &mpsc::Receiver<T>) -> T {
    receiver
        .recv_timeout(WATCHDOG)
        .unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Waits until `condition` holds, and fails if it never does.
fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WATCHDOG, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

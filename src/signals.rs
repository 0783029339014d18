use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Signals so close to each other are one request: `timeout` and others signal a process, and then its group too.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// Requests to end: Ctrl-C and SIGTERM.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    last: Option<Instant>,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::operation(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            last: None,
        })
    }

    /// Waits for the next one. Cancel-safe.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
            let is_new = self.last.is_none_or(|at| at.elapsed() >= ONE_REQUEST);
            self.last = Some(Instant::now());
            if is_new {
                return;
            }
        }
    }
}

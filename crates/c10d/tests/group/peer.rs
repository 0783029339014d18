//! Rank 1 (or 0) of a test's group, as a process of its own: this test binary, run again.
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_c10d::{Abort, Group, GroupOptions, LocalStore, Op, StoreBackend, StoreError};
use tch::{Device, Kind, Tensor};

use crate::kv::{self, RemoteStore};
use crate::{WATCHDOG, alone, model};

/// What the process does.
#[derive(Clone, Copy)]
pub enum Role {
    /// All-reduces until it is killed.
    Reduces,
    /// Trains as `model::train` does, and ends.
    Trains,
    /// Trains until it is killed.
    TrainsForEver,
    /// Freezes itself as soon as it has published its address.
    FreezesWhileForming,
    /// Asks for a GPU, as `alone::want_gpu` does.
    WantsGpu,
}

const ROLES: [(&str, Role); 5] = [
    ("reduces", Role::Reduces),
    ("trains", Role::Trains),
    ("trains-for-ever", Role::TrainsForEver),
    ("freezes-while-forming", Role::FreezesWhileForming),
    ("wants-gpu", Role::WantsGpu),
];

/// A process that is gone when this is dropped, or when the watchdog's time is over.
pub struct Peer {
    child: Arc<Mutex<Child>>,
    done: Option<mpsc::Sender<()>>,
}

impl Peer {
    /// Starts rank `rank` of two over `store`.
    pub fn start(role: Role, rank: u32, store: &Arc<LocalStore>) -> Self {
        let address = kv::serve(Arc::clone(store));
        let name = ROLES
            .iter()
            .find(|(_, r)| std::mem::discriminant(r) == std::mem::discriminant(&role))
            .unwrap()
            .0;
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "peer::process",
                "--ignored",
                "--nocapture",
                "--quiet",
            ])
            .env("MUSTER_TEST_ROLE", name)
            .env("MUSTER_TEST_RANK", rank.to_string())
            .env("MUSTER_TEST_STORE", address.to_string())
            .spawn()
            .unwrap();
        let child = Arc::new(Mutex::new(child));
        let (done, over) = mpsc::channel();
        let watched = Arc::clone(&child);
        std::thread::spawn(move || {
            if over.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
                let _ = watched.lock().unwrap().kill();
            }
        });
        Self {
            child,
            done: Some(done),
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) -> ExitStatus {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap()
    }

    /// SIGSTOP, and waits until it has stopped.
    pub fn freeze(&self) {
        let pid = self.child.lock().unwrap().id() as i32;
        // SAFETY: a signal to a child that is not yet waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
        self.wait_until_frozen();
    }

    /// Waits until the process has stopped itself.
    pub fn wait_until_frozen(&self) {
        let pid = self.child.lock().unwrap().id();
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            match stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next())
            {
                Some('T') => return,
                Some('Z') | None => panic!("the peer is gone"),
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Waits for its own end, and returns whether that was a success.
    pub fn succeeds(&self) -> bool {
        loop {
            let status = self.child.lock().unwrap().try_wait().unwrap();
            match status {
                Some(status) => return status.success() && status.signal().is_none(),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.done.take();
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What tests give as the options of rank `rank` of two.
pub fn options(rank: u32) -> GroupOptions {
    GroupOptions {
        timeout: 10 * WATCHDOG,
        form_timeout: WATCHDOG,
        ..GroupOptions::new(rank, 2)
    }
}

/// A small tensor of ones.
pub fn ones() -> Tensor {
    Tensor::ones([1 << 12], (Kind::Float, Device::Cpu))
}

#[test]
#[ignore = "the peer process of the other tests"]
fn process() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let role = variable("MUSTER_TEST_ROLE");
    let role = ROLES.iter().find(|(name, _)| *name == role).unwrap().1;
    let rank: u32 = variable("MUSTER_TEST_RANK").parse().unwrap();
    let address: SocketAddr = variable("MUSTER_TEST_STORE").parse().unwrap();
    if matches!(role, Role::WantsGpu) {
        return alone::want_gpu();
    }
    tch::set_num_threads(1);
    let store: Arc<dyn StoreBackend> = match role {
        Role::FreezesWhileForming => Arc::new(Freezing(RemoteStore(address))),
        _ => Arc::new(RemoteStore(address)),
    };
    let group = Group::form(store, &options(rank), &Abort::new()).unwrap();
    match role {
        Role::Trains => model::train(&group).unwrap(),
        Role::TrainsForEver => panic!("{}", model::train_for_ever(&group)),
        _ => loop {
            group.all_reduce(&ones(), Op::Sum).unwrap();
        },
    }
}

/// Stops the whole process once the first value is set, which is the rank's address.
struct Freezing(RemoteStore);

impl StoreBackend for Freezing {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.0.set(key, value)?;
        // SAFETY: stops this process; the test kills it.
        assert_eq!(unsafe { libc::raise(libc::SIGSTOP) }, 0);
        Ok(())
    }
    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        self.0.get(key, timeout)
    }
    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        self.0.add(key, delta)
    }
    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        self.0.compare_set(key, expected, desired)
    }
    fn check(&self, keys: &[&str]) -> Result<bool, StoreError> {
        self.0.check(keys)
    }
    fn wait(&self, keys: &[&str], timeout: Duration) -> Result<(), StoreError> {
        self.0.wait(keys, timeout)
    }
    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.0.delete(key)
    }
    fn num_keys(&self) -> Result<i64, StoreError> {
        self.0.num_keys()
    }
}

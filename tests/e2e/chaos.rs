//! Whatever dies or is cut off, in whatever order: the same bits come out. `make chaos KILLS=100 SEED=7` for more than CI has time for.

use std::{env, fs, thread, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    audit::assert_audit_is_clean,
    cluster::Cluster,
    machines::{Machines, OPEN},
    support::{
        Bench, Process, assert_one_history, eventually, lines, members, parent, send, status,
        stdout,
    },
};

/// Committed steps between two blows, at least: a job that does not get on is stuck.
const PROGRESS: u64 = 10;
/// The nodes, and the slots of each.
const NODES: [&str; 2] = ["a", "b"];
const SLOTS: &str = "2";
/// Steps a blow, so that the job lasts.
const STEPS_A_BLOW: u64 = 100;

/// What is done to a running job.
#[derive(Clone, Copy, Debug)]
enum Blow {
    KillWorker,
    InterruptWorker,
    /// For a time that may be shorter or longer than it takes to be noticed.
    FreezeWorker(Duration),
    KillShim,
    KillAgent,
    KillCoordinator,
    /// A machine loses all others for a time.
    PullCable(Duration),
    /// The machines lose each other for a time, and both keep the coordinator.
    Split(Duration),
}

/// Numbers that depend on the seed alone (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    /// From 0.2 to 6.1 s.
    fn length(&mut self) -> Duration {
        Duration::from_millis(200 + 100 * self.below(60))
    }

    fn blow(&mut self, with_cables: bool) -> Blow {
        match self.below(if with_cables { 12 } else { 10 }) {
            0..4 => Blow::KillWorker,
            4 => Blow::InterruptWorker,
            5..7 => Blow::FreezeWorker(self.length()),
            7 => Blow::KillShim,
            8 => Blow::KillAgent,
            9 => Blow::KillCoordinator,
            10 => Blow::PullCable(self.length()),
            _ => Blow::Split(self.length()),
        }
    }
}

/// A worker may have ended since it was seen, and its number be another process's.
fn is_ours(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.windows(6).any(|part| part == b"muster")
}

fn strike(pid: u32, signal: Signal) {
    if is_ours(pid) {
        send(pid, signal);
    }
}

fn number(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}")),
        Err(_) => default,
    }
}

/// Where the agents run: on machines of their own where those can be made, else beside each other.
struct Place {
    machines: Option<Machines>,
}

impl Place {
    fn cluster(&self, bench: &Bench) -> Cluster {
        match &self.machines {
            Some(machines) => machines.cluster(bench, SLOTS),
            None => Cluster::start(bench, &NODES.map(|name| (name, SLOTS))),
        }
    }

    fn agent(&self, bench: &Bench, url: &str, name: &str) -> Process {
        match &self.machines {
            Some(machines) => machines.agent(bench, url, name, SLOTS),
            None => Cluster::agent(bench, url, name, SLOTS),
        }
    }

    /// What the coordinator is started with.
    fn more(&self) -> &'static [&'static str] {
        match &self.machines {
            Some(_) => OPEN,
            None => &[],
        }
    }

    fn cut(&self, blow: Blow, node: &str) {
        let Some(machines) = &self.machines else {
            return;
        };
        match blow {
            Blow::PullCable(length) => {
                machines.pull(node);
                thread::sleep(length);
                machines.plug_in(node);
            }
            Blow::Split(length) => {
                let [one, other] = NODES;
                machines.blackhole("add", one, other);
                thread::sleep(length);
                machines.blackhole("del", one, other);
            }
            _ => {}
        }
    }
}

#[test]
fn whatever_dies_the_same_bits_come_out() {
    let blows = number("MUSTER_TEST_KILLS", 5).min(10_000);
    let mut dice = Dice(number("MUSTER_TEST_SEED", 1) | 1 << 63);
    let bench = Bench::new();
    let steps = format!("train.steps={}", STEPS_A_BLOW * (blows + 1));
    let set: Vec<_> = [
        &steps,
        "train.reduction=canonical",
        "checkpoint.every_steps=50",
    ]
    .into_iter()
    .flat_map(|set| ["--set", set])
    .collect();
    bench.run_through("alone", &[&set, ["--workers", "1"].as_slice()].concat());

    let place = Place {
        machines: Machines::new("chaos", &["head", NODES[0], NODES[1]]),
    };
    let mut cluster = place.cluster(&bench);
    let url = cluster.url.clone();
    let more = ["--set", "workers.min=1", "--set", "workers.max=4"];
    let job = cluster.submit(&bench, &[set.as_slice(), &more].concat());
    let mut told = Vec::new();
    let mut reached = 0;
    for _ in 0..blows {
        let now = eventually(&format!("step {reached} after {told:?}"), || {
            let now = status(&url);
            let state = now["state"].as_str().unwrap();
            assert!(state != "failed", "{told:?}: {}", now["state_reason"]);
            let is_far = now["step"].as_u64().unwrap() >= reached;
            (state == "finished" || is_far && !members(&now).is_empty()).then_some(now)
        });
        if now["state"] == "finished" {
            break;
        }
        reached = now["step"].as_u64().unwrap() + PROGRESS;
        let blow = dice.blow(place.machines.is_some());
        told.push(blow);
        let pids = members(&now);
        let pid = pids[dice.below(pids.len() as u64) as usize];
        match blow {
            Blow::KillWorker => strike(pid, Signal::SIGKILL),
            Blow::InterruptWorker => strike(pid, Signal::SIGINT),
            Blow::FreezeWorker(length) => {
                strike(pid, Signal::SIGSTOP);
                thread::sleep(length);
                strike(pid, Signal::SIGCONT);
            }
            Blow::KillShim => {
                if let Some(shim) = parent(pid) {
                    strike(shim, Signal::SIGKILL);
                }
            }
            Blow::KillAgent => {
                let which = dice.below(NODES.len() as u64) as usize;
                let old = &mut cluster.agents[which];
                old.signal(Signal::SIGKILL);
                old.wait();
                cluster.agents[which] = place.agent(&bench, &url, NODES[which]);
            }
            Blow::KillCoordinator => {
                cluster.coordinator.signal(Signal::SIGKILL);
                cluster.coordinator.wait();
                cluster.start_coordinator_again(&bench, place.more());
            }
            Blow::PullCable(_) | Blow::Split(_) => {
                let which = dice.below(NODES.len() as u64) as usize;
                place.cut(blow, NODES[which]);
            }
        }
    }
    // As long as it gets on, it has time.
    let mut step = 0;
    let ended = loop {
        let now = eventually(&format!("a step after {step}, or the end"), || {
            let now = status(&url);
            let is_over = ["finished", "failed"].contains(&now["state"].as_str().unwrap());
            (is_over || now["step"].as_u64().unwrap() > step).then_some(now)
        });
        step = now["step"].as_u64().unwrap();
        if ["finished", "failed"].contains(&now["state"].as_str().unwrap()) {
            break now;
        }
    };
    assert_eq!(
        ended["state"], "finished",
        "{told:?}: {}",
        ended["state_reason"]
    );
    println!("{} blows: {told:?}", told.len());
    println!("{} generations", ended["generation"]);
    assert!(
        told.len() as u64 >= blows.min(5),
        "the job was over too soon: {told:?}"
    );

    let metrics = bench
        .path("coordinator")
        .join("jobs")
        .join(&job)
        .join("metrics.jsonl");
    let metrics = lines(&fs::read_to_string(metrics).unwrap());
    assert_one_history(&metrics, STEPS_A_BLOW * (blows + 1));
    assert_audit_is_clean(&[&job, "--coordinator", &url]);
    let checkpoints = bench.path("checkpoints").join(&job);
    let hash = stdout(&["checkpoint", "hash", &checkpoints.display().to_string()]);
    assert_eq!(hash, bench.hash("alone"), "{told:?}");
}

//! Several machines, as network namespaces of this one, joined by a switch: cables are pulled and plugged in or are bad
//! ones, machines die.
//! Needs the right to make namespaces (root); without it these tests say so and check nothing.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};
use serde_json::Value;

use crate::{
    cable::{Cable, Flaws},
    cluster::Cluster,
    support::{
        Bench, Process, assert_one_history, events, eventually, lines, members, parent, send,
        status, stdout, training, within,
    },
};

/// What the coordinator has to be told where nobody is asked who they are.
pub const OPEN: &[&str] = &["--insecure"];

/// Namespaces on one switch. All are gone when this is dropped.
pub struct Machines {
    tag: String,
    names: Vec<&'static str>,
    /// Those that are not as good as the rest.
    bad: Vec<Cable>,
}

impl Machines {
    /// `None` where the system does not allow it.
    pub fn new(tag: &str, names: &[&'static str]) -> Option<Self> {
        let tag = format!("muster-{tag}-{}", std::process::id());
        let machines = Self {
            tag,
            names: names.to_vec(),
            bad: Vec::new(),
        };
        let switch = machines.switch();
        if !ip(&["netns", "add", &switch]) {
            eprintln!("not checked: making network namespaces needs root and iproute2");
            return None;
        }
        must(&["-n", &switch, "link", "add", "switch", "type", "bridge"]);
        must(&["-n", &switch, "link", "set", "switch", "up"]);
        for (index, name) in names.iter().enumerate() {
            let machine = machines.of(name);
            must(&["netns", "add", &machine]);
            must(&["-n", &machine, "link", "set", "lo", "up"]);
            let port = machines.port(name);
            must(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
                "netns", &machine,
            ]);
            machines.connect(index, name);
        }
        Some(machines)
    }

    /// Both ends of a machine's cable are there: they come up.
    fn connect(&self, index: usize, name: &str) {
        let (switch, machine, port) = (self.switch(), self.of(name), self.port(name));
        must(&[
            "-n", &switch, "link", "set", &port, "master", "switch", "up",
        ]);
        let address = format!("{}/24", address(index));
        must(&["-n", &machine, "address", "add", &address, "dev", "eth0"]);
        must(&["-n", &machine, "link", "set", "eth0", "up"]);
    }

    /// Puts a bad cable in the place of a machine's good one.
    fn make_worse(&mut self, name: &str, flaws: Flaws) {
        let (switch, machine, port) = (self.switch(), self.of(name), self.port(name));
        must(&["-n", &switch, "link", "delete", &port]);
        let end = format!("of-{name}");
        let index = self.index(name);
        self.bad
            .push(Cable::lay(&switch, [&port, &end], flaws, index));
        must(&[
            "-n", &switch, "link", "set", &end, "netns", &machine, "name", "eth0",
        ]);
        self.connect(index, name);
    }

    /// Between two machines, as a TCP connection sees it: the middle one of nine.
    fn round_trip(&self, from: &str, to: SocketAddr) -> Duration {
        let namespace = File::open(Path::new("/run/netns").join(self.of(from))).unwrap();
        let measure = move || {
            // Of this thread alone.
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let mut trips = [(); 9].map(|()| {
                let since = Instant::now();
                TcpStream::connect(to).unwrap();
                since.elapsed()
            });
            trips.sort_unstable();
            trips[trips.len() / 2]
        };
        thread::spawn(measure).join().unwrap()
    }

    fn index(&self, name: &str) -> usize {
        self.names.iter().position(|it| *it == name).unwrap()
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.tag)
    }

    fn of(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// The switch's end of a machine's cable.
    fn port(&self, name: &str) -> String {
        format!("to-{name}")
    }

    /// Nobody is told: packets are lost, as when a cable is pulled somewhere behind a switch.
    pub fn pull(&self, name: &str) {
        must(&[
            "-n",
            &self.switch(),
            "link",
            "set",
            &self.port(name),
            "nomaster",
        ]);
    }

    pub fn plug_in(&self, name: &str) {
        let (switch, port) = (self.switch(), self.port(name));
        must(&["-n", &switch, "link", "set", &port, "master", "switch"]);
    }

    /// What one machine sends to another is dropped on the way; `change` is `add` or `del`.
    pub fn blackhole(&self, change: &str, from: &str, to: &str) {
        let there = format!("{}/32", address(self.index(to)));
        must(&["-n", &self.of(from), "route", change, "blackhole", &there]);
    }

    /// A coordinator on the first machine, and an agent with so many slots on each of the others. From here on, this thread's
    /// commands run on the first machine.
    pub fn cluster(&self, bench: &Bench, slots: &str) -> Cluster {
        within(Some(self.of(self.names[0])));
        let mut cluster = Cluster::start_at(bench, &format!("{}:7070", address(0)), OPEN);
        cluster.agents = self.names[1..]
            .iter()
            .map(|name| self.agent(bench, &cluster.url, name, slots))
            .collect();
        cluster
    }

    pub fn agent(&self, bench: &Bench, url: &str, name: &str, slots: &str) -> Process {
        within(Some(self.of(name)));
        let data = bench.text(name);
        let arguments = [
            "agent",
            "--coordinator",
            url,
            "--slots",
            slots,
            "--name",
            name,
            "--data-dir",
            &data,
            "--grace",
            "0",
        ];
        let log = bench.path(&format!("{name}.log"));
        let mut agent = Process::start(&arguments, log).ended_by_sigterm();
        let said = agent.line("agent: ");
        within(Some(self.of(self.names[0])));
        let own = format!("{name} at {}", address(self.index(name)));
        assert!(
            said.starts_with(&own),
            "it finds its address by itself: {said}"
        );
        agent
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        within(None);
        self.bad.clear();
        for name in &self.names {
            ip(&["netns", "delete", &self.of(name)]);
        }
        ip(&["netns", "delete", &self.switch()]);
    }
}

fn address(index: usize) -> String {
    format!("10.77.0.{}", index + 1)
}

fn ip(arguments: &[&str]) -> bool {
    let status = Command::new("ip")
        .args(arguments)
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn must(arguments: &[&str]) {
    assert!(ip(arguments), "ip {arguments:?}");
}

fn on(status: &Value, node: &str) -> Option<u32> {
    let workers = status["workers"].as_array().unwrap();
    let worker = workers.iter().find(|it| it["node"] == node)?;
    Some(worker["pid"].as_u64()? as u32)
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// SIGKILL of all that a node runs for a worker.
fn kill_worker_and_shim(pid: u32) {
    send(parent(pid).unwrap(), Signal::SIGKILL);
}

#[test]
fn a_job_over_three_machines_outlives_a_pulled_cable_and_a_dead_machine() {
    let bench = Bench::new();
    let Some(machines) = Machines::new("cut", &["head", "a", "b", "c"]) else {
        return;
    };
    let mut cluster = machines.cluster(&bench, "1");
    let job = cluster.submit(
        &bench,
        &["--set", "train.steps=1000000", "--set", "workers.max=3"],
    );
    let first = training(&cluster.url, 3, 20);
    let before = status(&cluster.url);
    let cut = on(&before, "b").unwrap();

    machines.pull("b");
    let two = eventually("the others' steps without b", || {
        let now = status(&cluster.url);
        let pids = members(&now);
        let moved = now["step"].as_u64() > before["step"].as_u64();
        (now["state"] == "training" && pids.len() == 2 && moved).then_some(pids)
    });
    assert!(two.iter().all(|pid| first.contains(pid)) && !two.contains(&cut));
    assert!(is_there(cut), "nobody can reach it to end it");
    // The worker is missed by its peers before the agent is by the coordinator.
    let url = cluster.url.clone();
    let told = |kind: &str| events(&url).iter().any(|it| it["kind"] == kind);
    eventually("word of the lost node", || told("node_lost").then_some(()));

    // Back, it learns that the job went on without it, and is replaced.
    machines.plug_in("b");
    eventually("three machines again", || {
        let now = status(&cluster.url);
        let there = members(&now).len() == 3 && on(&now, "b").is_some_and(|pid| pid != cut);
        (now["state"] == "training" && there).then_some(())
    });
    eventually("the end of the one that was cut off", || {
        (!is_there(cut)).then_some(())
    });

    // One more is gone for good.
    let dead = on(&status(&cluster.url), "c").unwrap();
    machines.pull("c");
    let agent = cluster.agents.pop().unwrap();
    agent.signal(Signal::SIGKILL);
    kill_worker_and_shim(dead);
    let left = training(&cluster.url, 2, 21);
    assert!(!left.contains(&dead) && left.contains(&on(&before, "a").unwrap()));

    let stop = ["stop", &job, "--coordinator", &cluster.url];
    crate::support::stdout(&stop);
    let end = cluster.ended();
    assert_eq!(end["state"], "stopped", "{end}");
    assert_eq!(end["last_checkpoint"]["step"], end["step"]);
    let metrics = bench
        .path("coordinator/jobs")
        .join(&job)
        .join("metrics.jsonl");
    let metrics = lines(&fs::read_to_string(metrics).unwrap());
    assert_one_history(&metrics, end["step"].as_u64().unwrap());
    assert!(told("node_joined"));
    crate::support::stdout(&["checkpoint", "verify", &bench.text("checkpoints")]);
}

#[test]
fn a_machine_that_only_its_peers_do_not_reach_is_found_and_done_without() {
    let bench = Bench::new();
    let Some(machines) = Machines::new("split", &["head", "a", "b", "c"]) else {
        return;
    };
    let cluster = machines.cluster(&bench, "1");
    cluster.submit(
        &bench,
        &["--set", "train.steps=1000000", "--set", "workers.max=3"],
    );
    let first = training(&cluster.url, 3, 20);
    let before = status(&cluster.url);
    let cut = on(&before, "b").unwrap();
    for peer in ["a", "c"] {
        machines.blackhole("add", "b", peer);
    }
    let blamed = eventually("someone to be blamed", || {
        let events = events(&cluster.url);
        let expelled = events.iter().find(|it| it["kind"] == "expelled")?;
        Some(expelled["reason"].as_str().unwrap().to_owned())
    });
    assert!(
        blamed.contains("on node b is the culprit") && blamed.contains("no connection can be made"),
        "{blamed}"
    );
    let two = eventually("the others' steps without b", || {
        let now = status(&cluster.url);
        let pids = members(&now);
        let moved = now["step"].as_u64() > before["step"].as_u64();
        (now["state"] == "training" && pids.len() == 2 && moved).then_some(pids)
    });
    assert!(two.iter().all(|pid| first.contains(pid)) && !two.contains(&cut));
    for peer in ["a", "c"] {
        machines.blackhole("del", "b", peer);
    }
    eventually("three machines again", || {
        let now = status(&cluster.url);
        (now["state"] == "training" && members(&now).len() == 3).then_some(())
    });
}

#[test]
fn a_slow_and_lossy_network_costs_time_and_nothing_else() {
    let bench = Bench::new();
    let Some(mut machines) = Machines::new("lossy", &["head", "a", "b", "c"]) else {
        return;
    };
    if !Path::new("/dev/net/tun").exists() {
        eprintln!("not checked: bad cables need /dev/net/tun");
        return;
    }
    let flaws = Flaws {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        loss: 0.01,
    };
    let workers = ["a", "b", "c"];
    for name in workers {
        machines.make_worse(name, flaws);
    }
    let cluster = machines.cluster(&bench, "1");
    let head = format!("{}:7070", address(0)).parse().unwrap();
    for name in workers {
        let trip = machines.round_trip(name, head);
        assert!(trip >= 2 * (flaws.delay - flaws.jitter), "{name}: {trip:?}");
    }

    let steps = ["--set", "train.steps=20"];
    let all = ["--set", "workers.min=3", "--set", "workers.max=3"].as_slice();
    let job = cluster.submit(&bench, &[&steps, all].concat());
    let end = cluster.ended();
    assert_eq!(
        (&end["state"], &end["step"]),
        (&"finished".into(), &20.into()),
        "{end}"
    );
    assert_eq!(end["recoveries"], 0, "{end}");
    let metrics = bench
        .path("coordinator/jobs")
        .join(&job)
        .join("metrics.jsonl");
    assert_one_history(&lines(&fs::read_to_string(metrics).unwrap()), 20);
    let hash = stdout(&["checkpoint", "hash", &bench.text("checkpoints")]);

    // The cables did what they were to do, to the job's own traffic.
    within(None);
    drop(cluster);
    let carried: Vec<_> = machines.bad.drain(..).map(Cable::take_up).collect();
    for one in &carried {
        assert!(one.frames > 1000, "{}", one.frames);
        let loss = one.lost as f64 / one.frames as f64;
        assert!((0.003..0.02).contains(&loss), "{loss}");
    }

    bench.run_through("calm", &[&steps, ["--workers", "3"].as_slice()].concat());
    assert_eq!(hash, bench.hash("calm"), "not the same bits");
}

/// The last of a job's machines dies; nobody holds its state any more but the storage.
#[test]
fn where_all_machines_of_a_job_are_gone_it_resumes_on_another_one() {
    let bench = Bench::new();
    let Some(machines) = Machines::new("all", &["head", "a", "b", "new"]) else {
        return;
    };
    let mut cluster = machines.cluster(&bench, "1");
    // The third machine comes later.
    drop(cluster.agents.pop());
    cluster.submit(
        &bench,
        &["--set", "train.steps=3000", "--set", "workers.max=2"],
    );
    training(&cluster.url, 2, 25);
    let there = status(&cluster.url);
    for name in ["b", "a"] {
        machines.pull(name);
        cluster.agents.pop().unwrap().signal(Signal::SIGKILL);
        kill_worker_and_shim(on(&there, name).unwrap());
    }
    let agent = machines.agent(&bench, &cluster.url, "new", "1");
    cluster.agents.push(agent);
    let now = eventually("steps on the new machine", || {
        let now = status(&cluster.url);
        (now["state"] == "training" && on(&now, "new").is_some()).then_some(now)
    });
    assert_eq!(members(&now).len(), 1);
    let resumed = events(&cluster.url).into_iter().any(|it| {
        it["kind"] == "generation_formed" && it["reason"].as_str().unwrap().contains("checkpoint")
    });
    assert!(resumed, "{:?}", events(&cluster.url));
    let end = cluster.ended();
    assert_eq!(
        (&end["state"], &end["step"]),
        (&"finished".into(), &3000.into()),
        "{end}"
    );
}

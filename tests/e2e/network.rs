//! Which way workers take to each other.

use crate::{
    cluster::Cluster,
    support::{Bench, Process},
};

/// A coordinator and two nodes that know each other by IPv6 only.
fn cluster(bench: &Bench) -> Cluster {
    let mut cluster = Cluster::start_at(bench, "[::1]:0", &[]);
    for name in ["node-a", "node-b"] {
        let data = bench.text(name);
        let mut arguments = vec!["agent", "--coordinator", &cluster.url, "--slots", "1"];
        arguments.extend(["--name", name, "--data-dir", &data, "--advertise", "::1"]);
        let log = bench.path(&format!("{name}.log"));
        let mut agent = Process::start(&arguments, log).ended_by_sigterm();
        agent.line("agent: ");
        cluster.agents.push(agent);
    }
    cluster
}

#[test]
fn collectives_go_by_ipv6_and_by_the_interface_that_was_named() {
    let bench = Bench::new();
    let cluster = cluster(&bench);
    assert!(cluster.url.contains("[::1]"), "{}", cluster.url);
    let both = ["--set", "workers.min=2", "--set", "workers.max=2"];
    cluster.submit(&bench, &both);
    assert_eq!(cluster.ended()["state"], "finished");

    // The loopback interface has an address of either kind.
    cluster.submit(
        &bench,
        &[&both, ["--set", "network.interface=lo"].as_slice()].concat(),
    );
    assert_eq!(cluster.ended()["state"], "finished");
}

#[test]
fn an_interface_that_no_node_has_fails_the_job_with_its_name() {
    let bench = Bench::new();
    let cluster = cluster(&bench);
    let both = ["--set", "workers.min=2", "--set", "workers.max=2"];
    cluster.submit(
        &bench,
        &[&both, ["--set", "network.interface=ib7"].as_slice()].concat(),
    );
    let ended = cluster.ended();
    assert_eq!(ended["state"], "failed");
    let reason = ended["state_reason"].as_str().unwrap();
    assert!(reason.contains("ib7"), "{reason}");
}

//! The cases of the generation protocol, by number, one kind of trouble at a time.

use std::sync::Arc;

use muster_spec::OnSpike;
use rstest::rstest;

use super::{
    plan::{
        Fault::{self, *},
        Plan,
    },
    run::Broken,
    seeds::{sweep_plans, words},
};

/// Nothing but these faults, and nothing else that goes wrong.
fn only(faults: &[Fault]) -> impl Fn(u64) -> Plan {
    let faults: Vec<_> = faults.iter().map(|fault| (*fault, 1)).collect();
    move |seed| Plan {
        faults: faults.clone(),
        fault_every: 2500,
        duplicates: 0,
        slow_hops: 0,
        torn_steps: 0,
        source_dies: 0,
        spikes: 0,
        ..Plan::new(seed)
    }
}

/// Runs seeds of such plans; each of these things has to happen in some of them.
fn holds(plan: impl Fn(u64) -> Plan + Send + Sync + 'static, seen: &[&str]) {
    holds_for(60, plan, seen);
}

fn holds_for(seeds: u64, plan: impl Fn(u64) -> Plan + Send + Sync + 'static, seen: &[&str]) {
    let (coverage, found) = sweep_plans(1, seeds, Broken::Nothing, Arc::new(plan));
    if let Some(report) = found {
        panic!("{}", words(&report));
    }
    for what in seen {
        assert!(coverage.of(what) > 0, "{what}: never; {coverage}");
    }
}

#[test]
fn case_01_a_rank_dies_anywhere_in_a_step() {
    let plan = |seed| Plan {
        torn_steps: 5,
        ..only(&[KillWorker])(seed)
    };
    holds(
        plan,
        &[
            "workers killed",
            "steps that one rank alone agreed to",
            "heals from a peer",
        ],
    );
}

#[test]
fn case_02_all_die_at_once() {
    holds(
        only(&[KillAll, LoseNode]),
        &["resumes from a checkpoint", "nodes lost"],
    );
}

#[test]
fn case_03_deaths_while_fencing_forming_and_healing() {
    let plan = |seed| Plan {
        fault_every: 250,
        source_dies: 20,
        ..only(&[KillWorker])(seed)
    };
    holds(
        plan,
        &["workers killed", "broadcasts of a state", "jobs finished"],
    );
}

#[test]
fn case_04_the_source_dies_while_it_sends() {
    let plan = |seed| Plan {
        torn_steps: 5,
        source_dies: 60,
        ..only(&[KillWorker])(seed)
    };
    holds(
        plan,
        &["sources that died while they sent", "heals from a peer"],
    );
}

#[test]
fn case_05_what_one_rank_alone_commits_and_is_cut_off_with() {
    let plan = |seed| Plan {
        torn_steps: 8,
        ..only(&[BlockLink, BreakStream, Freeze])(seed)
    };
    holds(
        plan,
        &["steps that one rank alone agreed to", "links blocked"],
    );
}

#[test]
fn case_06_garbage_at_a_rank_that_has_not_fenced() {
    holds_for(
        300,
        // An agent that is away kills nobody meanwhile.
        only(&[
            BlockLink,
            BlockPeers,
            BreakStream,
            RestartAgent,
            KillWorker,
            Freeze,
        ]),
        &["collectives that completed with garbage"],
    );
}

#[test]
fn case_07_newcomers_come_and_die() {
    holds(
        only(&[LoseNode, KillWorker]),
        &["nodes lost", "heals from a peer"],
    );
}

#[test]
fn case_08_the_coordinator_dies_around_each_write_and_each_send() {
    holds(
        only(&[CrashCoordinator]),
        &["coordinator starts", "coordinators that died in a decision"],
    );
}

#[test]
fn case_09_workers_and_nodes_die_while_the_coordinator_is_away() {
    holds(
        only(&[CrashCoordinator, KillWorker, LoseNode]),
        &["coordinator starts", "workers killed", "nodes lost"],
    );
}

#[rstest]
#[case::from_the_coordinator(&[BlockLink], "links blocked")]
#[case::from_peers(&[BlockPeers], "nodes cut off from their peers")]
#[case::from_both(&[BlockLink, BlockPeers], "nodes cut off from their peers")]
#[case::streams_that_break(&[BreakStream], "streams broken")]
fn case_10_partitions(#[case] faults: &'static [Fault], #[case] seen: &'static str) {
    holds(only(faults), &[seen]);
}

#[test]
fn case_11_stopped_processes_wake_after_their_generation_is_over() {
    let plan = |seed| Plan {
        save_ms: 2000,
        ..only(&[Freeze, Hang])(seed)
    };
    holds(
        plan,
        &[
            "processes stopped",
            "training threads that hang",
            "workers expelled",
        ],
    );
}

#[test]
fn case_12_messages_come_late_and_twice() {
    let plan = |seed| Plan {
        duplicates: 20,
        slow_hops: 10,
        ..only(&[KillWorker, BreakStream])(seed)
    };
    holds(plan, &["messages that came again", "streams broken"]);
}

#[test]
fn case_14_the_wall_clock_jumps() {
    holds(
        only(&[JumpWallClock, KillWorker]),
        &["workers killed", "jobs finished"],
    );
}

#[test]
fn case_15_agents_restart_while_their_workers_run() {
    holds(
        only(&[RestartAgent, KillWorker]),
        &["agent starts", "workers killed"],
    );
}

#[test]
fn case_16_storage_is_out_of_reach_slow_and_corrupt() {
    holds(
        only(&[StorageDown, StorageSlow, CorruptCheckpoint, KillAll]),
        &[
            "checkpoints that could not be read",
            "checkpoints corrupted",
            "storage out of reach",
        ],
    );
}

#[rstest]
fn case_17_skipped_and_rolled_back_batches_and_deaths(
    #[values(OnSpike::SkipBatch, OnSpike::Rollback)] on_spike: OnSpike,
) {
    let plan = move |seed| {
        let mut plan = Plan {
            spikes: 10,
            ..only(&[KillWorker, KillAll, StorageSlow])(seed)
        };
        for job in &mut plan.jobs {
            job.spec.guard.on_spike = on_spike;
            job.spec.guard.max_skips = 2;
        }
        plan
    };
    holds(plan, &["batches skipped", "workers killed"]);
}

#[test]
fn case_18_kills_come_faster_than_saves() {
    let plan = |seed| Plan {
        fault_every: 800,
        save_ms: 2000,
        ..only(&[KillWorker])(seed)
    };
    holds(plan, &["workers killed", "jobs finished"]);
}

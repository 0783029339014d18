//! Who is placed, who gives way, and why everyone else waits.

use std::{collections::BTreeMap, time::Duration};

use muster_types::{JobId, NodeName};
use rstest::rstest;

use super::world::{World, job_id, spec};
use crate::{
    ClusterOptions, Event, JobState, OpenCause, Record, RecordKind, UserQuotas, waiting::Wait,
};

/// A job's priority, and its smallest and largest world size.
type Asked = (i32, u32, u32);

impl World {
    pub fn queue_up(&mut self, number: u64, steps: u64, (priority, min, max): Asked) {
        self.queue_up_for("", number, steps, (priority, min, max));
    }

    fn queue_up_for(&mut self, user: &str, number: u64, steps: u64, asked: Asked) {
        let (priority, min, max) = asked;
        let mut spec = spec(steps, min, max);
        spec.queue.priority = priority;
        spec.queue.user = user.into();
        self.submit(number, spec);
    }

    /// A world whose nodes have had time to come.
    pub fn settled(nodes: &[(&str, u32)]) -> Self {
        Self::settled_with(ClusterOptions::default(), nodes)
    }

    fn settled_with(options: ClusterOptions, nodes: &[(&str, u32)]) -> Self {
        let mut world = Self::with_options(options);
        for (node, slots) in nodes {
            world.add_node(node, *slots);
        }
        world.deliver();
        world.wait(10);
        world
    }

    /// Lets time pass, without steps, until nodes are no longer waited for.
    fn settle_down(&mut self) {
        self.deliver();
        self.wait(10);
    }

    /// Runs until a job trains on so many workers.
    pub fn run_to_world_size(&mut self, number: u64, size: u32) {
        self.run_until(|world| {
            let status = world.status_of(number);
            status.state == JobState::Training && status.world_size == size
        });
    }

    pub fn slots_of(&self, number: u64) -> usize {
        self.job_of(number).workers.len()
    }

    fn reasons(&self, number: u64, kind: &str) -> Vec<String> {
        let of_job = self.event(kind).into_iter();
        of_job
            .filter(|event| event.job == Some(job_id(number)))
            .map(|event| event.reason)
            .collect()
    }

    fn preempted(&self) -> Vec<JobId> {
        let preempted = self.event("preempted").into_iter();
        preempted.filter_map(|event| event.job).collect()
    }
}

fn words(number: u64, priority: i32) -> String {
    format!("job {} of priority {priority}", job_id(number))
}

#[test]
fn a_higher_priority_takes_the_slots_and_the_lower_goes_on_later_by_itself() {
    let mut world = World::settled(&[("a", 2)]);
    world.queue_up(1, 30, (0, 2, 2));
    world.run_to(8);
    world.queue_up(2, 10, (5, 2, 2));
    let reason = format!("gives way to {}, which needs 2 cpu slots", words(2, 5));
    assert_eq!(world.reasons(1, "preempted"), std::slice::from_ref(&reason));
    let status = world.status();
    assert_eq!(status.state, JobState::Draining);
    assert!(status.state_reason.starts_with(&reason), "{status:?}");
    assert_eq!(
        world.status_of(2).state_reason,
        "needs 2 cpu slots; of 2, 0 are free, 2 are being emptied"
    );
    world.run_until(|world| world.status().state == JobState::Pending);
    let saved = world.status().last_checkpoint.unwrap().state.step;
    assert_eq!(saved, world.status().step, "it saved before it left");
    assert_eq!(
        world.reasons(1, "requeued"),
        [format!(
            "waits for slots again; the newest checkpoint is of step {saved}"
        )]
    );
    world.run_to_world_size(2, 2);
    let waits = world.status().state_reason;
    assert!(
        waits.contains(&format!("2 are held by {}", words(2, 5))) && waits.ends_with(&reason),
        "{waits}"
    );
    world.run_all_to_end();
    world.check_job_finished(1, 30);
    world.check_job_finished(2, 10);
    assert_eq!(world.preempted(), [job_id(1)]);
    assert_eq!(world.status().recoveries, 0, "nothing was lost");
    let placements = world.reasons(1, "placement");
    assert_eq!(placements[2..], ["the job's turn has come again"; 2]);
}

#[test]
fn what_is_lent_is_given_back_at_a_boundary_before_anyone_is_preempted() {
    let mut world = World::settled(&[("a", 4)]);
    world.queue_up(1, 60, (0, 1, 4));
    world.run_to_world_size(1, 4);
    world.run_to(5);
    world.queue_up(2, 10, (5, 2, 2));
    world.run_to_world_size(2, 2);
    assert_eq!(world.slots_of(1), 2);
    assert!(world.preempted().is_empty());
    assert_eq!(
        world.reasons(1, "shrink"),
        [format!(
            "gives back 2 of 4 slots: {} waits for 2 cpu slots",
            words(2, 5)
        )]
    );
    assert_eq!(world.reasons(1, "released").len(), 2);
    let mut opened = world
        .journal
        .iter()
        .filter_map(|record| match &record.kind {
            RecordKind::GenerationOpened { job, cause, .. } if *job == job_id(1) => Some(*cause),
            _ => None,
        });
    assert_eq!(opened.next_back(), Some(OpenCause::Shrunk));
    world.run_until(|world| world.status_of(2).state.is_over());
    world.run_to_world_size(1, 4);
    assert_eq!(
        world.reasons(1, "grow"),
        ["grows by 1 worker: no job that waits could use the slots"; 2],
        "each slot as it is emptied"
    );
    world.run_all_to_end();
    world.check_job_finished(1, 60);
    assert_eq!(world.status().recoveries, 0, "no step failed for it");
    let failed = |event: &Event| format!("{event:?}").contains("Failed");
    assert!(!world.heard.iter().any(failed), "no collective failed");
}

/// Running jobs, a cluster of exactly as many slots as they hold and some free ones, and one more job: who gives what.
#[rstest]
#[case::free_slots_do(&[(0, 1, 1)], 2, (9, 2, 2), &[], &[])]
#[case::the_lowest_priority(&[(1, 2, 2), (0, 2, 2), (1, 2, 2)], 0, (2, 2, 2), &[2], &[])]
#[case::the_youngest_of_equals(&[(0, 2, 2), (0, 2, 2)], 0, (1, 2, 2), &[2], &[])]
#[case::as_few_as_will_do(&[(0, 3, 3), (0, 1, 1)], 0, (1, 3, 3), &[1], &[])]
#[case::both_where_one_is_not_enough(&[(0, 1, 1), (0, 1, 1)], 0, (1, 2, 2), &[1, 2], &[])]
#[case::only_lower_ones(&[(5, 2, 2), (3, 2, 2)], 0, (4, 3, 3), &[], &[])]
#[case::never_an_equal(&[(5, 2, 2)], 1, (5, 2, 2), &[], &[])]
#[case::lent_slots_first(&[(0, 1, 3), (0, 1, 1)], 0, (9, 2, 2), &[], &[(1, 2)])]
#[case::lent_by_a_higher_one_too(&[(9, 1, 3)], 0, (0, 1, 1), &[], &[(1, 1)])]
#[case::the_last_in_the_queue_gives_first(&[(1, 1, 2), (0, 1, 2)], 0, (9, 1, 1), &[], &[(2, 1)])]
#[case::lent_and_then_preempted(&[(5, 1, 3), (0, 1, 1)], 0, (1, 3, 3), &[2], &[(1, 2)])]
#[case::no_more_is_recalled_than_is_needed(&[(5, 1, 3), (0, 2, 2)], 0, (1, 3, 3), &[2], &[(1, 1)])]
#[case::nothing_where_it_is_not_enough(&[(5, 1, 2), (0, 1, 1)], 0, (1, 3, 3), &[], &[])]
#[case::with_what_is_free(&[(0, 2, 2)], 1, (1, 3, 3), &[1], &[])]
fn who_gives_way(
    #[case] running: &[Asked],
    #[case] free: u32,
    #[case] waiting: Asked,
    #[case] preempted: &[u64],
    #[case] recalled: &[(u64, usize)],
) {
    let mut world = World::new();
    // Each on a node of its own, so that it gets what it may have.
    for (number, asked) in (1..).zip(running) {
        let (_, _, max) = *asked;
        world.add_node(&format!("n{number}"), max);
        world.settle_down();
        world.queue_up(number, 100, *asked);
        world.deliver();
        assert_eq!(world.slots_of(number), max as usize);
    }
    world.settle_down();
    let last = running.len() as u64 + 1;
    world.add_node("free", free);
    world.queue_up(last, 100, waiting);
    world.settle_down();
    let who = world
        .journal
        .iter()
        .filter_map(|record| match &record.kind {
            RecordKind::JobPreempted { job, by, .. } => {
                assert_eq!(*by, Some(job_id(last)));
                Some(*job)
            }
            _ => None,
        });
    let mut who: Vec<_> = who.collect();
    who.sort_unstable();
    let expected: Vec<_> = preempted.iter().map(|number| job_id(*number)).collect();
    assert_eq!(who, expected);
    let mut shrunk: BTreeMap<JobId, u64> = BTreeMap::new();
    for event in world.event("shrink") {
        *shrunk.entry(event.job.unwrap()).or_default() += event.details["slots"].as_u64().unwrap();
    }
    let expected: BTreeMap<_, _> = recalled
        .iter()
        .map(|(number, count)| (job_id(*number), *count as u64))
        .collect();
    assert_eq!(shrunk, expected);
}

#[test]
fn equals_wait_for_each_other_and_nobody_is_put_out_for_one() {
    let mut world = World::settled(&[("a", 2)]);
    for number in 1..=3 {
        world.queue_up(number, 12, (3, 2, 2));
    }
    world.run_to(3);
    assert_eq!(
        world.status_of(2).state_reason,
        format!(
            "needs 2 cpu slots; of 2, 0 are free, 2 are held by {}",
            words(1, 3)
        )
    );
    assert_eq!(
        world.status_of(3).state_reason,
        format!(
            "needs 2 cpu slots; waits behind {}, which needs 2 cpu slots",
            words(2, 3)
        )
    );
    world.run_all_to_end();
    for number in 1..=3 {
        world.check_job_finished(number, 12);
        assert_eq!(world.job_of(number).placed.len(), 2);
    }
    assert!(world.preempted().is_empty());
}

#[test]
fn a_waiting_gang_is_not_starved_by_smaller_ones_and_one_that_never_fits_holds_up_nobody() {
    let mut world = World::settled(&[("a", 3)]);
    world.queue_up(1, 12, (0, 2, 2));
    world.queue_up(2, 12, (0, 3, 3));
    world.queue_up(3, 12, (0, 1, 1));
    world.queue_up(4, 12, (0, 4, 4));
    world.deliver();
    assert_eq!(world.slots_of(3), 0, "it would starve job 2");
    assert_eq!(
        world.status_of(4).state_reason,
        "needs 4 cpu slots, the cluster offers 3"
    );
    world.queue_up(5, 12, (9, 4, 4));
    world.run_until(|world| (1..=3).all(|number| world.status_of(number).state.is_over()));
    let placed = world.event("placement").into_iter().map(|it| it.job);
    let mut placed: Vec<_> = placed.flatten().collect();
    placed.dedup();
    assert_eq!(placed, [1, 2, 3].map(job_id), "each when its turn came");
    world.add_node("b", 1);
    world.run_until(|world| world.status_of(5).state == JobState::Training);
    assert_eq!(world.slots_of(4), 0);
    world.run_all_to_end();
    world.check_job_finished(4, 12);
    world.check_job_finished(5, 12);
}

#[test]
fn whoever_does_not_leave_within_the_grace_is_killed_and_the_job_is_queued_again() {
    let mut world = World::settled(&[("a", 2)]);
    let mut slow = spec(40, 2, 2);
    slow.queue.preempt_grace_seconds = 2;
    world.submit(1, slow);
    world.run_to(8);
    let stuck = world.worker(1);
    world.workers.get_mut(&stuck).unwrap().frozen = true;
    world.queue_up(2, 10, (1, 1, 1));
    world.deliver();
    world.wait(1);
    assert_eq!(world.status().state, JobState::Draining);
    world.wait(2);
    assert!(
        world.reasons(1, "expelled")[0].contains("did not leave within 2 s"),
        "{:?}",
        world.reasons(1, "expelled")
    );
    assert_eq!(world.reasons(1, "requeued").len(), 1);
    world.run_all_to_end();
    world.check_job_finished(1, 40);
    world.check_job_finished(2, 10);
    let resumes: Vec<_> = world
        .resumes()
        .into_iter()
        .map(|it| it.state.step)
        .collect();
    assert_eq!(
        resumes[2],
        muster_types::Step(5),
        "from its newest checkpoint"
    );
}

#[test]
fn a_job_that_has_not_trained_yet_gives_way_at_once() {
    let mut world = World::settled(&[("a", 1)]);
    world.queue_up(1, 10, (0, 1, 1));
    world.queue_up(2, 10, (1, 1, 1));
    assert_eq!(world.status().state, JobState::Pending);
    world.run_until(|world| world.status_of(2).state.is_over());
    assert_eq!(world.status().step.get(), 0);
    world.run_all_to_end();
    world.check_job_finished(1, 10);
    world.check_job_finished(2, 10);
}

#[test]
fn a_preempted_job_that_is_stopped_ends_as_stopped() {
    let mut world = World::settled(&[("a", 1)]);
    world.queue_up(1, 30, (0, 1, 1));
    world.run_to(7);
    world.queue_up(2, 10, (1, 1, 1));
    world.feed(Event::StopRequested {
        job: job_id(1),
        grace_seconds: 30,
    });
    assert_eq!(world.run_to_end(), JobState::Stopped);
    assert!(world.reasons(1, "requeued").is_empty());
    world.feed(Event::ResumeRequested { job: job_id(1) });
    world.run_all_to_end();
    world.check_job_finished(1, 30);
}

#[rstest]
#[case::preempting((0, 2, 2), (5, 2, 2))]
#[case::shrinking((0, 1, 2), (5, 1, 1))]
fn the_coordinator_may_die_at_any_moment_of_it(#[case] low: Asked, #[case] high: Asked) {
    for after in 0..60 {
        let mut world = World::settled(&[("a", 2)]);
        world.queue_up(1, 30, low);
        world.run_to(7);
        world.queue_up(2, 10, high);
        for turn in 0..60 {
            if turn == after {
                world.restart_coordinator();
                world.reconnect();
            }
            match world.next_event(turn) {
                Some(event) => world.feed(event),
                None => drop(world.work()),
            }
        }
        world.run_all_to_end();
        world.check_job_finished(1, 30);
        world.check_job_finished(2, 10);
        assert!(world.preempted().len() <= 1);
    }
}

#[test]
fn a_death_gives_the_slot_back_as_well() {
    let mut world = World::settled(&[("a", 3)]);
    world.queue_up(1, 40, (0, 2, 3));
    world.run_to_world_size(1, 3);
    world.queue_up(2, 10, (0, 1, 1));
    assert_eq!(world.reasons(1, "shrink").len(), 1);
    let first = world.worker(1);
    world.kill(&first);
    world.run_to_world_size(2, 1);
    assert_eq!(world.slots_of(1), 2, "the others stay");
    assert!(world.reasons(1, "released").is_empty());
    world.run_all_to_end();
    world.check_job_finished(1, 40);
}

#[test]
fn two_jobs_that_hold_what_the_other_lacks_do_not_wait_for_ever() {
    let mut world = World::settled(&[("a", 2), ("b", 2)]);
    world.queue_up(1, 40, (0, 2, 2));
    world.queue_up(2, 40, (0, 2, 2));
    world.run_until(|world| {
        [1, 2]
            .iter()
            .all(|number| world.status_of(*number).step.get() >= 6)
    });
    // Of each, one worker and its slot go for good.
    for number in [1, 2] {
        let worker = world.job_of(number).placed[0].0.clone();
        let node = world.workers[&worker].node.clone();
        world.kill(&worker);
        world.disconnect_agent(&node);
        world.agents.get_mut(&node).unwrap().slots.remove(0);
    }
    world.reconnect();
    world.deliver();
    let waits = world.status().state_reason;
    assert!(waits.contains("1 of at least 2 workers"), "{waits}");
    assert!(waits.contains("needs 1 more cpu slot"), "{waits}");
    world.wait(11);
    assert_eq!(world.preempted(), [job_id(2)]);
    world.run_all_to_end();
    world.check_job_finished(1, 40);
    world.check_job_finished(2, 40);
}

#[test]
fn while_nodes_come_back_nobody_gives_way() {
    let mut world = World::settled(&[("a", 1), ("b", 1)]);
    world.queue_up(1, 40, (0, 1, 1));
    world.run_to(3);
    let b = NodeName::from("b");
    world.disconnect_agent(&b);
    world.deliver();
    world.queue_up(2, 40, (5, 1, 1));
    world.deliver();
    assert!(world.preempted().is_empty());
    world.connect_agent(&b);
    world.deliver();
    assert_eq!(world.slots_of(2), 1, "its slot came back");
    world.settle_down();
    assert!(world.preempted().is_empty());
    // Where the node stays away, the other gives way after all.
    world.queue_up(3, 40, (9, 1, 1));
    assert_eq!(world.preempted(), [job_id(1)]);
}

fn quotas(everyone: u32, named: &[(&str, u32)]) -> ClusterOptions {
    let named = named.iter().map(|(user, quota)| ((*user).into(), *quota));
    ClusterOptions {
        user_quotas: UserQuotas {
            everyone,
            named: named.collect(),
        },
        ..ClusterOptions::default()
    }
}

#[test]
fn a_job_beyond_its_users_quota_waits_and_others_go_past_it() {
    let mut world = World::settled_with(quotas(2, &[("eve", 3)]), &[("a", 6)]);
    world.queue_up_for("anna", 1, 30, (0, 2, 2));
    world.queue_up_for("anna", 2, 10, (9, 1, 1));
    world.queue_up_for("eve", 3, 10, (-5, 1, 6));
    world.run_to(3);
    assert_eq!(world.slots_of(2), 0);
    assert_eq!(
        world.status_of(2).state_reason,
        "over quota: needs 1 cpu slot; of at most 2, user \"anna\" holds 2"
    );
    assert_eq!(world.slots_of(3), 3, "it grows up to the quota");
    world.queue_up_for("anna", 4, 10, (9, 3, 3));
    world.queue_up_for("", 5, 10, (0, 3, 3));
    assert_eq!(
        world.status_of(5).state_reason,
        "over quota: needs 3 cpu slots; of at most 2, jobs without a user hold 0"
    );
    world.run_until(|world| (1..=3).all(|number| world.status_of(number).state.is_over()));
    world.check_job_finished(2, 10);
    assert!(world.preempted().is_empty(), "a quota preempts nobody");
}

#[test]
fn within_a_quota_lent_slots_are_given_back_to_the_users_own_jobs() {
    let mut world = World::settled_with(quotas(3, &[]), &[("a", 8)]);
    world.queue_up_for("anna", 1, 60, (0, 1, 8));
    world.run_to_world_size(1, 3);
    world.queue_up_for("anna", 2, 10, (0, 2, 2));
    world.run_to_world_size(2, 2);
    assert_eq!((world.slots_of(1), world.slots_of(2)), (1, 2));
    let shrink = world.reasons(1, "shrink");
    assert!(
        shrink[0].ends_with("is over the quota of user \"anna\" without 2 slots"),
        "{shrink:?}"
    );
    world.run_until(|world| world.status_of(2).state.is_over());
    world.run_to_world_size(1, 3);
    world.run_all_to_end();
}

impl World {
    fn cordon(&mut self, node: &str, reason: &str) {
        self.feed(Event::CordonRequested {
            node: node.into(),
            reason: reason.into(),
        });
    }

    fn uncordon(&mut self, node: &str) {
        self.feed(Event::UncordonRequested { node: node.into() });
    }
}

#[test]
fn nothing_new_is_placed_on_a_cordoned_node_and_what_runs_there_goes_on() {
    let mut world = World::settled(&[("a", 2), ("b", 1)]);
    world.queue_up(1, 40, (0, 1, 1));
    world.run_to(3);
    world.cordon("a", "a fan is loud");
    world.cordon("a", "a fan is loud");
    assert_eq!(
        world.reasons(1, "node_cordoned"),
        ["nothing new is placed on node a: a fan is loud"]
    );
    let nodes = world.cluster.nodes();
    assert_eq!(nodes[0].cordon.as_deref(), Some("a fan is loud"));
    assert_eq!(nodes[1].cordon, None);
    world.queue_up(2, 10, (9, 2, 2));
    world.settle_down();
    assert_eq!(
        world.status_of(2).state_reason,
        "needs 2 cpu slots, the cluster offers 1 beside 2 cordoned"
    );
    assert!(
        world.preempted().is_empty(),
        "its slot would be of no use to the other"
    );
    world.restart_coordinator();
    assert_eq!(
        world.cluster.nodes()[0].cordon.as_deref(),
        Some("a fan is loud")
    );
    world.reconnect();
    world.deliver();
    world.run_to(8);
    assert_eq!(world.job().placed.len(), 1, "it goes on");
    // A replacement goes elsewhere.
    let worker = world.worker(1);
    world.kill(&worker);
    world.run_to(20);
    assert_eq!(world.job().placed[1].1.as_str(), "b");
    world.uncordon("a");
    world.uncordon("a");
    assert_eq!(world.reasons(1, "node_uncordoned").len(), 1);
    world.deliver();
    assert_eq!(world.slots_of(2), 2);
    assert!(
        world
            .cluster
            .nodes()
            .iter()
            .all(|node| node.cordon.is_none())
    );
    world.run_all_to_end();
}

#[test]
fn a_cordoned_gpu_node_makes_no_job_run_on_cpus() {
    let mut world = World::settled(&[("a", 1)]);
    let gpu = crate::SlotOffer {
        index: 0,
        device: "cuda:0".into(),
        threads: 1,
    };
    world.add_node_with("g", vec![gpu]);
    world.deliver();
    world.cordon("g", "");
    world.queue_up(1, 10, (0, 1, 1));
    assert_eq!(world.slots_of(1), 0);
    assert_eq!(
        world.status().state_reason,
        "needs 1 cuda slot, the cluster offers none beside 1 cordoned"
    );
    world.uncordon("g");
    assert_eq!(world.slots_of(1), 1);
}

#[test]
fn a_crash_alone_does_not_put_a_job_back_in_line() {
    let mut world = World::settled(&[("a", 1), ("b", 2)]);
    world.queue_up(1, 40, (0, 1, 1));
    world.queue_up(2, 40, (9, 2, 2));
    world.queue_up(3, 40, (9, 3, 3));
    world.run_to(3);
    let worker = world.worker(1);
    world.kill(&worker);
    world.deliver();
    assert_eq!(world.slots_of(1), 1, "job 3 could not use the slot");
    assert_eq!(world.slots_of(3), 0);
    world.run_all_to_end();
    world.check_job_finished(1, 40);
    world.check_job_finished(3, 40);
}

#[test]
fn a_plan_is_made_of_the_state_alone_and_what_is_under_way_counts_as_done() {
    let mut world = World::settled(&[("a", 4)]);
    world.queue_up(1, 40, (0, 1, 4));
    world.run_to_world_size(1, 4);
    world.queue_up(2, 10, (1, 2, 4));
    let now = world.now.monotonic;
    let plan = world.cluster.plan(now);
    assert_eq!(plan.recalls[&job_id(1)].len(), 2);
    assert_eq!(plan.waits[&job_id(2)].why, Wait::Coming);
    assert!(plan.placements.is_empty() && plan.preemptions.is_empty());
    let again = world.cluster.plan(now);
    assert_eq!(plan.recalls, again.recalls);
    world.run_to_world_size(2, 2);
    let plan = world.cluster.plan(world.now.monotonic);
    assert!(plan.recalls.is_empty() && plan.waits.is_empty());
    assert!(plan.placements.is_empty(), "{:?}", plan.placements);
}

#[test]
fn records_of_before_there_was_a_queue_are_read() {
    let mut world = World::settled(&[("a", 1)]);
    world.queue_up(1, 10, (0, 1, 1));
    let submitted = world
        .journal
        .iter()
        .find(|record| matches!(record.kind, RecordKind::JobSubmitted(_)))
        .unwrap();
    let mut value = serde_json::to_value(submitted).unwrap();
    let spec = value.pointer_mut("/kind/spec").unwrap();
    assert!(spec.as_object_mut().unwrap().remove("queue").is_some());
    let read: Record = serde_json::from_value(value).unwrap();
    assert_eq!(&read, submitted);
}

#[test]
fn a_job_that_pauses_after_a_failure_keeps_its_turn() {
    let mut world = World::settled(&[("a", 1)]);
    world.queue_up(1, 20, (0, 1, 1));
    world.run_to(2);
    for _ in 0..2 {
        let worker = world.job().placed.last().unwrap().0.clone();
        world.kill(&worker);
        world.deliver();
    }
    world.queue_up(2, 10, (0, 1, 1));
    let reason = world.status().state_reason;
    assert!(
        reason.starts_with("needs 1 cpu slot; pauses after a failure"),
        "{reason}"
    );
    assert_eq!(world.slots_of(2), 0);
    world.now.monotonic = world.now.monotonic + Duration::from_secs(1);
    world.feed(Event::Tick);
    assert_eq!(world.slots_of(1), 1);
    world.run_all_to_end();
    world.check_job_finished(1, 20);
}

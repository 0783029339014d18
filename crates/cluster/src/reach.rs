//! Ranks that the coordinator reaches, and that do not reach each other: all wait in a collective, so none of them stands out.
//! They are asked to connect to one another, and whoever is cut off from most is the culprit.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use muster_types::{Monotonic, WorkerId};

use crate::{Order, job_turn::JobTurn};

/// Peers that are named one by one.
const NAMED_PEERS: usize = 3;

/// A question to all members: whom of your peers do you reach?
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reach {
    number: u64,
    asked_at: Monotonic,
    /// Who has not answered yet.
    awaited: BTreeSet<WorkerId>,
    /// Pairs between which no connection could be made, the one who tried first.
    broken: BTreeSet<(WorkerId, WorkerId)>,
}

/// What has come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Answers are awaited.
    Asking,
    /// Some cannot reach others.
    Broken,
    /// All that was tried is reached.
    All,
}

impl JobTurn<'_> {
    /// Asks all members whom of each other they reach, once for each inquiry, and says how that stands.
    pub fn ask_who_reaches_whom(&mut self) -> Reached {
        let Some(suspicion) = &self.volatile.round.suspicion else {
            return Reached::All;
        };
        let Some(reach) = &suspicion.reach else {
            self.ask_for_reach();
            return Reached::Asking;
        };
        let (asked_at, is_broken) = (reach.asked_at, !reach.broken.is_empty());
        if !reach.awaited.is_empty() && !self.ran_out(asked_at, self.options.reach_bound) {
            return Reached::Asking;
        }
        match is_broken {
            true => Reached::Broken,
            false => Reached::All,
        }
    }

    fn ask_for_reach(&mut self) {
        let (now, number) = (self.now.monotonic, self.volatile.probes);
        let members = self.present_members();
        let mut awaited = BTreeSet::new();
        for (rank, member) in members.iter().enumerate() {
            let peers: Vec<_> = partners(rank, members.len())
                .filter_map(|peer| members.get(peer))
                .filter_map(|peer| Some((peer.clone(), self.reach_address(peer)?)))
                .collect();
            if !peers.is_empty() && self.is_connected(member) {
                awaited.insert(member.clone());
                self.tell(member, Order::Reach { number, peers });
            }
        }
        self.ran_out(now, self.options.reach_bound);
        if let Some(suspicion) = &mut self.volatile().round.suspicion {
            suspicion.reach = Some(Reach {
                number,
                asked_at: now,
                awaited,
                broken: BTreeSet::new(),
            });
        }
    }

    fn reach_address(&self, worker: &WorkerId) -> Option<Arc<str>> {
        let address = &self.volatile.workers.get(worker)?.reach_address;
        (!address.is_empty()).then(|| Arc::clone(address))
    }

    /// A member has tried. The last answer decides.
    pub fn reached(&mut self, worker: &WorkerId, number: u64, unreachable: Vec<WorkerId>) {
        let since = self.volatile.round.moved_at;
        let suspicion = self.volatile().round.suspicion.as_mut();
        let Some(reach) = suspicion.and_then(|it| it.reach.as_mut()) else {
            return;
        };
        if reach.number != number || !reach.awaited.remove(worker) {
            return;
        }
        let pairs = unreachable.into_iter().map(|peer| (worker.clone(), peer));
        reach.broken.extend(pairs);
        if reach.awaited.is_empty() && !reach.broken.is_empty() {
            self.put_out_the_cut_off(since);
        }
    }

    /// Puts out whoever has to go so that all that are left reach each other.
    pub fn put_out_the_cut_off(&mut self, since: Monotonic) {
        let suspicion = self.volatile.round.suspicion.as_ref();
        let Some(reach) = suspicion.and_then(|it| it.reach.as_ref()) else {
            return;
        };
        let members = self.present_members();
        let still = self.now.monotonic.since(since).as_secs_f64();
        for (worker, peers) in cut_off(&members, &reach.broken.clone()) {
            let named: Vec<_> = peers
                .iter()
                .take(NAMED_PEERS)
                .map(WorkerId::as_str)
                .collect();
            let more = match peers.len() - named.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let reason = format!(
                "is the culprit: nothing has moved for {still:.1} s, and no connection can be made between it and {}{more}, though \
                 the coordinator reaches all of them; look at the network of its node",
                named.join(", ")
            );
            self.put_out_for(&worker, reason);
        }
    }
}

/// Whom a rank tries to reach: those 1, 2, 4, … ranks after it, so that of a few ranks each pair is tried, and of many each rank by
/// some on other nodes, with few connections for each.
fn partners(rank: usize, world_size: usize) -> impl Iterator<Item = usize> {
    let distances = std::iter::successors(Some(1), |distance| Some(distance * 2));
    distances
        .take_while(move |distance| *distance < world_size)
        .map(move |distance| (rank + distance) % world_size)
}

/// Who has to go, and the peers that it is cut off from: again and again whoever is cut off from most of those that are left; of
/// equals the last rank.
fn cut_off(
    members: &[WorkerId],
    broken: &BTreeSet<(WorkerId, WorkerId)>,
) -> Vec<(WorkerId, BTreeSet<WorkerId>)> {
    let mut left: BTreeMap<&WorkerId, BTreeSet<WorkerId>> = BTreeMap::new();
    for (one, other) in broken {
        if members.contains(one) && members.contains(other) {
            left.entry(one).or_default().insert(other.clone());
            left.entry(other).or_default().insert(one.clone());
        }
    }
    let mut gone = Vec::new();
    loop {
        let count = |worker: &&WorkerId| left.get(*worker).map_or(0, BTreeSet::len);
        let Some(worst) = members.iter().max_by_key(count) else {
            return gone;
        };
        let peers = left.remove(worst).unwrap_or_default();
        if peers.is_empty() {
            return gone;
        }
        for others in left.values_mut() {
            others.remove(worst);
        }
        gone.push((worst.clone(), peers));
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn worker(number: usize) -> WorkerId {
        WorkerId::new(format!("w-{number}"))
    }

    #[rstest]
    #[case::nobody(&[], &[])]
    #[case::one_of_three(&[(0, 1), (2, 1)], &[1])]
    #[case::said_by_one_side(&[(0, 3), (3, 1), (2, 3)], &[3])]
    #[case::of_two_the_last(&[(0, 1)], &[1])]
    #[case::two_of_six(&[(0, 4), (0, 5), (1, 4), (1, 5), (2, 4), (3, 5)], &[5, 4])]
    #[case::a_node_of_two(&[(0, 2), (0, 3), (1, 2), (1, 3)], &[3, 2])]
    fn the_fewest_go(#[case] broken: &[(usize, usize)], #[case] gone: &[usize]) {
        let members: Vec<_> = (0..6).map(worker).collect();
        let broken = broken
            .iter()
            .map(|(one, other)| (worker(*one), worker(*other)));
        let found = cut_off(&members, &broken.collect());
        let found: Vec<_> = found.into_iter().map(|(worker, _)| worker).collect();
        let gone: Vec<_> = gone.iter().map(|number| worker(*number)).collect();
        assert_eq!(found, gone);
    }

    #[test]
    fn of_a_few_ranks_each_pair_is_tried() {
        for world_size in 1..=5 {
            let mut tried = BTreeSet::new();
            for rank in 0..world_size {
                tried.extend(
                    partners(rank, world_size).map(|peer| (rank.min(peer), rank.max(peer))),
                );
            }
            assert_eq!(tried.len(), world_size * (world_size - 1) / 2);
        }
        assert_eq!(partners(9_999, 10_000).count(), 14);
    }
}

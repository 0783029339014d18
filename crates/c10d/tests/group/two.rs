//! The collectives, between two ranks in one process.
use std::sync::Arc;

use muster_c10d::{Abort, CollectiveError, Group, LocalStore, Op};
use tch::{Device, Kind, Tensor};

use crate::peer::options;
use crate::{finished, within_watchdog};

/// Runs `body` as both ranks, and returns what each came to.
fn both<T: Send + 'static>(body: impl Fn(&Group) -> T + Clone + Send + 'static) -> [T; 2] {
    let store = Arc::new(LocalStore::new());
    let ranks = [0, 1].map(|rank| {
        let (store, body) = (Arc::clone(&store), body.clone());
        within_watchdog("rank", move || {
            let group = Group::form(store, &options(rank), &Abort::new()).unwrap();
            let outcome = body(&group);
            group.barrier().unwrap();
            outcome
        })
    });
    ranks.map(|rank| finished("rank", &rank))
}

fn numbers(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor).unwrap()
}

#[test]
fn reduces_with_each_operation() {
    let outcomes = both(|group| {
        [Op::Sum, Op::Product, Op::Min, Op::Max].map(|op| {
            let tensor = Tensor::from_slice(&[2 + i64::from(group.rank()), -5]);
            group.all_reduce(&tensor, op).unwrap();
            numbers(&tensor)
        })
    });
    for outcome in outcomes {
        assert_eq!(
            outcome,
            [vec![5, -10], vec![6, 25], vec![2, -5], vec![3, -5]]
        );
    }
}

#[test]
fn broadcasts_gathers_and_sends() {
    let outcomes = both(|group| {
        let rank = i64::from(group.rank());
        let from_one = Tensor::from_slice(&[10 + rank]);
        group.broadcast(&from_one, 1).unwrap();
        let gathered = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
        group
            .all_gather_into(&gathered, &Tensor::from_slice(&[rank, rank + 7]))
            .unwrap();
        let passed = Tensor::from_slice(&[rank]);
        if rank == 0 {
            group.send(&Tensor::from_slice(&[42i64]), 1, 3).unwrap();
        } else {
            group.recv(&passed, 0, 3).unwrap();
        }
        [numbers(&from_one), numbers(&gathered), numbers(&passed)]
    });
    assert_eq!(outcomes[0], [vec![11], vec![0, 7, 1, 8], vec![0]]);
    assert_eq!(outcomes[1], [vec![11], vec![0, 7, 1, 8], vec![42]]);
}

#[test]
fn parameters_can_be_broadcast() {
    let outcomes = both(|group| {
        let parameter =
            Tensor::from_slice(&[f32::from(group.rank() as u8)]).set_requires_grad(true);
        group.broadcast(&parameter, 1).unwrap();
        Vec::<f32>::try_from(parameter.detach()).unwrap()
    });
    assert_eq!(outcomes, [[1.0], [1.0]]);
}

#[test]
fn work_in_flight_keeps_its_tensors() {
    let outcomes = both(|group| {
        let sums: Vec<Tensor> = (0..8)
            .map(|_| Tensor::ones([1 << 16], (Kind::Float, Device::Cpu)))
            .collect();
        let work: Vec<_> = sums
            .iter()
            .map(|sum| group.start_all_reduce(sum, Op::Sum).unwrap())
            .collect();
        let kept = sums[7].shallow_clone();
        drop(sums);
        // Memory that was freed too early would be taken again here.
        let noise: Vec<Tensor> = (0..8)
            .map(|_| Tensor::zeros([1 << 16], (Kind::Float, Device::Cpu)))
            .collect();
        for work in work {
            work.wait().unwrap();
        }
        let total: f64 = noise
            .iter()
            .map(|n| n.sum(Kind::Float).double_value(&[]))
            .sum();
        (kept.sum(Kind::Float).double_value(&[]), total)
    });
    assert_eq!(outcomes, [(131_072.0, 0.0); 2]);
}

#[test]
fn an_abort_wakes_a_receive_that_nobody_answers() {
    let store = Arc::new(LocalStore::new());
    let abort = Abort::new();
    let (shared, switch) = (Arc::clone(&store), abort.clone());
    let receiver = within_watchdog("receiver", move || {
        let group = Group::form(shared, &options(0), &switch).unwrap();
        let nothing = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        group.recv(&nothing, 1, 0).unwrap_err()
    });
    let silent = Group::form(store, &options(1), &Abort::new()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    abort.abort("over");
    assert_eq!(
        finished("receiver", &receiver).to_string(),
        "recv aborted: over"
    );
    // The other side sees a peer that has left.
    let tensor = Tensor::zeros([4], (Kind::Float, Device::Cpu));
    let error = silent.all_reduce(&tensor, Op::Sum).unwrap_err();
    assert!(
        matches!(&error, CollectiveError::PeerLost { .. }),
        "{error}"
    );
}

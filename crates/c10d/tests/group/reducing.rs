//! Data-parallel gradients are the sums of what the ranks computed.
use std::sync::Arc;

use muster_c10d::{Abort, CollectiveError, Group, GroupOptions, LocalStore, Reducer, ops};
use tch::Tensor;

use crate::peer::{Peer, Role, options};
use crate::{finished, model, within_watchdog};

#[test]
fn two_processes_train_as_one() {
    let store = Arc::new(LocalStore::new());
    let peer = Peer::start(Role::Trains, 1, &store);
    let training = within_watchdog("training", move || {
        let group = Group::form(store, &options(0), &Abort::new()).unwrap();
        model::train(&group)
    });
    finished("training", &training).unwrap();
    assert!(peer.succeeds());
}

#[test]
fn sums_are_not_divided() {
    let store = Arc::new(LocalStore::new());
    let rank = |rank: u32| {
        let store = Arc::clone(&store);
        within_watchdog("rank", move || {
            let group = Group::form(store, &options(rank), &Abort::new()).unwrap();
            let parameter = Tensor::from_slice(&[1.0f32, 2.0]).set_requires_grad(true);
            let reducer =
                Reducer::new(&group, &[parameter.shallow_clone()], Default::default()).unwrap();
            reducer.prepare_forward().unwrap();
            let loss = (&parameter * f64::from(rank + 1)).sum(tch::Kind::Float);
            reducer.prepare_backward(&[&loss]).unwrap();
            loss.backward();
            let values = Vec::<f32>::try_from(parameter.grad()).unwrap();
            group.barrier().unwrap();
            values
        })
    };
    let ranks = [rank(0), rank(1)];
    for rank in &ranks {
        assert_eq!(finished("rank", rank), [3.0, 3.0]);
    }
}

#[test]
fn buckets_cover_the_parameters_and_stay() {
    let group = Group::form(
        Arc::new(LocalStore::new()),
        &GroupOptions::new(0, 1),
        &Abort::new(),
    )
    .unwrap();
    let parameters = model::parameters();
    let reducer = model::reducer(&group, &parameters);
    let bytes: usize = parameters.iter().map(|p| p.numel() * 4).sum();
    let sizes = reducer.bucket_sizes().to_vec();
    assert!(sizes.len() > 2, "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), bytes);

    // A bucket's gradients share one buffer, of which they are views: the same one at every step.
    let places = |parameters: &[Tensor]| -> Vec<usize> {
        model::gradients(parameters)
            .iter()
            .map(|g| g.data_ptr() as usize)
            .collect()
    };
    let mut seen = Vec::new();
    for step in 0..4 {
        model::backward(&reducer, &parameters, step, 0).unwrap();
        let summed = model::gradients(&parameters);
        assert!(model::difference(&summed, &model::expected(&parameters, step, 1)) < 1e-6);
        seen.push(places(&parameters));
        ops::zero(&summed).unwrap();
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
}

#[test]
fn a_reducer_wants_clear_gradients() {
    let group = Group::form(
        Arc::new(LocalStore::new()),
        &GroupOptions::new(0, 1),
        &Abort::new(),
    )
    .unwrap();
    let parameters = model::parameters();
    model::backward(&model::reducer(&group, &parameters), &parameters, 0, 0).unwrap();
    let error = Reducer::new(&group, &parameters, Default::default()).unwrap_err();
    assert!(matches!(&error, CollectiveError::Other { .. }), "{error}");
    ops::clear_grads(&parameters).unwrap();
    assert!(parameters.iter().all(|p| !p.grad().defined()));
    let reducer = Reducer::new(&group, &parameters, Default::default()).unwrap();
    model::backward(&reducer, &parameters, 1, 0).unwrap();
    assert!(Reducer::new(&group, &[], Default::default()).is_err());
}

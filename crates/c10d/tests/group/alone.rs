//! A group of one, and options that cannot work.
use std::sync::Arc;
use std::time::Duration;

use muster_c10d::{
    Abort, CollectiveError, GlooAddress, Group, GroupError, GroupOptions, LocalStore, Op, cuda,
};
use tch::{Device, Kind, Tensor};

use crate::peer::{Peer, Role};

/// Forms alone, as a survivor does, and shows that it works.
pub fn form_alone() -> Group {
    let group = Group::form(
        Arc::new(LocalStore::new()),
        &GroupOptions::new(0, 1),
        &Abort::new(),
    )
    .unwrap();
    let tensor = Tensor::from_slice(&[2i64, 3]);
    group.all_reduce(&tensor, Op::Sum).unwrap();
    assert_eq!(Vec::<i64>::try_from(&tensor).unwrap(), [2, 3]);
    group
}

#[test]
fn a_world_of_one_works() {
    let group = form_alone();
    assert_eq!(
        (group.rank(), group.size(), group.device()),
        (0, 1, Device::Cpu)
    );
    group.barrier().unwrap();
    group.check().unwrap();
}

#[test]
fn an_aborted_group_refuses_at_once() {
    let abort = Abort::new();
    let options = GroupOptions::new(0, 1);
    let group = Group::form(Arc::new(LocalStore::new()), &options, &abort).unwrap();
    abort.abort("superseded by generation 2");
    let tensor = Tensor::zeros([1], (Kind::Float, Device::Cpu));
    let reason = "superseded by generation 2";
    let aborted = |operation: &str| CollectiveError::Aborted {
        operation: operation.into(),
        reason: reason.into(),
    };
    assert_eq!(
        group.all_reduce(&tensor, Op::Sum).unwrap_err(),
        aborted("all-reduce")
    );
    assert_eq!(group.check().unwrap_err(), aborted("check"));
    assert_eq!(
        Group::form(Arc::new(LocalStore::new()), &options, &abort).unwrap_err(),
        GroupError::Aborted {
            reason: reason.into()
        }
    );
}

#[test]
fn a_tensor_that_does_not_fit_is_an_error_on_one_line() {
    let group = form_alone();
    let tensor = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu));
    let error = group.broadcast(&tensor, 7).unwrap_err();
    assert!(matches!(&error, CollectiveError::Other { .. }), "{error}");
    assert!(
        !error.cause().is_empty() && !error.to_string().contains('\n'),
        "{error}"
    );
    let small = Tensor::zeros([3], (Kind::Float, Device::Cpu));
    assert!(group.all_gather_into(&small, &tensor).is_err());
    // The group is none the worse for it.
    group.all_reduce(&tensor, Op::Max).unwrap();
}

#[test]
fn an_address_of_another_machine_is_refused() {
    for address in [
        GlooAddress::Host("no.such.host.invalid".into()),
        GlooAddress::Interface("no-such-interface".into()),
    ] {
        let options = GroupOptions {
            address,
            form_timeout: Duration::from_secs(5),
            ..GroupOptions::new(0, 1)
        };
        let error = Group::form(Arc::new(LocalStore::new()), &options, &Abort::new()).unwrap_err();
        assert!(matches!(&error, GroupError::Failed { .. }), "{error}");
    }
}

/// In a process of its own, since CUDA is loaded before anything else.
#[test]
fn a_gpu_is_used_or_refused_with_the_reason() {
    assert!(Peer::start(Role::WantsGpu, 0, &Arc::new(LocalStore::new())).succeeds());
}

/// What that process does.
pub fn want_gpu() {
    let loaded = cuda::load();
    let abort = Abort::new();
    let options = GroupOptions {
        device: Device::Cuda(0),
        ..GroupOptions::new(0, 1)
    };
    let formed = Group::form(Arc::new(LocalStore::new()), &options, &abort);
    match (loaded, tch::Cuda::device_count()) {
        (Err(error), _) => {
            assert!(error.to_string().contains("CPU-only"), "{error}");
            assert_eq!(formed.unwrap_err(), GroupError::Cuda(error));
        }
        (Ok(cuda), 0) => {
            assert_eq!(cuda.nccl_version(), "2.28.9");
            let error = formed.unwrap_err();
            assert!(matches!(&error, GroupError::Failed { .. }), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        (Ok(_), _) => {
            let group = formed.unwrap();
            let tensor = Tensor::ones([8], (Kind::Float, Device::Cuda(0)));
            group.all_reduce(&tensor, Op::Sum).unwrap();
            group.check().unwrap();
            assert_eq!(tensor.sum(Kind::Float).double_value(&[]), 8.0);
            abort.abort("over");
            let error = group.all_reduce(&tensor, Op::Sum).unwrap_err();
            assert!(matches!(&error, CollectiveError::Aborted { .. }), "{error}");
        }
    }
}

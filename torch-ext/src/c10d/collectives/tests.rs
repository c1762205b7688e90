//! Groups within one process: a thread plays each rank, over real sockets.

use std::{sync::Arc, thread};

use tch::Kind;

use super::*;
use crate::StoreAddress;

const TIMEOUT: Duration = Duration::from_secs(20);

/// What `work` of each of `world_size` ranks gives.
fn ranks<T: Send + 'static>(world_size: usize, work: impl Fn(&Group) -> T + Send + Sync + 'static) -> Vec<T> {
    let address = |port, serves| StoreAddress { host: "127.0.0.1".into(), port, serves, prefix: "t".into() };
    let keeper = Store::open(&address(0, true), TIMEOUT).unwrap();
    let (port, work) = (keeper.port(), Arc::new(work));
    let rank = |rank| {
        let work = Arc::clone(&work);
        let address = address(port, false);
        thread::spawn(move || {
            let store = Store::open(&address, TIMEOUT).unwrap();
            work(&Group::join(Device::Cpu, &store, "0", (rank, world_size), TIMEOUT).unwrap())
        })
    };
    let threads: Vec<_> = (0..world_size).map(rank).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float)).unwrap()
}

#[test]
fn every_operation_does_what_it_says_for_two_and_four_ranks() {
    for world_size in [2, 4] {
        let seen = ranks(world_size, move |group| {
            let mine = group.rank() as f64;
            let sum = Tensor::full([5], mine + 1.0, (Kind::Float, Device::Cpu));
            group.all_reduce(&sum).unwrap().wait().unwrap();
            let whole = Tensor::arange(2 * world_size as i64, (Kind::Float, Device::Cpu)) * (mine + 1.0);
            let share = Tensor::zeros([2], (Kind::Float, Device::Cpu));
            group.reduce_scatter(&share, &whole).unwrap().wait().unwrap();
            let gathered = Tensor::zeros([world_size as i64], (Kind::BFloat16, Device::Cpu));
            let own = Tensor::full([1], mine, (Kind::BFloat16, Device::Cpu));
            group.all_gather(&gathered, &own).unwrap().wait().unwrap();
            [sum, share, gathered].map(|tensor| values(&tensor))
        });
        let total = (world_size * (world_size + 1) / 2) as f32;
        let everyone: Vec<f32> = (0..world_size).map(|rank| rank as f32).collect();
        for (rank, [sum, share, gathered]) in seen.into_iter().enumerate() {
            assert_eq!(sum, [total; 5]);
            assert_eq!(share, [2 * rank, 2 * rank + 1].map(|at| at as f32 * total));
            assert_eq!(gathered, everyone);
        }
    }
}

#[test]
fn what_is_started_together_ends_together() {
    let seen = ranks(2, |group| {
        let parts: Vec<Tensor> =
            (0..8).map(|at| Tensor::full([1000], f64::from(at), (Kind::Float, Device::Cpu))).collect();
        let pending: Vec<_> = parts.iter().map(|part| group.all_reduce(part).unwrap()).collect();
        pending.into_iter().for_each(|pending| pending.wait().unwrap());
        parts.iter().map(|part| part.double_value(&[999])).collect::<Vec<_>>()
    });
    for parts in seen {
        assert_eq!(parts, (0..8).map(|at| f64::from(2 * at)).collect::<Vec<_>>());
    }
}

#[test]
fn groups_of_one_store_are_apart_and_one_that_was_aborted_still_closes() {
    let address = |port, serves| StoreAddress { host: "127.0.0.1".into(), port, serves, prefix: "t".into() };
    let keeper = Store::open(&address(0, true), TIMEOUT).unwrap();
    let port = keeper.port();
    let rank = move |rank| {
        let store = Store::open(&address(port, false), TIMEOUT).unwrap();
        let sums = ["0", "1"].map(|name| {
            let group = Group::join(Device::Cpu, &store, name, (rank, 2), TIMEOUT).unwrap();
            let sum = Tensor::full([2], rank as f64 + 1.0, (Kind::Float, Device::Cpu));
            group.all_reduce(&sum).unwrap().wait().unwrap();
            assert_eq!(group.error(), None);
            if name == "1" {
                group.abort().unwrap();
                group.abort().unwrap();
            }
            values(&sum)
        });
        sums.concat()
    };
    let other = thread::spawn(move || rank(1));
    assert_eq!((rank(0), other.join().unwrap()), (vec![3.0; 4], vec![3.0; 4]));
}

#[test]
fn a_rank_that_leaves_is_an_error_of_the_others() {
    let seen = ranks(2, |group| {
        let tensor = Tensor::ones([4], (Kind::Float, Device::Cpu));
        group.all_reduce(&tensor).unwrap().wait().unwrap();
        if group.rank() == 1 {
            return None;
        }
        group.all_reduce(&tensor).and_then(Pending::wait).err()
    });
    assert!(matches!(&seen[..], [Some(_), None]), "{seen:?}");
}

#[test]
fn a_store_remembers_and_a_key_that_never_comes_is_an_error() {
    let address = StoreAddress { host: "127.0.0.1".into(), port: 0, serves: true, prefix: String::new() };
    let keeper = Store::open(&address, TIMEOUT).unwrap();
    let other = StoreAddress { port: keeper.port(), serves: false, ..address };
    let other = Store::open(&other, TIMEOUT).unwrap();
    assert_eq!(other.get("word").unwrap(), None);
    keeper.set("word", "said").unwrap();
    // Setting does not wait for the store, so another connection may be ahead of it.
    other.wait("word", TIMEOUT).unwrap();
    assert_eq!(other.get("word").unwrap().as_deref(), Some("said"));
    assert_eq!((other.add("n", 2).unwrap(), keeper.add("n", 3).unwrap()), (2, 5));
    assert!(other.wait("never", Duration::from_millis(100)).is_err());
}

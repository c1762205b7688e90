//! Ranks as threads, over real sockets.

use std::thread;

use super::*;
use crate::Rendezvous;

const TIMEOUT: Duration = Duration::from_secs(1);

/// The results of `work` on each of `world_size` ranks, whose collective operations would fail after a second.
fn ranks<T: Send>(world_size: usize, work: impl Fn(Peers) -> T + Sync) -> Vec<T> {
    let place = Rendezvous::open().unwrap();
    let rank = |rank| {
        let peers = Peers::connect(&place.member(rank, world_size), TIMEOUT, Box::new(|_| {})).unwrap();
        let result = work(peers.clone());
        peers.leave();
        result
    };
    let rank = &rank;
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world_size).map(|number| scope.spawn(move || rank(number))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn ranks_wait_for_each_other_longer_than_collective_operations_may() {
    let heard = ranks(3, |peers| {
        if peers.is_first() {
            thread::sleep(3 * TIMEOUT);
            peers.tell("task", "train").unwrap();
        }
        let heard = peers.hear("task", || false).unwrap();
        if peers.rank() == 2 {
            thread::sleep(2 * TIMEOUT);
        }
        assert!(peers.meet("done", || false).unwrap());
        // A later group has keys of its own.
        for _ in 0..2 {
            let ranks = peers.join(Device::Cpu, 10 * TIMEOUT).unwrap();
            assert!(ranks.any(peers.rank() == 1).unwrap());
        }
        heard
    });
    assert_eq!(heard, vec![Some("train".to_owned()); 3]);
}

#[test]
fn a_request_to_stop_one_rank_reaches_those_that_wait() {
    let met = ranks(2, |peers| {
        let exchange = peers.stop_exchange();
        if peers.rank() == 1 {
            assert_eq!(exchange(true), Some(true));
            return (false, None);
        }
        let is_stopped = || exchange(false) == Some(true);
        (peers.meet("done", is_stopped).unwrap(), peers.hear("task", is_stopped).unwrap())
    });
    assert_eq!(met[0], (false, None));
    assert_eq!(Peers::alone().stop_exchange()(true), None);
}

/// No operation connects the ranks, so only its heartbeats tell that rank 1 is alive.
#[test]
fn a_rank_that_dies_while_others_wait_is_named() {
    let place = Rendezvous::open().unwrap();
    let connect = |rank| {
        let member = place.member(rank, 2);
        thread::spawn(move || Peers::connect(&member, TIMEOUT, Box::new(|_| {})).unwrap())
    };
    let [first, second] = [connect(0), connect(1)].map(|peers| peers.join().unwrap());
    let started = Instant::now();
    // Its threads end, and it does not take leave.
    drop(second);
    let failure = first.meet("done", || false).unwrap_err().to_string();
    assert!(failure.contains("rank 1 of 2") && failure.contains("it is gone"), "{failure}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn a_rank_that_never_connects_is_missed() {
    let place = Rendezvous::open().unwrap();
    let alone = Peers::connect(&place.member(0, 2), TIMEOUT, Box::new(|_| {}));
    let message = alone.map(drop).unwrap_err().to_string();
    assert!(message.contains("1 of 2 ranks have connected within 1 seconds"), "{message}");
}

//! Two ranks in two threads, over real sockets, on the model that ships with the project.

use std::{path::Path, thread, time::Duration};

use jacobi_model::{AdapterConfig, Dtype, Target, load};

use super::*;
use crate::{Peers, Rendezvous};

/// The results of `work` on each of two ranks.
fn two_ranks<T: Send>(work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let place = Rendezvous::open().unwrap();
    let rank = |rank| {
        let timeout = Duration::from_secs(60);
        let peers = Peers::connect(&place.member(rank, 2), timeout, Box::new(|_| {})).unwrap();
        let result = work(peers.join(tch::Device::Cpu, timeout).unwrap());
        peers.leave();
        result
    };
    let rank = &rank;
    thread::scope(|scope| {
        let ranks = [0, 1].map(|number| scope.spawn(move || rank(number)));
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn model() -> Transformer {
    load(Path::new("../datasets/default/model"), Dtype::Float32).unwrap().transformer
}

#[test]
fn each_sharding_keeps_its_share_and_delivers_sums_and_parameters() {
    let all = [Sharding::None, Sharding::Optimizer, Sharding::Gradients, Sharding::Parameters];
    for (sharding, has_adapter) in all.map(|sharding| [(sharding, false), (sharding, true)]).concat() {
        let new_adapter = |model: &Transformer| {
            let config = AdapterConfig { rank: 3, alpha: 1.0, targets: Target::ALL.to_vec() };
            has_adapter.then(|| Adapter::new(model.architecture(), config, 1, tch::Device::Cpu))
        };
        // Of what is trained.
        let count =
            new_adapter(&model()).map_or(model().parameter_count(), |adapter| adapter.parameter_count());
        let seen = two_ranks(|ranks| {
            let (mut model, mine) = (model(), ranks.rank() as f64 + 1.0);
            let mut adapter = new_adapter(&model);
            let shards = Shards::new(&mut model, adapter.as_mut(), sharding, ranks.clone());
            let trained = || adapter.as_ref().map_or(model.parameters(), |adapter| adapter.parameters());
            let resident = shards.buckets.iter().filter(|bucket| !bucket.memory.is_released()).count();
            let updated: usize = shards.pieces().iter().map(|piece| piece.parameter.numel()).sum();
            for is_last in [false, true] {
                for (_, parameter) in trained() {
                    let _ = shards.gradients().of(parameter).g_add_scalar_(mine);
                }
                (0..shards.buckets.len()).for_each(|bucket| shards.reduce(bucket, is_last).unwrap());
                shards.finish_reductions().unwrap();
            }
            let sums = shards.pieces().iter().all(|piece| piece.gradient.eq(6.0).all().int64_value(&[]) == 1);
            let plain = self::model();
            let plain_adapter = new_adapter(&plain);
            let all = || {
                let expected =
                    plain_adapter.as_ref().map_or(plain.parameters(), |adapter| adapter.parameters());
                let pairs = model.parameters().iter().zip(plain.parameters());
                pairs.chain(trained().iter().zip(expected)).all(|((_, a), (_, b))| a.equal(b))
            };
            let whole = shards.with_all(all).unwrap();
            (resident > 0, updated, sums, whole)
        });
        let updated: usize = seen.iter().map(|seen| seen.1).sum();
        let expected = if sharding == Sharding::None { 2 * count } else { count };
        assert_eq!(updated, expected, "{sharding:?}, adapter: {has_adapter}");
        for (is_resident, _, sums, whole) in seen {
            assert_eq!(is_resident, sharding != Sharding::Parameters, "{sharding:?}");
            assert!(sums, "{sharding:?}: two passes of 1 and of 2 make 6");
            assert!(whole, "{sharding:?}: the parameters are those of the file");
        }
    }
}

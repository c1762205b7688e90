//! Published numbers, ranges and permutations.

use super::*;

#[test]
fn matches_published_splitmix64_numbers() {
    let mut rng = Rng { state: 1234567 };
    let expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431];
    assert_eq!([(); 4].map(|()| rng.next_u64()), expected);
}

#[test]
fn seeds_and_their_order_determine_the_stream() {
    let first = |seeds: &[u64]| Rng::new(seeds).next_u64();
    assert_eq!(first(&[1, 2]), first(&[1, 2]));
    for other in [&[2, 1][..], &[1, 3], &[0, 2], &[1], &[1, 2, 0], &[]] {
        assert_ne!(first(&[1, 2]), first(other), "{other:?}");
    }
}

#[test]
fn streams_with_shared_seeds_begin_as_they_do_alone() {
    for shared in [&[][..], &[7], &[7, 11]] {
        for last in [0, 1, 12345, u64::MAX] {
            let alone = Rng::new(&[shared, &[last]].concat()).next_u64();
            assert_eq!(Streams::new(shared).first(last), alone, "{shared:?}, {last}");
        }
    }
}

#[test]
fn numbers_stay_in_range_and_reach_its_ends() {
    let mut rng = Rng::new(&[7]);
    let mut seen = [0_usize; 5];
    for _ in 0..5000 {
        seen[rng.below(5)] += 1;
        assert!((0.0..1.0).contains(&rng.next_f64()));
    }
    assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
    assert_eq!(rng.below(1), 0);
}

#[test]
fn shuffle_is_a_permutation_that_depends_on_the_seed() {
    let shuffled = |seed| {
        let mut items: Vec<u32> = (0..50).collect();
        Rng::new(&[seed]).shuffle(&mut items);
        items
    };
    let mut sorted = shuffled(3);
    assert_eq!(shuffled(3), sorted);
    assert_ne!(shuffled(4), sorted);
    sorted.sort_unstable();
    assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    Rng::new(&[1]).shuffle::<u8>(&mut []);
}

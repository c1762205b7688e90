//! Candidates of a pool, by hand.

use super::*;

fn pool(runs: &[&[u32]]) -> NgramPool {
    let mut pool = NgramPool::default();
    for run in runs {
        pool.remember(run.to_vec());
    }
    pool
}

#[test]
fn what_followed_the_last_token_is_tried_again() {
    let check = |runs: &[&[u32]], own: &[u32], count, longest, expected: &[&[u32]]| {
        assert_eq!(pool(runs).candidates(&[1, 2, 3], own, count, longest), expected, "{runs:?}");
    };
    check(&[], &[], 4, 9, &[]);
    check(&[&[3, 4, 5]], &[], 4, 9, &[&[4, 5]]);
    check(&[&[3, 4, 5]], &[], 4, 1, &[&[4]]);
    check(&[&[3, 4, 5]], &[], 0, 9, &[]);
    check(&[&[3, 4, 5]], &[], 4, 0, &[]);
    check(&[&[9, 9], &[5, 3]], &[], 4, 9, &[]);
    // The youngest first; every place of a run counts.
    check(&[&[3, 4], &[3, 5], &[3, 6, 3, 7]], &[], 4, 9, &[&[6, 3, 7], &[7], &[5], &[4]]);
    check(&[&[3, 4], &[3, 5], &[3, 6, 3, 7]], &[], 2, 9, &[&[6, 3, 7], &[7]]);
    // More matching text before it wins over age.
    check(&[&[2, 3, 4], &[9, 3, 5]], &[], 4, 9, &[&[4], &[5]]);
    // The draft itself and what another candidate begins with are no alternatives.
    check(&[&[3, 4, 5]], &[4, 5, 6], 4, 9, &[]);
    check(&[&[3, 4], &[3, 4, 5]], &[], 4, 9, &[&[4, 5]]);
}

#[test]
fn the_oldest_run_makes_room() {
    let mut pool = NgramPool::default();
    for token in 0..100 {
        pool.remember(vec![3, token]);
    }
    assert_eq!(pool.candidates(&[3], &[], 1000, 9).len(), CAPACITY);
    pool.remember(vec![3]);
    pool.remember(vec![3, 99]);
    assert_eq!(pool.candidates(&[3], &[], 1000, 9)[0], [99]);
    assert_eq!(pool.runs.len(), CAPACITY);
}

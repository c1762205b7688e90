//! Divisions of any samples among any number of ranks.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn ranks_share_all_samples_with_as_many_passes_and_like_numbers_of_tokens(
        lengths in prop::collection::vec(1usize..2000, 1..60),
        ranks in 1usize..9,
        tokens_per_row in 1usize..4000,
    ) {
        let passes = divide(&lengths, ranks, tokens_per_row);
        prop_assert_eq!(passes.len(), ranks);
        prop_assert!(passes.iter().all(|rows| rows.len() == passes[0].len()));
        let mut visited: Vec<usize> = passes.iter().flatten().flatten().copied().collect();
        visited.sort_unstable();
        prop_assert_eq!(visited, (0..lengths.len()).collect::<Vec<_>>());
        for row in passes.iter().flatten() {
            let tokens: usize = row.iter().map(|&at| lengths[at]).sum();
            prop_assert!(row.len() <= 1 || tokens <= tokens_per_row);
        }
        let tokens: Vec<usize> = passes
            .iter()
            .map(|rows| rows.iter().flatten().map(|&at| lengths[at]).sum())
            .collect();
        // The longest sample is what greedy division can be off by; a rank that is full earlier has no shorter ones.
        let (least, most) = (tokens.iter().min().unwrap(), tokens.iter().max().unwrap());
        if lengths.len().is_multiple_of(ranks) {
            prop_assert!(most - least <= 2 * lengths.iter().max().unwrap(), "{tokens:?}");
        }
        prop_assert_eq!(&passes, &divide(&lengths, ranks, tokens_per_row));
    }
}

#[test]
fn a_step_of_few_samples_leaves_passes_empty() {
    assert_eq!(divide(&[5, 7], 3, 100), [vec![vec![1]], vec![vec![0]], vec![vec![]]]);
    assert_eq!(divide(&[1, 2, 3, 4], 2, 100), [vec![vec![3, 0]], vec![vec![2, 1]]]);
}

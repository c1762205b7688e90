//! The samples of an optimizer step divided among ranks: each sample falls to one, all have as many forward passes, and
//! about as many tokens. A pure function of the samples' lengths and the number of ranks.

use std::cmp::Reverse;

use jacobi_datasets::fill_rows;

/// Which samples, by their place among all, share each forward pass of each rank: `[rank][pass]`. Where there are fewer
/// samples than passes, a pass is empty. `lengths` are the tokens that each sample takes.
pub(crate) fn divide(lengths: &[usize], ranks: usize, tokens_per_row: usize) -> Vec<Vec<Vec<usize>>> {
    if ranks == 1 {
        return vec![fill_rows(lengths, tokens_per_row)];
    }
    let shares = shares(lengths, ranks);
    let rows = |share: &Vec<usize>| {
        let own: Vec<usize> = share.iter().map(|&at| lengths[at]).collect();
        let rows = fill_rows(&own, tokens_per_row);
        rows.into_iter().map(|row| row.into_iter().map(|at| share[at]).collect()).collect::<Vec<Vec<usize>>>()
    };
    let mut passes: Vec<Vec<Vec<usize>>> = shares.iter().map(rows).collect();
    let most = passes.iter().map(Vec::len).max().unwrap_or(0);
    passes.iter_mut().for_each(|rows| rows.resize(most, Vec::new()));
    passes
}

/// Each rank's samples, the shortest first: the longest first, each to the rank with the fewest tokens among those that have
/// fewest samples or may have one more.
fn shares(lengths: &[usize], ranks: usize) -> Vec<Vec<usize>> {
    let most = lengths.len().div_ceil(ranks);
    let mut shares = vec![Vec::new(); ranks];
    let mut tokens = vec![0; ranks];
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&at| Reverse(lengths[at]));
    for at in order {
        let open = (0..ranks).filter(|&rank| shares[rank].len() < most);
        let rank = open.min_by_key(|&rank| (tokens[rank], shares[rank].len(), rank)).expect("room for all");
        shares[rank].push(at);
        tokens[rank] += lengths[at];
    }
    shares.iter_mut().for_each(|share| share.reverse());
    shares
}

#[cfg(test)]
mod tests {
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
}

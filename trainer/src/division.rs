//! Divides the samples of an optimizer step among ranks: each sample goes to one rank, and all ranks get the
//! same number of forward passes and about the same number of tokens. A pure function of the samples' lengths
//! and the number of ranks.

use std::cmp::Reverse;

use jacobi_datasets::fill_rows;

/// The indices of the samples in each forward pass of each rank: `[rank][pass]`. With fewer samples than passes, some
/// passes are empty. `lengths` are the tokens of each sample.
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

/// Each rank's samples, the shortest first. They are assigned greedily, the longest first, each to the rank
/// with the fewest tokens among those with room for another sample.
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
mod tests;

//! The tree against all combinations of tokens.

use proptest::prelude::*;

use super::*;

/// The rows below the run as paths of tokens.
fn paths(draft: &Draft) -> Vec<Vec<u32>> {
    let rows = draft.rows();
    let path = |row| rows.path(row)[1..].iter().map(|&at| rows.tokens()[at]).collect();
    (draft.run_len()..rows.len()).map(path).collect()
}

#[test]
fn the_most_probable_branches_come_first() {
    // Depth 1: 10 (0.5), 11 (0.4); depth 2: 20 (0.7), 21 (0.2).
    let ln = |p: f32| p.ln();
    let marginals = [vec![(10, ln(0.5)), (11, ln(0.4))], vec![(20, ln(0.7)), (21, ln(0.2))]];
    let mut draft = Draft::run(1, &[10, 20], 3);
    grow(&mut draft, &marginals, 6);
    assert_eq!(paths(&draft), [vec![11], vec![11, 20], vec![10, 21]]);
    let mut draft = Draft::run(1, &[10, 20], 3);
    grow(&mut draft, &marginals, 100);
    assert_eq!(draft.rows().len(), 7);
    let mut draft = Draft::run(1, &[10, 20], 3);
    grow(&mut draft, &marginals, 2);
    assert_eq!(draft.rows().len(), 3);
    grow(&mut draft, &[], 100);
    assert_eq!(draft.rows().len(), 3);
}

proptest! {
    /// Against the slow version: all combinations, sorted.
    #[test]
    fn the_tree_is_the_best_of_all_combinations(
        // Distinct scores, so that one order is right.
        steps in prop::collection::vec(prop::collection::vec(0.01f32..3.0, 1..4), 1..4),
        budget in 1usize..40,
    ) {
        let marginals: Vec<Marginal> = steps
            .iter()
            .enumerate()
            .map(|(depth, steps)| {
                let mut score = 0.0;
                let token = |rank: usize| (10 * depth + rank) as u32;
                steps.iter().enumerate().map(|(rank, step)| { score -= step; (token(rank), score) }).collect()
            })
            .collect();
        let mut draft = Draft::run(99, &[], 1);
        grow(&mut draft, &marginals, budget);
        let mut all: Vec<(f32, Vec<u32>)> = vec![];
        let mut level: Vec<(f32, Vec<u32>)> = vec![(0.0, vec![])];
        for marginal in &marginals {
            level = level
                .iter()
                .flat_map(|(score, path)| marginal.iter().map(move |(token, log_probability)| {
                    (score + log_probability, [path.as_slice(), &[*token]].concat())
                }))
                .collect();
            all.extend(level.clone());
        }
        let found = paths(&draft);
        prop_assert_eq!(found.len(), (budget - 1).min(all.len()));
        let worst = found.iter().map(|path| all.iter().find(|(_, p)| p == path).unwrap().0)
            .fold(f32::INFINITY, f32::min);
        let better = all.iter().filter(|(score, _)| *score > worst + 1e-4).count();
        prop_assert!(better < found.len().max(1), "{better} combinations beat the worst of {}", found.len());
    }
}

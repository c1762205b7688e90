//! Acceptance of a greedy draft: the longest agreed prefix. Integers only.

/// How many tokens of `draft` are right, given that `draft[0]` is known to be right and `greedy[i]` is the
/// model's token after `draft[..=i]`: 1 + the number of leading `i` with `draft[i + 1] == greedy[i]`.
/// (arXiv 2512.14681, section 2: one Jacobi iteration.)
pub fn accepted(draft: &[u32], greedy: &[u32]) -> usize {
    assert_eq!(draft.len(), greedy.len(), "one greedy token per draft position");
    1 + draft[1..].iter().zip(greedy).take_while(|(drafted, right)| drafted == right).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agreed_prefix_is_accepted() {
        let rows: &[(&[u32], &[u32], usize)] = &[
            (&[5], &[9], 1),
            (&[5, 6], &[6, 7], 2),
            (&[5, 6], &[7, 7], 1),
            (&[5, 6, 7, 8], &[6, 7, 8, 9], 4),
            (&[5, 6, 0, 8], &[6, 7, 8, 9], 2),
            (&[5, 0, 7, 8], &[6, 7, 8, 9], 1),
        ];
        for (draft, greedy, expected) in rows {
            assert_eq!(accepted(draft, greedy), *expected, "{draft:?} against {greedy:?}");
        }
    }
}

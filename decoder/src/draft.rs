//! What one forward pass is to verify: a run of draft tokens, and the branches that compete with it. Integers only.

use jacobi_model::Rows;

/// Where a draft token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The draft of the block whose accepted tokens are committed (the real-active block).
    Own,
    /// A block refined ahead of it (pseudo-active).
    Pseudo,
    /// An earlier, rejected draft out of the n-gram pool.
    Recycled,
    /// A branch of the token tree.
    Tree,
}

impl Source {
    /// Every source, in the order of statistics.
    pub const ALL: [Self; 4] = [Self::Own, Self::Pseudo, Self::Recycled, Self::Tree];

    /// The name in statistics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Pseudo => "pseudo",
            Self::Recycled => "recycled",
            Self::Tree => "tree",
        }
    }
}

/// The rows of one forward pass. Row 0 holds the token that is known to be right and not cached yet; the run comes
/// first, so that its rows are numbered by depth, and the branches follow. Siblings differ, so at most one of them
/// can be right.
#[derive(Clone, Debug)]
pub struct Draft {
    rows: Rows,
    sources: Vec<Source>,
    run: usize,
}

impl Draft {
    /// The run `known, then`, of which the first `own` rows belong to the real-active block.
    pub(crate) fn run(known: u32, then: &[u32], own: usize) -> Self {
        let mut draft = Self { rows: Rows::chain(&[known]), sources: vec![Source::Own], run: 1 + then.len() };
        for (above, &token) in then.iter().enumerate() {
            draft.rows.push(token, Some(above));
            draft.sources.push(if above + 1 < own { Source::Own } else { Source::Pseudo });
        }
        draft
    }

    /// The row of `token` below `parent`: the one that is there, or a new one.
    pub(crate) fn branch(&mut self, parent: usize, token: u32, source: Source) -> usize {
        self.child(parent, token).unwrap_or_else(|| {
            self.sources.push(source);
            self.rows.push(token, Some(parent))
        })
    }

    /// The row below `parent` that holds `token`.
    pub(crate) fn child(&self, parent: usize, token: u32) -> Option<usize> {
        self.children(parent).find(|&row| self.rows.tokens()[row] == token)
    }

    fn children(&self, parent: usize) -> impl Iterator<Item = usize> {
        (parent + 1..self.rows.len()).filter(move |&row| self.rows.parent(row) == Some(parent))
    }

    /// The longest path of right tokens, from row 0 on, when the model gives `chosen[row]` after each row: the
    /// definition of acceptance (arXiv 2512.14681, section 2), for branches as for runs.
    pub(crate) fn accepted(&self, chosen: &[u32]) -> Vec<usize> {
        assert_eq!(chosen.len(), self.rows.len(), "one chosen token per row");
        let next = |&row: &usize| self.child(row, chosen[row]);
        std::iter::successors(Some(0), next).collect()
    }

    /// The rows whose predictions are the next draft once `last` is the last right row: the first children below it,
    /// then what the run holds deeper. `last` itself comes first.
    pub fn continuation(&self, last: usize) -> Vec<usize> {
        let mut rows: Vec<usize> =
            std::iter::successors(Some(last), |&row| self.children(row).next()).collect();
        let deepest = self.rows.depth(rows[rows.len() - 1]);
        rows.extend(deepest + 1..self.run);
        rows
    }

    /// The rows.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Where the token of `row` came from.
    pub fn source(&self, row: usize) -> Source {
        self.sources[row]
    }

    /// Rows of the run: those before the branches.
    pub fn run_len(&self) -> usize {
        self.run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agreed_prefix_of_a_run_is_accepted() {
        let rows: &[(&[u32], &[u32], usize)] = &[
            (&[5], &[9], 1),
            (&[5, 6], &[6, 7], 2),
            (&[5, 6], &[7, 7], 1),
            (&[5, 6, 7, 8], &[6, 7, 8, 9], 4),
            (&[5, 6, 0, 8], &[6, 7, 8, 9], 2),
            (&[5, 0, 7, 8], &[6, 7, 8, 9], 1),
        ];
        for (draft, chosen, expected) in rows {
            let path = Draft::run(draft[0], &draft[1..], draft.len()).accepted(chosen);
            assert_eq!(path, (0..*expected).collect::<Vec<_>>(), "{draft:?} against {chosen:?}");
        }
    }

    /// 5 - 6 - 7 with the branches 5 - 8 - 9 and 6 - 4.
    fn branched() -> Draft {
        let mut draft = Draft::run(5, &[6, 7], 3);
        let eight = draft.branch(0, 8, Source::Recycled);
        draft.branch(eight, 9, Source::Recycled);
        draft.branch(1, 4, Source::Tree);
        draft
    }

    #[test]
    fn the_longest_right_branch_wins() {
        let draft = branched();
        let rows: &[([u32; 6], &[usize])] = &[
            ([6, 7, 1, 0, 0, 0], &[0, 1, 2]),
            ([8, 7, 1, 9, 3, 0], &[0, 3, 4]),
            ([8, 7, 1, 0, 3, 0], &[0, 3]),
            ([6, 4, 1, 9, 3, 2], &[0, 1, 5]),
            ([1, 6, 7, 9, 3, 2], &[0]),
        ];
        for (chosen, expected) in rows {
            assert_eq!(draft.accepted(chosen), *expected, "{chosen:?}");
        }
    }

    #[test]
    fn siblings_differ() {
        let mut draft = branched();
        let before = draft.rows().len();
        assert_eq!(draft.branch(0, 6, Source::Tree), 1);
        assert_eq!(draft.branch(3, 9, Source::Tree), 4);
        assert_eq!(draft.rows().len(), before);
        assert_eq!((draft.source(1), draft.source(4)), (Source::Own, Source::Recycled));
    }

    #[test]
    fn the_next_draft_is_read_below_the_last_right_row_and_then_along_the_run() {
        let draft = branched();
        assert_eq!(draft.continuation(0), [0, 1, 2]);
        assert_eq!(draft.continuation(3), [3, 4]);
        assert_eq!(draft.continuation(5), [5]);
        let mut longer = Draft::run(5, &[6, 7, 8], 2);
        let branch = longer.branch(0, 1, Source::Tree);
        assert_eq!(longer.continuation(branch), [branch, 2, 3]);
        assert_eq!([longer.source(1), longer.source(2)], [Source::Own, Source::Pseudo]);
    }
}

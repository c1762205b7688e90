//! The rows of one forward pass: a run of draft tokens, branches that compete with it, and rows of an adapter that draft for
//! the next pass. Integers only.

use jacobi_model::Rows;
use serde::Serialize;

/// Where a draft token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The draft of the real-active block, whose accepted tokens are committed.
    Own,
    /// A pseudo-active block, refined ahead of the real-active one.
    Pseudo,
    /// An earlier, rejected draft from the n-gram pool.
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

/// Why a pass accepted no more tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The drafted tokens at the next position were wrong.
    Draft,
    /// Nothing was drafted for the next position, and the filler there was wrong.
    Filler,
    /// All drafts were right: the window or the tree ended.
    Window,
    /// It verified nothing, and drafted with an adapter (`passes = "two"`).
    Drafting,
    /// A near-tie was left to a pass over one row, or this was that pass.
    Tie,
    /// The response ended.
    End,
}

impl Limit {
    /// The name in statistics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Filler => "filler",
            Self::Window => "window",
            Self::Drafting => "drafting",
            Self::Tie => "tie",
            Self::End => "end",
        }
    }
}

/// The rows of one forward pass, a tree. Row 0, the root, holds the known-right token: the last token of the
/// response, which is not cached yet. The run comes first, so its rows are numbered by depth; the branches
/// follow. Siblings hold different tokens, so at most one of them is right.
#[derive(Clone, Debug)]
pub struct Draft {
    rows: Rows,
    sources: Vec<Source>,
    run: usize,
    /// Rows of the run from this one on hold filler.
    filler: usize,
    adapted: Option<Rows>,
}

impl Draft {
    /// The run `known, then`, whose first `own` rows belong to the real-active block.
    pub(crate) fn run(known: u32, then: &[u32], own: usize) -> Self {
        let (rows, sources) = (Rows::chain(&[known]), vec![Source::Own]);
        let run = 1 + then.len();
        let mut draft = Self { rows, sources, run, filler: run, adapted: None };
        for (above, &token) in then.iter().enumerate() {
            draft.rows.push(token, Some(above));
            draft.sources.push(if above + 1 < own { Source::Own } else { Source::Pseudo });
        }
        draft
    }

    /// With filler from row `row` of the run on.
    pub(crate) fn with_filler_from(self, row: usize) -> Self {
        Self { filler: row.min(self.run), ..self }
    }

    /// With rows for `tokens` that use the adapter.
    pub(crate) fn with_adapted(self, tokens: &[u32]) -> Self {
        Self { adapted: Some(Rows::chain(tokens)), ..self }
    }

    /// The row of `token` below `parent`, added if it does not exist.
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

    /// Why a path of right tokens ends with `last`, after which the model gives `chosen`.
    pub(crate) fn limit(&self, last: usize, chosen: u32) -> Limit {
        let is_filler = |row: usize| (self.filler..self.run).contains(&row);
        if self.child(last, chosen).is_some() {
            Limit::Tie
        } else if self.only_drafts() {
            Limit::Drafting
        } else if self.children(last).next().is_none() {
            Limit::Window
        } else if self.children(last).all(is_filler) {
            Limit::Filler
        } else {
            Limit::Draft
        }
    }

    /// The longest path of right tokens, from row 0 on, when the model gives `chosen(row)` after each row; only the rows of
    /// the path are asked. This is the definition of acceptance (arXiv 2512.14681, section 2), for branches as for the run.
    pub(crate) fn accepted(&self, mut chosen: impl FnMut(usize) -> u32) -> Vec<usize> {
        let next = |&row: &usize| self.child(row, chosen(row));
        std::iter::successors(Some(0), next).collect()
    }

    /// The rows whose predictions become the next draft when `last` is the last right row: `last`, its first
    /// child, the first child of that and so on, then the rows of the run that are deeper.
    pub fn continuation(&self, last: usize) -> Vec<usize> {
        let mut rows: Vec<usize> =
            std::iter::successors(Some(last), |&row| self.children(row).next()).collect();
        let deepest = self.rows.depth(rows[rows.len() - 1]);
        rows.extend(deepest + 1..self.run);
        rows
    }

    /// The rows that the model verifies.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The rows that use the adapter: a chain that follows row 0. They see the text, row 0 and each other; their predictions
    /// become the next draft, and nothing of them is cached. `None` without an adapter.
    pub fn adapted(&self) -> Option<&Rows> {
        self.adapted.as_ref()
    }

    /// Whether the pass verifies nothing but the known-right token, and drafts with the adapter.
    pub(crate) fn only_drafts(&self) -> bool {
        self.rows.len() == 1 && self.adapted.as_ref().is_some_and(|rows| !rows.is_empty())
    }

    /// Number of all rows.
    pub fn width(&self) -> usize {
        self.rows.len() + self.adapted.as_ref().map_or(0, Rows::len)
    }

    /// Where the token of `row` came from.
    pub fn source(&self, row: usize) -> Source {
        self.sources[row]
    }

    /// Number of rows of the run, which come before the branches.
    pub fn run_len(&self) -> usize {
        self.run
    }
}

#[cfg(test)]
mod tests;

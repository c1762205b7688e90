//! The tokens of one forward pass over one sequence: a forest whose roots follow the cached tokens. In a
//! chain every row follows the one before; candidate branches and token trees are the other shapes. Integers
//! only.

/// Tokens, each with the row it follows. Parents come before their children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    tokens: Vec<u32>,
    parents: Vec<Option<usize>>,
    depths: Vec<usize>,
    branches: bool,
}

impl Rows {
    /// Every token follows the one before, the first the cached tokens.
    pub fn chain(tokens: &[u32]) -> Self {
        let mut rows = Self::default();
        for (at, &token) in tokens.iter().enumerate() {
            rows.push(token, at.checked_sub(1));
        }
        rows
    }

    /// Adds a row that follows row `parent`, or the cached tokens, and returns its number.
    ///
    /// # Panics
    /// If there is no row `parent` yet.
    pub fn push(&mut self, token: u32, parent: Option<usize>) -> usize {
        let row = self.tokens.len();
        assert!(parent.is_none_or(|parent| parent < row), "row {row} cannot follow {parent:?}");
        self.branches |= parent != row.checked_sub(1);
        self.depths.push(parent.map_or(0, |parent| self.depths[parent] + 1));
        self.tokens.push(token);
        self.parents.push(parent);
        row
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens, by row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The row that `row` follows; `None` if it follows the cached tokens.
    pub fn parent(&self, row: usize) -> Option<usize> {
        self.parents[row]
    }

    /// Rows between `row` and the cached tokens: its position is the number of cached tokens plus this.
    pub fn depth(&self, row: usize) -> usize {
        self.depths[row]
    }

    /// Whether every row follows the one before.
    pub fn is_chain(&self) -> bool {
        !self.branches
    }

    /// The rows from a root down to `row`, both included.
    pub fn path(&self, row: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(row), |&at| self.parents[at]).collect();
        path.reverse();
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_counts_up() {
        let rows = Rows::chain(&[7, 8, 9]);
        assert!(rows.is_chain());
        assert_eq!((rows.len(), rows.tokens()), (3, &[7, 8, 9][..]));
        assert_eq!((rows.parent(0), rows.parent(2), rows.depth(2)), (None, Some(1), 2));
        assert!(Rows::default().is_chain() && Rows::default().is_empty());
    }

    #[test]
    fn a_branch_knows_its_path() {
        let mut rows = Rows::chain(&[1, 2, 3]);
        let a = rows.push(4, Some(0));
        let b = rows.push(5, Some(a));
        assert!(!rows.is_chain());
        assert_eq!((rows.depth(b), rows.path(b)), (2, vec![0, a, b]));
    }

    #[test]
    #[should_panic(expected = "cannot follow")]
    fn a_parent_comes_first() {
        Rows::default().push(1, Some(0));
    }
}

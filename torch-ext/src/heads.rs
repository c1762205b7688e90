//! The attention heads of projection rows, and views of tensors.

use std::ops::Range;

use tch::Tensor;

/// Heads of one projection row `[g * h queries | h keys | h values]`, each `d` wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads, g * h.
    pub queries: usize,
    /// Key/value heads, h.
    pub keys: usize,
    /// Width, d.
    pub width: usize,
}

impl HeadShape {
    /// Query heads per key/value head, g.
    pub(crate) fn group(self) -> usize {
        self.queries / self.keys
    }

    /// Elements of a projection row.
    pub(crate) fn row_len(self) -> usize {
        (self.queries + 2 * self.keys) * self.width
    }

    /// The number of rows of `qkv`.
    ///
    /// # Panics
    /// If its rows do not have these heads.
    pub(crate) fn rows_of(self, qkv: &Tensor) -> usize {
        let (n, row) = qkv.size2().expect("qkv is [rows, heads]");
        assert_eq!(row as usize, self.row_len(), "{self:?}");
        n as usize
    }

    /// Queries `[n, g * h, d]`, keys and values `[n, h, d]` of `qkv`, as views.
    pub(crate) fn split(self, qkv: &Tensor) -> [Tensor; 3] {
        let [queries, keys, d] = [self.queries, self.keys, self.width].map(|size| size as i64);
        let all = qkv.view([qkv.size()[0], queries + 2 * keys, d]);
        [all.narrow(1, 0, queries), all.narrow(1, queries, keys), all.narrow(1, queries + keys, keys)]
    }
}

/// A range of `x` along one dimension, as a view.
pub(crate) fn part(x: &Tensor, dim: i64, range: &Range<usize>) -> Tensor {
    x.narrow(dim, range.start as i64, range.len() as i64)
}

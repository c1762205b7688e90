//! Who attends to whom, as the attention kernel needs it. The mechanism only: which rule a mask stands for is the
//! caller's business.
//!
//! Legend: b batch, t query tokens, s key tokens, g query heads per key/value head.

use tch::{Device, Kind, Tensor};

use crate::Rows;

/// The mask of one forward pass.
pub enum AttentionMask {
    /// Ordinary causal attention with nothing cached: t = s.
    Causal,
    /// Every query sees every key: one new token behind a cache.
    Full,
    /// Additive mask `[b or 1, 1, t, s]` of the compute dtype: 0 where seen, -inf where not.
    Dense(Tensor),
}

impl AttentionMask {
    /// From a boolean `[b, t, s]`, true where seen. Every row must see something.
    pub fn from_bool(seen_bts: &Tensor, kind: Kind) -> Self {
        let (b, t, s) = seen_bts.size3().expect("seen_bts is [batch, queries, keys]");
        let mask = Tensor::zeros([b, t, s], (kind, seen_bts.device()));
        Self::Dense(mask.masked_fill(&seen_bts.logical_not(), f64::NEG_INFINITY).unsqueeze(1))
    }

    /// The dense mask repeated for `g` query heads folded into the token axis: `[b or 1, 1, g * t, s]`.
    pub(crate) fn folded(&self, g: i64) -> Option<Tensor> {
        match self {
            Self::Dense(mask) if g > 1 => Some(mask.repeat([1, 1, g, 1])),
            Self::Dense(mask) => Some(mask.shallow_clone()),
            Self::Causal | Self::Full => None,
        }
    }
}

/// Room for the masks of one sequence's passes. All cached tokens are seen by every row, so that only the square of the
/// rows among themselves is ever written: nothing here grows with the text.
pub(crate) struct MaskBuffer {
    /// `[rows, capacity]`, zero but for the square written last.
    zeros: Tensor,
    /// Where that is: its first column and its size.
    written: (i64, i64),
}

impl MaskBuffer {
    pub(crate) fn new(capacity: usize, kind: Kind, device: Device) -> Self {
        Self { zeros: Tensor::zeros([0, capacity as i64], (kind, device)), written: (0, 0) }
    }

    /// The mask `[1, 1, t, s]` of `rows` behind `cached` tokens: each row sees those, the rows on its path, and itself.
    pub(crate) fn behind(&mut self, cached: usize, rows: &Rows) -> AttentionMask {
        let (t, cached) = (rows.len() as i64, cached as i64);
        let (at, size) = self.written;
        let _ = self.square(at, size).zero_();
        let (room, capacity) = self.zeros.size2().expect("the buffer is [rows, capacity]");
        if t > room {
            self.zeros = Tensor::zeros([t, capacity], (self.zeros.kind(), self.zeros.device()));
        }
        let square = Tensor::from_slice(&ancestors(rows)).view([t, t]);
        self.square(cached, t).copy_(&square);
        self.written = (cached, t);
        AttentionMask::Dense(self.zeros.narrow(0, 0, t).narrow(1, 0, cached + t).view([1, 1, t, cached + t]))
    }

    fn square(&self, at: i64, size: i64) -> Tensor {
        self.zeros.narrow(0, 0, size).narrow(1, at, size)
    }
}

/// Row by row: 0 for the rows on the path to it and for itself, -inf for the others.
fn ancestors(rows: &Rows) -> Vec<f32> {
    let t = rows.len();
    let mut seen = vec![f32::NEG_INFINITY; t * t];
    for row in 0..t {
        if let Some(parent) = rows.parent(row) {
            seen.copy_within(parent * t..(parent + 1) * t, row * t);
        }
        seen[row * t + row] = 0.0;
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the `cached + t` keys each row sees.
    fn seen(mask: &AttentionMask) -> Vec<Vec<bool>> {
        let AttentionMask::Dense(mask) = mask else { panic!("a dense mask") };
        let rows = Vec::<Vec<f32>>::try_from(&mask.squeeze_dim(0).squeeze_dim(0)).unwrap();
        rows.iter().map(|row| row.iter().map(|value| *value == 0.0).collect()).collect()
    }

    #[test]
    fn every_row_sees_the_cache_its_path_and_itself() {
        let mut buffer = MaskBuffer::new(12, Kind::Float, Device::Cpu);
        let mut tree = Rows::chain(&[7, 8]);
        let branch = tree.push(9, Some(0));
        tree.push(9, Some(branch));
        tree.push(9, None);
        // One after the other, so that what one leaves would show in the next.
        for (cached, rows) in [(5, &tree), (2, &tree), (4, &Rows::chain(&[1; 6])), (0, &tree), (7, &tree)] {
            let found = seen(&buffer.behind(cached, rows));
            for (row, found) in found.iter().enumerate() {
                let path = rows.path(row);
                let expected: Vec<bool> = (0..cached + rows.len())
                    .map(|key| key < cached || path.contains(&(key - cached)))
                    .collect();
                assert_eq!(*found, expected, "row {row} of {rows:?} behind {cached}");
            }
        }
    }
}

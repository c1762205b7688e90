//! The KV cache of one sequence: allocated once, written in place, truncated by setting its length.
//!
//! Legend: l layers, h key/value heads, c capacity, d head width.

use jacobi_torch_ext::upload;
use tch::{Device, Kind, Tensor};

use crate::Architecture;

/// Keys and values of every layer for `len` tokens. A forward pass writes its rows after them, and
/// [`KvCache::keep`] adds some of those to the cached tokens.
pub(crate) struct KvCache {
    /// `[2 * l, h, c, d]`: the keys of layer 0, its values, the keys of layer 1, ..
    storage: Tensor,
    /// Its `2 * l` parts `[h, c, d]`.
    parts: Vec<Tensor>,
    len: usize,
}

impl KvCache {
    /// Room for `capacity` tokens.
    pub(crate) fn new(shape: &Architecture, capacity: usize, kind: Kind, device: Device) -> Self {
        let size = [2 * shape.num_hidden_layers, shape.num_key_value_heads, capacity as i64, shape.head_dim];
        // Uninitialised: positions past `len` are not read, and the system provides memory as a sequence grows.
        Self::over(Tensor::empty(size, (kind, device)))
    }

    fn over(storage: Tensor) -> Self {
        let parts = (0..storage.size()[0]).map(|part| storage.get(part)).collect();
        Self { storage, parts, len: 0 }
    }

    /// Fills all of it with zeros.
    pub(crate) fn zero(&self) {
        let _ = self.storage.shallow_clone().zero_();
    }

    /// `count` caches of `capacity` tokens. On a GPU all share one tensor, so that one kernel reaches all.
    pub(crate) fn several(
        shape: &Architecture,
        count: usize,
        capacity: usize,
        kind: Kind,
        device: Device,
    ) -> Vec<Self> {
        if device == Device::Cpu {
            return (0..count).map(|_| Self::new(shape, capacity, kind, device)).collect();
        }
        let all = Self::new(shape, count * capacity, kind, device).storage;
        let part = |at: usize| Self::over(all.narrow(2, (at * capacity) as i64, capacity as i64));
        (0..count).map(part).collect()
    }

    /// Number of cached tokens.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of tokens there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.storage.size()[2] as usize
    }

    /// Keys and values of one layer, each `[h, c, d]`: the cache's own memory.
    pub(crate) fn layer(&self, layer: usize) -> [&Tensor; 2] {
        [&self.parts[2 * layer], &self.parts[2 * layer + 1]]
    }

    /// Adds `rows` of the last pass, counted from the first after the cached tokens, to the cached tokens.
    ///
    /// # Panics
    /// If the rows do not ascend or lie beyond the capacity.
    pub(crate) fn keep(&mut self, rows: &[usize]) {
        assert!(rows.is_sorted_by(|a, b| a < b), "rows ascend, unlike {rows:?}");
        assert!(
            rows.last().is_none_or(|row| self.len + row < self.capacity()),
            "{rows:?} of {}",
            self.capacity()
        );
        let in_place = rows.iter().enumerate().take_while(|(at, row)| at == *row).count();
        let moved: Vec<i64> = rows[in_place..].iter().map(|row| (self.len + row) as i64).collect();
        if !moved.is_empty() {
            let mut from = Tensor::from_slice(&moved);
            upload([&mut from], self.storage.device());
            let target = self.storage.narrow(2, (self.len + in_place) as i64, moved.len() as i64);
            tch::no_grad(|| target.shallow_clone().copy_(&self.storage.index_select(2, &from)));
        }
        self.len += rows.len();
    }

    /// Forgets every token from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        assert!(len <= self.len, "cannot truncate {} cached tokens to {len}", self.len);
        self.len = len;
    }
}

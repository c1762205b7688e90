//! The KV cache of one sequence: allocated once, written in place, cut back by forgetting a length.
//!
//! Legend: h key/value heads, s cached tokens, d head width.

use tch::{Device, Kind, Tensor};

use crate::Architecture;

/// Keys and values of every layer, each `[1, h, capacity, d]`, of which the first `len` tokens count.
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    len: i64,
    capacity: i64,
}

impl KvCache {
    /// Room for `capacity` tokens.
    pub fn new(shape: &Architecture, capacity: i64, kind: Kind, device: Device) -> Self {
        let size = [1, shape.num_key_value_heads, capacity, shape.head_dim];
        let zeros = || Tensor::zeros(size, (kind, device));
        let layers = (0..shape.num_hidden_layers).map(|_| (zeros(), zeros())).collect();
        Self { layers, len: 0, capacity }
    }

    /// Tokens cached.
    pub fn len(&self) -> i64 {
        self.len
    }

    /// Nothing cached yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> i64 {
        self.capacity
    }

    /// Writes `k_bhtd` and `v_bhtd` of one layer behind the cached tokens and returns everything up to them.
    /// The length moves only with [`KvCache::advance`], when all layers have written.
    pub(crate) fn append(&mut self, layer: usize, k_bhtd: &Tensor, v_bhtd: &Tensor) -> (Tensor, Tensor) {
        let t = k_bhtd.size()[2];
        assert!(
            self.len + t <= self.capacity,
            "KV cache of {} tokens is full: {} cached, {t} more",
            self.capacity,
            self.len
        );
        let write = |slot: &Tensor, new: &Tensor| {
            slot.narrow(2, self.len, t).copy_(new);
            slot.narrow(2, 0, self.len + t)
        };
        let (k, v) = &self.layers[layer];
        (write(k, k_bhtd), write(v, v_bhtd))
    }

    /// Counts `t` tokens that every layer has appended.
    pub(crate) fn advance(&mut self, t: i64) {
        self.len += t;
    }

    /// Forgets every token from `len` on.
    pub fn truncate(&mut self, len: i64) {
        assert!(len <= self.len, "cannot truncate {} cached tokens to {len}", self.len);
        self.len = len;
    }
}

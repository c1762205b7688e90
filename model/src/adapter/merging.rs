//! Merges an adapter into the weights of its base model.

use std::collections::HashMap;

use tch::Tensor;

use super::{Adapter, PREFIX};
use crate::precision::{to_float32, to_kind};

impl Adapter {
    /// The parameters of a model with the updates added to them. Parameters without an update are not copied.
    pub fn merged(&self, base: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
        let updates = Updates::of(self);
        let merged = |(name, weight): &(String, Tensor)| {
            (name.clone(), updates.merged(name, weight).unwrap_or_else(|| weight.shallow_clone()))
        };
        base.iter().map(merged).collect()
    }

    /// Calls `work` while the parameters of `base` are the merged ones. Afterwards they are what they were, bit for bit.
    pub fn while_merged<T>(&self, base: &[(String, Tensor)], work: impl FnOnce() -> T) -> T {
        let updates = Updates::of(self);
        let set = |own: &Tensor, value: &Tensor| tch::no_grad(|| own.shallow_clone().copy_(value));
        let mut changed = Vec::new();
        for (name, own) in base {
            if let Some(merged) = updates.merged(name, own) {
                let before = own.copy();
                set(own, &merged);
                changed.push((own, before));
            }
        }
        let done = work();
        changed.iter().for_each(|(own, before)| set(own, before));
        done
    }
}

/// The matrices of an adapter by name.
struct Updates<'a> {
    matrices: HashMap<&'a str, &'a Tensor>,
    scale: f64,
}

impl<'a> Updates<'a> {
    fn of(adapter: &'a Adapter) -> Self {
        let matrices = adapter.parameters.iter().map(|(name, matrix)| (name.as_str(), matrix)).collect();
        Self { matrices, scale: adapter.config.alpha / adapter.config.rank as f64 }
    }

    /// The weight `name` with its update, if it has one.
    fn merged(&self, name: &str, weight: &Tensor) -> Option<Tensor> {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let matrix = |which: &str| {
            let matrix = self.matrices.get(format!("{PREFIX}{module}.{which}.weight").as_str())?;
            Some(to_float32(matrix))
        };
        let (a, b) = (matrix("lora_A")?, matrix("lora_B")?);
        Some(tch::no_grad(|| to_kind(&(to_float32(weight) + b.matmul(&a) * self.scale), weight.kind())))
    }
}

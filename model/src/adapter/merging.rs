//! Merges an adapter into the weights of its base model.

use std::collections::HashMap;

use tch::Tensor;

use super::{Adapter, PREFIX};
use crate::precision::{to_float32, to_kind};

impl Adapter {
    /// The parameters of a model with the updates added to them. Parameters without an update are not copied.
    pub fn merged(&self, base: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
        let matrices: HashMap<&str, &Tensor> =
            self.parameters.iter().map(|(name, matrix)| (name.as_str(), matrix)).collect();
        let scale = self.config.alpha / self.config.rank as f64;
        let merged = |(name, weight): &(String, Tensor)| {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let matrix = |which: &str| {
                matrices
                    .get(format!("{PREFIX}{module}.{which}.weight").as_str())
                    .map(|matrix| to_float32(matrix))
            };
            let tensor = match (matrix("lora_A"), matrix("lora_B")) {
                (Some(a), Some(b)) => {
                    tch::no_grad(|| to_kind(&(to_float32(weight) + b.matmul(&a) * scale), weight.kind()))
                }
                _ => weight.shallow_clone(),
            };
            (name.clone(), tensor)
        };
        base.iter().map(merged).collect()
    }

    /// Calls `work` while the parameters of `base` are the merged ones. Afterwards they are what they were, bit for bit.
    pub fn while_merged<T>(&self, base: &[(String, Tensor)], work: impl FnOnce() -> T) -> T {
        let merged = self.merged(base);
        let changed =
            base.iter().zip(&merged).filter(|((_, own), (_, new))| own.data_ptr() != new.data_ptr());
        let set = |own: &Tensor, value: &Tensor| tch::no_grad(|| own.shallow_clone().copy_(value));
        let swapped: Vec<(&Tensor, Tensor)> = changed
            .map(|((_, own), (_, new))| {
                let before = own.copy();
                set(own, new);
                (own, before)
            })
            .collect();
        let done = work();
        swapped.iter().for_each(|(own, before)| set(own, before));
        done
    }
}

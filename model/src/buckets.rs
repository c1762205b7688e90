//! Parameters in buckets, each one memory: what is reduced, gathered and given back at a time when several processes
//! train. The first holds the embedding, then there is one for each layer, and the last holds what comes after.

use jacobi_torch_ext::Releasable;
use tch::Tensor;

use crate::{Transformer, weights::Stacked};

/// Parameters that lie in one memory.
pub struct Bucket {
    /// All of them, flat, one after the other, and zeros behind them.
    pub memory: Releasable,
    /// Who lies where.
    pub parameters: Vec<PlacedParameter>,
}

/// A parameter in its bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedParameter {
    /// Under its Hugging Face name.
    pub name: String,
    /// Its first element.
    pub start: i64,
    /// Its dimensions.
    pub size: Vec<i64>,
}

impl PlacedParameter {
    /// Number of elements.
    pub fn elements(&self) -> i64 {
        self.size.iter().product()
    }
}

impl Transformer {
    /// The bucket of the embedding, and of the head that is tied to it.
    pub const EMBEDDING: usize = 0;

    /// The bucket of layer `layer`.
    pub fn bucket_of_layer(&self, layer: usize) -> usize {
        1 + layer
    }

    /// The buckets that the final norm and the head lie in.
    pub fn buckets_of_head(&self) -> Vec<usize> {
        let last = 1 + self.layers.len();
        if self.architecture().tie_word_embeddings { vec![Self::EMBEDDING, last] } else { vec![last] }
    }

    /// Moves the parameters into buckets, whose lengths are multiples of `multiple`. Every view of them, stacks included,
    /// then lies there.
    pub fn into_buckets(&mut self, multiple: usize) -> Vec<Bucket> {
        let ends = std::mem::take(&mut self.bucket_ends);
        let mut starts = vec![0];
        starts.extend(&ends);
        let buckets = starts.iter().zip(&ends).map(|(&start, &end)| self.bucket(start..end, multiple as i64));
        let buckets = tch::no_grad(|| buckets.collect());
        self.bucket_ends = ends;
        buckets
    }

    fn bucket(&self, range: std::ops::Range<usize>, multiple: i64) -> Bucket {
        let parameters = &self.parameters()[range];
        let elements: i64 = parameters.iter().map(|(_, tensor)| tensor.numel() as i64).sum();
        let padded = (elements + multiple - 1) / multiple * multiple;
        let flat = Tensor::zeros([padded], (self.kind(), self.device()));
        let mut placed: Vec<PlacedParameter> = Vec::new();
        let mut start = 0;
        for (name, parameter) in parameters {
            let (size, length) = (parameter.size(), parameter.numel() as i64);
            flat.narrow(0, start, length).view(size.as_slice()).copy_(parameter);
            placed.push(PlacedParameter { name: name.clone(), start, size });
            start += length;
        }
        // Only now: a stack and its parts share a memory that is still to be read.
        for ((_, parameter), place) in parameters.iter().zip(&placed) {
            if let Some(stack) = self.stacks().find(|stack| stack.parts[0].data_ptr() == parameter.data_ptr())
            {
                move_to(&stack.whole, &flat, place.start);
            }
            move_to(parameter, &flat, place.start);
        }
        Bucket { memory: Releasable::new(flat), parameters: placed }
    }

    fn stacks(&self) -> impl Iterator<Item = &Stacked> {
        self.layers.iter().flat_map(|layer| layer.self_attn.stacks().chain(layer.mlp.stacks()))
    }
}

/// Has `tensor`, and whoever shares it, lie in `flat` from `start` on.
fn move_to(tensor: &Tensor, flat: &Tensor, start: i64) {
    let view = flat.narrow(0, start, tensor.numel() as i64).view(tensor.size().as_slice());
    tensor.shallow_clone().set_data(&view);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tch::Kind;

    use super::*;
    use crate::{Dtype, Gradients, load};

    #[test]
    fn in_buckets_a_model_is_the_same_and_survives_its_memory() {
        let model = || load(Path::new("../datasets/default/model"), Dtype::Float32).unwrap().transformer;
        let (plain, mut moved) = (model(), model());
        let buckets = moved.into_buckets(7);
        assert_eq!(buckets.len(), moved.num_layers() + 2);
        let names: Vec<&String> =
            buckets.iter().flat_map(|bucket| &bucket.parameters).map(|placed| &placed.name).collect();
        assert_eq!(names, plain.parameters().iter().map(|(name, _)| name).collect::<Vec<_>>());
        let tokens = Tensor::from_slice(&[5i64, 3, 8, 1]).view([1, 4]);
        let logits = |model: &Transformer| {
            let table = model.rope_table(4);
            let hidden = model.hidden(&tokens, &table.range(0, 4), &crate::AttentionMask::Causal);
            tch::no_grad(|| model.logits(&hidden))
        };
        assert!(logits(&moved).equal(&logits(&plain)));
        let gradients = Gradients::new(moved.parameters());
        for (index, bucket) in buckets.iter().enumerate() {
            let whole = bucket.memory.whole();
            assert_eq!(whole.numel() % 7, 0);
            let kept = whole.copy();
            bucket.memory.release();
            bucket.memory.allocate();
            whole.shallow_clone().copy_(&kept);
            assert_eq!(gradients.buffer(index).size(), whole.size());
        }
        assert!(logits(&moved).equal(&logits(&plain)), "filled anew");
        for ((name, parameter), (_, expected)) in moved.parameters().iter().zip(plain.parameters()) {
            assert!(parameter.equal(expected) && parameter.kind() == Kind::Float, "{name}");
        }
    }
}

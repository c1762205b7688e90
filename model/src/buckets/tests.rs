//! A model in buckets computes the same, also after its memory was released and filled again.

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

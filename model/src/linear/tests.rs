//! The forward passes of adapted layers agree with each other, and the backward pass with autograd.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::{
    AdaptedRows, Adapter, AdapterConfig, AttentionMask, Dtype, Gradients, Target, Transformer, load,
    token_tensor,
};

fn model() -> Transformer {
    load(Path::new("../datasets/default/model"), Dtype::Float32).unwrap().transformer
}

/// With random B, so that it changes something.
fn adapter(of: &Transformer, targets: &[Target]) -> Adapter {
    let config = AdapterConfig { rank: 3, alpha: 5.0, targets: targets.to_vec() };
    let adapter = Adapter::new(of.architecture(), config, 7, Device::Cpu);
    for (name, parameter) in adapter.parameters().iter().filter(|(name, _)| name.contains("lora_B")) {
        assert_eq!(parameter.abs().max().double_value(&[]), 0.0, "{name} starts as zeros");
        let _ = parameter.shallow_clone().normal_(0.0, 0.1);
    }
    adapter
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

const SOME: &[Target] = &[Target::QProj, Target::VProj, Target::OProj, Target::UpProj];

#[test]
fn rows_from_the_first_adapted_one_on_use_the_adapter() {
    let model = model();
    for targets in [SOME, &Target::ALL, &Target::ALL[6..]] {
        let adapter = adapter(&model, targets);
        for linear in model.layers[1].linears() {
            let inputs = linear.weight.whole.size()[1];
            let x = Tensor::randn([9, inputs], (Kind::Float, Device::Cpu));
            let base = linear.infer(&x, None);
            for first in [0, 4, 9] {
                let adapted = Some(AdaptedRows { adapter: &adapter, first });
                let found = linear.infer(&x, adapted);
                assert!(found.narrow(0, 0, first as i64).equal(&base.narrow(0, 0, first as i64)));
                let changes = Target::of(linear.name).iter().any(|target| targets.contains(target));
                assert_eq!(first < 9 && changes, !found.equal(&base), "{:?} {first}", linear.name);
                assert!(difference(&found, &linear.product(&x, adapted)) < 1e-4);
                let parts = Tensor::cat(&linear.parts(&x, adapted), -1);
                assert!(difference(&found, &parts) < 1e-4, "{:?} {first}", linear.name);
            }
        }
    }
}

#[test]
fn the_gradients_of_an_adapter_equal_those_of_autograd() {
    let model = model();
    for targets in [SOME, &Target::ALL] {
        for linear in model.layers[2].linears() {
            let adapter = adapter(&model, targets);
            let (o, i) = linear.weight.whole.size2().unwrap();
            let options = (Kind::Float, Device::Cpu);
            let (x, grad) = (Tensor::randn([5, i], options), Tensor::randn([5, o], options));
            let gradients = Gradients::new(adapter.parameters());
            let found = linear.backward(&x, &grad, Some(&adapter), &gradients);
            let leaf = x.copy().set_requires_grad(true);
            let leaves: Vec<Tensor> =
                adapter.parameters().iter().map(|(_, p)| p.set_requires_grad(true)).collect();
            let y = Tensor::cat(&linear.parts(&leaf, Some(AdaptedRows { adapter: &adapter, first: 0 })), -1);
            (y * grad).sum(Kind::Float).backward();
            assert!(difference(&found, &leaf.grad()) < 1e-3);
            for leaf in &leaves {
                let expected = if leaf.grad().defined() { leaf.grad() } else { leaf.zeros_like() };
                assert!(difference(&gradients.of(leaf), &expected) < 1e-3, "{:?}", linear.name);
            }
        }
    }
}

#[test]
fn a_plain_pass_adapts_a_suffix_of_its_rows() {
    let model = model();
    let adapter = adapter(&model, &Target::ALL);
    let tokens = token_tensor(&[5, 9, 3, 7, 1]).unsqueeze(0);
    let rope = model.rope_table(5).range(0, 5);
    let hidden = |adapted| {
        let pass = || model.hidden_adapted(&tokens, &rope, &AttentionMask::Causal, adapted, &mut |_| {});
        tch::no_grad(pass).squeeze_dim(0)
    };
    let (base, found) = (hidden(None), hidden(Some(AdaptedRows { adapter: &adapter, first: 3 })));
    assert!(difference(&base.narrow(0, 0, 3), &found.narrow(0, 0, 3)) < 1e-6);
    assert!(difference(&base.narrow(0, 3, 2), &found.narrow(0, 3, 2)) > 1e-3);
}

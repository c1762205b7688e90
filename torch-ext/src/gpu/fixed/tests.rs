//! Passes of fixed shape, recorded where that is possible, against passes of any shape.

use std::cell::RefCell;

use super::*;
use crate::{
    Graph, GraphPool, PassPlan, Span, attend, rotate_and_store,
    testing::{assert_close, devices, random},
};

#[test]
fn rows_of_fixed_shape_equal_rows_of_any_shape() {
    let heads = HeadShape { queries: 6, keys: 2, width: 16 };
    let (capacity, rows) = (600, 5);
    // 0 - 1 - 2, and 3 - 4 as another branch after 0.
    let parents = [None, Some(0), Some(1), Some(0), Some(3)];
    let paths: [&[usize]; 5] = [&[0], &[0, 1], &[0, 1, 2], &[0, 3], &[0, 3, 4]];
    let seen: Vec<bool> = paths.iter().flat_map(|path| (0..rows).map(|row| path.contains(&row))).collect();
    for device in devices("rows of fixed shape") {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (shape, splits) in [(Shape::Chain, false), (Shape::Chain, true), (Shape::Tree, false)] {
                // On a GPU only the kernel can be recorded in parts.
                if splits && device != Device::Cpu && !has_kernel(kind, device, 16) {
                    continue;
                }
                let fixed = FixedRows::splitting(splits, rows, shape, capacity, device);
                if shape == Shape::Tree {
                    fixed.set_seen(&seen);
                }
                let [keys, values] = [(); 2].map(|()| random(&[2, capacity as i64, 16], kind));
                let qkv = random(&[rows as i64, heads.row_len() as i64], kind);
                let half = random(&[rows as i64, 8], kind);
                let angles = [half.cos(), half.sin()].map(|x| Tensor::cat(&[&x, &x], 1));
                let there = |x: &Tensor| x.to_device(device).copy();
                let (input, caches) = (there(&qkv), [&keys, &values].map(there));
                let [cos, sin] = angles.each_ref().map(there);
                let before = Tensor::from_slice(&[1i64]).to_device(device);
                let out = RefCell::new(Tensor::new());
                let work = || {
                    let mut rotated = input.copy();
                    let view = fixed.after(&before);
                    view.rotate_and_store(&mut rotated, (&cos, &sin), heads, [&caches[0], &caches[1]]);
                    *out.borrow_mut() = view.attend(&rotated, heads, [&caches[0], &caches[1]]);
                };
                let pool = GraphPool::default();
                let graph = Graph::record(device, &pool, &mut { work }).expect("a pass that can be recorded");
                for cached in [1, 300, 595] {
                    let _ = before.shallow_clone().fill_(cached as i64);
                    for (cache, original) in caches.iter().zip([&keys, &values]) {
                        cache.shallow_clone().copy_(original);
                    }
                    match &graph {
                        Some(graph) => graph.replay().unwrap(),
                        None => work(),
                    }
                    let span = match shape {
                        Shape::Chain => Span::chain(0, 0..rows, cached),
                        Shape::Tree => Span::tree(0, 0..rows, cached, &parents),
                    };
                    let (mut expected, [keys, values]) = (qkv.copy(), [&keys, &values].map(Tensor::copy));
                    let layer = [[&keys, &values]];
                    let plan = PassPlan::new(heads, vec![span], &layer);
                    rotate_and_store(&mut expected, &angles[0], &angles[1], &plan, &layer);
                    let expected = attend(&expected, &plan, &layer);
                    assert_close(&out.borrow().to_device(Device::Cpu), &expected, "attention");
                    assert_close(&caches[0].to_device(Device::Cpu), &keys, "keys");
                    assert_close(&caches[1].to_device(Device::Cpu), &values, "values");
                }
            }
        }
    }
}

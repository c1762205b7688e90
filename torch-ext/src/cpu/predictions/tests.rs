//! The kernels against the operations.

use super::*;
use crate::testing::devices;

#[test]
fn the_kernels_equal_the_operations() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for v in [1, 2, 63, 64, 65, 1000] {
            let logits = Tensor::randn([7, v], (Kind::Float, Device::Cpu)).to_kind(kind);
            let found = argmax(&logits);
            // bf16 has ties; the value decides.
            for (row, &column) in (0..).zip(&found) {
                let value = logits.double_value(&[row, i64::from(column)]);
                assert_eq!(value, logits.get(row).max().double_value(&[]), "{kind:?} {v}");
            }
            let k = 5.min(v as usize);
            let (values, _) =
                logits.to_kind(Kind::Float).log_softmax(-1, Kind::Float).topk(k as i64, -1, true, true);
            for (row, tokens) in (0..).zip(top(&logits, 5)) {
                assert_eq!(tokens.len(), k);
                assert!(kind == Kind::BFloat16 || tokens[0].0 == found[row as usize]);
                for (rank, (_, score)) in (0..).zip(tokens) {
                    assert!((values.double_value(&[row, rank]) - f64::from(score)).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn the_best_of_each_row_are_found_where_the_logits_are() {
    for device in devices("the best tokens") {
        let logits = Tensor::randn([7, 1000], (Kind::Float, Device::Cpu));
        for (found, expected) in top_on_device(&logits.to_device(device), 5).iter().zip(top(&logits, 5)) {
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-4,
                    "{found:?} {expected:?}"
                );
            }
        }
    }
}

#[test]
fn the_first_of_equal_values_wins() {
    assert_eq!(argmax(&Tensor::from_slice2(&[[1.0f32, 3.0, 3.0], [2.0, 2.0, 1.0]])), [1, 0]);
    assert_eq!(
        top(&Tensor::from_slice2(&[[1.0f32, 3.0, 3.0]]), 2)[0].iter().map(|t| t.0).collect::<Vec<_>>(),
        [1, 2]
    );
}

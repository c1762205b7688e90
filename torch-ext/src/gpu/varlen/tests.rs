//! Attention of sequences against its definition, and of parts of the keys against all of them, on the CPU and a GPU.

use super::*;
use crate::testing::{assert_close, devices};

/// Query heads, key/value heads, width.
const HEADS: [(i64, i64, i64); 3] = [(2, 2, 16), (6, 2, 64), (4, 1, 128)];

fn random(shape: &[i64], kind: Kind, device: Device) -> Tensor {
    Tensor::randn(shape, (Kind::Float, device)).to_kind(kind)
}

fn one(rows: usize, keys: Range<usize>, device: Device) -> Sequences {
    Sequences::new(&[rows], std::slice::from_ref(&keys), device)
}

/// Each row for itself, from the definition.
fn by_definition([q, k, v]: [&Tensor; 3], ranges: &[(Range<usize>, Range<usize>)], causal: bool) -> Averages {
    let (group, d) = (q.size()[1] / k.size()[1], q.size()[2]);
    let (out, sums) = (q.zeros_like(), Tensor::zeros([q.size()[1], q.size()[0]], (Kind::Float, q.device())));
    for (rows, keys) in ranges {
        for (at, row) in rows.clone().enumerate() {
            let hidden = if causal { rows.len() - 1 - at } else { 0 };
            let seen = keys.start..keys.end - hidden.min(keys.len());
            for head in 0..q.size()[1] {
                let of_head = |x: &Tensor| part(x, 0, &seen).select(1, head / group).to_kind(Kind::Float);
                let query = q.get(row as i64).get(head).to_kind(Kind::Float);
                let scores = of_head(k).matmul(&query) / (d as f64).sqrt();
                sums.get(head).get(row as i64).copy_(&scores.logsumexp([0i64].as_slice(), false));
                if !seen.is_empty() {
                    let average = scores.softmax(0, Kind::Float).unsqueeze(0).matmul(&of_head(v));
                    out.get(row as i64).get(head).copy_(&average.squeeze());
                }
            }
        }
    }
    (out, sums)
}

#[test]
fn attention_equals_its_definition_wherever_the_keys_lie() {
    let layouts: [(Vec<usize>, Vec<Range<usize>>); 3] = [
        (vec![3], std::iter::once(0..3).collect()),
        (vec![1, 2, 4], vec![20..30, 0..9, 4..16]),
        (vec![5, 1], vec![10..15, 2..3]),
    ];
    for device in devices("attention of sequences") {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (q, h, d) in HEADS {
                for (queries, keys) in &layouts {
                    let n: usize = queries.iter().sum();
                    let [k, v] = [(); 2].map(|()| random(&[32, h, d], kind, device));
                    let q = random(&[n as i64, q, d], kind, device);
                    let sequences = Sequences::new(queries, keys, device);
                    for causal in [false, true] {
                        let (out, sums) = forward([&q, &k, &v], &sequences, causal);
                        let (expected, expected_sums) =
                            by_definition([&q, &k, &v], &sequences.ranges(), causal);
                        assert_close(&out, &expected, "attention");
                        assert_close(&sums.to_kind(kind), &expected_sums.to_kind(kind), "log-sum-exps");
                    }
                }
            }
        }
    }
}

#[test]
fn of_a_growing_sequence_what_is_used_counts() {
    for device in devices("a growing sequence") {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (capacity, rows) = (40, 4);
            let [k, v] = [(); 2].map(|()| random(&[capacity, 2, 64], kind, device));
            let q = random(&[rows, 6, 64], kind, device);
            let used = ints(&[0], device);
            let sequences = Sequences::growing(rows as usize, capacity as usize, used.shallow_clone());
            for length in [4, 17, 40] {
                let _ = used.shallow_clone().fill_(length);
                let (out, _) = forward([&q, &k, &v], &sequences, true);
                let (expected, _) = by_definition([&q, &k, &v], &[(0..4, 0..length as usize)], true);
                assert_close(&out, &expected, "attention");
            }
        }
    }
}

#[test]
fn rows_may_be_query_heads_of_one_row() {
    // On a GPU several blocks of keys, of which some are empty.
    let capacity = 600;
    for device in devices("rows as query heads") {
        for kind in [Kind::Float, Kind::BFloat16] {
            for ((q, h, d), rows) in HEADS.into_iter().zip([1, 3, 70]) {
                let [k, v] = [(); 2].map(|()| random(&[capacity, h, d], kind, device));
                let q = random(&[rows, q, d], kind, device);
                let used = ints(&[0], device);
                let sequences = Sequences::growing(1, capacity as usize, used.shallow_clone());
                for length in [1, 300, capacity] {
                    let _ = used.shallow_clone().fill_(length);
                    let ranges = [(0..rows as usize, 0..length as usize)];
                    let (expected, expected_sums) = by_definition([&q, &k, &v], &ranges, false);
                    for (out, sums) in
                        [forward_shared([&q, &k, &v], &sequences), rows_as_heads([&q, &k, &v], &sequences)]
                    {
                        assert_close(&out, &expected, "attention");
                        assert_close(&sums.to_kind(kind), &expected_sums.to_kind(kind), "log-sum-exps");
                    }
                }
            }
        }
    }
}

#[test]
fn parts_join_to_the_whole_and_their_gradients_sum_to_its() {
    for device in devices("parts of attention") {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (q, h, d) in HEADS {
                let (queries, before) = ([3usize, 5], [6usize, 2]);
                let [k, v] = [(); 2].map(|()| random(&[8, h, d], kind, device));
                let [k_before, v_before] = [(); 2].map(|()| random(&[8, h, d], kind, device));
                let (q, grad) = (random(&[8, q, d], kind, device), random(&[8, q, d], kind, device));
                let own = Sequences::packed(&queries, &queries, device);
                let prefix = Sequences::packed(&queries, &before, device);
                let parts =
                    [forward([&q, &k_before, &v_before], &prefix, false), forward([&q, &k, &v], &own, true)];
                let (out, sums) = join([&parts[0], &parts[1]]);
                // Under autograd, with the keys of each sequence in one tensor.
                let leaves = [&q, &k, &v, &k_before, &v_before].map(|x| x.copy().set_requires_grad(true));
                let [lq, lk, lv, lk_before, lv_before] = &leaves;
                let mut rows = Vec::new();
                for (own, prefix) in own.ranges().iter().zip(prefix.ranges()) {
                    let beside =
                        |a: &Tensor, b: &Tensor| Tensor::cat(&[part(a, 0, &prefix.1), part(b, 0, &own.1)], 0);
                    let (k, v) = (beside(lk_before, lk), beside(lv_before, lv));
                    let n = 0..own.0.len();
                    let ([q, k, v], _) =
                        of_sequence([&part(lq, 0, &own.0), &k, &v], &n, &(0..k.size()[0] as usize));
                    rows.push(scores(&q, &k, true).softmax(-1, Kind::Float).matmul(&v).transpose(0, 1));
                }
                let expected = Tensor::cat(&rows, 0).to_kind(kind);
                assert_close(&out, &expected.detach(), "joined");
                (&expected * &grad).sum(Kind::Float).backward();
                let [dq_before, dk_before, dv_before] =
                    backward(&grad, [&q, &k_before, &v_before], (&out, &sums), &prefix, false);
                let [dq, dk, dv] = backward(&grad, [&q, &k, &v], (&out, &sums), &own, true);
                let found = [dq + dq_before, dk, dv, dk_before, dv_before];
                for ((found, leaf), name) in
                    found.iter().zip(&leaves).zip(["q", "k", "v", "prefix k", "prefix v"])
                {
                    assert_close(found, &leaf.grad(), name);
                }
            }
        }
    }
}

#[test]
fn a_part_without_keys_counts_for_nothing() {
    for device in devices("attention to nothing") {
        for kind in [Kind::Float, Kind::BFloat16] {
            let [q, k, v] = [(); 3].map(|()| random(&[3, 2, 16], kind, device));
            let nothing = forward([&q, &k, &v], &one(3, 0..0, device), false);
            let own = forward([&q, &k, &v], &one(3, 0..3, device), true);
            let (out, sums) = join([&nothing, &own]);
            assert_close(&out, &own.0, "attention");
            assert_close(&sums, &own.1, "log-sum-exps");
        }
    }
}

#[test]
fn masks_that_are_causal_give_causal_attention() {
    for device in devices("masked attention") {
        for kind in [Kind::Float, Kind::BFloat16] {
            let q = random(&[10, 6, 16], kind, device);
            let [k, v] = [(); 2].map(|()| random(&[10, 2, 16], kind, device));
            let mask = Tensor::full([2, 5, 5], f64::NEG_INFINITY, (Kind::Float, device)).triu(1);
            let (expected, sums) = forward([&q, &k, &v], &Sequences::packed(&[5, 5], &[5, 5], device), true);
            let found = masked([&q, &k, &v], &mask);
            assert_close(&found.0, &expected, "attention");
            assert_close(&found.1, &sums, "log-sum-exps");
        }
    }
}

//! Runs against a dense mask, and all runs in one call against each run by itself.

use super::*;
use crate::testing::{assert_close, devices, random};

const LAYOUT: [Run; 5] =
    [run(0..0, 0..70), run(0..9, 70..90), run(0..50, 90..97), run(97..97, 97..150), run(97..98, 150..151)];

const KINDS: [Kind; 2] = [Kind::Float, Kind::BFloat16];

/// Short runs: bundles of blocks with growing prefixes, of blocks with one prefix, of blocks that see nothing before them; and
/// some that stay alone, since their prefixes begin elsewhere, differ too much, or their rows are too many.
const SHORT: [Run; 12] = [
    run(0..0, 0..130),
    run(0..3, 130..137),
    run(0..11, 137..144),
    run(0..19, 144..151),
    run(0..27, 151..158),
    run(0..35, 158..165),
    run(0..120, 165..172),
    run(0..120, 172..180),
    run(9..40, 180..190),
    run(9..9, 190..191),
    run(191..191, 191..195),
    run(191..191, 195..240),
];

/// Attention over a dense mask, by plain operations.
fn dense(qkv: &Tensor, heads: HeadShape, runs: &[Run]) -> Tensor {
    let n = qkv.size()[0] as usize;
    let mut seen = vec![false; n * n];
    for run in runs {
        for q in run.own.clone() {
            seen[q * n..][run.prefix.clone()].fill(true);
            seen[q * n..][run.own.start..=q].fill(true);
        }
    }
    let hidden = Tensor::from_slice(&seen).view([n as i64, n as i64]).logical_not();
    let [k, v] = keys_values(&[(qkv, heads.queries, &(0..n))], heads, &(0..heads.keys))
        .map(|x| x.to_kind(Kind::Float));
    let q = queries(qkv, heads, &(0..n)).to_kind(Kind::Float);
    let scores = q.matmul(&k.transpose(-1, -2)) / (heads.width as f64).sqrt();
    let weights = scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, Kind::Float);
    weights.matmul(&v).permute([2, 0, 1, 3]).reshape([n as i64, -1]).to_kind(qkv.kind())
}

/// So many bundles that each is a task for all heads, and that gradients are summed over several: blocks of 7 rows behind a text
/// of `m` rows.
fn many(m: usize) -> Vec<Run> {
    let blocks = (0..60).map(|block| run(0..m / 2 + block, m + 7 * block..m + 7 * block + 7));
    [run(0..0, 0..m)].into_iter().chain(blocks).collect()
}

const fn run(prefix: Range<usize>, own: Range<usize>) -> Run {
    Run { prefix, own }
}

#[test]
fn short_runs_of_one_text_share_a_bundle() {
    let rows: Vec<(Range<usize>, Range<usize>, Range<usize>)> =
        bundles::of(&SHORT).into_iter().map(|bundle| (bundle.prefix, bundle.rest, bundle.own)).collect();
    let expected = [
        (0..0, 0..0, 0..130),
        (0..3, 3..27, 130..158),
        (0..35, 35..35, 158..165),
        (0..120, 120..120, 165..180),
        (9..9, 9..40, 180..191),
        (191..191, 191..191, 191..195),
        (191..191, 191..191, 195..240),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn runs_equal_a_dense_mask_forward_and_backward() {
    let layouts = [
        vec![run(0..0, 0..1)],
        vec![run(0..0, 0..40), run(0..0, 40..41), run(0..41, 41..42)],
        LAYOUT.to_vec(),
        SHORT.to_vec(),
        many(130),
        vec![run(0..0, 0..600), run(17..90, 600..1100)],
    ];
    for kind in KINDS {
        for (queries, keys) in [(2, 2), (6, 2), (3, 1)] {
            let heads = HeadShape { queries, keys, width: 16 };
            for runs in &layouts {
                let n = runs.last().unwrap().own.end as i64;
                let qkv = random(&[n, heads.row_len() as i64], kind);
                let grad = random(&[n, 16 * queries as i64], kind);
                let leaf = qkv.copy().set_requires_grad(true);
                let expected = dense(&leaf, heads, runs);
                (&expected * &grad).sum(Kind::Float).backward();
                let runs = Runs::from(runs.clone());
                let found = attend_runs(&qkv, None, heads, &runs);
                assert_close(&found.out, &expected.detach(), "attention");
                let gradient = attend_runs_backward(&qkv, None, heads, &runs, (&found, &grad));
                assert_close(&gradient, &leaf.grad(), "gradient");
            }
        }
    }
}

#[test]
fn all_runs_in_one_call_equal_each_run_by_itself() {
    let layouts =
        [vec![run(0..0, 0..40), run(0..0, 40..41), run(0..41, 41..42)], LAYOUT.to_vec(), SHORT.to_vec()];
    for device in devices("runs in one call") {
        for kind in KINDS {
            for (queries, keys) in [(2, 2), (6, 2)] {
                let heads = HeadShape { queries, keys, width: 16 };
                for layout in &layouts {
                    let n = layout.last().unwrap().own.end as i64;
                    let qkv = random(&[n, heads.row_len() as i64], kind);
                    let grad = random(&[n, 16 * queries as i64], kind);
                    let runs = Runs::from(layout.clone());
                    let expected = attend_runs(&qkv, None, heads, &runs);
                    let expected_gradient =
                        attend_runs_backward(&qkv, None, heads, &runs, (&expected, &grad));
                    let [qkv, grad] = [qkv, grad].map(|x| x.to_device(device));
                    // All prefixes at a time, and few.
                    for keys_per_call in [usize::MAX, 60] {
                        let packed = PackedRuns::with_copies_of(keys_per_call, layout, device);
                        let found = packed.attend(&qkv, None, heads);
                        let gradient = packed.backward(&qkv, None, heads, (&found, &grad));
                        let here = |x: &Tensor| x.to_device(Device::Cpu);
                        assert_close(&here(&found.out), &expected.out, "attention");
                        let sums = [here(&found.log_sums), expected.log_sums.shallow_clone()];
                        let [sums, expected_sums] = sums.map(|x| x.to_kind(kind));
                        assert_close(&sums, &expected_sums, "log-sum-exps");
                        assert_close(&here(&gradient), &expected_gradient, "gradient");
                    }
                }
            }
        }
    }
}

/// Rows behind a context, as rows of one pass in which the context comes first.
#[test]
fn rows_behind_a_context_equal_rows_of_one_pass() {
    let few =
        vec![run(0..9, 0..20), run(0..0, 20..23), run(3..40, 23..60), run(0..41, 60..61), run(0..30, 61..69)];
    let many = (0..60).map(|block| run(0..block % 41, 7 * block..7 * block + 7)).collect();
    for device in devices("runs behind a context") {
        for (layout, kind) in [&few, &many].into_iter().flat_map(|layout| KINDS.map(|kind| (layout, kind))) {
            for (queries, keys) in [(2, 2), (6, 2)] {
                let heads = HeadShape { queries, keys, width: 16 };
                let (m, n) = (41, layout.last().unwrap().own.end);
                let all = random(&[(m + n) as i64, heads.row_len() as i64], kind);
                let grad = random(&[n as i64, 16 * queries as i64], kind);
                let moved = |run: &Run| Run { own: run.own.start + m..run.own.end + m, ..run.clone() };
                let joint: Vec<Run> = [run(0..0, 0..m)].into_iter().chain(layout.iter().map(moved)).collect();
                let joint = Runs::from(joint);
                let expected = attend_runs(&all, None, heads, &joint);
                let last = |x: &Tensor, dim: i64| x.narrow(dim, m as i64, n as i64);
                // The rows of the context are no queries of a loss.
                let zeros = Tensor::zeros([m as i64, 16 * queries as i64], (kind, Device::Cpu));
                let all_grad = Tensor::cat(&[zeros, grad.copy()], 0);
                let expected_grad = attend_runs_backward(&all, None, heads, &joint, (&expected, &all_grad));

                let keys_first = (queries * heads.width) as i64;
                let context =
                    all.narrow(0, 0, m as i64).narrow(1, keys_first, 2 * (keys * heads.width) as i64);
                let [qkv, grad, context] =
                    [last(&all, 0), grad, context].map(|x| x.contiguous().to_device(device));
                let runs = Runs::from(layout.clone());
                let found = attend_runs(&qkv, Some(&context), heads, &runs);
                let found_grad = attend_runs_backward(&qkv, Some(&context), heads, &runs, (&found, &grad));
                let here = |x: &Tensor| x.to_device(Device::Cpu);
                assert_close(&here(&found.out), &last(&expected.out, 0), "attention");
                let sums = [here(&found.log_sums), last(&expected.log_sums, 2)].map(|x| x.to_kind(kind));
                assert_close(&sums[0], &sums[1], "log-sum-exps");
                assert_close(&here(&found_grad), &last(&expected_grad, 0), "gradient");
            }
        }
    }
}

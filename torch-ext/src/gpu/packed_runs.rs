//! Attention of a training row in two calls: in one the rows of each run attend to each other, in the other to the run's
//! prefix.
//!
//! Legend: n rows, p rows of runs that have a prefix, s rows of all prefixes one after the other, q query heads, h key/value
//! heads, g query heads per key/value head, d head width.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::{
    Attended, HeadShape, Run,
    gpu::varlen::{Averages, Sequences, backward, forward, join},
};

/// The runs of a row as tensors on a device, the same for every layer.
pub(crate) struct PackedRuns {
    own: Sequences,
    prefixes: Option<Prefixes>,
}

struct Prefixes {
    /// Rows of the runs that have a prefix: int64 `[p]`.
    rows: Tensor,
    /// Rows that the prefixes consist of: int64 `[s]`.
    keys: Tensor,
    sequences: Sequences,
}

impl PackedRuns {
    pub(crate) fn new(runs: &[Run], device: Device) -> Self {
        let lengths: Vec<usize> = runs.iter().map(|run| run.own.len()).collect();
        let (own, prefixes): (Vec<Range<usize>>, Vec<Range<usize>>) = runs
            .iter()
            .filter(|run| !run.prefix.is_empty())
            .map(|run| (run.own.clone(), run.prefix.clone()))
            .unzip();
        let lengths_of = |ranges: &[Range<usize>]| ranges.iter().map(Range::len).collect::<Vec<_>>();
        let rows_of = |ranges: &[Range<usize>]| {
            let rows: Vec<i64> = ranges.iter().cloned().flatten().map(|row| row as i64).collect();
            Tensor::from_slice(&rows).to_device(device)
        };
        let prefixes = (!prefixes.is_empty()).then(|| Prefixes {
            rows: rows_of(&own),
            keys: rows_of(&prefixes),
            sequences: Sequences::packed(&lengths_of(&own), &lengths_of(&prefixes), device),
        });
        Self { own: Sequences::packed(&lengths, &lengths, device), prefixes }
    }

    /// See [`crate::attend_runs`].
    pub(crate) fn attend(&self, qkv: &Tensor, context: Option<&Tensor>, heads: HeadShape) -> Attended {
        let [q, k, v] = heads.split(qkv);
        let (mut out, mut sums) = forward([&q, &k, &v], &self.own, true);
        if let Some(Prefixes { rows, keys, sequences }) = &self.prefixes {
            let pick = |x: &Tensor, rows: &Tensor| x.index_select(0, rows);
            let [k, v] = seen(context, heads, [k, v]);
            let prefix = forward([&pick(&q, rows), &pick(&k, keys), &pick(&v, keys)], sequences, false);
            let own: Averages = (pick(&out, rows), sums.index_select(1, rows));
            let (joint, joint_sums) = join([&prefix, &own]);
            let _ = out.index_copy_(0, rows, &joint);
            let _ = sums.index_copy_(1, rows, &joint_sums);
        }
        let (n, h, g) = (qkv.size()[0], heads.keys as i64, heads.group() as i64);
        Attended { out: out.view([n, -1]), log_sums: sums.contiguous().view([h, g, n]) }
    }

    /// See [`crate::attend_runs_backward`].
    pub(crate) fn backward(
        &self,
        qkv: &Tensor,
        context: Option<&Tensor>,
        heads: HeadShape,
        (attended, grad): (&Attended, &Tensor),
    ) -> Tensor {
        let (n, queries, d) = (qkv.size()[0], heads.queries as i64, heads.width as i64);
        let [q, k, v] = heads.split(qkv);
        let (out, grad) = (attended.out.view([n, queries, d]), grad.reshape([n, queries, d]));
        let sums = attended.log_sums.view([queries, n]);
        let [mut dq, dk, dv] = backward(&grad, [&q, &k, &v], (&out, &sums), &self.own, true);
        let Some(Prefixes { rows, keys, sequences }) = &self.prefixes else {
            return Tensor::cat(&[dq, dk, dv], 1).view_as(qkv);
        };
        let pick = |x: &Tensor, rows: &Tensor| x.index_select(0, rows);
        let [k, v] = seen(context, heads, [k, v]);
        let [prefix_dq, prefix_dk, prefix_dv] = backward(
            &pick(&grad, rows),
            [&pick(&q, rows), &pick(&k, keys), &pick(&v, keys)],
            (&pick(&out, rows), &sums.index_select(1, rows)),
            sequences,
            false,
        );
        let _ = dq.index_add_(0, rows, &prefix_dq);
        if context.is_some() {
            return Tensor::cat(&[dq, dk, dv], 1).view_as(qkv);
        }
        // Several runs see the same keys and values: their gradients are summed in fp32.
        let summed = |own: Tensor, prefix: Tensor| {
            let mut sum = own.to_kind(Kind::Float);
            let _ = sum.index_add_(0, keys, &prefix.to_kind(Kind::Float));
            sum.to_kind(qkv.kind())
        };
        Tensor::cat(&[dq, summed(dk, prefix_dk), summed(dv, prefix_dv)], 1).view_as(qkv)
    }
}

/// The keys and values `[.., h, d]` that prefixes refer to: those of the context, or of the rows.
fn seen(context: Option<&Tensor>, heads: HeadShape, rows: [Tensor; 2]) -> [Tensor; 2] {
    let Some(context) = context else { return rows };
    let (h, d) = (heads.keys as i64, heads.width as i64);
    [0, h].map(|first| context.narrow(1, first * d, h * d).reshape([-1, h, d]))
}

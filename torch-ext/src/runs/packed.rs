//! The same where all runs go into one call: every run's own part, and every prefix.
//!
//! Legend: n rows, p rows of runs that have a prefix, s rows of all prefixes one behind the other, q query heads, h key/value
//! heads, g query heads per key/value head, d head width.

use tch::{Device, Kind, Tensor};

use super::{Attended, Run};
use crate::{
    HeadShape,
    attention::heads_of,
    varlen::{Averages, Sequences, backward, forward, join},
};

/// What the runs of a row are on a device, the same for every layer.
pub(super) struct Packed {
    own: Sequences,
    prefixes: Option<Prefixes>,
}

struct Prefixes {
    /// Which rows have one: int64 `[p]`.
    rows: Tensor,
    /// Which rows those of the prefixes are: int64 `[s]`.
    keys: Tensor,
    sequences: Sequences,
}

impl Packed {
    pub(super) fn new(runs: &[Run], device: Device) -> Self {
        let lengths: Vec<usize> = runs.iter().map(|run| run.own.len()).collect();
        let with: Vec<&Run> = runs.iter().filter(|run| !run.prefix.is_empty()).collect();
        let places = |of: &dyn Fn(&Run) -> std::ops::Range<usize>| {
            let places: Vec<i64> = with.iter().flat_map(|run| of(run)).map(|at| at as i64).collect();
            Tensor::from_slice(&places).to_device(device)
        };
        let lengths_of = |of: &dyn Fn(&Run) -> usize| with.iter().map(|run| of(run)).collect::<Vec<_>>();
        let prefixes = (!with.is_empty()).then(|| Prefixes {
            rows: places(&|run| run.own.clone()),
            keys: places(&|run| run.prefix.clone()),
            sequences: Sequences::packed(
                &lengths_of(&|run| run.own.len()),
                &lengths_of(&|run| run.prefix.len()),
                device,
            ),
        });
        Self { own: Sequences::packed(&lengths, &lengths, device), prefixes }
    }

    pub(super) fn attend(&self, qkv: &Tensor, heads: HeadShape) -> Attended {
        let [q, k, v] = heads_of(qkv, heads);
        let (mut out, mut sums) = forward([&q, &k, &v], &self.own, true);
        if let Some(Prefixes { rows, keys, sequences }) = &self.prefixes {
            let pick = |x: &Tensor, rows: &Tensor| x.index_select(0, rows);
            let prefix = forward([&pick(&q, rows), &pick(&k, keys), &pick(&v, keys)], sequences, false);
            let own: Averages = (pick(&out, rows), sums.index_select(1, rows));
            let (joint, joint_sums) = join([&prefix, &own]);
            let _ = out.index_copy_(0, rows, &joint);
            let _ = sums.index_copy_(1, rows, &joint_sums);
        }
        let (n, h, g) = (qkv.size()[0], heads.keys as i64, heads.group() as i64);
        Attended { out: out.view([n, -1]), log_sums: sums.contiguous().view([h, g, n]) }
    }

    pub(super) fn backward(
        &self,
        qkv: &Tensor,
        heads: HeadShape,
        attended: &Attended,
        grad: &Tensor,
    ) -> Tensor {
        let (n, queries, d) = (qkv.size()[0], heads.queries as i64, heads.width as i64);
        let [q, k, v] = heads_of(qkv, heads);
        let (out, grad) = (attended.out.view([n, queries, d]), grad.reshape([n, queries, d]));
        let sums = attended.log_sums.view([queries, n]);
        let [mut dq, dk, dv] = backward(&grad, [&q, &k, &v], (&out, &sums), &self.own, true);
        let Some(Prefixes { rows, keys, sequences }) = &self.prefixes else {
            return Tensor::cat(&[dq, dk, dv], 1).view_as(qkv);
        };
        let pick = |x: &Tensor, rows: &Tensor| x.index_select(0, rows);
        let (prefix_q, prefix_k, prefix_v) = (pick(&q, rows), pick(&k, keys), pick(&v, keys));
        let [dq_more, dk_more, dv_more] = backward(
            &pick(&grad, rows),
            [&prefix_q, &prefix_k, &prefix_v],
            (&pick(&out, rows), &sums.index_select(1, rows)),
            sequences,
            false,
        );
        let _ = dq.index_add_(0, rows, &dq_more);
        // Keys and values are seen by several runs: their gradients are summed in fp32.
        let summed = |own: Tensor, more: Tensor| {
            let mut sum = own.to_kind(Kind::Float);
            let _ = sum.index_add_(0, keys, &more.to_kind(Kind::Float));
            sum.to_kind(qkv.kind())
        };
        Tensor::cat(&[dq, summed(dk, dk_more), summed(dv, dv_more)], 1).view_as(qkv)
    }
}

//! Attention of a training row in two calls: in one the rows of each run attend to each other, in the other to the run's
//! prefix. Prefixes overlap, and the kernel reads them where they are. Its gradient cannot: two sequences would write the same
//! rows. So prefixes are copied one after the other for the backward pass, as many at a time as a fixed amount of memory holds.
//!
//! Legend: n rows, p rows of runs that have a prefix, s keys of some prefixes one after the other, q query heads, h key/value
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
    /// The prefixes in place.
    sequences: Sequences,
    /// The same for the backward pass.
    copies: Vec<Copied>,
}

/// Prefixes whose keys and values are copied.
struct Copied {
    /// Rows of their runs, int64.
    rows: Tensor,
    /// Rows that the prefixes consist of: int64 `[s]`.
    keys: Tensor,
    sequences: Sequences,
}

/// The most keys that are copied at a time, unless one prefix has more. Keys, values and their gradients, which the kernel makes
/// for every query head, take 0.7 GB with 28 query and 4 key/value heads of width 128.
pub const KEYS_PER_CALL: usize = 1 << 15;

impl PackedRuns {
    pub(crate) fn new(runs: &[Run], device: Device) -> Self {
        Self::with_copies_of(KEYS_PER_CALL, runs, device)
    }

    pub(crate) fn with_copies_of(keys_per_call: usize, runs: &[Run], device: Device) -> Self {
        let lengths: Vec<usize> = runs.iter().map(|run| run.own.len()).collect();
        let behind: Vec<&Run> = runs.iter().filter(|run| !run.prefix.is_empty()).collect();
        Self {
            own: Sequences::packed(&lengths, &lengths, device),
            prefixes: (!behind.is_empty()).then(|| Prefixes::new(keys_per_call, &behind, device)),
        }
    }

    /// See [`crate::attend_runs`].
    pub(crate) fn attend(&self, qkv: &Tensor, context: Option<&Tensor>, heads: HeadShape) -> Attended {
        let [q, k, v] = heads.split(qkv);
        let (mut out, mut sums) = forward([&q, &k, &v], &self.own, true);
        if let Some(Prefixes { rows, sequences, .. }) = &self.prefixes {
            let [k, v] = seen(context, heads, [k, v]);
            let prefix = forward([&q.index_select(0, rows), &k, &v], sequences, false);
            let own: Averages = (out.index_select(0, rows), sums.index_select(1, rows));
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
        let Some(prefixes) = &self.prefixes else {
            return Tensor::cat(&[dq, dk, dv], 1).view_as(qkv);
        };
        let [k, v] = seen(context, heads, [k, v]);
        // Several runs see the same keys and values: their gradients are summed in fp32. Those of a context are not wanted.
        let mut of_keys = context.is_none().then(|| [&dk, &dv].map(|own| own.to_kind(Kind::Float)));
        for Copied { rows, keys, sequences } in &prefixes.copies {
            let pick = |x: &Tensor, rows: &Tensor| x.index_select(0, rows);
            let [prefix_dq, prefix_dk, prefix_dv] = backward(
                &pick(&grad, rows),
                [&pick(&q, rows), &pick(&k, keys), &pick(&v, keys)],
                (&pick(&out, rows), &sums.index_select(1, rows)),
                sequences,
                false,
            );
            let _ = dq.index_add_(0, rows, &prefix_dq);
            for (sum, prefix) in of_keys.iter_mut().flatten().zip([prefix_dk, prefix_dv]) {
                let _ = sum.index_add_(0, keys, &prefix.to_kind(Kind::Float));
            }
        }
        let [dk, dv] = of_keys.map_or([dk, dv], |sums| sums.map(|sum| sum.to_kind(qkv.kind())));
        Tensor::cat(&[dq, dk, dv], 1).view_as(qkv)
    }
}

impl Prefixes {
    fn new(keys_per_call: usize, runs: &[&Run], device: Device) -> Self {
        let mut copies = Vec::new();
        let mut rest = runs;
        while !rest.is_empty() {
            let keys = |count: &usize| rest[..*count].iter().map(|run| run.prefix.len()).sum::<usize>();
            let count = (1..=rest.len()).take_while(|count| keys(count) <= keys_per_call).last().unwrap_or(1);
            let (these, others) = rest.split_at(count);
            copies.push(Copied::new(these, device));
            rest = others;
        }
        let prefixes: Vec<Range<usize>> = runs.iter().map(|run| run.prefix.clone()).collect();
        let lengths: Vec<usize> = runs.iter().map(|run| run.own.len()).collect();
        Self {
            rows: row_numbers(runs.iter().map(|run| &run.own), device),
            sequences: Sequences::new(&lengths, &prefixes, device),
            copies,
        }
    }
}

impl Copied {
    fn new(runs: &[&Run], device: Device) -> Self {
        let (own, prefixes): (Vec<usize>, Vec<usize>) =
            runs.iter().map(|run| (run.own.len(), run.prefix.len())).unzip();
        Self {
            rows: row_numbers(runs.iter().map(|run| &run.own), device),
            keys: row_numbers(runs.iter().map(|run| &run.prefix), device),
            sequences: Sequences::packed(&own, &prefixes, device),
        }
    }
}

fn row_numbers<'a>(ranges: impl Iterator<Item = &'a Range<usize>>, device: Device) -> Tensor {
    let rows: Vec<i64> = ranges.cloned().flatten().map(|row| row as i64).collect();
    Tensor::from_slice(&rows).to_device(device)
}

/// The keys and values `[.., h, d]` that prefixes refer to: those of the context, or of the rows.
fn seen(context: Option<&Tensor>, heads: HeadShape, rows: [Tensor; 2]) -> [Tensor; 2] {
    let Some(context) = context else { return rows };
    let (h, d) = (heads.keys as i64, heads.width as i64);
    [0, h].map(|first| context.narrow(1, first * d, h * d).reshape([-1, h, d]))
}

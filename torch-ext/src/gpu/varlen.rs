//! Attention of several sequences in one memory: on a GPU by libtorch's flash kernel (arXiv 2307.08691), all sequences in one
//! call; on other devices, and in fp32, by libtorch's operations. The device reads the starts and lengths of the sequences,
//! so a call can be recorded once and repeated with other lengths.
//!
//! Legend: b sequences, n rows, s keys, q query heads, h key/value heads, d head width.

use std::{
    ffi::{c_char, c_void},
    ops::Range,
};

use tch::{Device, Kind, Tensor};

use crate::{
    GpuError,
    heads::part,
    shim::{outcome, pointer},
};

/// Which rows attend to which keys.
pub(crate) struct Sequences {
    /// Where the queries of each sequence start, and where the last one's end: int32 `[b + 1]`.
    starts_q: Tensor,
    /// Where the keys of each sequence start, and an end that is read only without `used_k`: int32 `[b + 1]`.
    starts_k: Tensor,
    /// How many keys each sequence has, int32 `[b]`; if `None`, they end where those of the next sequence start.
    used_k: Option<Tensor>,
    max_q: i64,
    max_k: i64,
    /// One sequence whose length is known only on the device.
    is_growing: bool,
}

/// The result of attention `[n, q, d]`, and the log-sum-exp of every row's scores, fp32 `[q, n]`.
pub(crate) type Averages = (Tensor, Tensor);

unsafe extern "C" {
    fn jacobi_flash_forward(
        qkv: *const *const c_void,
        starts_q: *const c_void,
        starts_k: *const c_void,
        used_k: *const c_void,
        max_q: i64,
        max_k: i64,
        causal: bool,
        out: *mut *mut c_void,
        log_sums: *mut *mut c_void,
    ) -> *mut c_char;
}

impl Sequences {
    /// `queries[i]` rows of each sequence, one after the other, and the places of its keys, which may overlap with others.
    pub(crate) fn new(queries: &[usize], keys: &[Range<usize>], device: Device) -> Self {
        assert_eq!(queries.len(), keys.len(), "keys for every sequence");
        let starts_k: Vec<i32> = keys.iter().map(|keys| keys.start as i32).chain([0]).collect();
        let used: Vec<i32> = keys.iter().map(|keys| keys.len() as i32).collect();
        Self {
            starts_q: ints(&cumulative(queries), device),
            starts_k: ints(&starts_k, device),
            used_k: Some(ints(&used, device)),
            max_q: largest(queries.iter().copied()),
            max_k: largest(keys.iter().map(Range::len)),
            is_growing: false,
        }
    }

    /// `queries[i]` rows and `keys[i]` keys of each sequence, one after the other. Only these have gradients.
    pub(crate) fn packed(queries: &[usize], keys: &[usize], device: Device) -> Self {
        Self {
            starts_q: ints(&cumulative(queries), device),
            starts_k: ints(&cumulative(keys), device),
            used_k: None,
            max_q: largest(queries.iter().copied()),
            max_k: largest(keys.iter().copied()),
            is_growing: false,
        }
    }

    /// `rows` queries of one sequence, whose keys are the first `used` of the `capacity` in memory. `used`, int32 `[1]`, is
    /// read when attention is computed. Each row sees at least one key.
    pub(crate) fn growing(rows: usize, capacity: usize, used: Tensor) -> Self {
        let device = used.device();
        Self {
            starts_q: ints(&[0, rows as i32], device),
            starts_k: ints(&[0, capacity as i32], device),
            used_k: Some(used),
            max_q: rows as i64,
            max_k: capacity as i64,
            is_growing: true,
        }
    }
}

/// Attention of the queries `q` `[n, q, d]` to the keys `k` and values `v` `[s, h, d]`. With `causal` the last query of a
/// sequence sees all its keys, and each earlier one sees one key less than the next.
pub(crate) fn forward([q, k, v]: [&Tensor; 3], sequences: &Sequences, causal: bool) -> Averages {
    if has_kernel(q.kind(), q.device(), q.size()[2]) {
        return flash([q, k, v], sequences, causal).expect("attention on a GPU");
    }
    if let (true, Some(used)) = (sequences.is_growing, &sequences.used_k) {
        return growing_fallback([q, k, v], used, causal);
    }
    let (n, heads, d) = q.size3().expect("queries are [rows, heads, width]");
    let (out, log_sums) = (
        Tensor::zeros([n, heads, d], (v.kind(), v.device())),
        Tensor::zeros([heads, n], (Kind::Float, v.device())),
    );
    for (rows, keys) in sequences.ranges() {
        let ([q, k, v], _) = of_sequence([q, k, v], &rows, &keys);
        let scores = scores(&q, &k, causal);
        // Without keys there are no scores and no weights.
        let weights = if keys.is_empty() { scores.shallow_clone() } else { scores.softmax(-1, Kind::Float) };
        part(&out, 0, &rows).copy_(&weights.matmul(&v).transpose(0, 1));
        part(&log_sums, 1, &rows).copy_(&scores.logsumexp([-1i64].as_slice(), false));
    }
    (out, log_sums)
}

/// The gradients of queries, keys and values for the gradient `grad` of the result. These keys are all or a part of those in
/// the softmax whose result is `out` and whose log-sum-exps are `log_sums`. `sequences` are packed.
pub(crate) fn backward(
    grad: &Tensor,
    [q, k, v]: [&Tensor; 3],
    (out, log_sums): (&Tensor, &Tensor),
    sequences: &Sequences,
    causal: bool,
) -> [Tensor; 3] {
    assert!(sequences.used_k.is_none(), "gradients of packed sequences");
    if has_kernel(q.kind(), q.device(), q.size()[2]) {
        let random = Tensor::zeros([2], (Kind::Int64, q.device()));
        let Sequences { starts_q, starts_k, max_q, max_k, .. } = sequences;
        let (dq, dk, dv) = Tensor::internal_flash_attention_backward(
            grad,
            q,
            k,
            v,
            out,
            &log_sums.contiguous(),
            starts_q,
            starts_k,
            *max_q,
            *max_k,
            0.0,
            causal,
            &random,
            &random,
            None,
            None,
            None,
        );
        return [dq, dk, dv];
    }
    let [dq, dk, dv] = [q, k, v].map(Tensor::zeros_like);
    for (rows, keys) in sequences.ranges() {
        let ([q, k, v], group) = of_sequence([q, k, v], &rows, &keys);
        let [grad, out] = [grad, out].map(|x| part(x, 0, &rows).transpose(0, 1).to_kind(Kind::Float));
        let weights = (scores(&q, &k, causal) - part(log_sums, 1, &rows).unsqueeze(-1)).exp();
        let shared = (&grad * out).sum_dim_intlist([-1i64].as_slice(), true, Kind::Float);
        let grad_scores = &weights * (grad.matmul(&v.transpose(-1, -2)) - shared) * scale(&q);
        part(&dq, 0, &rows).copy_(&grad_scores.matmul(&k).transpose(0, 1));
        let (heads, s, d) = k.size3().expect("keys are [heads, keys, width]");
        for (target, spread) in
            [(&dk, grad_scores.transpose(-1, -2).matmul(&q)), (&dv, weights.transpose(-1, -2).matmul(&grad))]
        {
            let of_heads = spread.view([heads / group, group, s, d]);
            let summed = of_heads.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
            part(target, 0, &keys).copy_(&summed.transpose(0, 1));
        }
    }
    [dq, dk, dv]
}

/// The same for rows that all see the same keys, those of one growing sequence with a single row. A call of the kernel has one
/// block of work per query head and 128 rows, which occupies a fraction of a GPU behind a long text. For a single row with
/// more query heads than key heads it splits the memory of the keys among as many blocks as the GPU has room for (arXiv
/// 2311.01282), of which those with keys have work. So the rows become query heads of one row.
pub(crate) fn forward_shared([q, k, v]: [&Tensor; 3], sequences: &Sequences) -> Averages {
    match has_kernel(q.kind(), q.device(), q.size()[2]) {
        true => rows_as_heads([q, k, v], sequences),
        false => forward([q, k, v], sequences, false),
    }
}

fn rows_as_heads([q, k, v]: [&Tensor; 3], sequences: &Sequences) -> Averages {
    let (n, heads, d) = q.size3().expect("queries are [rows, heads, width]");
    let h = k.size()[1];
    let group = heads / h;
    let row = q.reshape([n, h, group, d]).transpose(0, 1).reshape([1, -1, d]);
    let (out, log_sums) = forward([&row, k, v], sequences, false);
    (
        out.view([h, n, group, d]).transpose(0, 1).reshape([n, heads, d]),
        log_sums.view([h, n, group]).transpose(1, 2).reshape([heads, n]),
    )
}

/// Attention over all keys with a mask that is computed on the device.
fn growing_fallback([q, k, v]: [&Tensor; 3], used: &Tensor, causal: bool) -> Averages {
    let (kind, device, rows, capacity) = (v.kind(), q.device(), q.size()[0], k.size()[0]);
    let ([q, k, v], _) = of_sequence([q, k, v], &(0..rows as usize), &(0..capacity as usize));
    let counted = |count: i64| Tensor::arange(count, (Kind::Int, device));
    let behind = if causal { (rows - 1) - counted(rows) } else { counted(rows).zeros_like() };
    let hidden = counted(capacity).unsqueeze(0).ge_tensor(&(used - behind).unsqueeze(1));
    let scores = scores(&q, &k, false).masked_fill(&hidden, f64::NEG_INFINITY);
    let out = scores.softmax(-1, Kind::Float).matmul(&v);
    (out.transpose(0, 1).to_kind(kind), scores.logsumexp([-1i64].as_slice(), false))
}

/// Attention to all keys, from attention to two parts of them.
pub(crate) fn join(parts: [&Averages; 2]) -> Averages {
    // For rows without keys the kernel returns +inf, but the log-sum-exp of nothing is -inf.
    let sums = parts.map(|(_, sums)| sums.masked_fill(&sums.isposinf(), f64::NEG_INFINITY));
    let joint = sums[0].logaddexp(&sums[1]);
    let scaled = |part: usize| {
        let weight = (&sums[part] - &joint).exp().tr().unsqueeze(-1);
        parts[part].0.to_kind(Kind::Float) * weight
    };
    ((scaled(0) + scaled(1)).to_kind(parts[0].0.kind()), joint)
}

/// Attention of the rows of each of some groups of `w` to each other under additive masks, fp32 `[b, w, w]`: of queries
/// `[b * w, q, d]`, keys and values `[b * w, h, d]`.
pub(crate) fn masked([q, k, v]: [&Tensor; 3], masks: &Tensor) -> Averages {
    let (b, w, _) = masks.size3().expect("masks are [groups, rows, rows]");
    let (_, heads, d) = q.size3().expect("queries are [rows, heads, width]");
    let h = k.size()[1];
    // [b, heads, w, d] in fp32
    let by_group = |x: &Tensor, heads| x.to_kind(Kind::Float).view([b, w, heads, d]).transpose(1, 2);
    let [k, v32] = [k, v].map(|x| spread(&by_group(x, h), heads / h));
    let scores = by_group(q, heads).matmul(&k.transpose(-1, -2)) * scale(q) + masks.unsqueeze(1);
    let out = scores.softmax(-1, Kind::Float).matmul(&v32);
    let log_sums = scores.logsumexp([-1i64].as_slice(), false);
    (
        out.transpose(1, 2).reshape([b * w, heads, d]).to_kind(v.kind()),
        log_sums.transpose(0, 1).reshape([heads, b * w]),
    )
}

/// Whether libtorch's flash kernel supports this.
pub(crate) fn has_kernel(kind: Kind, device: Device, width: i64) -> bool {
    let narrow = matches!(kind, Kind::BFloat16 | Kind::Half);
    matches!(device, Device::Cuda(_)) && narrow && width % 8 == 0 && width <= 256
}

fn flash([q, k, v]: [&Tensor; 3], sequences: &Sequences, causal: bool) -> Result<Averages, GpuError> {
    let Sequences { starts_q, starts_k, used_k, max_q, max_k, .. } = sequences;
    let qkv = [q, k, v].map(|tensor| pointer(tensor).cast_const());
    let used = used_k.as_ref().map_or(std::ptr::null_mut(), pointer);
    let [mut out, mut log_sums] = [std::ptr::null_mut(); 2];
    // SAFETY: live tensors, and places for two new ones.
    let text = unsafe {
        jacobi_flash_forward(
            qkv.as_ptr(),
            pointer(starts_q),
            pointer(starts_k),
            used,
            *max_q,
            *max_k,
            causal,
            &mut out,
            &mut log_sums,
        )
    };
    outcome(text).map_err(GpuError)?;
    // SAFETY: two new tensors, which this function now owns.
    Ok(unsafe { (Tensor::from_ptr(out.cast()), Tensor::from_ptr(log_sums.cast())) })
}

impl Sequences {
    /// The numbers that the device reads.
    pub(crate) fn index_tensors(&mut self) -> impl Iterator<Item = &mut Tensor> {
        [&mut self.starts_q, &mut self.starts_k].into_iter().chain(&mut self.used_k)
    }

    /// Rows and keys of each sequence, read from the device.
    fn ranges(&self) -> Vec<(Range<usize>, Range<usize>)> {
        let read = |of: &Tensor| Vec::<i32>::try_from(of).expect("int32 numbers in a row");
        let (starts_q, starts_k) = (read(&self.starts_q), read(&self.starts_k));
        let used = self
            .used_k
            .as_ref()
            .map_or_else(|| starts_k.windows(2).map(|pair| pair[1] - pair[0]).collect(), read);
        let rows = starts_q.windows(2).map(|pair| pair[0] as usize..pair[1] as usize);
        let keys = starts_k.iter().zip(used).map(|(&start, used)| start as usize..(start + used) as usize);
        rows.zip(keys).collect()
    }
}

/// Queries `[q, rows, d]`, keys and values `[q, keys, d]` of one sequence in fp32, and the query heads per key/value head.
fn of_sequence([q, k, v]: [&Tensor; 3], rows: &Range<usize>, keys: &Range<usize>) -> ([Tensor; 3], i64) {
    let group = q.size()[1] / k.size()[1];
    let wide = |x: Tensor| x.transpose(0, 1).to_kind(Kind::Float);
    let keys_of = |x: &Tensor| spread(&wide(part(x, 0, keys)), group);
    ([wide(part(q, 0, rows)), keys_of(k), keys_of(v)], group)
}

/// Keys or values `[.., h, s, d]` for each of the `group` query heads that share them, `[.., q, s, d]`.
fn spread(x: &Tensor, group: i64) -> Tensor {
    let x = x.unsqueeze(-3);
    let mut size = x.size();
    let at = size.len() - 3;
    size[at] = group;
    x.expand(size.as_slice(), false).flatten(-4, -3)
}

/// Scores `[q, rows, keys]`, -inf for keys that a row does not see.
fn scores(q: &Tensor, k: &Tensor, causal: bool) -> Tensor {
    let scores = q.matmul(&k.transpose(-1, -2)) * scale(q);
    let (rows, keys) = (q.size()[1], k.size()[1]);
    if !causal || rows == 1 {
        return scores;
    }
    let later = Tensor::ones([rows, keys], (Kind::Bool, q.device())).triu(keys - rows + 1);
    scores.masked_fill(&later, f64::NEG_INFINITY)
}

fn scale(q: &Tensor) -> f64 {
    1.0 / (q.size()[2] as f64).sqrt()
}

fn cumulative(lengths: &[usize]) -> Vec<i32> {
    let mut sums = vec![0];
    sums.extend(lengths.iter().scan(0, |sum, &length| {
        *sum += length as i32;
        Some(*sum)
    }));
    sums
}

fn largest(lengths: impl Iterator<Item = usize>) -> i64 {
    lengths.max().unwrap_or(0) as i64
}

fn ints(numbers: &[i32], device: Device) -> Tensor {
    Tensor::from_slice(numbers).to_device(device)
}

#[cfg(test)]
mod tests;

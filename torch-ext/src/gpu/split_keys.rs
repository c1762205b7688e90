//! Attention of a few rows to one long text. A call has one block of work per query head and 128 rows, too few to occupy a GPU,
//! and each block reads all keys. So the keys are split into parts that are computed at the same time, as sequences of one
//! call, and joined by their log-sum-exps (arXiv 2311.01282). A single row needs none of this: libtorch's kernel splits its keys.
//!
//! Legend: n rows, p parts, q query heads, h key/value heads, d head width, s keys.

use tch::{Device, Kind, Tensor};

use crate::gpu::varlen::{Averages, Sequences, forward, visible};

/// The parts that keys are split into. With 28 query heads they fill 112 of the 132 multiprocessors of an H100 or H200.
const PARTS: usize = 4;

/// The most rows that are one block of work.
const MOST_ROWS: usize = 128;

/// Behind fewer tokens joining takes longer than splitting saves, by estimate.
const LEAST_CAPACITY: usize = 4096;

/// `n` rows that see the first keys of one sequence. Their number is known only on the device.
pub(crate) struct SplitKeys {
    /// The number of each part, int32 `[p + 1]`.
    numbers: Tensor,
    /// Where each part starts, int32 `[p + 1]`.
    starts: Tensor,
    /// The keys of each part, int32 `[p]`.
    used: Tensor,
    sequences: Sequences,
}

/// How many parts are best for `rows` rows behind up to `capacity` tokens.
pub(crate) fn parts(rows: usize, capacity: usize) -> usize {
    if (2..=MOST_ROWS).contains(&rows) && capacity >= LEAST_CAPACITY { PARTS } else { 1 }
}

impl SplitKeys {
    /// `rows` rows of a sequence whose cache has room for `capacity` tokens.
    pub(crate) fn new(rows: usize, capacity: usize, parts: usize, device: Device) -> Self {
        let numbers = Tensor::arange(parts as i64 + 1, (Kind::Int, device));
        let (starts, used) = (numbers.zeros_like(), Tensor::ones([parts as i64], (Kind::Int, device)));
        let places = (starts.shallow_clone(), used.shallow_clone());
        Self { numbers, starts, used, sequences: Sequences::growing_parts(rows, capacity, places) }
    }

    fn parts(&self) -> i64 {
        self.used.size()[0]
    }

    /// The rows see `count` keys, whole number `[1]`, at least one. This is part of the recorded work.
    pub(crate) fn set(&self, count: &Tensor) {
        let count = count.to_kind(Kind::Int);
        let length = (&count + (self.parts() - 1)).floor_divide_scalar(self.parts());
        let starts = &self.numbers * &length;
        let left = (count - starts.narrow(0, 0, self.parts())).clamp_min(0);
        self.used.shallow_clone().copy_(&left.minimum(&length));
        self.starts.shallow_clone().copy_(&starts);
    }

    /// Attention of the queries `[n, q, d]` to the keys and values `[s, h, d]`.
    pub(crate) fn attend(&self, [q, k, v]: [&Tensor; 3]) -> Averages {
        let (n, heads, width) = q.size3().expect("queries are [rows, heads, width]");
        let parts = self.parts();
        if parts == 1 {
            return forward([q, k, v], &self.sequences, false);
        }
        let (out, sums) = forward([&q.repeat([parts, 1, 1]), k, v], &self.sequences, false);
        let sums = visible(&sums).view([heads, parts, n]);
        let joint = sums.logsumexp([1i64].as_slice(), false);
        let weights = (sums - joint.unsqueeze(1)).exp().permute([1, 2, 0]).unsqueeze(-1);
        let weighted = out.to_kind(Kind::Float).view([parts, n, heads, width]) * weights;
        (weighted.sum_dim_intlist([0i64].as_slice(), false, Kind::Float).to_kind(v.kind()), joint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, devices, random};

    #[test]
    fn parts_of_the_keys_give_what_all_keys_give() {
        for device in devices("split keys") {
            for kind in [Kind::Float, Kind::BFloat16] {
                let [k, v] = [(); 2].map(|()| random(&[40, 2, 64], kind).to_device(device));
                let q = random(&[3, 6, 64], kind).to_device(device);
                let whole = SplitKeys::new(3, 40, 1, device);
                for parts in [2, 4, 7] {
                    let split = SplitKeys::new(3, 40, parts, device);
                    // With fewer keys than parts some parts are empty.
                    for count in [1i64, 2, 9, 28, 40] {
                        let count_t = Tensor::from_slice(&[count]).to_device(device);
                        whole.set(&count_t);
                        split.set(&count_t);
                        let used: i64 = split.used.sum(Kind::Int64).int64_value(&[]);
                        assert_eq!(used, count, "{parts} parts");
                        let [(out, sums), (split_out, split_sums)] =
                            [&whole, &split].map(|keys| keys.attend([&q, &k, &v]));
                        assert_close(&split_out, &out, &format!("{count} keys in {parts} parts"));
                        assert_close(&split_sums, &sums, &format!("{count} keys in {parts} parts"));
                    }
                }
            }
        }
    }

    #[test]
    fn a_few_rows_behind_a_long_text_are_split() {
        assert_eq!([parts(1, 8192), parts(16, 2048), parts(256, 8192)], [1; 3]);
        assert_eq!([parts(2, 4096), parts(128, 32_768)], [PARTS; 2]);
    }
}

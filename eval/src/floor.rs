//! The memory floor: the time to read all weights once, which bounds autoregressive decoding. An autoregressive
//! loop that is much slower is a weak baseline, and a speedup over a weak baseline means little.

use std::time::Instant;

use jacobi_datasets::schema::eval_statistics::MemoryFloor;
use jacobi_model::Transformer;
use tch::{Device, Kind, Tensor};

/// Elements of each fp32 buffer: larger than any cache, and on a GPU so large that launch times are negligible.
const BUFFER: i64 = 1 << 26;
const GPU_BUFFER: i64 = 1 << 29;
const COPIES: usize = 5;

/// The floor of `model` on this machine: the bytes that a forward pass reads, over the median bandwidth of a
/// few large copies.
pub(crate) fn memory_floor(model: &Transformer) -> MemoryFloor {
    let bytes = weight_bytes(model.parameters());
    let bandwidth = copy_bytes_per_second(model.device());
    MemoryFloor {
        weight_bytes: bytes,
        copy_bytes_per_second: bandwidth,
        tokens_per_second: bandwidth / bytes as f64,
    }
}

/// Bytes of all weights, without an embedding that is not the head too: a token reads one row of it.
fn weight_bytes(parameters: &[(String, Tensor)]) -> u64 {
    let has_head = parameters.iter().any(|(name, _)| name == "lm_head.weight");
    let read = parameters.iter().filter(|(name, _)| !(has_head && name == "model.embed_tokens.weight"));
    read.map(|(_, tensor)| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64).sum()
}

fn copy_bytes_per_second(device: Device) -> f64 {
    let elements = if device == Device::Cpu { BUFFER } else { GPU_BUFFER };
    let ones = Tensor::ones([elements], (Kind::Float, device));
    let mut other = ones.zeros_like();
    let mut rates: Vec<f64> = (0..COPIES)
        .map(|_| {
            let started = Instant::now();
            other.copy_(&ones);
            // Reading one element waits for the copy to end.
            let _ = other.double_value(&[0]);
            let moved = 2 * ones.numel() * Kind::Float.elt_size_in_bytes();
            moved as f64 / started.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[COPIES / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_separate_embedding_is_not_counted() {
        let tensor =
            |name: &str, rows, kind| (name.to_owned(), Tensor::zeros([rows, 4], (kind, Device::Cpu)));
        let mut parameters = vec![
            tensor("model.embed_tokens.weight", 100, Kind::Float),
            tensor("model.norm.weight", 1, Kind::BFloat16),
        ];
        assert_eq!(weight_bytes(&parameters), 1600 + 8);
        parameters.push(tensor("lm_head.weight", 100, Kind::BFloat16));
        assert_eq!(weight_bytes(&parameters), 800 + 8);
    }

    #[test]
    fn a_machine_copies_between_a_hundred_megabytes_and_ten_terabytes_per_second() {
        let rate = copy_bytes_per_second(Device::Cpu);
        assert!(rate > 1e8 && rate < 1e13, "{rate}");
    }
}

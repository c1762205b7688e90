//! The libtorch environment, for bug reports, and raw logits, for comparisons with other implementations.

use std::path::Path;

use jacobi_torch_ext::{gpu_count, gpu_name, threads, vector_instructions};
use serde_json::{Value, json};

use crate::{AttentionMask, Dtype, ModelError, load, to_float32, token_tensor};

/// libtorch's threads, devices and CPU dtype support.
pub fn environment() -> Value {
    json!({
        "libtorch": "2.11.0",
        "vector_instructions": vector_instructions(),
        "threads": threads(),
        "gpus": gpus(),
        "cpu_bfloat16": cpu_has_bfloat16(),
    })
}

/// The names of the GPUs, or why there are none.
fn gpus() -> Value {
    match gpu_count() {
        Ok(count) => {
            (0..count).map(|index| gpu_name(index).unwrap_or_else(|error| error.to_string())).collect()
        }
        Err(reason) => reason.to_string().into(),
    }
}

/// Hardware bf16 products (AVX512-BF16 or AMX); without them libtorch emulates bf16, and training is slow.
fn cpu_has_bfloat16() -> bool {
    fs_err::read_to_string("/proc/cpuinfo")
        .is_ok_and(|text| text.contains("avx512_bf16") || text.contains("amx_bf16"))
}

/// Logits of every position of one sequence, row-major `[t, v]`, cast to fp32.
///
/// # Errors
/// Those of [`load`].
pub fn logits(dir: &Path, dtype: Dtype, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
    let model = load(dir, dtype)?.transformer;
    let t = tokens.len() as i64;
    let logits_tv = tch::no_grad(|| {
        let rope = model.rope_table(t).range(0, t);
        let hidden = model.hidden(&token_tensor(tokens).unsqueeze(0), &rope, &AttentionMask::Causal);
        to_float32(&model.logits(&hidden.squeeze_dim(0))).contiguous().view(-1)
    });
    Ok(Vec::<f32>::try_from(logits_tv).expect("a flat fp32 tensor"))
}

//! A JSON file with the samples of a step whose loss or gradient is NaN or infinite.

use std::path::{Path, PathBuf};

use jacobi_datasets::{PackedSample, write_atomic};
use serde_json::{Value, json};

use crate::TrainError;

/// Writes the samples of `step` to `output` and returns the file.
pub(crate) fn write(
    output: &Path,
    step: usize,
    what: &str,
    samples: &[PackedSample],
) -> Result<PathBuf, TrainError> {
    let path = output.join(format!("not-finite-step-{step:06}.json"));
    let samples: Vec<Value> = samples.iter().map(describe).collect();
    let text = json!({"step": step, "not_finite": what, "samples": samples}).to_string();
    write_atomic(&path, |file| file.write_all(text.as_bytes()))?;
    Ok(path)
}

fn describe(sample: &PackedSample) -> Value {
    let layout = &sample.layout;
    let positions: Vec<usize> = (0..layout.len()).map(|row| layout.position(row)).collect();
    let ar: Vec<Value> =
        sample.ar.iter().map(|target| json!({"row": target.row, "token": target.token})).collect();
    let pc: Vec<Value> = sample
        .pc
        .iter()
        .map(|pair| {
            json!({
                "student": pair.student,
                "teacher": pair.teacher,
                "block": pair.block,
                "distance": pair.distance,
            })
        })
        .collect();
    json!({
        "sample_id": sample.sample_id,
        "layout": {
            "prompt_len": layout.prompt_len,
            "response_len": layout.response_len,
            "block_size": layout.block_size,
            "window_size": layout.window_size,
            "noise_context": layout.noise_context,
            "with_noise": layout.with_noise,
        },
        "tokens": sample.tokens,
        "positions": positions,
        "ar": ar,
        "pc": pc,
    })
}

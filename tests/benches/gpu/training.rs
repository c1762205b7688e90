//! A training step on packed rows with both losses: tokens per second, the share of the GEMM peak, memory against what is
//! foreseen.

use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use jacobi_datasets::{PackedRow, PackedSample, row_len};
use jacobi_torch_ext::gpu_memory;
use jacobi_trainer::{RowLoad, StepReport, StepSettings, Stepper, TrainConfig, footprint};

use super::{
    Bench,
    shapes::{Scale, Shape, with},
    sheet::{Bound, Sheet, median},
    work,
};

/// Those of a step.
pub fn samples(scale: &Scale, vocabulary: u32) -> anyhow::Result<Vec<PackedSample>> {
    work::samples((scale.row_tokens * scale.rows / work::SAMPLE_TOKENS).max(1), vocabulary)
}

pub fn measure(bench: &Bench, sheet: &mut Sheet, shape: &Shape) -> anyhow::Result<()> {
    let layers = shape.trained_layers;
    let model = bench.model(&with(&shape.config, &[("num_hidden_layers", layers)]))?;
    let scale = bench.scale;
    let config = TrainConfig { tokens_per_row: scale.row_tokens, ..TrainConfig::default() };
    let samples = samples(scale, model.architecture().vocab_size as u32)?;
    let of_a_row = (scale.row_tokens / work::SAMPLE_TOKENS).clamp(1, samples.len());
    let load = RowLoad::of(&PackedRow::new(samples[..of_a_row].iter()));
    let foreseen = footprint(model.architecture(), (model.kind(), model.device()), &config, &load).total();
    let mut stepper = Stepper::new(model, None, &config, 1024);
    let settings = StepSettings { learning_rate: 1e-6, loss: config.loss_at(0, 1) };
    let mut last: Option<Result<StepReport, String>> = None;
    let seconds = bench.time(|| {
        let step = stepper.step(&samples, &settings, &AtomicBool::new(false));
        last = Some(step.map_err(|error| format!("{error:?}")));
    });
    let report = last.ok_or_else(|| anyhow!("no step was made"))?.map_err(|error| anyhow!(error))?;
    let tokens = samples.iter().map(|sample| sample.tokens.len()).sum::<usize>() as f64;
    let name = format!("{}, {layers} layers: training", shape.name);
    let rates: Vec<f64> = seconds.iter().map(|seconds| tokens / seconds).collect();
    let rate = sheet.samples(&name, "tokens/s", &rates);
    sheet.figure(
        format!("{name}, tokens that are computed"),
        "%",
        100.0 * samples.iter().map(row_len).sum::<usize>() as f64 / tokens,
    );
    let used = 100.0 * report.flops / median(&seconds) / bench.machine.peak;
    sheet.figure(format!("{name}, of the GEMM peak"), "%", used);
    sheet.bar(format!("{name}, of the GEMM peak, %"), used, Bound::AtLeast(50.0));
    if let Some(ratio) = bench.beside(sheet, &name, "tokens/s", rate) {
        sheet.bar(format!("{name} / PyTorch"), ratio, Bound::AtLeast(1.5));
    }
    if let Some(memory) = gpu_memory(bench.device) {
        let peak = memory.peak as f64;
        sheet.figure(format!("{name}, memory"), "GB", peak / 1e9);
        sheet.figure(format!("{name}, memory foreseen / measured"), "x", foreseen / peak);
    }
    Ok(())
}

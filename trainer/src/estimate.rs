//! The forecast of a run: memory by category, steps, time. Memory is tested against the peak of real steps
//! (`scripts/bench-train.sh`).

use std::{fmt, ops::Range};

use jacobi_datasets::PackedRow;
use jacobi_model::{Architecture, Compute};
use jacobi_torch_ext::{KEYS_PER_CALL, PRODUCT_TILE, gpu_memory};
use tch::{Device, Kind};

use crate::{
    ActivationCheckpointing, AdapterRows, MomentsDtype, TeacherModel, TrainConfig, TrainData, TrainError,
    backward::chunk_bytes,
    batch::rows,
    data::{CutRows, Dataset},
    flops::{gemm_peak, model_flops},
};

/// Bytes of the process with libtorch and its kernels loaded, without a model.
const RUNTIME_BYTES: f64 = 0.19e9;

/// Factor on the size of activations, for fragmentation of the memory that the allocator keeps (measured:
/// docs/benchmarks.md).
const FRAGMENTATION: f64 = 1.3;

/// Measured share of the matrix-product peak that training reaches (docs/benchmarks.md).
const EFFICIENCY: f64 = 0.7;

/// Number of optimizer steps whose samples are packed for the forecast.
const PACKED_STEPS: usize = 8;

/// The size of a row, on which memory and time depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLoad {
    /// Tokens computed.
    pub tokens: usize,
    /// Those of the noisy streams.
    pub noisy: usize,
    /// Rows of logits.
    pub logits: usize,
    /// Keys of the prefixes of all runs.
    pub prefixes: usize,
}

impl RowLoad {
    /// The size of `row` under both losses.
    pub fn of(row: &PackedRow) -> Self {
        let students = row.losses.iter().filter(|loss| loss.student.is_some()).count();
        let clean: usize = row.clean.iter().map(Range::len).sum();
        Self {
            tokens: row.tokens.len(),
            noisy: row.tokens.len() - clean,
            logits: row.losses.len() + students,
            prefixes: row.runs.iter().map(|run| run.prefix.len()).sum(),
        }
    }
}

/// Bytes at the peak of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Footprint {
    /// Code and libraries.
    pub runtime: f64,
    /// Weights in the compute dtype; those of a frozen teacher and those that are merged for a checkpoint too.
    pub parameters: f64,
    /// Gradients, in fp32.
    pub gradients: f64,
    /// Master weights in fp32, if the parameters are not fp32.
    pub masters: f64,
    /// AdamW's moments.
    pub moments: f64,
    /// Activations that layers keep, and the temporaries of one layer or one chunk of logits.
    pub activations: f64,
}

impl Footprint {
    /// The sum.
    pub fn total(&self) -> f64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes by category.
    pub fn parts(&self) -> [(&'static str, f64); 6] {
        [
            ("parameters", self.parameters),
            ("gradients", self.gradients),
            ("master weights", self.masters),
            ("moments", self.moments),
            ("activations", self.activations),
            ("runtime", self.runtime),
        ]
    }
}

/// Memory of the device at the peak of a step whose largest row is `row`.
pub fn footprint(
    shape: &Architecture,
    (kind, device): (Kind, Device),
    config: &TrainConfig,
    row: &RowLoad,
) -> Footprint {
    let count = shape.parameter_count() as f64;
    let size = kind.elt_size_in_bytes() as f64;
    // What is trained, and the frozen parameters: with `rows = "all"` also the weights that are merged when a checkpoint is
    // written.
    let (trained, frozen) = match &config.adapter {
        Some(adapter) => {
            let shape_of_adapter = adapter.shape();
            let merged = match adapter.rows {
                AdapterRows::All => shape_of_adapter.changed_parameter_count(shape),
                AdapterRows::Draft => 0,
            };
            (shape_of_adapter.parameter_count(shape) as f64, count + merged as f64)
        }
        None if config.teacher == TeacherModel::Base => (count, count),
        None => (count, 0.0),
    };
    let moment = match config.moments_dtype {
        MomentsDtype::Float32 => 4.0,
        MomentsDtype::Bfloat16 => 2.0,
    };
    let chunk = chunk_bytes(gpu_memory(device).map(|memory| memory.total));
    Footprint {
        runtime: RUNTIME_BYTES,
        parameters: (trained + frozen) * size,
        gradients: 4.0 * trained,
        masters: if kind == Kind::Float { 0.0 } else { 4.0 * trained },
        moments: 2.0 * moment * trained,
        activations: activations(shape, (size, device), config, (row, chunk)),
    }
}

/// Follows `LayerCache` of the model and `backward.rs`.
fn activations(
    shape: &Architecture,
    (size, device): (f64, Device),
    config: &TrainConfig,
    (row, chunk_bytes): (&RowLoad, usize),
) -> f64 {
    let drafts = config.adapter.as_ref().is_some_and(|adapter| adapter.rows == AdapterRows::Draft);
    let [hidden, inner, vocabulary] =
        [shape.hidden_size, shape.intermediate_size, shape.vocab_size].map(|width| width as f64);
    let queries = (shape.num_attention_heads * shape.head_dim) as f64;
    let keys = (shape.num_key_value_heads * shape.head_dim) as f64;
    let layers = shape.num_hidden_layers as f64;
    // A drafter keeps activations of the noisy stream, and of the text keys and values of all layers and the output. The text
    // goes through one layer at a time before.
    let text = (row.tokens - row.noisy) as f64;
    let (tokens, context) = match drafts {
        true => (row.noisy as f64, text * (layers * 2.0 * keys + hidden) * size),
        false => (row.tokens as f64, 0.0),
    };
    let normed = if shape.qk_norm { queries + keys } else { 0.0 };
    let log_sums = 4.0 * shape.num_attention_heads as f64;
    let input = tokens * hidden * size;
    // Projections, attention, its residual, gate and up.
    let widths = 2.0 * queries + 2.0 * keys + normed + hidden + 2.0 * inner;
    let cache = tokens * (size * widths + log_sums);
    let kept = match config.activation_checkpointing {
        ActivationCheckpointing::None => layers * (input + cache),
        // The last layer is not recomputed.
        ActivationCheckpointing::Full => layers * input + cache,
    };
    let logits = (row.logits as f64).min(chunk_bytes as f64 / (vocabulary * size));
    // bf16 products widen a tile of each factor, and have their tile of results in fp32.
    let tile = PRODUCT_TILE as f64;
    let widened = |rows: f64, inputs: f64| match size {
        4.0 => 0.0,
        _ => 4.0 * (rows.min(tile) * (inputs + tile) + tile * inputs),
    };
    // Hidden states, their gradient; logits with the rows they come from.
    let loss = 2.0 * input + logits * (vocabulary + 4.0 * hidden) * size + widened(logits, hidden);
    // Gradients of the residual, the gated values, gate and up.
    let mlp = tokens * (3.0 * hidden + 5.0 * inner) * size + widened(tokens, inner);
    // In fp32: the projections, the output, the gradients of both.
    let attention = tokens * (2.0 * hidden * size + 4.0 * (4.0 * queries + 6.0 * keys));
    // On a GPU copies of prefixes and their gradients, which the kernel makes for every query head, and one in fp32.
    let copied = if device == Device::Cpu { 0 } else { row.prefixes.min(KEYS_PER_CALL) };
    let attention = attention + copied as f64 * (size * (4.0 * keys + 2.0 * queries) + 4.0 * keys);
    let noisy = kept + loss.max(mlp).max(attention);
    let reading = if drafts { text * (size * (widths + 2.0 * hidden + inner) + log_sums) } else { 0.0 };
    FRAGMENTATION * (context + noisy.max(reading))
}

/// The forecast of a run.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Samples that are trained on.
    pub samples: usize,
    /// Rows left out for their length.
    pub skipped: usize,
    /// Cut responses, if `cut_responses` leaves them out and there are any.
    pub cut: Option<CutRows>,
    /// Optimizer steps.
    pub steps: usize,
    /// Samples of a step.
    pub batch_size: usize,
    /// Weights of the model.
    pub parameters: usize,
    /// Weights of the adapter, where one is trained.
    pub adapter: Option<usize>,
    /// The largest packed row.
    pub row: RowLoad,
    /// Packed tokens of a step, on average.
    pub tokens_per_step: f64,
    /// Memory at the peak.
    pub footprint: Footprint,
    /// Seconds for all steps.
    pub seconds: f64,
}

/// Forecasts training on `data` without loading weights: from config.json, the samples of the first steps, and the
/// matrix-product peak measured now.
///
/// # Errors
/// A model directory or data that training would refuse.
pub fn forecast(
    shape: &Architecture,
    compute: impl Into<Compute>,
    data: TrainData,
    config: &TrainConfig,
    seed: u64,
) -> Result<Forecast, TrainError> {
    config.validate()?;
    let mut dataset = Dataset::open(data, config, seed, shape)?;
    let Compute { dtype, device } = compute.into();
    let kind = dtype.resolve(shape.stored_dtype.as_deref());
    let epoch = dataset.len().div_ceil(config.batch_size);
    let steps = config.max_steps.unwrap_or(config.epochs * epoch);
    let packed = PACKED_STEPS.min(epoch);
    let (mut flops, mut tokens) = (0.0, 0);
    let mut largest = RowLoad { tokens: 0, noisy: 0, logits: 0, prefixes: 0 };
    for step in 0..packed {
        let samples = dataset.step(step, config.batch_size, config)?;
        tokens += samples.iter().map(|sample| sample.tokens.len()).sum::<usize>();
        for row in rows(&samples, config.tokens_per_row, 1).concat() {
            flops += model_flops(shape, config, &row);
            let load = RowLoad::of(&row);
            if load.tokens > largest.tokens {
                largest = load;
            }
        }
    }
    let recompute = match config.activation_checkpointing {
        ActivationCheckpointing::None => 1.0,
        // One more forward pass, without the last product of each layer.
        ActivationCheckpointing::Full => 1.25,
    };
    Ok(Forecast {
        samples: dataset.len(),
        skipped: dataset.skipped,
        cut: dataset.cut,
        steps,
        batch_size: config.batch_size,
        parameters: shape.parameter_count(),
        adapter: config.adapter.as_ref().map(|adapter| adapter.shape().parameter_count(shape)),
        footprint: footprint(shape, (kind, device), config, &largest),
        row: largest,
        tokens_per_step: tokens as f64 / packed as f64,
        seconds: recompute * flops / packed as f64 * steps as f64 / (EFFICIENCY * gemm_peak(kind, device)),
    })
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { samples, skipped, steps, batch_size, row, tokens_per_step, footprint, seconds, .. } = self;
        if *skipped > 0 {
            writeln!(f, "{skipped} samples longer than max_length are left out")?;
        }
        if let Some(cut) = self.cut {
            writeln!(f, "{cut}")?;
        }
        writeln!(
            f,
            "{steps} steps of {batch_size} samples out of {samples}, {tokens_per_step:.0} tokens per step, at most {} in a row",
            row.tokens
        )?;
        let millions = |count: usize| count as f64 / 1e6;
        match self.adapter {
            None => write!(f, "{:.1} million parameters", millions(self.parameters))?,
            Some(adapter) => write!(
                f,
                "an adapter of {:.1} million parameters for a frozen model of {:.1} million",
                millions(adapter),
                millions(self.parameters)
            )?,
        }
        writeln!(f, "; memory at the peak:")?;
        for (name, bytes) in footprint.parts() {
            writeln!(f, "  {name:<16} {:>9}", size(bytes))?;
        }
        writeln!(f, "  {:<16} {:>9}", "together", size(footprint.total()))?;
        write!(f, "about {}, if matrix products run as fast as just measured", duration(*seconds))
    }
}

fn size(bytes: f64) -> String {
    if bytes < 1e9 { format!("{:.0} MB", bytes / 1e6) } else { format!("{:.2} GB", bytes / 1e9) }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} seconds"),
        s if s < 5400.0 => format!("{:.0} minutes", s / 60.0),
        s => format!("{:.1} hours", s / 3600.0),
    }
}

#[cfg(test)]
mod tests;

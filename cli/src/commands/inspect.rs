//! `jacobi inspect`: describes a shard, a directory of shards, a model, checkpoint or adapter, or a run.

use std::path::PathBuf;

use jacobi_datasets::{NoiseScheduleConfig, ScheduleKind, hub};

use crate::exit::UsageError;
use crate::inspect::{self, SampleView, Schedule};
use crate::output;

/// Describe a shard, a trajectories directory, a model, checkpoint or adapter directory, or a run directory
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The path to inspect
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Trajectories: the sample to show with its loss mask, counted from 0
    #[arg(long, default_value_t = 0, value_name = "N")]
    sample: usize,
    /// Trajectories: show every state of this block of the sample, counted from 0
    #[arg(long, value_name = "N")]
    block: Option<usize>,
    /// Trajectories: the model directory whose tokenizer decodes ids; by default the model that made them
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Trajectories: also write the states of the block as an HTML page
    #[arg(long, value_name = "FILE", requires = "block")]
    html: Option<PathBuf>,
    /// Trajectories: show the noise of the states that a schedule selects: linear, random, reverse or constant
    #[arg(long, value_name = "NAME", value_parser = schedule)]
    schedule: Option<ScheduleKind>,
    /// Trajectories: minimum noise ratio of the schedule
    #[arg(long, default_value_t = 0.0, value_name = "RATIO", requires = "schedule")]
    min_noise_ratio: f64,
    /// Trajectories: maximum noise ratio of the schedule
    #[arg(long, default_value_t = 1.0, value_name = "RATIO", requires = "schedule")]
    max_noise_ratio: f64,
    /// Trajectories: blocks per noise cycle, of the mask shown and of the schedule
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    window_size: u32,
    /// Model: compute the float32 logits of this text at every position, and write them with its ids to --output
    #[arg(long, value_name = "TEXT", requires = "output")]
    logits: Option<String>,
    /// Output file of --logits: safetensors with input_ids (i64, L) and logits (f32, L x V)
    #[arg(long, short, value_name = "FILE", requires = "logits")]
    output: Option<PathBuf>,
}

/// A schedule by the name it has in recipes.
fn schedule(name: &str) -> Result<ScheduleKind, String> {
    serde_json::from_value(name.into())
        .map_err(|_| "not a schedule: linear, random, reverse or constant".to_owned())
}

impl InspectArgs {
    fn noise(&self, schedule: ScheduleKind) -> Result<Schedule, UsageError> {
        let (t_min, t_max) = (self.min_noise_ratio, self.max_noise_ratio);
        let noise = NoiseScheduleConfig { schedule, t_min, t_max };
        if noise.is_valid() {
            return Ok(Schedule { noise, window_size: self.window_size as usize });
        }
        Err(UsageError(format!(
            "--min-noise-ratio {t_min} and --max-noise-ratio {t_max}: required is 0 <= minimum <= maximum <= 1"
        )))
    }
}

/// Describes and prints.
///
/// # Errors
/// A path of another kind, or a damaged file.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let text = if let (Some(text), Some(target)) = (&args.logits, &args.output) {
        inspect::write_logits(&args.path, text, target)?
    } else {
        let tokenizer = args.tokenizer.as_deref().map(hub::model_dir).transpose()?;
        let view = SampleView {
            sample: args.sample,
            block: args.block,
            tokenizer: tokenizer.as_deref(),
            window_size: args.window_size as usize,
            schedule: args.schedule.map(|schedule| args.noise(schedule)).transpose()?,
            html: args.html.as_deref(),
        };
        inspect::describe(&args.path, &view)?
    };
    Ok(output::result(&text)?)
}

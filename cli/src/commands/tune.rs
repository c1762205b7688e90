//! `jacobi tune`: finds the best decoder settings for a model on this machine.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jacobi_datasets::PromptsConfig;
use jacobi_datasets::schema::tuned::{self, TRIALS_SCHEMA, TUNED_FILE, Trials};
use jacobi_eval::{TuneJob, TuneProgress};
use jacobi_model::{Architecture, DeviceChoice};
use jacobi_report::{tune_table, write_tune_report};

use super::decode::DtypeName;
use crate::exit::{MeasurementInterrupted, UsageError};
use crate::progress::Progress;
use crate::recipe::{Recipe, RecipeArgs};
use crate::run_dir::{DirLock, RunDir, command_line, write_text};
use crate::signals::Stop;
use crate::stages::report_bad_rows;
use crate::{device, environment, output, plan};

/// Find the best decoder settings for a model on this machine
///
/// Times forward passes by width, then searches decoder, window, block size, blocks in flight, spawn ratio, filler, pool
/// size and tree budget by successive halving on prompts. Writes the best to the model's jacobi.json, where `decode`
/// and `eval` find it. Give --model and --prompts, or a recipe: then its exported model is tuned on its evaluation prompts.
#[derive(Debug, clap::Args)]
pub struct TuneArgs {
    /// The recipe whose run is tuned
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one setting of the recipe. May be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// The model; by default the exported one of the recipe's run
    #[arg(long, short, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The prompts; by default those of [eval.prompts], whose columns hold for this file too, or of the first task
    #[arg(long, short, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Maximum number of prompts
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Maximum tokens of a response; by default the recipe's, else 256
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// The objective
    #[arg(long, value_enum, default_value_t = Objective::Tps)]
    objective: Objective,
    /// Number of combinations of settings to try besides the defaults
    #[arg(long, default_value_t = 32, value_name = "N")]
    candidates: usize,
    /// The dtype to compute in; by default the recipe's, else auto
    #[arg(long, value_enum)]
    dtype: Option<DtypeName>,
    /// Where to compute: auto, cpu, cuda or cuda:N; by default the recipe's, else auto
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Seed for the choice of combinations; by default the recipe's, else 0
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Directory for jacobi.json; by default the model's
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Directory for charts and the list of trials; by default `tune` in the run's directory, else in the model's
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

/// The objectives.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Objective {
    /// Tokens per second of decoding
    Tps,
    /// Tokens per forward pass
    Tpf,
}

/// Resolved inputs and outputs.
struct Paths {
    model: PathBuf,
    prompts: PromptsConfig,
    output: PathBuf,
    report: PathBuf,
}

/// Searches, writes `jacobi.json` and the report, and prints the best and the default settings.
///
/// # Errors
/// From [`jacobi_eval::tune`] and writing; [`crate::exit::Interrupted`] after a signal.
pub fn run(args: &TuneArgs) -> anyhow::Result<()> {
    let recipe = args
        .config
        .as_ref()
        .map(|config| RecipeArgs { config: config.clone(), set: args.set.clone() }.load())
        .transpose()?;
    let places = places(args, recipe.as_ref())?;
    let recipe = recipe.unwrap_or_default();
    let job = TuneJob {
        model: &places.model,
        dtype: args.dtype.map_or(recipe.model.dtype, Into::into),
        device: device::choose(args.device.unwrap_or(recipe.model.device))?,
        prompts: &places.prompts,
        max_new_tokens: args.max_new_tokens.map_or(recipe.eval.max_new_tokens, |n| n as usize),
        objective: match args.objective {
            Objective::Tps => tuned::Objective::Tps,
            Objective::Tpf => tuned::Objective::Tpf,
        },
        candidates: args.candidates,
        seed: args.seed.unwrap_or(recipe.seed),
    };
    Architecture::from_dir(job.model)?;
    let prompts = plan::count(job.prompts)?;
    if args.dry_run {
        return Ok(output::result(&format!(
            "tune {} on {prompts}, at most {} new tokens each, {} candidates besides the defaults\n{} into {}, report into {}",
            job.model.display(),
            job.max_new_tokens,
            job.candidates,
            TUNED_FILE,
            places.output.display(),
            places.report.display()
        ))?);
    }
    check_writable(&places.output)?;
    let _lock = DirLock::take(&places.report)?;
    let trials = search(&job, &places)?;
    Ok(output::result(&tune_table(&trials))?)
}

fn places(args: &TuneArgs, recipe: Option<&Recipe>) -> anyhow::Result<Paths> {
    let run = recipe.map(|recipe| RunDir::new(&recipe.output_dir));
    let model = match (&args.model, &run) {
        (Some(dir), _) => dir.clone(),
        (None, Some(run)) if run.export().is_dir() => run.export(),
        (None, Some(run)) => {
            return Err(anyhow::anyhow!(
                "{} has no exported model: run `jacobi run` or `jacobi export` first, or give --model DIR",
                run.root().display()
            ));
        }
        (None, None) => return Err(missing("model", "--model DIR").into()),
    };
    let mut prompts = match (recipe, &args.prompts) {
        (Some(recipe), Some(_)) => recipe.eval.prompts.clone(),
        (Some(recipe), None) => recipe.eval.measured()?.swap_remove(0).prompts,
        (None, Some(_)) => PromptsConfig::default(),
        (None, None) => return Err(missing("prompts", "--prompts FILE").into()),
    };
    if let Some(path) = &args.prompts {
        prompts.path.clone_from(path);
    }
    let limit = args.limit as usize;
    prompts.limit = Some(prompts.limit.map_or(limit, |rows| rows.min(limit)));
    let report = args.report.clone().unwrap_or_else(|| match &run {
        Some(run) if args.model.is_none() => run.tune(),
        _ => model.join("tune"),
    });
    let output = args.output.clone().unwrap_or_else(|| model.clone());
    Ok(Paths { model, prompts, output, report })
}

fn missing(what: &str, option: &str) -> UsageError {
    UsageError(format!("no {what}: give {option}, or a recipe with --config"))
}

/// Fails early: measuring takes minutes.
fn check_writable(dir: &Path) -> anyhow::Result<()> {
    let probe = fs_err::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir));
    probe
        .map(drop)
        .with_context(|| format!("cannot write {TUNED_FILE} into {}: give another --output", dir.display()))
}

fn search(job: &TuneJob, places: &Paths) -> anyhow::Result<Trials> {
    let stop = Stop::listen()?;
    let mut progress = Progress::new("tune");
    let outcome = jacobi_eval::tune(job, stop.flag(), &mut |now| match now {
        TuneProgress::Latency(latency) => {
            let one = latency.widths.first().map_or(0.0, |width| width.seconds * 1000.0);
            output::status(&format!("tune: one row takes {one:.2} ms, knee at width {}", latency.knee));
        }
        TuneProgress::Decoded { done, total, round, rounds } => {
            progress.update(*done, *total, &format!("round {round} of {rounds}"));
        }
    })?;
    if outcome.interrupted {
        stop.check().map_err(MeasurementInterrupted::from)?;
    }
    report_bad_rows("tune", &outcome.bad_rows);
    let trials = Trials {
        schema: TRIALS_SCHEMA.to_owned(),
        objective: job.objective,
        dtype: outcome.dtype.to_owned(),
        trials: outcome.trials,
        latency: outcome.latency,
        command: command_line(),
        environment: environment::describe().as_object().cloned().unwrap_or_default(),
    };
    write_tune_report(&places.report, &trials)?;
    let target = places.output.join(TUNED_FILE);
    if let Some(best) = trials.best() {
        write_text(&target, &(serde_json::to_string_pretty(&best)? + "\n"))?;
        let report = places.report.display();
        progress.finish(&format!("{} in {}, report in {report}", best.best.label(), target.display()));
    }
    Ok(trials)
}

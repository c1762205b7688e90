//! `jacobi tune`: finds the best decoder settings for a model on this machine.

use std::path::PathBuf;

use jacobi_datasets::PromptsConfig;
use jacobi_datasets::schema::tuned::{self, TUNED_FILE};
use jacobi_model::DeviceChoice;
use jacobi_report::tune_table;

use super::decode::DtypeName;
use crate::adapter::ModelDirs;
use crate::exit::{Interrupted, MeasurementInterrupted, UsageError};
use crate::recipe::{Recipe, RecipeArgs};
use crate::run_dir::{DirLock, RunDir};
use crate::signals::Stop;
use crate::tuning::{Tuning, first, prompts as tuning_prompts};
use crate::{output, plan};

/// Find the best decoder settings for a model on this machine
///
/// Times forward passes by width, then searches decoder, window, block size, blocks in flight, spawn ratio, filler, pool
/// size and tree budget by successive halving on prompts. Writes the best to the model's jacobi.json, where `decode`
/// and `eval` find it. `jacobi run` does this before it evaluates. Give --model and --prompts, or a recipe: then its exported
/// model is tuned on its evaluation prompts, with the settings in `[tune]`.
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
    /// A draft adapter to tune, a directory of PEFT; without --model over the base that it names
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    adapter: Option<PathBuf>,
    /// The prompts, in the column `prompt` or as [eval.prompts] of a recipe says; by default those of [eval.prompts] or of the
    /// first task, without an evaluation those of the last round
    #[arg(long, short, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Maximum number of prompts; by default tune.prompts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Maximum tokens of a response; by default the recipe's, else 256
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// The objective; by default tune.objective
    #[arg(long, value_enum)]
    objective: Option<Objective>,
    /// Number of combinations of settings to try besides the defaults; by default tune.candidates
    #[arg(long, value_name = "N")]
    candidates: Option<usize>,
    /// Seconds after which the best decoder so far is taken; by default tune.seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
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

impl From<Objective> for tuned::Objective {
    fn from(objective: Objective) -> Self {
        match objective {
            Objective::Tps => Self::Tps,
            Objective::Tpf => Self::Tpf,
        }
    }
}

/// Searches, writes `jacobi.json` and the report, and prints the best and the default settings.
///
/// # Errors
/// See [`Tuning::perform`].
pub fn run(args: &TuneArgs) -> anyhow::Result<()> {
    let tuning = tuning(args)?;
    tuning.dirs.check()?;
    let prompts = plan::count(&tuning.prompts)?;
    if args.dry_run {
        return Ok(output::result(&format!(
            "tune {} on {}\n{} into {}, report into {}",
            tuning.dirs.tuned().display(),
            tuning.summary(prompts),
            TUNED_FILE,
            tuning.output.display(),
            tuning.report.display()
        ))?);
    }
    let stop = Stop::listen()?;
    let _lock = DirLock::take(&tuning.report)?;
    let trials = tuning.perform(&stop).map_err(|error| match error.downcast::<Interrupted>() {
        Ok(interrupted) => MeasurementInterrupted::from(interrupted).into(),
        Err(error) => error,
    })?;
    Ok(output::result(&tune_table(&trials))?)
}

/// The search of the recipe, or of the defaults, with the options applied.
fn tuning(args: &TuneArgs) -> anyhow::Result<Tuning> {
    let recipe = args
        .config
        .as_ref()
        .map(|config| RecipeArgs { config: config.clone(), set: args.set.clone() }.load())
        .transpose()?;
    let mut tuning = match (given(args)?, &recipe) {
        (Some(dirs), _) => {
            let report = dirs.tuned().join("tune");
            Tuning::new(recipe.as_ref().unwrap_or(&Recipe::default()), dirs, report)?
        }
        (None, Some(recipe)) => of_run(recipe)?,
        (None, None) => return Err(missing("model", "--model DIR").into()),
    };
    let config = &mut tuning.config;
    config.prompts = args.limit.map_or(config.prompts, |n| n as usize);
    config.objective = args.objective.map_or(config.objective, Into::into);
    config.candidates = args.candidates.unwrap_or(config.candidates);
    config.seconds = args.seconds.map_or(config.seconds, |n| n as usize);
    tuning.prompts = first(prompts(args, recipe.as_ref())?, tuning.config.prompts);
    tuning.max_new_tokens = args.max_new_tokens.map_or(tuning.max_new_tokens, |n| n as usize);
    tuning.dtype = args.dtype.map_or(tuning.dtype, Into::into);
    tuning.device = args.device.unwrap_or(tuning.device);
    tuning.seed = args.seed.unwrap_or(tuning.seed);
    tuning.output = args.output.clone().unwrap_or(tuning.output);
    tuning.report = args.report.clone().unwrap_or(tuning.report);
    Ok(tuning)
}

/// The model or adapter that the options name.
fn given(args: &TuneArgs) -> anyhow::Result<Option<ModelDirs>> {
    match (&args.model, &args.adapter) {
        (None, None) => Ok(None),
        (Some(model), None) => Ok(Some(ModelDirs { model: model.clone(), adapter: None })),
        (model, Some(adapter)) if adapter.is_dir() => {
            ModelDirs::find(model.as_deref(), Some(adapter)).map(Some)
        }
        (_, Some(adapter)) => Err(UsageError(format!(
            "--adapter {}: there is no such directory, and {TUNED_FILE} is written into it; download an adapter of the hub first",
            adapter.display()
        ))
        .into()),
    }
}

/// The search of what the run of `recipe` exported.
fn of_run(recipe: &Recipe) -> anyhow::Result<Tuning> {
    let run = RunDir::new(&recipe.output_dir);
    if run.export().is_dir() {
        return Tuning::of_run(recipe);
    }
    Err(anyhow::anyhow!(
        "{} has no exported model: run `jacobi run` or `jacobi export` first, or give --model DIR",
        run.root().display()
    ))
}

fn prompts(args: &TuneArgs, recipe: Option<&Recipe>) -> anyhow::Result<PromptsConfig> {
    match (recipe, &args.prompts) {
        (Some(recipe), Some(path)) => Ok(PromptsConfig { path: path.clone(), ..recipe.eval.prompts.clone() }),
        (Some(recipe), None) => tuning_prompts(recipe),
        (None, Some(path)) => Ok(PromptsConfig { path: path.clone(), ..PromptsConfig::default() }),
        (None, None) => Err(missing("prompts", "--prompts FILE").into()),
    }
}

fn missing(what: &str, option: &str) -> UsageError {
    UsageError(format!("no {what}: give {option}, or a recipe with --config"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: TuneArgs,
    }

    /// The search for a recipe whose second round trains a drafter, with an export and without checkpoints.
    fn of_drafter(dir: &std::path::Path, options: &[&str]) -> anyhow::Result<Tuning> {
        let (recipe, output) = (dir.join("drafter.toml"), dir.join("run"));
        let text = format!(
            "output_dir = {output:?}\n[model]\npath = {dir:?}\n[prompts]\npath = \"prompts.jsonl\"\n[[rounds]]\n[[rounds]]\n\
             [rounds.train]\nwindow_size = 1\nar_weight = 0\n[rounds.train.adapter]\nblock_size = 8\nstates = \"random\"\n"
        );
        fs_err::write(&recipe, text).unwrap();
        fs_err::create_dir_all(output.join("export")).unwrap();
        let config = ["tune", "--config", recipe.to_str().unwrap()];
        tuning(&Command::parse_from(config.iter().chain(options)).args)
    }

    #[test]
    fn a_given_model_replaces_the_adapter_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let found = of_drafter(dir.path(), &["--model", "other"]).unwrap();
        assert_eq!((found.dirs.model.to_str(), found.dirs.adapter), (Some("other"), None));
        assert_eq!((found.output.to_str(), found.report.to_str()), (Some("other"), Some("other/tune")));
    }

    #[test]
    fn an_exported_adapter_without_its_base_is_not_tuned_as_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", of_drafter(dir.path(), &[]).unwrap_err());
        assert!(error.contains("round-1") && error.contains("no checkpoint"), "{error}");
        // A plan is made before there are checkpoints.
        let recipe = RecipeArgs { config: dir.path().join("drafter.toml"), set: vec![] }.load().unwrap();
        assert!(Tuning::of_run(&recipe).is_err() && Tuning::planned(&recipe).is_ok());
    }
}

//! `jacobi eval`: quality and speed of models under decoders.

use std::path::PathBuf;

use jacobi_datasets::hub;
use jacobi_datasets::schema::eval_row::ModelRole;
use jacobi_decoder::DecoderName;
use jacobi_eval::EvalModel;
use jacobi_model::DeviceChoice;
use jacobi_report::terminal_table;

use super::decode::decoder_name;
use crate::adapter::ModelDirs;
use crate::device::GraphArgs;
use crate::exit::UsageError;
use crate::kept_eval::Replace;
use crate::pipeline::{base_model, exported_model, training_curves};
use crate::recipe::{Recipe, RecipeArgs};
use crate::run_dir::{DirLock, RunDir};
use crate::signals::Stop;
use crate::{output, plan, stages};

/// Report directory without a recipe.
const OUTPUT_DIR: &str = "runs/eval";

/// Measure quality and speed of models under decoders, and write a report
///
/// Give --model or --adapter and --tasks, or a recipe. With a recipe and without --model, the exported model of its run, if it
/// exists, is measured as well as the base model. After an interruption the same command resumes.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// The recipe, a TOML file; `jacobi config schema` describes it
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one setting of the recipe. May be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// A model to measure; may be given several times
    #[arg(long, visible_alias = "trained", value_name = "DIR")]
    model: Vec<PathBuf>,
    /// A draft adapter to measure, a directory of PEFT or ORG/NAME@REVISION of the hub, over the base model; without one over
    /// the base that it names. With --model it needs --base. May be given several times
    #[arg(long, value_name = "DIR")]
    adapter: Vec<PathBuf>,
    /// The model that the others were trained from; by default model.path
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Tasks to measure on, instead of the recipe's: names or TOML files, each optionally with =FILE, your copy of its questions
    #[arg(long, value_delimiter = ',', value_name = "TASK[=FILE],..")]
    tasks: Vec<String>,
    /// Decoders to compare with ar, instead of the recipe's; with the recipe's settings, or their defaults
    #[arg(long, value_delimiter = ',', value_parser = decoder_name(), value_name = "DECODER,..")]
    decoders: Vec<DecoderName>,
    /// Maximum questions of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Maximum tokens of a response; by default the recipe's or the task's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// Where to compute: auto, cpu, cuda or cuda:N; by default the recipe's, else auto
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    #[command(flatten)]
    graphs: GraphArgs,
    /// Run generated programs with only resource limits if no isolation is available
    #[arg(long)]
    allow_unsafe_execution: bool,
    /// Directory of the report; by default the report directory in output_dir
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Discard existing results, also those with other settings, and measure again
    #[arg(long)]
    overwrite: bool,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Evaluates and prints the table, or with `--dry-run` prints the plan.
///
/// # Errors
/// See [`stages::eval`].
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let recipe = recipe(args)?;
    let run = RunDir::new(&recipe.output_dir);
    let models = models(args, &recipe, &run)?;
    for EvalModel { dir, adapter, .. } in &models {
        ModelDirs { model: dir.clone(), adapter: adapter.clone() }.check()?;
    }
    let target = args.output.clone().unwrap_or_else(|| run.report());
    if args.dry_run {
        let mut questions = Vec::new();
        for task in recipe.eval.measured()? {
            questions.push(plan::questions_of(&task, plan::count(&task.prompts)?));
        }
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        return Ok(output::result(&format!(
            "evaluate {} on {}, report into {}",
            names.join(" and "),
            questions.join(", "),
            target.display()
        ))?);
    }
    let _lock = DirLock::take(args.output.as_deref().unwrap_or(run.root()))?;
    let curves = training_curves(&run)?;
    let options = stages::EvalOptions {
        models: &models,
        training: &curves,
        report: &target,
        replace: if args.overwrite { Replace::Everything } else { Replace::Nothing },
    };
    let rows = stages::eval(&recipe, options, &Stop::listen()?)?;
    Ok(output::result(&terminal_table(&rows))?)
}

/// The recipe, if there is one, with the options applied.
fn recipe(args: &EvalArgs) -> anyhow::Result<Recipe> {
    let mut recipe = match &args.config {
        Some(config) => RecipeArgs { config: config.clone(), set: args.set.clone() }.load()?,
        None if args.model.is_empty() && args.base.is_none() && args.adapter.is_empty() => {
            let message =
                "no model to evaluate: give --model DIR or --adapter DIR, or a recipe with --config";
            return Err(UsageError(message.into()).into());
        }
        None => Recipe { output_dir: OUTPUT_DIR.into(), ..Recipe::default() },
    };
    if let Some(base) = &args.base {
        recipe.model.path.clone_from(base);
    }
    recipe.model.device = args.device.unwrap_or(recipe.model.device);
    recipe.model.graphs &= !args.graphs.no_graphs;
    let eval = &mut recipe.eval;
    if !args.tasks.is_empty() {
        eval.choose_tasks(&args.tasks);
    }
    if !args.decoders.is_empty() {
        eval.choose_decoders(&args.decoders);
    }
    eval.sandbox.allow_unsafe_execution |= args.allow_unsafe_execution;
    if let Some(limit) = args.limit {
        eval.prompts.limit = Some(limit as usize);
        eval.tasks.iter_mut().for_each(|task| task.limit = Some(limit as usize));
    }
    if let Some(tokens) = args.max_new_tokens {
        eval.max_new_tokens = tokens as usize;
        eval.tasks.iter_mut().for_each(|task| task.max_new_tokens = Some(tokens as usize));
    }
    eval.measured().map_err(|error| UsageError(format!("{:#}", anyhow::Error::from(error))))?;
    Ok(recipe)
}

/// The models, the base model first. Without a base model no model counts as trained from another.
fn models(args: &EvalArgs, recipe: &Recipe, run: &RunDir) -> anyhow::Result<Vec<EvalModel>> {
    let has_base = args.config.is_some() || args.base.is_some();
    if !has_base && !args.model.is_empty() && !args.adapter.is_empty() {
        let message = "--model and --adapter: give the base model of the adapter by --base DIR, and by --model only models \
                       trained from it";
        return Err(UsageError(message.into()).into());
    }
    let base = has_base.then(|| base_model(recipe)).transpose()?;
    let base_dir = base.as_ref().map(|base| base.dir.clone());
    let role = if has_base { ModelRole::Trained } else { ModelRole::Base };
    let mut models: Vec<EvalModel> = base.into_iter().collect();
    for dir in &args.model {
        let name = dir.display().to_string();
        models.push(EvalModel { name, role, dir: hub::model_dir(dir)?, adapter: None });
    }
    for dir in &args.adapter {
        let ModelDirs { model, adapter } = ModelDirs::find(base_dir.as_deref(), Some(dir))?;
        let name = dir.display().to_string();
        models.push(EvalModel { name, role: ModelRole::Adapter, dir: model, adapter });
    }
    if args.config.is_some() && args.model.is_empty() && args.adapter.is_empty() && run.export().is_dir() {
        models.push(exported_model(recipe, run)?);
    }
    Ok(models)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: EvalArgs,
    }

    #[test]
    fn models_count_as_trained_only_with_a_base_model() {
        use ModelRole::{Base, Trained};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let [a, b] = ["a", "b"].map(path);
        fs_err::create_dir(&a).unwrap();
        fs_err::create_dir(&b).unwrap();
        type Row<'a> = (&'a [&'a str], &'a [(&'a str, ModelRole)]);
        let rows: [Row; 3] = [
            (&["--model", &a], &[(&a, Base)]),
            (&["--model", &a, "--model", &b], &[(&a, Base), (&b, Base)]),
            (&["--base", &a, "--model", &b], &[(&a, Base), (&b, Trained)]),
        ];
        for (arguments, expected) in rows {
            let common = ["eval", "--tasks", "gsm8k"];
            let args = Command::parse_from(common.iter().chain(arguments)).args;
            let found = models(&args, &recipe(&args).unwrap(), &RunDir::new(dir.path())).unwrap();
            let found: Vec<(&str, ModelRole)> =
                found.iter().map(|model| (model.name.as_str(), model.role)).collect();
            assert_eq!(found, expected, "{arguments:?}");
        }
    }

    #[test]
    fn a_model_beside_an_adapter_needs_the_base_of_both() {
        let args = Command::parse_from(["eval", "--tasks", "gsm8k", "--model", "a", "--adapter", "b"]).args;
        let error =
            models(&args, &recipe(&args).unwrap(), &RunDir::new(std::path::Path::new("runs"))).unwrap_err();
        assert!(error.is::<UsageError>() && error.to_string().contains("--base DIR"), "{error}");
    }
}

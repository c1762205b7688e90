//! `jacobi generate`: prompts and a model to trajectory shards.

use std::path::PathBuf;

use jacobi_datasets::Rank;
use jacobi_trajectory_gen::{GenerateJob, estimate, merge};

use crate::adapter::ModelDirs;
use crate::exit::UsageError;
use crate::pipeline::models_that_generate;
use crate::recipe::RecipeArgs;
use crate::run_dir::{DirLock, RunDir};
use crate::signals::Stop;
use crate::stages::{self, GenerateOptions};
use crate::{output, plan};

/// Generate trajectory shards from prompts and a model
///
/// Resumable: the same command generates what is missing. Several processes can share the work: each takes --rank and
/// --world-size, or reads RANK and WORLD_SIZE (torchrun) or SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT; then --merge
/// joins their shards.
#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The round to generate for; later rounds use the checkpoint of the one before
    #[arg(long, default_value_t = 1, value_name = "N")]
    round: usize,
    /// A draft adapter for the model: a directory of PEFT, or ORG/NAME@REVISION of the hub. Responses stay the model's; the
    /// recorded states are those of its drafts. By default that of the round before, if it trained one
    #[arg(long, value_name = "DIR", conflicts_with = "merge")]
    adapter: Option<PathBuf>,
    /// Output directory of the shards; by default the round's directory in output_dir
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The rank of this process, from 0
    #[arg(long, value_name = "N", requires = "world_size")]
    rank: Option<usize>,
    /// The number of processes that share the prompts
    #[arg(long, value_name = "N", requires = "rank")]
    world_size: Option<usize>,
    /// Use these responses instead of generating them: JSONL or Parquet as vLLM or SGLang writes it, with token ids or
    /// text; every prompt needs one, matched by its tokens, messages, text or id. The same as generate.responses of the round
    #[arg(long, value_name = "FILE", conflicts_with = "merge")]
    responses: Option<PathBuf>,
    /// Join the shards of all ranks, after checking that they are complete
    #[arg(long, conflicts_with_all = ["rank", "world_size", "overwrite", "dry_run"])]
    merge: bool,
    /// Remove shards of other settings, and generate again
    #[arg(long)]
    overwrite: bool,
    /// Count prompts, generate a few, print the estimate for all, and stop
    #[arg(long)]
    dry_run: bool,
    /// Prompts that --dry-run generates; 0 only counts
    #[arg(long, default_value_t = 8, value_name = "N", requires = "dry_run")]
    calibrate: usize,
}

/// Generates, merges, or with `--dry-run` estimates.
///
/// # Errors
/// See [`stages::generate`] and [`merge`].
pub fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let mut recipe = args.recipe.load()?;
    let run = RunDir::new(&recipe.output_dir);
    let round = args.round;
    check_round(round, recipe.rounds.len())?;
    let target = args.output.clone().unwrap_or_else(|| run.trajectories(round));
    if args.merge {
        let _run = args.output.is_none().then(|| DirLock::take(run.root())).transpose()?;
        let _lock = DirLock::take(&target)?;
        let manifest = merge(&target)?;
        let ranks = manifest.merged_ranks.unwrap_or_default();
        let text = format!("{} trajectories of {ranks} ranks in {}", manifest.written, target.display());
        return Ok(output::result(&text)?);
    }
    let mut models = models_that_generate(&recipe, &run, round)?;
    if let Some(adapter) = &args.adapter {
        models = ModelDirs::find(Some(&models.model), Some(adapter))?;
    }
    if let Some(responses) = &args.responses {
        recipe.rounds[round - 1].generate.responses = Some(responses.clone());
    }
    let options = GenerateOptions { rank: rank(args)?, overwrite: args.overwrite, quiet: false };
    let job = stages::generate_job(&recipe, round, &models, &target, options)?;
    if args.dry_run {
        return Ok(output::result(&describe(&job, args.calibrate)?)?);
    }
    // Ranks of one job write in parallel; an output outside of the run directory needs no lock of the run.
    let alone = args.output.is_none() && job.rank.is_none();
    let _lock = alone.then(|| DirLock::take(run.root())).transpose()?;
    let manifest = stages::generate(&job, options, &Stop::listen()?)?;
    output::result(&format!("{} trajectories in {}", manifest.written, job.directory().display()))?;
    Ok(())
}

/// The rank from the options, else from the environment.
fn rank(args: &GenerateArgs) -> anyhow::Result<Option<Rank>> {
    match (args.rank, args.world_size) {
        (Some(rank), Some(world_size)) => Ok(Some(Rank::new(rank, world_size)?)),
        _ => Ok(Rank::from_environment(|name| std::env::var(name).ok())?),
    }
}

fn describe(job: &GenerateJob, calibrate: usize) -> anyhow::Result<String> {
    let found = estimate(job, calibrate)?;
    let config = job.config;
    let mut text = format!(
        "generate with {}{} into {}\n  prompts      {} of {}, {} skipped by rules; {} prompt tokens\n  settings     block_size {}, at most {} new tokens each\n",
        job.model_dir.display(),
        job.adapter.map_or_else(String::new, |adapter| format!(" and {}", adapter.display())),
        job.directory().display(),
        found.candidates,
        found.input,
        found.rejected,
        found.prompt_tokens,
        config.block_size,
        config.max_new_tokens
    );
    let scaled = |of: fn(&jacobi_trajectory_gen::Calibration) -> f64| found.scaled(of);
    if let (Some(tokens), Some(seconds), Some(bytes)) =
        (scaled(|c| c.response_tokens as f64), scaled(|c| c.seconds), scaled(|c| c.bytes as f64))
    {
        let prompts = found.calibration.map_or(0, |calibration| calibration.prompts);
        text += &format!(
            "  estimated    {tokens:.0} response tokens, {}, {} on disk (from {prompts} prompts)\n",
            crate::progress::clock(std::time::Duration::from_secs_f64(seconds)),
            plan::bytes(bytes as u64)
        );
    } else if found.calibration.is_some() {
        text += "  estimated    no estimate: no prompt was answered within a minute\n";
    }
    Ok(text)
}

/// Refuses a round that the recipe does not have.
///
/// # Errors
/// [`UsageError`].
pub fn check_round(round: usize, rounds: usize) -> Result<(), UsageError> {
    if (1..=rounds).contains(&round) {
        return Ok(());
    }
    Err(UsageError(format!("--round {round}: the recipe has {rounds} rounds, counted from 1")))
}

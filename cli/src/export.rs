//! Export of a checkpoint as a Hugging Face model directory with a model card.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use jacobi_datasets::hub::{CUSTOM_GENERATE, HubRepo};
use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole, Results};
use jacobi_datasets::schema::tuned::{
    Latency, Objective, RaceSummary, TUNED_FILE, TUNED_SCHEMA, Trial, Tuned,
};
use jacobi_datasets::{Manifest, TOKENIZER_FILES, Tokenizer, copy_tokenizer_file};
use jacobi_model::{Dtype, MAX_SHARD_BYTES, StoredAdapter, digest_of_model, load, save_model};
use jacobi_report::{AdapterSize, ModelCard, model_card};
use jacobi_trainer::AdapterSettings;
use serde_json::{Map, Value, json};

use crate::recipe::{Recipe, Round};
use crate::replace_dir::{recover, remove, replace_dir, sibling};
use crate::run_dir::{RunDir, command_line, write_text};
use crate::{environment, pipeline::models_of_round};

/// The file in [`CUSTOM_GENERATE`] with which transformers decodes an export in parallel.
const GENERATE: &str = include_str!("../../python/custom_generate/generate.py");
const GENERATE_FILE: &str = "generate.py";

/// What an evaluation may call the export of a run.
const OWN_ROLES: [ModelRole; 2] = [ModelRole::Trained, ModelRole::Adapter];

/// Exports `checkpoint` to `output`: weights, config.json, generation_config.json, tokenizer files, and
/// `custom_generate/` if wanted; or the files of an adapter, without its base, which is named as `base_on_hub` if given. The
/// directory gets its name when it is complete. It replaces an existing one, which stays whole until then.
///
/// # Errors
/// A checkpoint that does not load, or an output that cannot be written.
pub fn export(
    checkpoint: &Path,
    output: &Path,
    base_on_hub: Option<&HubRepo>,
    custom_generate: bool,
) -> anyhow::Result<()> {
    let partial = sibling(output, "partial");
    recover(output)?;
    remove(&partial)?;
    fs_err::create_dir_all(&partial).with_context(|| {
        format!("cannot write into {}: give another --output", partial.parent().unwrap_or(output).display())
    })?;
    let is_adapter = StoredAdapter::is_at(checkpoint);
    if is_adapter {
        export_adapter(checkpoint, &partial, base_on_hub)?;
    } else {
        let model = load(checkpoint, Dtype::Auto)?.transformer;
        let config = &model.architecture().config_json;
        save_model(&partial, config, model.parameters(), model.kind(), MAX_SHARD_BYTES)?;
    }
    for file in TOKENIZER_FILES {
        if checkpoint.join(file).is_file() {
            copy_tokenizer_file(&checkpoint.join(file), &partial.join(file))?;
        }
    }
    let generation = partial.join("generation_config.json");
    // The end of a text is the base's, whose directory decoding reads.
    if !is_adapter && !generation.is_file() {
        let tokenizer = Tokenizer::load(checkpoint)?;
        let config = json!({"do_sample": false, "eos_token_id": tokenizer.eos_token_ids()});
        write_text(&generation, &(serde_json::to_string_pretty(&config)? + "\n"))?;
    }
    // It decodes with one set of weights.
    if custom_generate && !is_adapter {
        fs_err::create_dir(partial.join(CUSTOM_GENERATE))?;
        write_text(&partial.join(CUSTOM_GENERATE).join(GENERATE_FILE), GENERATE)?;
    }
    replace_dir(&partial, output)
}

/// Copies the files of an adapter that can be read. Training names its base by directory.
fn export_adapter(checkpoint: &Path, output: &Path, base: Option<&HubRepo>) -> anyhow::Result<()> {
    StoredAdapter::read(checkpoint)?;
    for file in StoredAdapter::FILES {
        fs_err::copy(checkpoint.join(file), output.join(file))?;
    }
    let Some(base) = base else { return Ok(()) };
    let path = output.join(StoredAdapter::FILES[0]);
    let mut config: Map<String, Value> = serde_json::from_slice(&fs_err::read(&path)?)?;
    config.insert("base_model_name_or_path".to_owned(), base.name().into());
    config.insert("revision".to_owned(), base.revision().into());
    write_text(&path, &(serde_json::to_string_pretty(&config)? + "\n"))
}

/// The base of the model or adapter that a run exports.
struct Base {
    dir: PathBuf,
    /// The model of the recipe, unless an adapter's base is a checkpoint of the run.
    name: String,
    on_hub: Option<HubRepo>,
}

impl Base {
    fn of_run(recipe: &Recipe, run: &RunDir) -> anyhow::Result<Self> {
        if is_of_checkpoint(recipe) {
            let dir = models_of_round(recipe, run, recipe.rounds.len())?.model;
            return Ok(Self { name: dir.display().to_string(), dir, on_hub: None });
        }
        let name = recipe.model.path.display().to_string();
        Ok(Self { dir: recipe.model_dir()?, name, on_hub: base_on_hub(recipe) })
    }
}

/// The hub repository of the base of the model or adapter that a run exports, if it is from there.
pub fn base_on_hub(recipe: &Recipe) -> Option<HubRepo> {
    HubRepo::model(&recipe.model.path).filter(|_| !is_of_checkpoint(recipe) && !recipe.model.path.exists())
}

/// Whether a run exports an adapter of a model that it trained itself.
fn is_of_checkpoint(recipe: &Recipe) -> bool {
    recipe.exports_adapter() && recipe.round_of_model(recipe.rounds.len()).is_some()
}

/// Checks that `output` may be written or replaced.
///
/// # Errors
/// When `output` holds something that is no model, or contains `checkpoint`, or exists and `overwrite` is false.
pub fn check_replaceable(output: &Path, checkpoint: &Path, overwrite: bool) -> anyhow::Result<()> {
    if !output.exists() || is_empty(output) {
        return Ok(());
    }
    let shown = output.display();
    ensure!(
        output.join("config.json").is_file() || StoredAdapter::is_at(output),
        "{shown} exists and is not a model directory: give another --output"
    );
    // A missing checkpoint is reported elsewhere.
    let within = fs_err::canonicalize(checkpoint).is_ok_and(|checkpoint| {
        fs_err::canonicalize(output).is_ok_and(|output| checkpoint.starts_with(output))
    });
    ensure!(!within, "{shown} holds the checkpoint {}: give another --output", checkpoint.display());
    ensure!(overwrite, "{shown} holds a model: give another --output, or --overwrite to replace it");
    Ok(())
}

/// Writes the model card of the model that `recipe` exported to `dir`, with the figures in `results` if they are of this
/// model. Also writes `jacobi.json` (the recommended decoder) unless tuning has written it.
///
/// # Errors
/// When a file of the export cannot be read or written.
pub fn write_card(
    recipe: &Recipe,
    run: &RunDir,
    dir: &Path,
    results: Option<&Results>,
) -> anyhow::Result<()> {
    let base = Base::of_run(recipe, run)?;
    let digest = digest_of_model(dir)?;
    let results = results.filter(|results| is_of_model(results, &digest));
    let license = license_of(&base.dir);
    let (training, provenance) = (training_settings(recipe), provenance(recipe, run, &base.dir)?);
    let decoding = decoding(recipe, dir, results)?;
    let command = results.map_or_else(command_line, |results| results.command.clone());
    let card = ModelCard {
        name: &recipe.name,
        base_model: &base.name,
        base_on_hub: base.on_hub.as_ref().map(HubRepo::name),
        license: license.as_deref(),
        training: &training,
        provenance: &provenance,
        decoding: &decoding,
        adapter: adapter_size(recipe, dir)?,
        custom_generate: dir.join(CUSTOM_GENERATE).join(GENERATE_FILE).is_file(),
        rows: results.map_or(&[], |results| results.rows.as_slice()),
        tuned_models: results.map_or(&[], |results| results.tuned_models.as_slice()),
        command: &command,
    };
    write_text(&dir.join("README.md"), &model_card(&card))
}

fn adapter_size(recipe: &Recipe, dir: &Path) -> anyhow::Result<Option<AdapterSize>> {
    if !StoredAdapter::is_at(dir) {
        return Ok(None);
    }
    // The adapter's config has no block size.
    let rank = StoredAdapter::read(dir)?.config().rank;
    Ok(Some(AdapterSize { rank, block_size: recipe.block_size() }))
}

/// Whether the trained model of `results` has this digest.
fn is_of_model(results: &Results, digest: &str) -> bool {
    let has = |index: usize, name: &str, value: &str| {
        results.settings.get(&format!("models.{index}.{name}")) == Some(&*json!(value).to_string())
    };
    let mut models =
        (1..).take_while(|index| results.settings.get(&format!("models.{index}.files")).is_some());
    let is_own = |index| has(index, "files", digest) || has(index, "adapter", digest);
    let has_role = |index| OWN_ROLES.iter().any(|role| has(index, "role", role.as_str()));
    models.any(|index| has_role(index) && is_own(index))
}

/// The recommended decoder: from tuning; else the fastest one of the evaluation other than `ar`, which only tuning can
/// recommend; else the one that training aimed at. Written into `jacobi.json`.
fn decoding(recipe: &Recipe, dir: &Path, results: Option<&Results>) -> anyhow::Result<Tuned> {
    let path = dir.join(TUNED_FILE);
    if let Some(tuned) = jacobi_eval::tuned_file(dir).ok().flatten().filter(Tuned::is_from_tuning) {
        return Ok(tuned);
    }
    // Only rows of the first task: speeds of different tasks are not comparable.
    let rows = results.map_or(&[][..], |results| results.rows.as_slice());
    let first = rows.first().map(|row| row.task.as_str());
    let trained = |row: &&EvalRow| OWN_ROLES.contains(&row.model_role) && row.model == recipe.name;
    let rows = rows
        .iter()
        .filter(trained)
        .filter(|row| !row.is_autoregressive())
        .filter(|row| Some(row.task.as_str()) == first);
    let fastest = rows.max_by(|a, b| {
        let speedup = |row: &EvalRow| row.speedup_over_ar.unwrap_or(0.0);
        speedup(a).total_cmp(&speedup(b))
    });
    let best = fastest.map_or_else(|| default_trial(recipe), trial_of);
    let this_machine = || environment::describe().as_object().cloned().unwrap_or_default();
    let tuned = Tuned {
        schema: TUNED_SCHEMA.to_owned(),
        best,
        objective: Objective::Tps,
        dtype: fastest.map_or_else(String::new, |row| row.dtype.clone()),
        race: RaceSummary::default(),
        runner_up: None,
        latency: Latency::default(),
        model_files: String::new(),
        command: results.map_or_else(command_line, |results| results.command.clone()),
        environment: results.map_or_else(this_machine, |results| results.environment.clone()),
    };
    write_text(&path, &(serde_json::to_string_pretty(&tuned)? + "\n"))?;
    Ok(tuned)
}

/// Jacobi decoding with the block size of the last round.
fn default_trial(recipe: &Recipe) -> Trial {
    let block_size = recipe.block_size();
    trial_of(&EvalRow {
        decoder: "jacobi".to_owned(),
        decoder_settings: Map::from_iter([("block_size".to_owned(), block_size.into())]),
        ..EvalRow::default()
    })
}

fn trial_of(row: &EvalRow) -> Trial {
    let mut decoder = row.decoder_settings.clone();
    decoder.shift_insert(0, "name".to_owned(), row.decoder.as_str().into());
    Trial {
        decoder,
        is_default: false,
        prompts: row.samples,
        tokens: row.tokens,
        forwards: row.forwards,
        rows: row.widths.iter().map(|width| width.rows * width.forwards).sum(),
        decode_seconds: row.decode_seconds,
        tpf: row.tpf,
        tps: row.tps,
        speedup_over_ar: row.speedup_over_ar,
    }
}

/// Base model, prompts, trajectories and versions.
fn provenance(recipe: &Recipe, run: &RunDir, base_dir: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut rows = vec![("base model, BLAKE3 of its files".to_owned(), digest_of_model(base_dir)?)];
    for (round, Round { prompts, .. }) in (1..).zip(&recipe.rounds) {
        rows.push((format!("round {round}: prompts"), prompts.path.display().to_string()));
        if let Some(manifest) = Manifest::load(&run.trajectories(round))? {
            let made = format!("{} trajectories of {} prompts", manifest.written, manifest.input);
            rows.push((format!("round {round}: trained on"), made));
        }
    }
    let machine = environment::describe();
    let text = |name: &str| machine[name].as_str().unwrap_or_default().to_owned();
    rows.push(("made with".to_owned(), format!("jacobi {}, libtorch {}", text("jacobi"), text("libtorch"))));
    Ok(rows)
}

/// The training settings, round by round.
fn training_settings(recipe: &Recipe) -> Vec<(String, String)> {
    let mut settings = vec![("seed".to_owned(), recipe.seed.to_string())];
    for (index, round) in recipe.rounds.iter().enumerate() {
        let train = &round.train;
        let length = train
            .max_steps
            .map_or_else(|| format!("{} epochs", train.epochs), |steps| format!("{steps} steps"));
        let rows = [
            ("block size", round.block_size().to_string()),
            ("window size", train.window_size.to_string()),
            ("length", length),
            ("samples per step", train.batch_size.to_string()),
            ("learning rate", format!("{:e}", train.learning_rate)),
            ("weight of the autoregressive loss", train.ar_weight.to_string()),
        ];
        let adapter = train.adapter.as_ref().map(adapter_settings).unwrap_or_default();
        let rows = rows.into_iter().chain(adapter);
        settings.extend(rows.map(|(name, value)| (format!("round {}: {name}", index + 1), value)));
    }
    settings
}

/// The settings of an adapter that the other tables of the card do not have.
fn adapter_settings(adapter: &AdapterSettings) -> Vec<(&'static str, String)> {
    let shape = adapter.shape();
    let targets: Vec<&str> = shape.targets.iter().map(|target| target.as_str()).collect();
    vec![
        ("rank and alpha of the adapter", format!("{}, {}", shape.rank, shape.alpha)),
        ("targets of the adapter", targets.join(", ")),
        ("states", json!(adapter.states).to_string()),
        ("noise tokens", json!(adapter.noise_tokens).to_string()),
    ]
}

/// The `license:` of the base model's own card, if it has one.
fn license_of(model_dir: &Path) -> Option<String> {
    let card = fs_err::read_to_string(model_dir.join("README.md")).ok()?;
    let front = card.strip_prefix("---")?.split("\n---").next()?;
    let value = front.lines().find_map(|line| line.strip_prefix("license:"))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|license| !license.is_empty())
}

fn is_empty(dir: &Path) -> bool {
    fs_err::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests;

//! A checkpoint to a Hugging Face model directory that any tool loads, and its model card.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use jacobi_datasets::schema::eval_row::EvalRow;
use jacobi_datasets::{TOKENIZER_FILES, Tokenizer};
use jacobi_model::{Dtype, MAX_SHARD_BYTES, load, save_model};
use jacobi_report::{ModelCard, model_card};
use serde_json::json;

use crate::recipe::Recipe;
use crate::run_dir::{RunDir, write_text};

/// Exports `checkpoint` to `output`: weights, config.json, generation_config.json, tokenizer files. The directory
/// appears whole or not at all, and replaces one that is there.
///
/// # Errors
/// A checkpoint that does not load, or an output that cannot be written.
pub fn export(checkpoint: &Path, output: &Path) -> anyhow::Result<()> {
    let model = load(checkpoint, Dtype::Auto)?.transformer;
    let partial = beside(output, "partial");
    remove(&partial)?;
    fs_err::create_dir_all(&partial).with_context(|| {
        format!("cannot write into {}: give another --output", partial.parent().unwrap_or(output).display())
    })?;
    let config = &model.architecture().config_json;
    save_model(&partial, config, model.parameters(), model.kind(), MAX_SHARD_BYTES)?;
    for file in TOKENIZER_FILES {
        if checkpoint.join(file).is_file() {
            fs_err::copy(checkpoint.join(file), partial.join(file))?;
        }
    }
    let generation = partial.join("generation_config.json");
    if !generation.is_file() {
        let tokenizer = Tokenizer::load(checkpoint)?;
        let config = json!({"do_sample": false, "eos_token_id": tokenizer.eos_token_ids()});
        write_text(&generation, &(serde_json::to_string_pretty(&config)? + "\n"))?;
    }
    remove(output)?;
    fs_err::rename(&partial, output)?;
    Ok(())
}

/// Refuses an output that would be replaced although it is no earlier export: what is removed must be ours.
///
/// # Errors
/// When `output` is there and is not an exported model.
pub fn check_replaceable(output: &Path) -> anyhow::Result<()> {
    let ours = !output.exists() || output.join("config.json").is_file() || is_empty(output);
    ensure!(ours, "{} is there and holds no model: give another --output", output.display());
    Ok(())
}

/// Writes the model card of an exported model.
///
/// # Errors
/// When `export/README.md` cannot be written.
pub fn write_card(recipe: &Recipe, run: &RunDir, rows: &[EvalRow], command: &str) -> anyhow::Result<()> {
    let base_model = recipe.model.path.display().to_string();
    let license = license_of(&recipe.model_dir()?);
    let training = training_settings(recipe);
    let card = ModelCard {
        name: &recipe.name,
        base_model: &base_model,
        license: license.as_deref(),
        training: &training,
        rows,
        command,
    };
    write_text(&run.export().join("README.md"), &model_card(&card))
}

/// The settings that decide what was learned, round by round.
fn training_settings(recipe: &Recipe) -> Vec<(String, String)> {
    let mut settings = vec![("seed".to_owned(), recipe.seed.to_string())];
    for (index, round) in recipe.rounds.iter().enumerate() {
        let (generate, train) = (&round.generate, &round.train);
        let length = train
            .max_steps
            .map_or_else(|| format!("{} epochs", train.epochs), |steps| format!("{steps} steps"));
        let rows = [
            ("block size", generate.block_size.to_string()),
            ("window size", train.window_size.to_string()),
            ("length", length),
            ("samples per step", train.batch_size.to_string()),
            ("learning rate", format!("{:e}", train.learning_rate)),
            ("weight of the autoregressive loss", train.ar_weight.to_string()),
        ];
        settings.extend(rows.map(|(name, value)| (format!("round {}: {name}", index + 1), value)));
    }
    settings
}

/// The `license:` of the base model's own card, if it has one.
fn license_of(model_dir: &Path) -> Option<String> {
    let card = fs_err::read_to_string(model_dir.join("README.md")).ok()?;
    let front = card.strip_prefix("---")?.split("\n---").next()?;
    let value = front.lines().find_map(|line| line.strip_prefix("license:"))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|license| !license.is_empty())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

fn is_empty(dir: &Path) -> bool {
    fs_err::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    if dir.exists() {
        fs_err::remove_dir_all(dir).with_context(|| format!("cannot replace {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_of_the_base_is_found_in_its_card() {
        let rows = [
            ("---\nlicense: apache-2.0\n---\n# A", Some("apache-2.0")),
            ("---\nlicense: \"mit\"\nx: y\n---\n", Some("mit")),
            ("# A\nlicense: none\n", None),
            ("---\ntags:\n- a\n---\nlicense: late\n", None),
        ];
        for (text, expected) in rows {
            let dir = tempfile::tempdir().unwrap();
            fs_err::write(dir.path().join("README.md"), text).unwrap();
            assert_eq!(license_of(dir.path()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn only_models_and_empty_directories_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        check_replaceable(&dir.path().join("missing")).unwrap();
        check_replaceable(dir.path()).unwrap();
        fs_err::write(dir.path().join("thesis.tex"), "").unwrap();
        assert!(check_replaceable(dir.path()).unwrap_err().to_string().contains("--output"));
        fs_err::write(dir.path().join("config.json"), "{}").unwrap();
        check_replaceable(dir.path()).unwrap();
    }
}

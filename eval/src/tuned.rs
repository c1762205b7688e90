//! Reads the decoder that was tuned for a model, from `jacobi.json` in the model's directory.

use std::io::ErrorKind;
use std::path::Path;

use jacobi_datasets::schema::eval_row::EvalRow;
use jacobi_datasets::schema::tuned::{TUNED_FILE, TUNED_SCHEMA, Tuned, TunedModel};
use jacobi_decoder::{DecoderConfig, StopRules};
use serde_json::Value;

use crate::config::row_of;
use crate::{EvalError, EvalModel};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The decoder that `jacobi tune` found best for the model in `dir`; `None` if it was not tuned.
///
/// # Errors
/// [`EvalError::Tuned`] if `jacobi.json` is of another version, or has settings that the decoder does not have.
pub fn tuned(dir: &Path) -> Result<Option<DecoderConfig>, EvalError> {
    Ok(read(dir)?.map(|(_, decoder)| decoder))
}

/// The content of the `jacobi.json` in `dir`, if there is one.
///
/// # Errors
/// As [`tuned`].
pub fn tuned_file(dir: &Path) -> Result<Option<Tuned>, EvalError> {
    Ok(read(dir)?.map(|(tuned, _)| tuned))
}

/// What tuning found for each of `models` that was tuned. Marks the rows of these decoders.
pub(crate) fn mark_tuned(models: &[EvalModel], rows: &mut [EvalRow]) -> Result<Vec<TunedModel>, EvalError> {
    let mut found = Vec::new();
    for model in models {
        let Some((tuned, decoder)) = read(model.tuned_dir())?.filter(|(tuned, _)| tuned.is_from_tuning())
        else {
            continue;
        };
        let stop = StopRules { max_new_tokens: 1, eos_token_ids: Vec::new() };
        let wanted = row_of(&decoder.settings(0, stop)?);
        for row in rows.iter_mut() {
            row.tuned |=
                (&row.model, row.model_role) == (&model.name, model.role) && row.is_decoded_as(&wanted);
        }
        found.push(TunedModel { model: model.name.clone(), model_role: model.role, tuned });
    }
    Ok(found)
}

fn read(dir: &Path) -> Result<Option<(Tuned, DecoderConfig)>, EvalError> {
    let path = dir.join(TUNED_FILE);
    let read = match fs_err::read_to_string(&path) {
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(None);
        }
        Err(error) => Err(error.into()),
        Ok(text) => parse(&text),
    };
    read.map(Some).map_err(|source| EvalError::Tuned { path, source })
}

fn parse(text: &str) -> Result<(Tuned, DecoderConfig), Cause> {
    let value: Value = serde_json::from_str(text)?;
    match &value["schema"] {
        Value::String(schema) if schema == TUNED_SCHEMA => {}
        other => return Err(format!("its schema is {other}, not \"{TUNED_SCHEMA}\"").into()),
    }
    let tuned: Tuned = serde_json::from_value(value)?;
    if !tuned.best.decoder.contains_key("name") {
        return Err("its decoder has no name".into());
    }
    let decoder: DecoderConfig = serde_json::from_value(Value::Object(tuned.best.decoder.clone()))?;
    // Checked here, where the file is known; no check depends on the seed.
    decoder.strategy(0)?;
    Ok((tuned, decoder))
}

/// A `jacobi.json` as tuning leaves it, with a block size to fill in.
#[cfg(test)]
pub(crate) const FILE_OF_JACOBI: &str = r#"{"schema": "jacobi-tune/1",
    "decoder": {"name": "jacobi", "block_size": BLOCK_SIZE}, "is_default": false, "prompts": 2, "tokens": 9, "forwards": 3,
    "rows": 30, "decode_seconds": 0.5, "tpf": 3.0, "tps": 18.0, "speedup_over_ar": null, "objective": "tps",
    "dtype": "float32", "latency": {"cached": 1, "knee": 1, "widths": [{"rows": 1, "seconds": 0.5}]},
    "command": "jacobi tune", "environment": {}}"#;

#[cfg(test)]
mod tests;

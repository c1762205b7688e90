//! Reads the decoder that was tuned for a model, from `jacobi.json` in the model's directory.

use std::io::ErrorKind;
use std::path::Path;

use jacobi_datasets::schema::tuned::{TUNED_FILE, TUNED_SCHEMA, Tuned};
use jacobi_decoder::DecoderConfig;
use serde_json::Value;

use crate::EvalError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The decoder that `jacobi tune` found best for the model in `dir`; `None` if it was not tuned.
///
/// # Errors
/// [`EvalError::Tuned`] if `jacobi.json` is of another version, or has settings that the decoder does not have.
pub fn tuned(dir: &Path) -> Result<Option<DecoderConfig>, EvalError> {
    let path = dir.join(TUNED_FILE);
    let decoder = match fs_err::read_to_string(&path) {
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(None);
        }
        Err(error) => Err(error.into()),
        Ok(text) => read(&text),
    };
    decoder.map(Some).map_err(|source| EvalError::Tuned { path, source })
}

fn read(text: &str) -> Result<DecoderConfig, Cause> {
    let value: Value = serde_json::from_str(text)?;
    match &value["schema"] {
        Value::String(schema) if schema == TUNED_SCHEMA => {}
        other => return Err(format!("its schema is {other}, not \"{TUNED_SCHEMA}\"").into()),
    }
    let tuned: Tuned = serde_json::from_value(value)?;
    if !tuned.best.decoder.contains_key("name") {
        return Err("its decoder has no name".into());
    }
    let decoder: DecoderConfig = serde_json::from_value(Value::Object(tuned.best.decoder))?;
    // Checked here, where the file is known; no check depends on the seed.
    decoder.strategy(0)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests;

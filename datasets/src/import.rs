//! Converts trajectories of the reference implementation of arXiv 2512.14681 to ours.
//!
//! Two forms, distinguished by their fields:
//! - **recorded**: an array with an object per block, grouped by sample: `data_id`, `diffusion_itr_id` (`itr_3`: the block),
//!   `prompt_ids` (`[[..]]`: prompt and earlier blocks), `answer_trajectory_ids` (the states, the fixed point last) and
//!   `teacher_output_ids` (prompt and whole response).
//! - **packed**: a line per sample: `prompt_ids`, `prompt_ids_len`, `complete_training_sequence_ids` (the prompt, then for
//!   each block its noisy and its clean tokens) and `traj_position_indices` (the iteration of each noisy block). It has one
//!   state per block, which every schedule chooses.
//!
//! Their last block continues after the end-of-sequence token; our response ends with it.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::DatasetError;
use crate::schema::trajectory::{FinishReason, State, Trajectory};

mod packed;
mod recorded;

/// A converted sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The sample.
    pub trajectory: Trajectory,
    /// Tokens per block.
    pub block_size: usize,
}

/// A sample that cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImport {
    /// Its name, or its place in the file.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Called with each sample of a file.
pub type Receiver<'a> = dyn FnMut(Result<Imported, BadImport>) -> Result<(), DatasetError> + 'a;

/// Reads a file of either form and passes sample by sample to `each`. A token of `eos` ends a response.
///
/// # Errors
/// `Io`, `Json` for a file that is not JSON, and the errors of `each`.
pub fn read_reference(path: &Path, eos: &[u32], each: &mut Receiver) -> Result<(), DatasetError> {
    let mut group = recorded::Group::default();
    let mut number = 0;
    for_each_value(path, &mut |value| {
        number += 1;
        let name = value["data_id"].as_str().map_or_else(|| format!("entry {number}"), str::to_owned);
        let bad = |reason| BadImport { name, reason };
        if value.get("complete_training_sequence_ids").is_some() {
            return each(packed::convert(value, eos).map_err(bad));
        }
        match group.add(value) {
            Ok(None) => Ok(()),
            Ok(Some(complete)) => each(complete.convert(eos)),
            Err(reason) => each(Err(bad(reason))),
        }
    })?;
    match group.take() {
        Some(last) => each(last.convert(eos)),
        None => Ok(()),
    }
}

/// The elements of an array, or the values of lines, one at a time.
fn for_each_value(
    path: &Path,
    each: &mut dyn FnMut(Value) -> Result<(), DatasetError>,
) -> Result<(), DatasetError> {
    let file = fs_err::File::open(path).map_err(DatasetError::io("read", path))?;
    let mut reader = BufReader::new(file.into_parts().0);
    let json = |source| DatasetError::Json {
        path: path.to_path_buf(),
        expected: "an array of recorded blocks, or lines of packed samples",
        source,
    };
    loop {
        let bytes = reader.fill_buf().map_err(DatasetError::io("read", path))?;
        match bytes.first() {
            Some(byte) if byte.is_ascii_whitespace() => reader.consume(1),
            Some(b'[') => break,
            _ => {
                let mut values = serde_json::Deserializer::from_reader(reader).into_iter::<Value>();
                return values.try_for_each(|value| each(value.map_err(json)?));
            }
        }
    }
    let mut failure = None;
    let elements = Elements { each, failure: &mut failure };
    let parsed = serde_json::Deserializer::from_reader(reader).deserialize_seq(elements);
    match failure {
        Some(error) => Err(error),
        None => parsed.map_err(json),
    }
}

/// Passes on the elements of an array as they are parsed, so that the array is never in memory as a whole.
struct Elements<'a> {
    each: &'a mut dyn FnMut(Value) -> Result<(), DatasetError>,
    /// The error of `each`, which the parser's error type cannot hold.
    failure: &'a mut Option<DatasetError>,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(value) = items.next_element::<Value>()? {
            if let Err(error) = (self.each)(value) {
                *self.failure = Some(error);
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

/// The response up to and including its first token of `eos`, and its finish reason.
fn end_at(eos: &[u32], mut response: Vec<u32>) -> (Vec<u32>, FinishReason) {
    match response.iter().position(|token| eos.contains(token)) {
        Some(end) => {
            response.truncate(end + 1);
            (response, FinishReason::Eos)
        }
        None => (response, FinishReason::Length),
    }
}

/// A state of a block: its converged prefix and its tail. `tokens` may be longer than the block.
fn state(block: usize, iteration: usize, tokens: &[u32], clean: &[u32]) -> State {
    let tokens = &tokens[..clean.len().min(tokens.len())];
    let converged = tokens.iter().zip(clean).take_while(|(a, b)| a == b).count();
    State {
        block: block as u32,
        iteration: iteration as u32,
        converged: converged as u32,
        tail: tokens[converged..].to_vec(),
    }
}

#[cfg(test)]
mod tests;

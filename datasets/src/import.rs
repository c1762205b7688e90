//! Trajectories that the reference implementation of arXiv 2512.14681 published, as ours.
//!
//! Two forms, told apart by their fields:
//! - **recorded**: an array with an object per block, those of a sample one after the other: `data_id`,
//!   `diffusion_itr_id` (`itr_3`: the block), `prompt_ids` (`[[..]]`: prompt and blocks so far), `answer_trajectory_ids` (the
//!   states, the fixed point last) and `teacher_output_ids` (prompt and whole response).
//! - **packed**: a line per sample: `prompt_ids`, `prompt_ids_len`, `complete_training_sequence_ids` (prompt, then noisy and
//!   clean tokens of each block in turn) and `traj_position_indices` (which state each noisy block is). One state per block
//!   is all that is left: every schedule chooses it.
//!
//! There the last block runs on behind the end-of-sequence token; here the response ends with it.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::DatasetError;
use crate::schema::trajectory::{FinishReason, State, Trajectory};

mod packed;
mod recorded;

/// A sample of theirs as one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The sample.
    pub trajectory: Trajectory,
    /// Tokens of its blocks.
    pub block_size: usize,
}

/// A sample that cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImport {
    /// Its name, or where it stands.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Receives the samples of a file.
pub type Receiver<'a> = dyn FnMut(Result<Imported, BadImport>) -> Result<(), DatasetError> + 'a;

/// Reads a file of either form, sample by sample, and gives each to `each`. `eos` ends responses.
///
/// # Errors
/// `Io`, `Json` for a file that is none; whatever `each` returns.
pub fn read_reference(path: &Path, eos: &[u32], each: &mut Receiver) -> Result<(), DatasetError> {
    let mut group = recorded::Group::default();
    let mut number = 0;
    for_each_object(path, &mut |object| {
        number += 1;
        let name =
            |object: &Value| object["data_id"].as_str().map_or(format!("entry {number}"), str::to_owned);
        if object.get("complete_training_sequence_ids").is_some() {
            let name = name(&object);
            return each(packed::convert(object, eos).map_err(|reason| BadImport { name, reason }));
        }
        let name = name(&object);
        match group.add(object) {
            Ok(None) => Ok(()),
            Ok(Some(whole)) => each(whole.convert(eos)),
            Err(reason) => each(Err(BadImport { name, reason })),
        }
    })?;
    match group.end() {
        Some(whole) => each(whole.convert(eos)),
        None => Ok(()),
    }
}

/// The objects of an array or of lines, one at a time.
fn for_each_object(
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
                let values = serde_json::Deserializer::from_reader(reader).into_iter::<Value>();
                return values.into_iter().try_for_each(|value| each(value.map_err(json)?));
            }
        }
    }
    let mut failure = None;
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let outcome = Elements { each, failure: &mut failure }.deserialize(&mut deserializer);
    match (failure, outcome) {
        (Some(error), _) => Err(error),
        (None, outcome) => outcome.map_err(json),
    }
}

/// Hands on the elements of an array as they are parsed, so that the array is never in memory as a whole.
struct Elements<'a> {
    each: &'a mut dyn FnMut(Value) -> Result<(), DatasetError>,
    /// What `each` returned, for which the parser's error type has no room.
    failure: &'a mut Option<DatasetError>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
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

/// A response that ends with the first of `eos`, and why.
fn end_at(eos: &[u32], mut response: Vec<u32>) -> (Vec<u32>, FinishReason) {
    match response.iter().position(|token| eos.contains(token)) {
        Some(end) => {
            response.truncate(end + 1);
            (response, FinishReason::Eos)
        }
        None => (response, FinishReason::Length),
    }
}

/// A state of a block as the tail behind what is right already; `tokens` may be longer than the block.
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

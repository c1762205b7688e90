//! Counts the prompts before any is answered: all of them, and those that still need an answer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::schema::trajectory::read_prompts_of_shard;
use jacobi_datasets::{Manifest, stream_prompts};

use crate::GenerateError;
use crate::ledger::{Ledger, RejectedKind};
use crate::prompts::{Judged, PromptJudge, PromptRules, key_of};

/// Counts of prompts, compared with the rows on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Prompts of this rank.
    pub(crate) input: usize,
    /// Prompts of all ranks.
    pub(crate) total_input: usize,
    /// Prompts without a row that no rule has excluded, failed ones included.
    pub(crate) pending: usize,
    /// Tokens of the pending prompts.
    pub(crate) prompt_tokens: usize,
}

/// Rows on disk by key.
pub(crate) type Done = HashMap<u128, usize>;

/// The keys of all rows that the shards of `manifest` hold.
pub(crate) fn rows_on_disk(dir: &Path, manifest: &Manifest) -> Result<Done, GenerateError> {
    let mut done = Done::new();
    for shard in &manifest.shards {
        let path = dir.join(&shard.file);
        if path.is_file() {
            shard.verify(dir)?;
            for (sample_id, prompt) in read_prompts_of_shard(&path)?.1 {
                *done.entry(key_of(&sample_id, &prompt)).or_default() += 1;
            }
        }
    }
    Ok(done)
}

/// Counts the prompts without encoding them, for a directory without rows. `None` after a request to `stop`.
pub(crate) fn count(rules: PromptRules, stop: &AtomicBool) -> Result<Option<Survey>, GenerateError> {
    let mut survey = Survey::default();
    for row in stream_prompts(rules.prompts)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let content = row?.map_or_else(|bad| bad.at.number() as u128, |prompt| prompt.content_hash());
        survey.total_input += 1;
        survey.input += usize::from(rules.rank.is_none_or(|rank| rank.owns(content)));
    }
    survey.pending = survey.input;
    Ok(Some(survey))
}

/// Judges every prompt and compares it with the rows in `dir`. `None` after a request to `stop`.
///
/// # Errors
/// `ForeignRows` if `dir` has rows of prompts that are not in the file.
pub(crate) fn survey(
    rules: PromptRules,
    dir: &Path,
    done: &Done,
    stop: &AtomicBool,
) -> Result<Option<Survey>, GenerateError> {
    let mut answered = Ledger::read(dir)?;
    let mut left = done.clone();
    let mut survey = Survey::default();
    for judged in PromptJudge::open(rules)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        survey.total_input += 1;
        match judged? {
            Judged::OtherRank => continue,
            Judged::Rejected(rejected) => {
                survey.pending += usize::from(rejected.kind == RejectedKind::Failed)
            }
            Judged::Candidate(candidate) => {
                let known = answered.get_mut(&candidate.key).is_some_and(|rules| rules.pop().is_some())
                    || left.get_mut(&candidate.key).is_some_and(take_one);
                if !known {
                    survey.pending += 1;
                    survey.prompt_tokens += candidate.sample.prompt.len();
                }
            }
        }
        survey.input += 1;
    }
    match left.values().sum() {
        0 => Ok(Some(survey)),
        count => Err(foreign(rules, dir, &left, count)),
    }
}

fn take_one(left: &mut usize) -> bool {
    let any = *left > 0;
    *left -= usize::from(any);
    any
}

fn foreign(rules: PromptRules, dir: &Path, left: &Done, count: usize) -> GenerateError {
    let manifest = Manifest::load(dir).ok().flatten();
    let shards = manifest.map_or_else(Vec::new, |manifest| manifest.shards);
    let rows = shards.iter().filter_map(|shard| read_prompts_of_shard(&dir.join(&shard.file)).ok());
    let rows = rows.flat_map(|(_, rows)| rows);
    let is_left = |row: &(String, Vec<u32>)| left.get(&key_of(&row.0, &row.1)).is_some_and(|&left| left > 0);
    let first = rows.filter(is_left).map(|(sample_id, _)| sample_id).next().unwrap_or_default();
    GenerateError::ForeignRows { dir: dir.to_path_buf(), prompts: rules.prompts.path.clone(), count, first }
}

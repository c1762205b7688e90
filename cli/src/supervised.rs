//! Supervised fine-tuning data: prompts with given responses, no trajectories. Only the autoregressive loss uses them;
//! this is how a base model is trained from random weights.

use std::path::Path;

use anyhow::{Context, ensure};
use jacobi_datasets::{BadRow, FinishReason, Prompt, PromptsConfig, Tokenizer, Trajectory, read_prompts};
use jacobi_trainer::TrainData;
use rayon::prelude::*;

use crate::output;

/// Reads prompts with responses and tokenizes them on all cores with the tokenizer of `model_dir`. Rows that cannot be used are
/// reported and left out.
///
/// # Errors
/// From reading prompts and tokenizer; no usable row.
pub fn load(config: &PromptsConfig, model_dir: &Path) -> anyhow::Result<TrainData> {
    let tokenizer = Tokenizer::load(model_dir)?.with_prompts(config)?;
    let prompts = read_prompts(config)?;
    let total = prompts.len();
    let mut rows = Vec::with_capacity(total);
    let mut first_reason = None;
    let row = |prompt: Result<Prompt, BadRow>| {
        let prompt = prompt.map_err(|bad| bad.to_string())?;
        to_row(prompt, &tokenizer).map_err(|error| format!("{error:#}"))
    };
    let tokenized: Vec<Result<Trajectory, String>> = prompts.into_par_iter().map(row).collect();
    for row in tokenized {
        match row {
            Ok(row) => rows.push(row),
            Err(reason) => drop(first_reason.get_or_insert(reason)),
        }
    }
    let path = config.path.display();
    if let Some(reason) = first_reason {
        ensure!(
            !rows.is_empty(),
            "none of the {total} rows of {path} can be trained on; the first: {reason}"
        );
        output::status(&format!(
            "{} of {total} rows of {path} left out; the first: {reason}",
            total - rows.len()
        ));
    }
    Ok(TrainData::Samples { rows, origin: path.to_string() })
}

fn to_row(prompt: Prompt, tokenizer: &Tokenizer) -> anyhow::Result<Trajectory> {
    let response =
        prompt.response.as_ref().with_context(|| format!("sample {} has no response", prompt.id))?;
    let text = tokenizer.answer_text(&prompt, response).map_err(anyhow::Error::msg)?;
    let mut response_tokens = tokenizer.encode(&text)?;
    response_tokens.push(tokenizer.eos_token_ids()[0]);
    Ok(Trajectory {
        prompt_tokens: tokenizer.encode_chat(&prompt)?,
        sample_id: prompt.id,
        response_tokens,
        finish_reason: FinishReason::Eos,
        states: Vec::new(),
    })
}

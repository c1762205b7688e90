//! A model or checkpoint directory described, and its raw logits for checks against other implementations.

use std::path::Path;

use anyhow::ensure;
use jacobi_datasets::{Tokenizer, write_atomic};
use jacobi_model::{AdapterConfig, Architecture, Dtype, Outline, StoredAdapter, logits, outline};
use jacobi_trainer::TrainerState;
use safetensors::tensor::{Dtype as StoredDtype, TensorView, serialize};

pub(super) fn describe(dir: &Path) -> anyhow::Result<String> {
    let Outline { architecture: shape, parameters, weight_hash } = outline(dir)?;
    let stored = shape.stored_dtype.as_deref().unwrap_or("dtype not in config.json");
    let mut text = format!("model {}\n", dir.display());
    text += &format!("  family       {:?}\n", shape.family);
    text += &format!("  parameters   {} ({stored})\n", grouped(shape.parameter_count()));
    text += &match weight_hash {
        Some(hash) => format!("  weights      {}\n", &hash[..16]),
        None => "  weights      no digest yet: it is worked out when the model is loaded\n".to_owned(),
    };
    text += &format!("  layers       {} of width {}\n", shape.num_hidden_layers, shape.hidden_size);
    text += &format!(
        "  heads        {} query, {} key and value, {} wide\n",
        shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
    );
    text += &format!("  vocabulary   {}", shape.vocab_size);
    text += if shape.tie_word_embeddings { ", embedding and head tied\n" } else { "\n" };
    text += &format!("  context      {} tokens\n", shape.context_length());
    text += &describe_tokenizer(dir);
    text += &describe_checkpoint(dir)?;
    text += "\ntensors\n";
    for (name, shape) in parameters {
        text += &format!("  {name:<52} {shape:?}\n");
    }
    Ok(text)
}

pub(super) fn describe_adapter(dir: &Path) -> anyhow::Result<String> {
    let stored = StoredAdapter::read(dir)?;
    let AdapterConfig { rank, alpha, targets } = stored.config();
    let targets: Vec<&str> = targets.iter().map(|target| target.as_str()).collect();
    let mut text = format!("adapter {}\n", dir.display());
    let revision = stored.revision().map(|revision| format!("@{revision}")).unwrap_or_default();
    text += &format!("  base         {}{revision}\n", stored.base().unwrap_or("not named"));
    text += &format!("  base weights {}\n", stored.base_weights().map_or("not recorded", |hash| &hash[..16]));
    text += &format!("  rank         {rank}, alpha {alpha}\n");
    text += &format!("  targets      {}\n", targets.join(", "));
    text += &format!("  parameters   {}\n", grouped(stored.parameter_count()));
    text += &format!("  weights      {}\n", &stored.weight_hash()[..16]);
    if let Some(tuned) = jacobi_eval::tuned(dir)? {
        text += &format!("  decoder      {} of jacobi.json\n", tuned.name.as_str());
    }
    text += &describe_checkpoint(dir)?;
    text += "\ntensors\n";
    for (name, tensor) in stored.tensors() {
        text += &format!("  {name:<76} {:?}\n", tensor.size());
    }
    Ok(text)
}

/// Step and settings of the run that wrote a checkpoint; nothing for another directory.
fn describe_checkpoint(dir: &Path) -> anyhow::Result<String> {
    if !TrainerState::is_in(dir) {
        return Ok(String::new());
    }
    let state = TrainerState::read(dir)?;
    let mut text = format!("  checkpoint   step {} of {}\n", state.step, state.total_steps);
    for (name, value) in state.identity.iter() {
        text += &format!("    {name}: {value}\n");
    }
    Ok(text)
}

/// A model without a usable tokenizer is still described, with the tokenizer's error.
fn describe_tokenizer(dir: &Path) -> String {
    match Tokenizer::load(dir) {
        Err(error) => format!("  tokenizer    {error}\n"),
        Ok(tokenizer) => {
            let eos: Vec<String> = tokenizer
                .eos_token_ids()
                .iter()
                .map(|&id| format!("{} ({id})", tokenizer.id_to_token(id).unwrap_or("no token".to_owned())))
                .collect();
            format!("  tokenizer    {} tokens, ends with {}\n", tokenizer.vocab_size(), eos.join(", "))
        }
    }
}

fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let start = |index: usize| index > 0 && (digits.len() - index).is_multiple_of(3);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if start(index) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes `input_ids` (i64, `[L]`) and the fp32 `logits` (`[L, V]`) of `text` to the safetensors file `target`.
///
/// # Errors
/// A model that does not load, a text without tokens or beyond the context, a file that cannot be written.
pub fn write_logits(dir: &Path, text: &str, target: &Path) -> anyhow::Result<String> {
    let ids = Tokenizer::load(dir)?.encode_raw(text)?;
    ensure!(!ids.is_empty(), "--logits needs a text of at least one token");
    let (found, context) = (ids.len(), Architecture::from_dir(dir)?.context_length());
    ensure!(
        found as i64 <= context,
        "the text has {found} tokens, the model's context holds {context}: shorten it"
    );
    let logits = logits(dir, Dtype::Float32, &ids)?;
    let (length, vocabulary) = (ids.len(), logits.len() / ids.len());
    let id_bytes: Vec<u8> = ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
    let logit_bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
    let tensors = [
        ("input_ids", TensorView::new(StoredDtype::I64, vec![length], &id_bytes)?),
        ("logits", TensorView::new(StoredDtype::F32, vec![length, vocabulary], &logit_bytes)?),
    ];
    let bytes = serialize(tensors, None)?;
    write_atomic(target, |out| out.write_all(&bytes))?;
    Ok(format!("{}: input_ids [{length}], logits [{length}, {vocabulary}]", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        for (count, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (134_515_008, "134,515,008")] {
            assert_eq!(grouped(count), expected);
        }
    }
}

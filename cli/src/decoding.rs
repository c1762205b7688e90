//! Decoding of text: a model with its tokenizer, and its responses.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::{Message, Tokenizer};
use jacobi_decoder::{Decoding, Settings, StopRules};
use jacobi_model::{Compute, DecodingModel, LanguageModel, load};

use crate::{adapter::ModelDirs, exit::UsageError};

pub mod chat;
mod columns;
pub mod compare;
mod outcome;
pub mod page;
pub mod pass_reader;
pub mod text_stream;
pub mod trajectory;
pub mod view;

pub use outcome::Decoded;
use view::View;

/// A model with its tokenizer.
pub struct Engine {
    model: DecodingModel,
    tokenizer: Tokenizer,
}

impl Engine {
    /// Reads a model directory.
    ///
    /// # Errors
    /// A model or tokenizer that does not load.
    pub fn load(dir: &Path, compute: impl Into<Compute>) -> anyhow::Result<Self> {
        Self::load_adapted(&ModelDirs { model: dir.to_path_buf(), adapter: None }, compute)
    }

    /// Reads a model directory, and the adapter for it if there is one.
    ///
    /// # Errors
    /// As [`Engine::load`]; an adapter of another model.
    pub fn load_adapted(dirs: &ModelDirs, compute: impl Into<Compute>) -> anyhow::Result<Self> {
        // The model first: its message for a missing directory is clearer.
        let loaded = load(&dirs.model, compute)?;
        let adapter = dirs.adapter.as_deref().map(|dir| loaded.adapter(dir)).transpose()?;
        let model = DecodingModel::new(loaded.transformer).with_adapter(adapter.as_ref());
        Ok(Self { model, tokenizer: Tokenizer::load(&dirs.model)? })
    }

    /// The model and its tokenizer, apart.
    pub fn into_parts(self) -> (Box<dyn LanguageModel + Send>, Tokenizer) {
        (Box::new(self.model), self.tokenizer)
    }

    /// The model.
    pub fn model(&self) -> &dyn LanguageModel {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens of the model's context.
    pub fn context_length(&self) -> usize {
        self.model.context_length()
    }

    /// Ids of a prompt: without the chat template if `raw`, else in it.
    ///
    /// # Errors
    /// A prompt that is empty or fills the context; a model without chat template.
    pub fn encode(&self, prompt: &str, raw: bool) -> anyhow::Result<Vec<u32>> {
        let ids = if raw {
            self.tokenizer.encode_raw(prompt)?
        } else {
            self.encode_chat(&[Message::new("user", prompt)])?
        };
        if ids.is_empty() {
            return Err(UsageError("the prompt is empty: --raw needs at least one token".into()).into());
        }
        match self.too_long(&ids) {
            Some(full) => anyhow::bail!("{full}: shorten it"),
            None => Ok(ids),
        }
    }

    /// Ids of a conversation in the chat template, up to where the answer begins.
    ///
    /// # Errors
    /// A model without chat template, or whose template refuses the messages.
    pub fn encode_chat(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        Ok(self.tokenizer.encode_chat(messages)?)
    }

    /// A message if `prompt` leaves no room for an answer.
    fn too_long(&self, prompt: &[u32]) -> Option<String> {
        let (found, context) = (prompt.len(), self.context_length());
        (found >= context)
            .then(|| format!("the prompt has {found} tokens, the model's context holds {context}"))
    }

    /// Stop at the model's end-of-sequence tokens, or after `max_new_tokens`.
    pub fn stop_rules(&self, max_new_tokens: usize) -> StopRules {
        StopRules { max_new_tokens, eos_token_ids: self.tokenizer.eos_token_ids().to_vec() }
    }

    /// The response of `decoding` so far, after `prompt` tokens.
    fn decoded(&self, prompt: usize, decoding: &Decoding) -> Decoded {
        let (prompt_tokens, response_tokens) = decoding.text().split_at(prompt);
        Decoded {
            prompt_tokens: prompt_tokens.to_vec(),
            response_tokens: response_tokens.to_vec(),
            text: self.tokenizer.decode(response_tokens),
            finish_reason: decoding.finish_reason(),
            stats: decoding.stats(),
        }
    }
}

/// Decodes one response and shows it in `views`. If `stop` becomes true, it ends after the current pass.
///
/// # Errors
/// A view that fails.
pub fn respond(
    engine: &Engine,
    prompt: &[u32],
    settings: &Settings,
    views: &mut [Box<dyn View + '_>],
    stop: &AtomicBool,
) -> anyhow::Result<Decoded> {
    let mut decoding = Decoding::new(engine.model(), prompt, settings);
    let first = decoding.text()[prompt.len()];
    for view in &mut *views {
        view.begin(prompt, first)?;
    }
    while !stop.load(Ordering::SeqCst)
        && let Some(pass) = decoding.next()
    {
        for view in &mut *views {
            view.pass(&pass)?;
        }
    }
    let decoded = engine.decoded(prompt.len(), &decoding);
    for view in views {
        view.end(&decoded)?;
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests;

//! Hugging Face chat templates: Jinja as transformers evaluates it.

use minijinja::Error;
use minijinja::value::{Serde, Value};
use serde_json::{Map, Value as Json};

use super::Chat;
use crate::jinja::{Kind, Template};
use crate::prompts::Message;

/// A parsed template with the special tokens that it may use.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    template: Template,
    special_tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Parses `source`; `special_tokens` become variables (`bos_token`, `eos_token`, ..).
    pub(super) fn new(source: &str, special_tokens: Vec<(String, String)>) -> Result<Self, Error> {
        Ok(Self { template: Template::parse(source, Kind::Chat)?, special_tokens })
    }

    /// The text of a conversation. `variables` override special tokens and documents.
    pub(super) fn render(
        &self,
        chat: Chat,
        add_generation_prompt: bool,
        variables: &Map<String, Json>,
    ) -> Result<String, Error> {
        let tokens = self.special_tokens.iter().map(|(name, token)| (name.clone(), Value::from(token)));
        // As transformers passes tools and documents if there are none: defined.
        let absent = [("documents".to_owned(), Value::from(()))];
        let given = variables.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value))));
        let messages: Vec<_> = chat.messages.iter().map(Message::for_template).collect();
        let conversation = [
            (
                "tools".to_owned(),
                chat.tools.map_or_else(|| Value::from(()), |tools| Value::from(Serde(tools))),
            ),
            ("messages".to_owned(), Value::from(Serde(messages))),
            ("add_generation_prompt".to_owned(), Value::from(add_generation_prompt)),
        ];
        self.template.render(tokens.chain(absent).chain(given).chain(conversation).collect())
    }
}

#[cfg(test)]
mod tests;

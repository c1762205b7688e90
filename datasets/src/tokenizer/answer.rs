//! The text of a given answer: its content, or what the chat template writes for its reasoning and tool calls.

use super::{Chat, Tokenizer};
use crate::prompts::{ANSWER_KEYS, Message};

/// Stands for the content of an answer.
const MARK: &str = "content of the answer";

impl Tokenizer {
    /// The text that a model has to write for `answer` after the prompt of `chat`, without the end of its turn. With
    /// reasoning or tool calls it is what the chat template writes for them.
    ///
    /// # Errors
    /// A field of the answer that the template does not write, or not after the prompt; a template that fails.
    pub fn answer_text<'a>(&self, chat: impl Into<Chat<'a>>, answer: &Message) -> Result<String, String> {
        let chat = chat.into();
        let present: Vec<(&[&str], &str)> =
            ANSWER_KEYS.iter().filter_map(|keys| Some((*keys, answer.first_of(keys)?))).collect();
        let Some((_, first)) = present.first() else { return Ok(answer.text()) };
        let prompt = self.render_chat(chat, true).map_err(|error| error_text(&error))?;
        let written = self.written(chat, &prompt, answer)?.ok_or_else(|| {
            format!("the chat template does not write its `{first}` as a continuation of the prompt")
        })?;
        for (keys, name) in present {
            if self
                .written(chat, &prompt, &answer.without(keys))
                .is_ok_and(|other| other.as_ref() == Some(&written))
            {
                return Err(format!("the chat template does not write its `{name}`"));
            }
        }
        let plain = self.written(chat, &prompt, &Message::new("assistant", MARK)).ok().flatten();
        let end = plain.as_deref().and_then(|plain| plain.split_once(MARK)).map_or("", |(_, end)| end);
        let text = written.strip_suffix(end).unwrap_or(&written);
        let eos = self.eos_token_ids().iter().map(|&id| self.decode_with_special(&[id]));
        let length = eos.filter_map(|eos| text.find(&eos)).min().unwrap_or(text.len());
        Ok(text[..length].to_owned())
    }

    /// What the template writes for `answer` after `prompt`; `None` if the text does not begin with `prompt`.
    fn written(&self, chat: Chat, prompt: &str, answer: &Message) -> Result<Option<String>, String> {
        let messages = [chat.messages, std::slice::from_ref(answer)].concat();
        let whole = self.render_chat(Chat { messages: &messages, ..chat }, false);
        let whole = whole.map_err(|error| error_text(&error))?;
        Ok(whole.strip_prefix(prompt).map(str::to_owned))
    }
}

/// An error with its cause.
fn error_text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests;

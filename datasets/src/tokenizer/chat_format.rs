//! How conversations become text: the model's chat templates, their variables, or no template at all.

use std::path::Path;
use std::sync::Arc;

use minijinja::ErrorKind;
use serde_json::{Map, Value};

use super::chat_template::ChatTemplate;
use super::{CHAT_TEMPLATE, Chat, parts};
use crate::error::DatasetError;
use crate::prompts::{Message, PromptsConfig};

/// The chat templates of a model, with what a recipe sets.
#[derive(Clone, Debug)]
pub(super) struct ChatFormat {
    /// The model directory, or the setting that gives the template.
    place: String,
    template: Option<Arc<ChatTemplate>>,
    /// In place of `template` if tools are offered; for some models.
    tool_template: Option<Arc<ChatTemplate>>,
    /// By their names in templates.
    special_tokens: Vec<(String, String)>,
    /// Variables of the template besides the conversation.
    pub(super) variables: Map<String, Value>,
    /// Whether a prompt is taken as it is, without the template.
    pub(super) raw: bool,
}

impl ChatFormat {
    /// As transformers does: `chat_template.jinja` takes precedence over the entry of tokenizer_config.json, which may
    /// be a list of named templates.
    pub(super) fn load(
        dir: &Path,
        config: &Value,
        special_tokens: Vec<(String, String)>,
    ) -> Result<Self, DatasetError> {
        let path = dir.join(CHAT_TEMPLATE);
        let named = |name: &str| {
            let entry = config["chat_template"].as_array()?.iter().find(|entry| entry["name"] == name)?;
            entry["template"].as_str().map(str::to_owned)
        };
        let [default, tools] = if path.is_file() {
            [Some(fs_err::read_to_string(&path).map_err(DatasetError::io("read", &path))?), None]
        } else if let Value::String(source) = &config["chat_template"] {
            [Some(source.clone()), None]
        } else {
            [named("default"), named("tool_use")]
        };
        let format = Self {
            place: dir.display().to_string(),
            template: None,
            tool_template: None,
            special_tokens,
            variables: Map::new(),
            raw: false,
        };
        Ok(Self {
            template: default.map(|source| format.parse(&source)).transpose()?,
            tool_template: tools.map(|source| format.parse(&source)).transpose()?,
            ..format
        })
    }

    fn parse(&self, source: &str) -> Result<Arc<ChatTemplate>, DatasetError> {
        let template = ChatTemplate::new(source, self.special_tokens.clone());
        template.map(Arc::new).map_err(|source| self.failed(String::new(), source))
    }

    fn failed(&self, hint: String, source: minijinja::Error) -> DatasetError {
        DatasetError::ChatTemplate { place: self.place.clone(), hint, source }
    }

    pub(super) fn with_prompts(&self, prompts: &PromptsConfig) -> Result<Self, DatasetError> {
        prompts.check_template()?;
        let mut format = Self { raw: prompts.raw, ..self.clone() };
        if let Some(source) = prompts.template_source()? {
            "prompts.chat_template".clone_into(&mut format.place);
            (format.template, format.tool_template) = (Some(format.parse(&source)?), None);
        }
        format.variables.extend(prompts.chat_template_kwargs.clone());
        Ok(format)
    }

    pub(super) fn render(&self, chat: Chat, add_generation_prompt: bool) -> Result<String, DatasetError> {
        if self.raw {
            return match chat.messages {
                [message] if message.role() == "user" && chat.tools.is_none() => Ok(message.text()),
                messages => Err(DatasetError::Prompts(format!(
                    "prompts.raw takes one text as a prompt, and this is a conversation of {} messages, or has tools: \
                     leave out prompts.raw, or all besides the user's message",
                    messages.len()
                ))),
            };
        }
        let lack = "has no chat template: add chat_template.jinja, set prompts.chat_template, or take prompts as they \
                    are with prompts.raw = true (`jacobi decode --raw`)";
        let for_tools = self.tool_template.as_ref().filter(|_| chat.tools.is_some());
        let template = for_tools.or(self.template.as_ref());
        let template =
            template.ok_or_else(|| DatasetError::IncompleteModel { dir: (&self.place).into(), lack })?;
        let render = |chat: Chat, add: bool| template.render(chat, add, &self.variables);
        parts::render(&render, chat, add_generation_prompt)
            .map_err(|source| self.failed(without_content(chat.messages, &source), source))
    }
}

/// The first message without content, if the template has met an undefined value: transformers leaves out what is null.
fn without_content(messages: &[Message], error: &minijinja::Error) -> String {
    let is_likely = error.kind() == ErrorKind::UndefinedError || error.to_string().contains("undefined");
    let lacking = (1..).zip(messages).find(|(_, message)| is_likely && !message.has_content());
    lacking.map_or_else(String::new, |(number, message)| {
        format!(
            ": message {number} of the role `{}` has no content, or null, which the template cannot write",
            message.role()
        )
    })
}

//! Parsing of OpenAI's chat and completion requests. A field that would change the answer and is not supported is refused
//! by name.

use axum::http::StatusCode;
use jacobi_datasets::Message;
use jacobi_decoder::{RandomSampling, Sampling};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::layers::without_rust_types;

/// Maximum answers to one request.
const MAX_CHOICES: usize = 16;
/// Maximum stop strings of one request.
const MAX_STOPS: usize = 16;
/// Maximum bytes of a stop string: text that may be the beginning of one is held back.
const MAX_STOP_BYTES: usize = 256;
/// Default `max_tokens` of a completion: OpenAI's.
const COMPLETION_TOKENS: usize = 16;

/// Fields that do not affect the answer.
const IGNORED: [&str; 9] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
];

/// Fields that are accepted only with a value that has no effect: name, and the values besides null.
const NEUTRAL: [(&str, &str); 12] = [
    ("presence_penalty", "0"),
    ("frequency_penalty", "0"),
    ("logprobs", "false"),
    ("top_logprobs", "0"),
    ("logit_bias", "{}"),
    ("tools", "[]"),
    ("tool_choice", "\"none\""),
    ("response_format", "{\"type\":\"text\"}"),
    ("best_of", "1"),
    ("echo", "false"),
    ("suffix", "\"\""),
    ("modalities", "[\"text\"]"),
];

/// A request as parsed from JSON.
#[derive(Debug, Deserialize)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    prompt: Option<PromptField>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    n: Option<usize>,
    stop: Option<OneOrMore>,
    /// Variables of the chat template, as vLLM takes them.
    #[serde(default)]
    chat_template_kwargs: Map<String, Value>,
    jacobi: Option<JacobiOptions>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChatMessage {
    role: String,
    content: Content,
    name: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "the content of a message is text, or a list of parts with `type` and `text`")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a prompt is text, a list of token ids, or a list of either")]
enum PromptField {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "stop is text, or a list of texts")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// Fields of this server beyond OpenAI's.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct JacobiOptions {
    decoder: Option<String>,
    #[serde(default)]
    spans: bool,
}

/// A prompt of a request.
#[derive(Debug, PartialEq)]
pub enum Prompt {
    /// A conversation, for the chat template, and variables of the template.
    Chat(Vec<Message>, Map<String, Value>),
    /// Raw text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

/// Extras of a stream besides text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// Usage at the end.
    pub usage: bool,
    /// The source of each piece of text.
    pub spans: bool,
}

/// A checked request.
#[derive(Debug)]
pub struct ApiRequest {
    /// The model named in the request, if any.
    pub model: Option<String>,
    /// The prompts; only completions may have several.
    pub prompts: Vec<Prompt>,
    /// Number of answers to each prompt.
    pub choices: usize,
    /// Stream the answer, with these extras.
    pub stream: Option<Extras>,
    /// Maximum tokens of the answer; `None`: what the context has room for.
    pub max_tokens: Option<usize>,
    /// Sampling; answer i of several adds i to the seed.
    pub sampling: Sampling,
    /// Stop strings.
    pub stops: Vec<String>,
    /// Decode one token at a time instead of by the server's decoder.
    pub autoregressive: bool,
}

impl ApiRequest {
    /// Reads a chat or a completion request; `fresh_seed` is the seed of requests without one.
    ///
    /// # Errors
    /// With status 400, what is wrong.
    pub fn read(body: &[u8], is_chat: bool, fresh_seed: u64) -> Result<Self, ApiError> {
        let body: Body = serde_json::from_slice(body).map_err(|error| {
            bad(format!("the body is not a request: {}", without_rust_types(&error.to_string())))
        })?;
        check_others(&body.others)?;
        let choices = in_range("n", body.n.unwrap_or(1), 1..=MAX_CHOICES)?;
        let sampling = body.sampling(fresh_seed)?;
        let stops = match body.stop {
            None => Vec::new(),
            Some(OneOrMore::One(stop)) => vec![stop],
            Some(OneOrMore::More(stops)) => stops,
        };
        if stops.len() > MAX_STOPS || stops.iter().any(|stop| !(1..=MAX_STOP_BYTES).contains(&stop.len())) {
            return Err(bad(format!("stop takes up to {MAX_STOPS} texts of 1 to {MAX_STOP_BYTES} bytes")));
        }
        let max_tokens = body.max_completion_tokens.or(body.max_tokens);
        if max_tokens == Some(0) {
            return Err(bad("max_tokens is 0; it must be at least 1".to_owned()));
        }
        let jacobi = body.jacobi.unwrap_or_default();
        let autoregressive = match jacobi.decoder.as_deref() {
            None => false,
            Some("ar") => true,
            Some(other) => {
                return Err(bad(format!(
                    "jacobi.decoder is {other:?}; it can be \"ar\", or left out for the server's decoder"
                )));
            }
        };
        let usage = body.stream_options.unwrap_or_default().include_usage;
        let extras = Extras { usage, spans: jacobi.spans };
        if !is_chat && !body.chat_template_kwargs.is_empty() {
            return Err(bad("chat_template_kwargs is for chat requests".to_owned()));
        }
        let prompts = match (is_chat, body.messages, body.prompt) {
            (true, Some(messages), None) => vec![chat(messages, body.chat_template_kwargs)?],
            (true, ..) => return Err(bad("a chat request has messages, and no prompt".to_owned())),
            (false, None, Some(prompt)) => prompt.into_prompts(),
            (false, ..) => return Err(bad("a completion request has a prompt, and no messages".to_owned())),
        };
        if prompts.is_empty() || prompts.len() * choices > MAX_CHOICES {
            return Err(bad(format!("a request has 1 to {MAX_CHOICES} answers, over all its prompts")));
        }
        Ok(Self {
            model: body.model,
            prompts,
            choices,
            stream: body.stream.unwrap_or(false).then_some(extras),
            max_tokens: max_tokens.or((!is_chat).then_some(COMPLETION_TOKENS)),
            sampling,
            stops,
            autoregressive,
        })
    }
}

impl Body {
    fn sampling(&self, fresh_seed: u64) -> Result<Sampling, ApiError> {
        let temperature = in_range("temperature", self.temperature.unwrap_or(1.0), 0.0..=2.0)?;
        let top_p = in_range("top_p", self.top_p.unwrap_or(1.0), f32::MIN_POSITIVE..=1.0)?;
        let repetition_penalty = self.repetition_penalty.unwrap_or(1.0);
        let repetition_penalty = in_range("repetition_penalty", repetition_penalty, 0.01..=100.0)?;
        // -1 means all tokens in vLLM.
        let top_k = in_range("top_k", self.top_k.unwrap_or(0), -1..=i64::from(u32::MAX))?.max(0) as usize;
        let seed = self.seed.map_or(fresh_seed, |seed| seed as u64);
        let greedy = temperature == 0.0;
        if greedy && repetition_penalty == 1.0 {
            return Ok(Sampling::Greedy);
        }
        // Greedy under a penalty: sampling from the single most probable token.
        let (temperature, top_k) = if greedy { (1.0, 1) } else { (temperature, top_k) };
        Ok(Sampling::Random(RandomSampling { repetition_penalty, temperature, top_k, top_p, seed }))
    }
}

impl PromptField {
    fn into_prompts(self) -> Vec<Prompt> {
        match self {
            Self::Text(text) => vec![Prompt::Text(text)],
            Self::Ids(ids) => vec![Prompt::Ids(ids)],
            Self::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Self::ManyIds(many) => many.into_iter().map(Prompt::Ids).collect(),
        }
    }
}

fn chat(messages: Vec<ChatMessage>, variables: Map<String, Value>) -> Result<Prompt, ApiError> {
    if messages.is_empty() {
        return Err(bad("messages is empty".to_owned()));
    }
    let set_by_us = ["messages", "tools", "add_generation_prompt"];
    if let Some(name) = set_by_us.into_iter().find(|name| variables.contains_key(*name)) {
        return Err(bad(format!("chat_template_kwargs.{name} is not supported")));
    }
    let message = |(at, message): (usize, ChatMessage)| {
        if message.name.is_some_and(|name| !name.is_null()) {
            return Err(bad(format!("messages[{at}].name is not supported")));
        }
        let content = match message.content {
            Content::Text(text) => text,
            Content::Parts(parts) => texts(at, parts)?,
        };
        Ok(Message::new(message.role, content))
    };
    let messages = messages.into_iter().enumerate().map(message).collect::<Result<_, _>>()?;
    Ok(Prompt::Chat(messages, variables))
}

fn texts(at: usize, parts: Vec<Part>) -> Result<String, ApiError> {
    let text = |part: Part| match (part.r#type.as_str(), part.text) {
        ("text", Some(text)) => Ok(text),
        (kind, _) => {
            Err(bad(format!("messages[{at}].content has a part of type {kind:?}; only text is supported")))
        }
    };
    parts.into_iter().map(text).collect()
}

fn check_others(others: &Map<String, Value>) -> Result<(), ApiError> {
    for (name, value) in others {
        if IGNORED.contains(&name.as_str()) || value.is_null() {
            continue;
        }
        let Some((_, neutral)) = NEUTRAL.iter().find(|(known, _)| known == name) else {
            return Err(bad(format!("{name} is an unknown field")));
        };
        let neutral: Value = serde_json::from_str(neutral).expect("the table holds JSON");
        let is_zero = value.as_f64() == Some(0.0) && neutral.as_f64() == Some(0.0);
        if *value != neutral && !is_zero {
            return Err(bad(format!("{name} is not supported: leave it out")));
        }
    }
    Ok(())
}

fn in_range<T: PartialOrd + std::fmt::Display + Copy>(
    name: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, ApiError> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(bad(format!("{name} is {value}; it must lie between {} and {}", range.start(), range.end())))
}

fn bad(message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", message)
}

#[cfg(test)]
mod tests;

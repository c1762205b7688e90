//! What a request asks for, checked: the fields of OpenAI's chat and completion requests that can be honoured. A field that would
//! change the answer and is not honoured is refused by name.

use axum::http::StatusCode;
use jacobi_datasets::Message;
use jacobi_decoder::{RandomSampling, Sampling};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::ApiError;

/// Answers to one request at most.
const MAX_CHOICES: usize = 16;
/// Stop strings of one request at most.
const MAX_STOPS: usize = 16;
/// Bytes of a stop string at most: text that may be one is held back.
const MAX_STOP_BYTES: usize = 256;
/// Longest answer to a completion that does not say: OpenAI's default.
const COMPLETION_TOKENS: usize = 16;

/// Fields that say nothing about the answer.
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

/// Fields that are taken only where they ask for nothing: name, and what asks for nothing besides null.
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

/// A request as it comes.
#[derive(Debug, Deserialize)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    prompt: Option<PromptField>,
    #[serde(default)]
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
#[serde(untagged)]
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
#[serde(untagged)]
enum PromptField {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
    #[serde(default, rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// What this server has beyond OpenAI's fields.
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
    /// A conversation, for the chat template.
    Chat(Vec<Message>),
    /// Text as it is.
    Text(String),
    /// Ids as they are.
    Ids(Vec<u32>),
}

/// What a stream carries besides text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// The usage, at its end.
    pub usage: bool,
    /// Where the text came from.
    pub spans: bool,
}

/// A request whose fields are all understood.
#[derive(Debug)]
pub struct ApiRequest {
    /// The model that is asked for, if any is named.
    pub model: Option<String>,
    /// The prompts; more than one for completions alone.
    pub prompts: Vec<Prompt>,
    /// Answers to each.
    pub choices: usize,
    /// The answer comes as it grows, with these.
    pub stream: Option<Extras>,
    /// Longest answer; none for what the context has room for.
    pub max_tokens: Option<usize>,
    /// How tokens are taken; answer i of several adds i to the seed.
    pub sampling: Sampling,
    /// What ends the answer besides the model.
    pub stops: Vec<String>,
    /// Decode one token at a time, whatever the server's decoder is.
    pub autoregressive: bool,
}

impl ApiRequest {
    /// Reads a chat or a completion request; `fresh_seed` is for those that name none.
    ///
    /// # Errors
    /// With status 400, what is wrong.
    pub fn read(body: &[u8], is_chat: bool, fresh_seed: u64) -> Result<Self, ApiError> {
        let body: Body = serde_json::from_slice(body)
            .map_err(|error| bad(format!("the body is not a request: {error}")))?;
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
                    "jacobi.decoder is {other:?}; it can be \"ar\", or left out for the server's own"
                )));
            }
        };
        let usage = body.stream_options.unwrap_or_default().include_usage;
        let extras = Extras { usage, spans: jacobi.spans };
        let prompts = match (is_chat, body.messages, body.prompt) {
            (true, Some(messages), None) => vec![chat(messages)?],
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
        // -1 is vLLM's word for all tokens.
        let top_k = in_range("top_k", self.top_k.unwrap_or(0), -1..=i64::from(u32::MAX))?.max(0) as usize;
        let seed = self.seed.map_or(fresh_seed, |seed| seed as u64);
        let greedy = temperature == 0.0;
        if greedy && repetition_penalty == 1.0 {
            return Ok(Sampling::Greedy);
        }
        // The most probable token under a penalty is the only one of the first.
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

fn chat(messages: Vec<ChatMessage>) -> Result<Prompt, ApiError> {
    if messages.is_empty() {
        return Err(bad("messages is empty".to_owned()));
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
    Ok(Prompt::Chat(messages.into_iter().enumerate().map(message).collect::<Result<_, _>>()?))
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
            return Err(bad(format!("{name} is not a field that this server knows")));
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
mod tests {
    use super::*;

    fn read(body: &str, is_chat: bool) -> Result<ApiRequest, String> {
        ApiRequest::read(body.as_bytes(), is_chat, 7).map_err(|error| error.to_string())
    }

    #[test]
    fn requests_are_read_with_openais_defaults() {
        let asked = read(
            r#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}"#,
            true,
        );
        let asked = asked.unwrap();
        assert_eq!(asked.prompts, [Prompt::Chat(vec![Message::new("user", "a")])]);
        assert_eq!((asked.choices, asked.stream, asked.max_tokens), (1, None, None));
        let Sampling::Random(random) = asked.sampling else { panic!("OpenAI's default is to sample") };
        assert_eq!(random, RandomSampling { seed: 7, ..RandomSampling::default() });
        let asked = read(
            r#"{"prompt": [[1, 2], [3]], "temperature": 0, "stop": "x", "seed": -1, "user": "u", "tools": []}"#,
            false,
        );
        let asked = asked.unwrap();
        assert_eq!(asked.prompts, [Prompt::Ids(vec![1, 2]), Prompt::Ids(vec![3])]);
        assert_eq!(
            (asked.max_tokens, asked.stops, asked.sampling),
            (Some(16), vec!["x".to_owned()], Sampling::Greedy)
        );
        // Greedy under a penalty: the only token of the first one.
        let asked = read(r#"{"prompt": "a", "temperature": 0, "repetition_penalty": 1.5}"#, false).unwrap();
        let Sampling::Random(random) = asked.sampling else { panic!("a penalty is needed") };
        assert_eq!((random.top_k, random.temperature, random.repetition_penalty), (1, 1.0, 1.5));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let chat = |more: &str| format!(r#"{{"messages": [{{"role": "user", "content": "a"}}]{more}}}"#);
        let rows = [
            ("[".to_owned(), "not a request"),
            ("{}".to_owned(), "has messages"),
            (chat(r#", "prompt": "b""#), "has messages, and no prompt"),
            (r#"{"messages": []}"#.to_owned(), "messages is empty"),
            (
                r#"{"messages": [{"role": "user", "content": "a", "tool_calls": []}]}"#.to_owned(),
                "tool_calls",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "a", "name": "b"}]}"#.to_owned(),
                "messages[0].name",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#.to_owned(),
                "image_url",
            ),
            (chat(r#", "temperature": 3"#), "temperature is 3; it must lie between 0 and 2"),
            (chat(r#", "top_p": 0"#), "top_p is 0"),
            (chat(r#", "n": 17"#), "n is 17"),
            (chat(r#", "n": 0"#), "n is 0"),
            (chat(r#", "max_tokens": 0"#), "max_tokens is 0"),
            (chat(r#", "max_tokens": -1"#), "not a request"),
            (chat(r#", "stop": [""]"#), "texts of 1 to 256 bytes"),
            (chat(r#", "presence_penalty": 0.5"#), "presence_penalty is not supported"),
            (chat(r#", "tools": [{}]"#), "tools is not supported"),
            (chat(r#", "temprature": 0"#), "temprature is not a field"),
            (chat(r#", "jacobi": {"decoder": "fast"}"#), "jacobi.decoder is \"fast\""),
        ];
        for (body, expected) in rows {
            let message = read(&body, true).unwrap_err();
            assert!(message.contains(expected), "{body}: {message}");
        }
        for (body, expected) in [
            (r#"{"prompt": ["a", "b", "c"], "n": 6}"#, "1 to 16 answers"),
            (r#"{"messages": []}"#, "has a prompt"),
        ] {
            let message = read(body, false).unwrap_err();
            assert!(message.contains(expected), "{body}: {message}");
        }
        assert!(
            read(
                &chat(r#", "presence_penalty": 0.0, "logprobs": false, "response_format": {"type": "text"}"#),
                true
            )
            .is_ok()
        );
    }
}

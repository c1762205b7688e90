//! Hugging Face chat templates: Jinja as transformers evaluates it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use chrono::{DateTime, Utc};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::Chat;
use crate::prompts::Message;

const NAME: &str = "chat";

/// A parsed template with the special tokens that it may use.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Parses `source`; `special_tokens` become variables (`bos_token`, `eos_token`, ..).
    pub(super) fn new(source: &str, special_tokens: Vec<(String, String)>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the standard delimiters are valid"));
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, without_generation_tags(source))?;
        Ok(Self { environment, special_tokens: special_tokens.into_iter().collect() })
    }

    /// The text of a conversation.
    pub(super) fn render(&self, chat: Chat, add_generation_prompt: bool) -> Result<String, Error> {
        let messages: Vec<_> = chat.messages.iter().map(Message::for_template).collect();
        let mut context: BTreeMap<&str, Value> =
            self.special_tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token))).collect();
        context.insert("messages", Value::from(Serde(messages)));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        // As transformers passes them if there are none: defined.
        context
            .insert("tools", chat.tools.map_or_else(|| Value::from(()), |tools| Value::from(Serde(tools))));
        context.insert("documents", Value::from(()));
        self.environment.get_template(NAME)?.render(context)
    }
}

/// Replaces `{% generation %}`, which marks the assistant's text for training and writes nothing, by
/// `{% if true %}`, which has the same whitespace rules.
fn without_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start + 2..].find("%}").map(|length| start + 2 + length) else { break };
        let tag = &rest[start + 2..end];
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        output.push_str(&rest[..start + 2]);
        match word {
            "generation" => output.push_str(&tag.replacen("generation", " if true ", 1)),
            "endgeneration" => output.push_str(&tag.replacen("endgeneration", " endif ", 1)),
            _ => output.push_str(tag),
        }
        rest = &rest[end..];
    }
    output.push_str(rest);
    output
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// As `json.dumps(value, ensure_ascii=False, indent=indent)`, with which transformers replaces Jinja's
/// HTML-safe filter.
fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // All templates we know leave the other options of transformers at their defaults, so they are refused.
    let _ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent);
            let pretty = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, pretty))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, PythonFormatter)),
    };
    written.map_err(|error| {
        Error::new(ErrorKind::BadSerialization, format!("tojson cannot write {}", value.kind()))
            .with_source(error)
    })?;
    let text = String::from_utf8(bytes).expect("serde_json writes UTF-8");
    // Not marked as safe: chat templates are not HTML, nothing is escaped.
    Ok(Value::from(text))
}

/// Python's separators: `", "` and `": "`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// The present time for templates that state the date; in UTC, so that all machines of a run agree.
fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, Utc::now())
}

fn strftime(format: &str, time: DateTime<Utc>) -> Result<String, Error> {
    let mut text = String::new();
    match write!(text, "{}", time.format(format)) {
        Ok(()) => Ok(text),
        Err(_) => {
            let message = format!("strftime_now: `{format}` has an unknown specifier");
            Err(Error::new(ErrorKind::InvalidOperation, message))
        }
    }
}

#[cfg(test)]
mod tests;

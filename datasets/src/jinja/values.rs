//! Python's `str` and `repr` of values.

use std::fmt::Write as _;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// The deepest nesting of a value that is written: a namespace may contain itself.
pub(super) const MOST_DEPTH: usize = 100;

/// A value as `{{ .. }}` prints it.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None if value.is_undefined() => Ok(String::new()),
        None => repr(value),
    }
}

/// A value as it is printed within a list.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    repr_at(value, 0)
}

fn repr_at(value: &Value, depth: usize) -> Result<String, Error> {
    if depth > MOST_DEPTH {
        return Err(error("a value within itself, or too deep to be printed"));
    }
    let joined = |items: &[Value]| joined(items, depth + 1);
    let repr = |value: &Value| repr_at(value, depth + 1);
    if let Some(Unread(reason)) = value.downcast_object_ref() {
        return Err(error(reason.clone()));
    }
    if let Some(view) = value.downcast_object_ref::<View>() {
        return Ok(format!("dict_{}([{}])", view.name, joined(&view.items)?));
    }
    Ok(match value.kind() {
        ValueKind::Undefined => "Undefined".to_owned(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number if value.is_integer() => value.to_string(),
        ValueKind::Number => float(f64::try_from(value.clone())?),
        ValueKind::String if value.is_safe() => {
            format!("Markup({})", quoted(value.as_str().unwrap_or_default()))
        }
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Map => {
            let mut items = Vec::new();
            for key in value.try_iter()? {
                items.push(format!("{}: {}", repr(&key)?, repr(&value.get_item(&key)?)?));
            }
            format!("{{{}}}", items.join(", "))
        }
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            let items: Vec<Value> = value.try_iter()?.collect();
            match (value.is_tuple(), items.len()) {
                (true, 1) => format!("({},)", repr(&items[0])?),
                (true, _) => format!("({})", joined(&items)?),
                (false, _) => format!("[{}]", joined(&items)?),
            }
        }
        _ => return Err(error(format!("a value of type {} cannot be printed", value.kind()))),
    })
}

fn joined(items: &[Value], depth: usize) -> Result<String, Error> {
    Ok(items.iter().map(|item| repr_at(item, depth)).collect::<Result<Vec<_>, _>>()?.join(", "))
}

/// The shortest digits that give this number, with an exponent where Python writes one.
pub(super) fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number == 0.0 || (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        // Rust escapes what Python does not print, and marks at the start of a text, which are therefore put behind a letter.
        let is_printed = || format!("x{c}").escape_debug().count() == 2;
        let code = u32::from(c);
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            c if c == quote => quoted.extend(['\\', c]),
            '\'' | '"' => quoted.push(c),
            c if is_printed() => quoted.push(c),
            _ => {
                let _ = match code {
                    ..=0xff => write!(quoted, "\\x{code:02x}"),
                    0x100..=0xffff => write!(quoted, "\\u{code:04x}"),
                    _ => write!(quoted, "\\U{code:08x}"),
                };
            }
        }
    }
    quoted.push(quote);
    quoted
}

/// Text for HTML, as MarkupSafe writes it.
pub(super) fn escaped(value: &Value) -> Result<String, Error> {
    let text = text(value)?;
    if value.is_safe() {
        return Ok(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    Ok(escaped)
}

/// A value that cannot be read, with the reason: an error where a template writes it.
#[derive(Debug)]
pub(crate) struct Unread(pub(crate) String);

impl Object for Unread {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// What `keys`, `values` and `items` of a dict return.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: &'static str,
    pub(super) items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }
}

pub(super) fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

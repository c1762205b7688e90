//! `tojson` as in transformers: Python's `json.dumps`, without HTML escapes.

use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::methods::width_of;
use super::operators::integer;
use super::values::{MOST_DEPTH, Unread, View, error, float};

/// The arguments of `json.dumps`.
pub(super) struct Dumps {
    pub(super) ensure_ascii: bool,
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    pub(super) sort_keys: bool,
}

impl Dumps {
    pub(super) fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MOST_DEPTH {
            return Err(error("tojson: a value within itself, or too deep"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)?),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    items.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.sequence(out, ['{', '}'], items.iter(), depth, |out, (key, value)| {
                    self.string(out, key);
                    out.push_str(&self.key_separator);
                    self.write(out, value, depth + 1)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable
                if value.len().is_some() && value.downcast_object_ref::<View>().is_none() =>
            {
                self.sequence(out, ['[', ']'], value.try_iter()?, depth, |out, item| {
                    self.write(out, &item, depth + 1)
                })?;
            }
            kind => {
                let unread = value.downcast_object_ref().map(|Unread(reason)| reason.clone());
                return Err(error(
                    unread.unwrap_or_else(|| format!("tojson cannot write a value of type {kind}")),
                ));
            }
        }
        Ok(())
    }

    fn sequence<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: impl Iterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut String, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(open);
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                out.push_str(&self.item_separator);
            }
            is_empty = false;
            new_line(out, depth + 1);
            write(out, item)?;
        }
        if !is_empty {
            new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) {
        let json = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii {
            out.push_str(&json);
            return;
        }
        for unit in json.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte < 0x7f => out.push(char::from(byte)),
                _ => write!(out, "\\u{unit:04x}").unwrap_or_default(),
            }
        }
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let number = f64::try_from(value.clone())?;
    Ok(match number {
        _ if number.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => float(number),
    })
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => number(key),
        kind => Err(error(format!("tojson cannot write a key of type {kind}"))),
    }
}

/// The `indent` argument: spaces by number, or text.
pub(super) fn indent(value: &Value) -> Result<Option<String>, Error> {
    match (value.as_str(), integer(value)) {
        (Some(text), _) => Ok(Some(text.to_owned())),
        (_, Some(_)) => Ok(Some(" ".repeat(width_of(Some(value))?))),
        _ if value.is_none() => Ok(None),
        _ => Err(error("tojson: indent is not a number or text")),
    }
}

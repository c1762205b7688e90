//! JSON as Python writes it: NaN and Infinity are no errors, and a number that is too large for 64 bits keeps its text.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::row::Names;

/// The wanted columns of an object, and the names of the others with null. Values of others are skipped, whatever
/// they are. An error is the reason for a bad row.
pub(super) fn object(bytes: &[u8], names: &Names) -> Result<Map<String, Value>, String> {
    let reason = |error: serde_json::Error| match std::str::from_utf8(bytes) {
        Ok(_) => format!("malformed JSON: {error}"),
        Err(error) => format!("invalid UTF-8: {error}"),
    };
    let plain = plain(bytes);
    if !plain.starts_with(b"{") {
        serde_json::from_slice::<IgnoredAny>(&plain).map_err(reason)?;
        return Err("not a JSON object".to_owned());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(&plain);
    let mut columns = Columns(names).deserialize(&mut deserializer).map_err(reason)?;
    deserializer.end().map_err(reason)?;
    for (name, value) in &mut columns {
        numbers_to_text(value, names.are_whole(name)).map_err(|reason| format!("in `{name}`, {reason}"))?;
    }
    Ok(columns)
}

/// The value of the JSON text of a conversation. An error follows "is text,".
pub(super) fn value(text: &str) -> Result<Value, String> {
    let mut value =
        serde_json::from_slice(&plain(text.as_bytes())).map_err(|error| format!("but not JSON: {error}"))?;
    numbers_to_text(&mut value, true).map_err(|reason| format!("and in it {reason}"))?;
    Ok(value)
}

/// The only field of an object that [`plain`] writes for a number.
const NUMBER: &str = "$jacobi::number";

/// Replaces the objects of [`plain`] by the text of their numbers. `is_whole`: within a value that goes on to a template
/// whole they are an error, since the template would write quotes around them.
fn numbers_to_text(value: &mut Value, is_whole: bool) -> Result<(), String> {
    match value {
        Value::Object(fields) if fields.len() == 1 && fields.contains_key(NUMBER) => {
            let text = fields.remove(NUMBER).unwrap_or_default();
            *value = text;
            Ok(())
        }
        Value::Object(fields) => fields.values_mut().try_for_each(|value| part_to_text(value, is_whole)),
        Value::Array(items) => items.iter_mut().try_for_each(|value| part_to_text(value, is_whole)),
        _ => Ok(()),
    }
}

fn part_to_text(part: &mut Value, is_whole: bool) -> Result<(), String> {
    match part.get(NUMBER).and_then(Value::as_str) {
        Some(number) if is_whole => {
            Err(format!("the number {number} does not fit into 64 bits: write it as text"))
        }
        _ => numbers_to_text(part, is_whole),
    }
}

struct Columns<'a>(&'a Names);

impl<'de> DeserializeSeed<'de> for Columns<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Columns<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut columns = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = if self.0.contain(&name) {
                fields.next_value().map_err(|error| A::Error::custom(format!("in `{name}`, {error}")))?
            } else {
                fields.next_value::<IgnoredAny>()?;
                Value::Null
            };
            columns.insert(name, value);
        }
        Ok(columns)
    }
}

/// The same text in the JSON of the standard and of 64 bits. NaN, a missing value of pandas, becomes null; a number
/// that is too large becomes an object with its text.
pub(super) fn plain(bytes: &[u8]) -> Cow<'_, [u8]> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let (mut plain, mut copied, mut at) = (Vec::new(), 0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at),
            byte if is_word(byte) => {
                let length = bytes[at..].iter().take_while(|byte| is_word(byte)).count();
                if let Some(replacement) = replacement(&bytes[at..at + length]) {
                    plain.extend_from_slice(&bytes[copied..at]);
                    plain.extend_from_slice(replacement.as_bytes());
                    copied = at + length;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(bytes);
    }
    plain.extend_from_slice(&bytes[copied..]);
    Cow::Owned(plain)
}

/// The position after the string that starts at `start`; the length if it does not end.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// JSON in place of a word outside strings that serde_json would refuse or round.
fn replacement(word: &[u8]) -> Option<Cow<'static, str>> {
    match word {
        b"NaN" | b"-NaN" => return Some("null".into()),
        b"Infinity" | b"Inf" => return Some(number("inf").into()),
        b"-Infinity" | b"-Inf" => return Some(number("-inf").into()),
        _ => {}
    }
    let text = std::str::from_utf8(word).ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let fits = digits.len() < 19 || text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
        return (!fits).then(|| number(text).into());
    }
    let is_infinite = digits.starts_with(|first: char| first.is_ascii_digit())
        && text.parse::<f64>().is_ok_and(f64::is_infinite);
    is_infinite.then(|| number(if text.starts_with('-') { "-inf" } else { "inf" }).into())
}

fn number(text: &str) -> String {
    format!("{{\"{NUMBER}\": \"{text}\"}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::row::Wanted;

    #[test]
    fn words_of_python_and_large_numbers_are_rewritten_outside_strings() {
        let rows = [
            (r#"{"a": NaN, "b": [-Infinity, Infinity]}"#, r#"{"a": null, "b": [<-inf>, <inf>]}"#),
            (r#"{"NaN": "NaN \" NaN", "a": NaN}"#, r#"{"NaN": "NaN \" NaN", "a": null}"#),
            ("[18446744073709551615, -9223372036854775808]", "[18446744073709551615, -9223372036854775808]"),
            (
                "[18446744073709551616,-9223372036854775809]",
                "[<18446744073709551616>,<-9223372036854775809>]",
            ),
            ("[1e400, -1e400, 1e-400, 1.5, true]", "[<inf>, <-inf>, 1e-400, 1.5, true]"),
            ("nan infinity \"\\", "nan infinity \"\\"),
        ];
        for (text, expected) in rows {
            let expected = expected.replace('<', "{\"$jacobi::number\": \"").replace('>', "\"}");
            assert_eq!(String::from_utf8_lossy(&plain(text.as_bytes())), expected);
        }
    }

    #[test]
    fn a_large_number_is_its_text_except_within_a_value_that_is_passed_on_whole() {
        let row = br#"{"a": 18446744073709551616, "b": [{"c": 18446744073709551616}, Infinity]}"#;
        let read = |setting| {
            let wanted =
                ["a", "b"].map(|column| Wanted { column: column.to_owned(), setting: Some(setting) });
            object(row, &Names::of(Some(&wanted)))
        };
        let text =
            serde_json::json!({"a": "18446744073709551616", "b": [{"c": "18446744073709551616"}, "inf"]});
        assert_eq!(read("prompts.template").map(Value::Object), Ok(text.clone()));
        assert_eq!(object(row, &Names::of(None)).map(Value::Object), Ok(text));
        let reason = read("prompts.messages_column").unwrap_err();
        assert!(reason.starts_with("in `b`, the number 18446744073709551616 does not fit"), "{reason}");
        let reason = value("[-Infinity]").unwrap_err();
        assert!(reason.starts_with("and in it the number -inf does not fit"), "{reason}");
    }

    #[test]
    fn values_of_columns_that_are_not_wanted_are_skipped_whatever_they_are() {
        let names = Names::of(Some(&[Wanted { column: "a".to_owned(), setting: None }]));
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        for odd in [r#""\ud83d""#, "1e999", "NaN", "\"\u{7f}\"", &deep, "{\"a\": {\"b\": []}}"] {
            let columns = object(format!("{{\"x\": {odd}, \"a\": 1}}").as_bytes(), &names).unwrap();
            assert_eq!(columns.get("a"), Some(&1.into()), "{odd}");
            assert_eq!(columns.get("x"), Some(&Value::Null), "{odd}");
        }
        assert!(object(b"{\"x\": \"\xff\", \"a\": 1}", &names).is_ok());
        let reason = object(br#"{"x": 1, "a": "\ud83d"}"#, &names).unwrap_err();
        assert!(reason.contains("in `a`, ") && reason.contains("hex escape"), "{reason}");
    }
}

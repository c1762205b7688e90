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
    let columns = Columns(names).deserialize(&mut deserializer).map_err(reason)?;
    deserializer.end().map_err(reason)?;
    Ok(columns)
}

/// The value of a JSON text.
pub(super) fn value(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(&plain(text.as_bytes()))
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
/// that is too large becomes its text.
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
        b"Infinity" | b"Inf" => return Some("\"inf\"".into()),
        b"-Infinity" | b"-Inf" => return Some("\"-inf\"".into()),
        _ => {}
    }
    let text = std::str::from_utf8(word).ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let fits = digits.len() < 19 || text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
        return (!fits).then(|| format!("\"{text}\"").into());
    }
    let is_infinite = digits.starts_with(|first: char| first.is_ascii_digit())
        && text.parse::<f64>().is_ok_and(f64::is_infinite);
    is_infinite.then(|| if text.starts_with('-') { "\"-inf\"" } else { "\"inf\"" }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::row::Wanted;

    #[test]
    fn words_of_python_and_large_numbers_are_rewritten_outside_strings() {
        let rows = [
            (r#"{"a": NaN, "b": [-Infinity, Infinity]}"#, r#"{"a": null, "b": ["-inf", "inf"]}"#),
            (r#"{"NaN": "NaN \" NaN", "a": NaN}"#, r#"{"NaN": "NaN \" NaN", "a": null}"#),
            ("[18446744073709551615, -9223372036854775808]", "[18446744073709551615, -9223372036854775808]"),
            (
                "[18446744073709551616,-9223372036854775809]",
                r#"["18446744073709551616","-9223372036854775809"]"#,
            ),
            ("[1e400, -1e400, 1e-400, 1.5, true]", r#"["inf", "-inf", 1e-400, 1.5, true]"#),
            ("nan infinity \"\\", "nan infinity \"\\"),
        ];
        for (text, expected) in rows {
            assert_eq!(String::from_utf8_lossy(&plain(text.as_bytes())), expected);
        }
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

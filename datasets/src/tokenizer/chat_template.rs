//! Hugging Face chat templates: Jinja as transformers runs it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::prompts::Message;

const NAME: &str = "chat";

/// A parsed template with the special tokens it may name.
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
    pub(super) fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        let mut context: BTreeMap<&str, Value> =
            self.special_tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token))).collect();
        context.insert("messages", messages.iter().map(to_value).collect());
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        // Defined but none, as transformers passes them when there are no tools.
        context.insert("tools", Value::from(()));
        context.insert("documents", Value::from(()));
        self.environment.get_template(NAME)?.render(context)
    }
}

fn to_value(message: &Message) -> Value {
    Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
}

/// `{% generation %}` marks the assistant's part for training in transformers and writes nothing. A condition that
/// always holds does the same and keeps the whitespace rules of the tag.
fn without_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|length| start + length) else { break };
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

/// As `json.dumps(value, ensure_ascii=False, indent=indent)` writes it, which is what transformers puts in place of
/// Jinja's HTML-safe filter.
fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // transformers' other options keep their defaults in every template we know; another one is refused here.
    let _ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut bytes = Vec::new();
    let spaces = " ".repeat(indent.unwrap_or(0));
    let json = to_json(value)?;
    let done = match indent {
        Some(_) => {
            let pretty = PrettyFormatter::with_indent(spaces.as_bytes());
            json.serialize(&mut Serializer::with_formatter(&mut bytes, pretty))
        }
        None => json.serialize(&mut Serializer::with_formatter(&mut bytes, PythonFormatter)),
    };
    done.expect("JSON values serialise into memory");
    let text = String::from_utf8(bytes).expect("serde_json writes UTF-8");
    // Not marked safe: chat templates are never HTML, nothing is escaped.
    Ok(Value::from(text))
}

fn to_json(value: &Value) -> Result<serde_json::Value, Error> {
    let unsupported =
        || Error::new(ErrorKind::BadSerialization, format!("tojson cannot write {}", value.kind()));
    Ok(match value.kind() {
        ValueKind::Undefined | ValueKind::None => serde_json::Value::Null,
        ValueKind::Bool => value.is_true().into(),
        ValueKind::Number if value.is_integer() => i64::try_from(value.clone())?.into(),
        ValueKind::Number => f64::try_from(value.clone())?.into(),
        ValueKind::String => value.as_str().ok_or_else(unsupported)?.into(),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Result<Vec<_>, Error> = value.try_iter()?.map(|item| to_json(&item)).collect();
            items?.into()
        }
        ValueKind::Map => {
            let entries =
                value.try_iter()?.map(|key| Ok((key.to_string(), to_json(&value.get_item(&key)?)?)));
            serde_json::Value::Object(entries.collect::<Result<_, Error>>()?)
        }
        _ => return Err(unsupported()),
    })
}

/// Python's separators: `", "` and `": "`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// The date of today for templates that state it. UTC, so that machines of one run agree.
fn strftime_now(format: &str) -> Result<String, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    strftime(format, now)
}

/// `format` for `seconds` after 1970, UTC; the specifiers that chat templates use.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut output = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            output.push(c);
            continue;
        }
        output.push_str(&match chars.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('H') => format!("{:02}", clock / 3600),
            Some('M') => format!("{:02}", clock / 60 % 60),
            Some('S') => format!("{:02}", clock % 60),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let specifier = other.map(String::from).unwrap_or_default();
                let message = format!("strftime_now does not know %{specifier}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        });
    }
    Ok(output)
}

/// Year, month, day of a day after 1970-01-01, in the Gregorian calendar, counted in 400-year eras from March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, Error> {
        let tokens =
            vec![("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
        ChatTemplate::new(source, tokens)?.render(messages, true)
    }

    #[test]
    fn templates_have_what_transformers_gives_them() {
        let messages = [Message::new("user", " a \"é\" <b> "), Message::new("assistant", "yes")];
        for (source, expected) in [
            ("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}", "<s>|</s>|"),
            ("{{ messages[0].content.strip().upper() }}", "A \"É\" <B>"),
            ("{{ messages[0]['content'] | trim }}", "a \"é\" <b>"),
            ("{{ messages[1] | tojson }}", r#"{"role": "assistant", "content": "yes"}"#),
            ("{{ messages[0].content | tojson }}", r#"" a \"é\" <b> ""#),
            ("{{ [1, true, none] | tojson }}", "[1, true, null]"),
            ("{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}"),
            ("{{ add_generation_prompt }}", "True"),
            ("{% if tools is none %}none{% endif %}", "none"),
            (
                "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
                "assistant",
            ),
            ("x\n  {% if true %}\ny\n  {% endif %}\nz\n", "x\ny\nz"),
            ("a {%- generation %} b {% endgeneration -%} c", "a b c"),
            ("{%generation%}b{%-endgeneration-%}", "b"),
            ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
        ] {
            assert_eq!(render(source, &messages).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn refusals_carry_the_words_of_the_template() {
        let err = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert!(err.to_string().contains("roles must alternate"), "{err}");
        assert!(render("{% if %}", &[]).is_err());
        assert!(render("{{ 1 | tojson(sort_keys=true) }}", &[]).is_err());
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, format, expected) in [
            (0, "%d %b %Y", "01 Jan 1970"),
            (951_782_400, "%A %d %B %Y", "Tuesday 29 February 2000"),
            (1_732_492_799, "%a %y-%m-%d %H:%M:%S %%", "Sun 24-11-24 23:59:59 %"),
            (4_107_542_400, "%Y-%m-%d", "2100-03-01"),
        ] {
            assert_eq!(strftime(format, seconds).unwrap(), expected);
        }
        assert!(strftime("%Q", 0).unwrap_err().to_string().contains("%Q"));
        assert_eq!(render("{{ strftime_now('%Y') | length }}", &[]).unwrap(), "4");
    }
}

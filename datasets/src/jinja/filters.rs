//! Filters as Jinja2 has them. Those of minijinja that give the same text are taken from there.

use std::borrow::Cow;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value, filters};

use super::functions::bind;
use super::json::{Dumps, indent};
use super::methods::{is_space, lines};
use super::operators::{check_defined, integer, number, order};
use super::values::{error, escaped, text};

/// A filter: the value and the arguments.
type Filter = fn(&mut State, &Value, &[Value]) -> Result<Value, Error>;

const OURS: [(&str, Filter); 30] = [
    ("abs", |_, value, _| match integer(value) {
        Some(value) => value.checked_abs().map(Value::from).ok_or_else(|| error("abs of too large a number")),
        None => Ok(Value::from(number(value).ok_or_else(|| error("abs of what is not a number"))?.abs())),
    }),
    ("center", |_, value, args| {
        let [width] = bind(args, ["width"])?;
        let width = width.unwrap_or_else(|| Value::from(80));
        super::methods::of_string(&text(value)?, "center", &[width]).map(Option::unwrap_or_default)
    }),
    ("count", |_, value, args| length(value, args)),
    ("d", |_, value, args| default(value, args)),
    ("default", |_, value, args| default(value, args)),
    ("e", |_, value, _| escaped(value).map(Value::from_safe_string)),
    ("escape", |_, value, _| escaped(value).map(Value::from_safe_string)),
    ("first", |_, value, args| {
        let [] = bind(args, [])?;
        Ok(if value.is_undefined() { Value::UNDEFINED } else { value.try_iter()?.next().unwrap_or_default() })
    }),
    ("float", |_, value, args| {
        let [default] = bind(args, ["default"])?;
        let parsed =
            || value.as_str().and_then(|text| text.trim_matches(is_space).replace('_', "").parse().ok());
        let found = number(value).or_else(parsed);
        if value.is_undefined() {
            return Err(error("float of an undefined value"));
        }
        Ok(found.map_or_else(|| default.unwrap_or_else(|| Value::from(0.0)), Value::from))
    }),
    ("indent", |_, value, args| {
        let [width, first, blank] = bind(args, ["width", "first", "blank"])?;
        let indention = match &width {
            Some(width) => width.as_str().map(str::to_owned).or_else(|| indent(width).ok().flatten()),
            None => Some(" ".repeat(4)),
        };
        let indention = indention.ok_or_else(|| error("indent: the width is not a number or text"))?;
        let [first, blank] = [first, blank].map(|flag| flag.is_some_and(|flag| flag.is_true()));
        let text = text(value)? + "\n";
        let mut indented = String::new();
        for (index, line) in lines(&text, false).into_iter().enumerate() {
            if index > 0 {
                indented.push('\n');
            }
            if if index == 0 { first } else { blank || !line.is_empty() } {
                indented.push_str(&indention);
            }
            indented.push_str(line);
        }
        Ok(Value::from(indented))
    }),
    ("int", |_, value, args| {
        let [default, base] = bind(args, ["default", "base"])?;
        if value.is_undefined() || base.is_some() {
            return Err(error("int of an undefined value, or with another base, is not supported"));
        }
        let text = value.as_str().map(|text| text.trim_matches(is_space).replace('_', ""));
        let float = number(value).or_else(|| text.as_ref()?.parse().ok()).filter(|number| number.is_finite());
        let parsed = integer(value).or_else(|| text.as_ref()?.parse().ok());
        #[expect(
            clippy::cast_possible_truncation,
            reason = "far larger numbers are not of interest in a text"
        )]
        let found = parsed.or_else(|| float.map(|float| float as i128));
        Ok(found.map_or_else(|| default.unwrap_or_else(|| Value::from(0)), Value::from))
    }),
    ("items", |_, value, args| {
        let [] = bind(args, [])?;
        match value.kind() {
            ValueKind::Undefined => Ok(generator(Vec::new())),
            ValueKind::Map => {
                filters::items(value).and_then(|items| Ok(generator(items.try_iter()?.collect())))
            }
            _ => Err(error("items of what is not a mapping")),
        }
    }),
    ("join", |_, value, args| {
        let [separator, attribute] = bind(args, ["d", "attribute"])?;
        if value.is_none() || value.is_safe() {
            return Err(error("join of none, or of text marked as safe, is not supported"));
        }
        let separator = separator.map_or(Ok(String::new()), |separator| text(&separator))?;
        let mut parts = Vec::new();
        for item in value.try_iter()? {
            let item = match &attribute {
                Some(name) => item.get_item(name)?,
                None => item,
            };
            if item.is_safe() {
                return Err(error("join of text marked as safe is not supported"));
            }
            parts.push(text(&item)?);
        }
        Ok(Value::from(parts.join(&separator)))
    }),
    ("last", |_, value, args| {
        let [] = bind(args, [])?;
        match value.kind() {
            ValueKind::Undefined => Ok(Value::UNDEFINED),
            _ if value.len().is_none() => Err(error("last of a generator")),
            _ => Ok(value.try_iter()?.last().unwrap_or_default()),
        }
    }),
    ("length", |_, value, args| length(value, args)),
    ("list", |_, value, args| {
        let [] = bind(args, [])?;
        match value.kind() {
            ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
            ValueKind::None => Err(error("list of none")),
            _ => Ok(value.try_iter()?.collect::<Vec<_>>().into()),
        }
    }),
    ("map", |state, value, args| match split_name(args).0.filter(|name| !is_known(name)) {
        Some(name) => Err(error(format!("the filter `{name}` is not supported"))),
        None => filters::map(state, value.clone(), rest(args)).map(generator),
    }),
    ("reject", |state, value, args| {
        let (test, args) = split_name(args);
        filters::reject(state, value.clone(), test, rest(args)).map(generator)
    }),
    ("rejectattr", |state, value, args| {
        let (attribute, args) = split_attribute(args)?;
        let (test, args) = split_name(args);
        filters::rejectattr(state, value.clone(), attribute, test, rest(args)).map(generator)
    }),
    ("replace", |_, value, args| {
        let [old, new, count] = bind(args, ["old", "new", "count"])?;
        if value.is_safe() {
            return Err(error("replace in text marked as safe is not supported"));
        }
        let [Some(old), Some(new)] = [old, new] else { return Err(error("replace needs two texts")) };
        let (value, old, new) = (text(value)?, text(&old)?, text(&new)?);
        let count =
            count.filter(|count| !count.is_none()).and_then(|count| usize::try_from(integer(&count)?).ok());
        Ok(Value::from(match count {
            Some(count) => value.replacen(&old, &new, count),
            None => value.replace(&old, &new),
        }))
    }),
    ("safe", |_, value, _| text(value).map(Value::from_safe_string)),
    ("select", |state, value, args| {
        let (test, args) = split_name(args);
        filters::select(state, value.clone(), test, rest(args)).map(generator)
    }),
    ("selectattr", |state, value, args| {
        let (attribute, args) = split_attribute(args)?;
        let (test, args) = split_name(args);
        filters::selectattr(state, value.clone(), attribute, test, rest(args)).map(generator)
    }),
    ("sort", |state, value, args| {
        let names = ["reverse", "case_sensitive", "attribute"];
        let given = bind(args, names)?;
        if given[2].is_none() {
            let items: Vec<Value> = value.try_iter()?.collect();
            items.windows(2).try_for_each(|pair| order(&pair[0], &pair[1]).map(drop))?;
        }
        let by_name = names.into_iter().zip(given).filter_map(|(name, value)| Some((name, value?)));
        filters::sort(state, value.clone(), by_name.collect())
    }),
    ("string", |_, value, args| {
        let [] = bind(args, [])?;
        Ok(if value.is_safe() { value.clone() } else { Value::from(text(value)?) })
    }),
    ("tojson", |_, value, args| {
        let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
        let [ensure_ascii, width, separators, sort_keys] = bind(args, names)?;
        let is_true = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
        let indent = width.as_ref().map_or(Ok(None), indent)?;
        let separators = separators.filter(|separators| !separators.is_none());
        let separators = match separators {
            Some(pair) => pair.try_iter()?.map(|part| text(&part)).collect::<Result<Vec<_>, _>>()?,
            None => vec![if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
        };
        let [item_separator, key_separator] =
            <[String; 2]>::try_from(separators).map_err(|_| error("tojson: separators are two texts"))?;
        let dumps = Dumps {
            ensure_ascii: is_true(ensure_ascii),
            indent,
            item_separator,
            key_separator,
            sort_keys: is_true(sort_keys),
        };
        let mut json = String::new();
        dumps.write(&mut json, value, 0)?;
        Ok(Value::from(json))
    }),
    ("trim", |_, value, args| {
        let [set] = bind(args, ["chars"])?;
        let value = text(value)?;
        let set = set.filter(|set| !set.is_none()).map(|set| text(&set)).transpose()?;
        Ok(Value::from(
            value.trim_matches(|c| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(c))),
        ))
    }),
    ("truncate", |_, value, args| truncate(value, args)),
    ("unique", |state, value, args| {
        let [case_sensitive, attribute] = bind(args, ["case_sensitive", "attribute"])?;
        let named = [("case_sensitive", case_sensitive), ("attribute", attribute)];
        let named = named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let items = filters::unique(state, value.clone(), named)?;
        Ok(generator(items.try_iter()?.collect()))
    }),
    ("wordcount", |_, value, _| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        Ok(Value::from(text(value)?.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count()))
    }),
];

/// Filters of minijinja that give the text of Jinja2.
const THEIRS: [&str; 12] = [
    "batch",
    "capitalize",
    "dictsort",
    "format",
    "groupby",
    "lower",
    "reverse",
    "round",
    "slice",
    "sum",
    "title",
    "upper",
];

/// Tests that give the result of Jinja2.
const TESTS: [&str; 38] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

pub(super) fn is_known(name: &str) -> bool {
    OURS.iter().any(|(ours, _)| *ours == name) || THEIRS.contains(&name)
}

pub(super) fn is_known_test(name: &str) -> bool {
    TESTS.contains(&name)
}

pub(super) fn add(environment: &mut Environment) {
    for (name, filter) in OURS {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            let (value, args) = args.split_first().ok_or_else(|| error(format!("{name} needs a value")))?;
            if !["d", "default"].contains(&name) {
                check_defined(state, value)?;
            }
            filter(state, value, args)
        });
    }
}

/// What Jinja2 returns as a generator: it can be run through once, and has no length.
fn generator(items: Vec<Value>) -> Value {
    Value::make_one_shot_iterator(items.into_iter())
}

fn length(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [] = bind(args, [])?;
    let length = if value.is_undefined() { Some(0) } else { value.len() };
    length.map(Value::from).ok_or_else(|| error(format!("a value of type {} has no length", value.kind())))
}

fn default(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [default, boolean] = bind(args, ["default_value", "boolean"])?;
    let replaces =
        value.is_undefined() || (boolean.is_some_and(|boolean| boolean.is_true()) && !value.is_true());
    Ok(if replaces { default.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

fn truncate(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [length, kill_words, end, leeway] = bind(args, ["length", "killwords", "end", "leeway"])?;
    let size = |value: Option<Value>, default: usize| {
        value.and_then(|value| usize::try_from(integer(&value)?).ok()).unwrap_or(default)
    };
    let end = end.map_or_else(|| Ok("...".to_owned()), |end| text(&end))?;
    let (length, leeway, text) = (size(length, 255), size(leeway, 5), text(value)?);
    let kept = length
        .checked_sub(end.chars().count())
        .ok_or_else(|| error("truncate: the end is longer than the length"))?;
    if text.chars().count() <= length + leeway {
        return Ok(Value::from(text));
    }
    let cut: String = text.chars().take(kept).collect();
    let whole = if kill_words.is_some_and(|kill| kill.is_true()) {
        &cut
    } else {
        cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words)
    };
    Ok(Value::from(whole.to_owned() + &end))
}

fn rest(args: &[Value]) -> Rest<ValueOrKwargs> {
    Rest(args.iter().cloned().map(ValueOrKwargs::from).collect())
}

/// A name in front of arguments, if there is one.
fn split_name(args: &[Value]) -> (Option<Cow<'_, str>>, &[Value]) {
    match args.split_first() {
        Some((name, args)) if name.as_str().is_some() => (name.as_str().map(Cow::from), args),
        _ => (None, args),
    }
}

/// The name of an attribute, and the arguments behind it.
fn split_attribute(args: &[Value]) -> Result<(Cow<'_, str>, &[Value]), Error> {
    let (attribute, args) = split_name(args);
    Ok((attribute.ok_or_else(|| error("the name of an attribute is missing"))?, args))
}

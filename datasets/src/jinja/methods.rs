//! Methods of strings, dicts and lists as Python has them; minijinja-contrib has the others.

use std::sync::Arc;

use minijinja::formatting::FormatStyle;
use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::functions::bind;
use super::operators::{formatted, integer, tuple};
use super::values::{View, error};

/// The widest that a text is filled up to: more would be a mistake, and take all memory.
const MOST_WIDTH: usize = 1 << 20;

/// Calls a method of a value.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let of_ours = match value.kind() {
        ValueKind::String if value.is_safe() => {
            return Err(error(format!("the method {method} of text marked as safe is not supported")));
        }
        ValueKind::String => of_string(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Map => of_map(value, method, args)?,
        ValueKind::Seq if method == "index" => {
            let [item] = bind(args, ["value"])?;
            let place = value.try_iter()?.position(|other| Some(other) == item);
            Some(place.map(Value::from).ok_or_else(|| error("the value is not in the list"))?)
        }
        _ => None,
    };
    of_ours.map_or_else(|| unknown_method_callback(state, value, method, args), Ok)
}

fn of_map(map: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let value_of = |key: &Value| map.get_item(key);
    let pair = |key: Value| value_of(&key).map(|value| tuple(vec![key, value]));
    let keys = map.try_iter()?;
    let (name, items) = match method {
        "keys" => ("keys", keys.collect()),
        "values" => ("values", keys.map(|key| value_of(&key)).collect::<Result<_, _>>()?),
        "items" => ("items", keys.map(pair).collect::<Result<_, _>>()?),
        "copy" => {
            let [] = bind(args, [])?;
            return Ok(Some(map.clone()));
        }
        _ => return Ok(None),
    };
    let [] = bind(args, [])?;
    Ok(Some(Value::from_object(View { name, items })))
}

pub(super) fn of_string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "split" | "rsplit" => split(text, args, method == "rsplit")?,
        "splitlines" => {
            let [keep] = bind(args, ["keepends"])?;
            lines(text, keep.is_some_and(|keep| keep.is_true())).into_iter().collect()
        }
        "partition" | "rpartition" => {
            let [separator] = bind(args, ["sep"])?;
            let separator = wanted(separator.as_ref())?;
            let is_first = method == "partition";
            let found = if is_first { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match found {
                _ if separator.is_empty() => return Err(error("empty separator")),
                Some((before, after)) => [before, separator, after],
                None if is_first => [text, "", ""],
                None => ["", "", text],
            };
            tuple(parts.map(Value::from).to_vec())
        }
        "removeprefix" | "removesuffix" => {
            let [part] = bind(args, ["part"])?;
            let part = wanted(part.as_ref())?;
            let found =
                if method == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Value::from(found.unwrap_or(text))
        }
        "strip" | "lstrip" | "rstrip" => {
            let [set] = bind(args, ["chars"])?;
            let set = set.filter(|set| !set.is_none());
            let set: Option<Vec<char>> =
                set.map(|set| wanted(Some(&set)).map(|set| set.chars().collect())).transpose()?;
            let strips = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
            let text = if method == "rstrip" { text } else { text.trim_start_matches(strips) };
            Value::from(if method == "lstrip" { text } else { text.trim_end_matches(strips) })
        }
        "center" | "ljust" | "rjust" | "zfill" => padded(text, method, args)?,
        "title" => Value::from(title(text)),
        "swapcase" => {
            let swapped = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swapped).collect::<String>())
        }
        "isdigit" | "isdecimal" | "isnumeric" if text.is_ascii() => {
            Value::from(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        }
        "isdigit" | "isdecimal" | "isnumeric" => {
            return Err(error(format!("{method} of `{text}` is not supported")));
        }
        "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith" => {
            return within(text, method, args).map(Some);
        }
        "join" => {
            let [items] = bind(args, ["iterable"])?;
            let items = items.ok_or_else(|| error("join needs a list"))?;
            let items: Vec<Value> = items.try_iter()?.collect();
            let items = items.iter().map(|item| wanted(Some(item))).collect::<Result<Vec<_>, _>>()?;
            Value::from(items.join(text))
        }
        "format" => formatted(FormatStyle::StrFormat, text, args)?,
        _ => return Ok(None),
    }))
}

/// Methods that fill up to a width.
fn padded(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let [width, fill] = bind(args, ["width", "fillchar"])?;
    let width = width_of(width.as_ref())?;
    let missing = width.saturating_sub(text.chars().count());
    if method == "zfill" {
        let sign = if text.starts_with(['-', '+']) { 1 } else { 0 };
        return Ok(Value::from(format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..])));
    }
    let fill = fill.as_ref().map_or(Ok(" "), |fill| wanted(Some(fill)))?;
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Python puts the odd one to the left if the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}

/// A width that a text can have.
pub(super) fn width_of(width: Option<&Value>) -> Result<usize, Error> {
    let width = width.and_then(integer).ok_or_else(|| error("the width is not an integer"))?;
    match usize::try_from(width.max(0)) {
        Ok(width) if width <= MOST_WIDTH => Ok(width),
        _ => Err(error(format!("a width of {width} is too large"))),
    }
}

/// Methods that take a range of characters.
fn within(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let [part, start, end] = bind(args, ["sub", "start", "end"])?;
    let characters: Vec<(usize, char)> = text.char_indices().collect();
    let place = |at: Option<Value>, default: usize| -> Result<usize, Error> {
        let Some(at) = at.filter(|at| !at.is_none()) else { return Ok(default) };
        let at = integer(&at).ok_or_else(|| error("an index is not an integer"))?;
        let length = characters.len() as i128;
        Ok(usize::try_from(if at < 0 { at + length } else { at }.clamp(0, length)).unwrap_or(0))
    };
    let (start, end) = (place(start, 0)?, place(end, characters.len())?);
    let byte = |at: usize| characters.get(at).map_or(text.len(), |(byte, _)| *byte);
    let range = text.get(byte(start)..byte(end)).unwrap_or_default();
    let part = part.ok_or_else(|| error(format!("{method} needs text")))?;
    if matches!(method, "startswith" | "endswith") {
        let fits =
            |part: &str| if method == "startswith" { range.starts_with(part) } else { range.ends_with(part) };
        if !part.is_tuple() {
            return Ok(Value::from(fits(wanted(Some(&part))?)));
        }
        let parts: Vec<Value> = part.try_iter()?.collect();
        let fit = parts.iter().map(|part| wanted(Some(part)).map(fits)).collect::<Result<Vec<_>, _>>()?;
        return Ok(Value::from(fit.contains(&true)));
    }
    let part = wanted(Some(&part))?;
    if method == "count" {
        let count = if part.is_empty() { range.chars().count() + 1 } else { range.matches(part).count() };
        return Ok(Value::from(count));
    }
    let found = if method.starts_with('r') { range.rfind(part) } else { range.find(part) };
    match found {
        Some(found) => Ok(Value::from(start + range[..found].chars().count())),
        None if method.ends_with("index") => Err(error(format!("`{part}` is not in the text"))),
        None => Ok(Value::from(-1)),
    }
}

fn split<'a>(text: &'a str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let [separator, most] = bind(args, ["sep", "maxsplit"])?;
    let most =
        most.map_or(Some(-1), |most| integer(&most)).ok_or_else(|| error("maxsplit is not an integer"))?;
    let pieces = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let separator = separator.filter(|separator| !separator.is_none());
    let mut parts: Vec<&'a str> = match &separator {
        Some(separator) => {
            let separator = wanted(Some(separator))?;
            if separator.is_empty() {
                return Err(error("empty separator"));
            }
            if from_right {
                text.rsplitn(pieces, separator).collect()
            } else {
                text.splitn(pieces, separator).collect()
            }
        }
        None => {
            let trimmed = |text: &'a str| match from_right {
                true => text.trim_end_matches(is_space),
                false => text.trim_start_matches(is_space),
            };
            let (mut parts, mut rest) = (Vec::new(), trimmed(text));
            while !rest.is_empty() {
                let place = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
                let Some(place) = place.filter(|_| parts.len() + 1 < pieces) else {
                    parts.push(rest);
                    break;
                };
                let (before, after) = rest.split_at(place);
                let after = after.strip_prefix(is_space).unwrap_or(after);
                let (part, remains) = if from_right { (after, before) } else { (before, after) };
                parts.push(part);
                rest = trimmed(remains);
            }
            parts
        }
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Lines as `str.splitlines` separates them.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(end) = rest.find(ENDS) {
        let is_pair = rest[end..].starts_with("\r\n");
        let after = end + if is_pair { 2 } else { rest[end..].chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..if keep_ends { after } else { end }]);
        rest = &rest[after..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn title(text: &str) -> String {
    let mut within = false;
    let mut title = String::with_capacity(text.len());
    for c in text.chars() {
        if within {
            title.extend(c.to_lowercase());
        } else {
            title.extend(c.to_uppercase());
        }
        within = c.is_uppercase() || c.is_lowercase();
    }
    title
}

pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn wanted(value: Option<&Value>) -> Result<&str, Error> {
    value.and_then(Value::as_str).ok_or_else(|| error("text is needed, and another value was given"))
}

/// Whether dicts have a method of this name, which an attribute of a dict then is, whatever its keys.
pub(super) fn of_maps(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "clear",
        "copy",
        "fromkeys",
        "get",
        "items",
        "keys",
        "pop",
        "popitem",
        "setdefault",
        "update",
        "values",
    ];
    NAMES.contains(&name)
}

/// An attribute whose name is that of a method of dicts.
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    // A namespace is a map for minijinja, but has no methods in Jinja2.
    let is_namespace = value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"));
    match value.kind() {
        ValueKind::Map if !is_namespace => Ok(Value::from_object(Method)),
        _ => value.get_attr(name),
    }
}

/// A method that is not called: it is defined and true, and has no text.
#[derive(Debug)]
struct Method;

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

//! Operators as Python has them, as filters over their operands.

use std::cmp::Ordering;

use minijinja::formatting::{FormatStyle, format};
use minijinja::machinery::Instruction;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use super::methods;
use super::values::{error, escaped, text};

/// Bytes of the longest text.
const MOST_TEXT: usize = 1 << 26;

/// Name of the filter for an attribute whose name is that of a method of dicts.
pub(super) const ATTRIBUTE: &str = ".";
/// Name of the filter that checks what a loop runs over.
pub(super) const ITERATE: &str = "for";

/// Name of the filter for `value[start:stop:step]`.
pub(super) const SLICE: &str = "[:]";

/// The filter that replaces an instruction of two operands.
pub(super) fn binary(instruction: &Instruction) -> Option<&'static str> {
    Some(match instruction {
        Instruction::Add => "+",
        Instruction::Rem => "%",
        Instruction::StringConcat => "~",
        Instruction::In => "in",
        Instruction::Lt => "<",
        Instruction::Lte => "<=",
        Instruction::Gt => ">",
        Instruction::Gte => ">=",
        _ => return None,
    })
}

type Operator = fn(&Value, &Value) -> Result<Value, Error>;

const OPERATORS: [(&str, Operator); 8] = [
    ("+", plus),
    ("%", remainder),
    ("~", concatenate),
    ("in", |item, container| contains(item, container).map(Value::from)),
    ("<", |a, b| Ok(order(a, b)?.is_lt().into())),
    ("<=", |a, b| Ok(order(a, b)?.is_le().into())),
    (">", |a, b| Ok(order(a, b)?.is_gt().into())),
    (">=", |a, b| Ok(order(a, b)?.is_ge().into())),
];

pub(super) fn add(environment: &mut Environment) {
    for (name, operator) in OPERATORS {
        environment.add_filter(name, move |state: &mut State, a: &Value, b: &Value| {
            check_defined(state, a)?;
            check_defined(state, b)?;
            operator(a, b)
        });
    }
    environment.add_filter(ATTRIBUTE, methods::attribute);
    environment.add_filter(ITERATE, iterated);
    environment.add_filter(SLICE, slice);
}

fn plus(a: &Value, b: &Value) -> Result<Value, Error> {
    if a.is_safe() || b.is_safe() {
        if a.as_str().is_none() || b.as_str().is_none() {
            return Err(unsupported("+", a, b));
        }
        return Ok(Value::from_safe_string(escaped(a)? + &escaped(b)?));
    }
    match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => return joined(a, b),
        (None, None) => {}
        _ => return Err(unsupported("+", a, b)),
    }
    let is_list =
        |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) && value.len().is_some();
    if is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple() {
        let items = a.try_iter()?.chain(b.try_iter()?);
        return Ok(if a.is_tuple() {
            tuple(items.collect())
        } else {
            Value::from(items.collect::<Vec<_>>())
        });
    }
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => {
            a.checked_add(b).map(Value::from).ok_or_else(|| error("an integer is too large"))
        }
        _ => Ok(Value::from(
            number(a).zip(number(b)).map(|(a, b)| a + b).ok_or_else(|| unsupported("+", a, b))?,
        )),
    }
}

pub(super) fn tuple(items: Vec<Value>) -> Value {
    Value::from(minijinja::value::Tuple::from(items))
}

fn remainder(a: &Value, b: &Value) -> Result<Value, Error> {
    let Some(template) = a.as_str().filter(|_| !a.is_safe()) else {
        return match (integer(a), integer(b)) {
            (Some(a), Some(b)) => {
                let remainder = a.checked_rem(b).ok_or_else(|| error("modulo of these integers"))?;
                // Python's remainder has the sign of the divisor.
                Ok(Value::from(if remainder != 0 && (remainder < 0) != (b < 0) {
                    remainder + b
                } else {
                    remainder
                }))
            }
            _ => Err(unsupported("%", a, b)),
        };
    };
    let values = if b.is_tuple() { b.try_iter()?.collect() } else { vec![b.clone()] };
    let places = places(template)?;
    if places != values.len() && (b.kind() != ValueKind::Map || places == 0) && !b.is_undefined() {
        return Err(error(format!(
            "a text with {places} places for values is given {} values",
            values.len()
        )));
    }
    formatted(FormatStyle::Printf, template, &values)
}

/// Number of places for values in a text for `%`.
fn places(template: &str) -> Result<usize, Error> {
    let mut places = 0;
    let mut rest = template.split('%').skip(1);
    while let Some(place) = rest.next() {
        let kind = place.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
        match &place[..kind] {
            // The second character of `%%`.
            "" if place.is_empty() => drop(rest.next()),
            flags if flags.contains('.') && place[kind..].starts_with(['d', 'i', 'x', 'X', 'o']) => {
                return Err(error("a precision of an integer is not supported"));
            }
            _ => places += 1,
        }
    }
    Ok(places)
}

/// `template` with `values` in its places. Floats and lists that minijinja writes otherwise than Python become text
/// beforehand, which is right in a place for text and an error in any other.
pub(super) fn formatted(style: FormatStyle, template: &str, values: &[Value]) -> Result<Value, Error> {
    let python = |value: &Value| -> Result<Value, Error> {
        let is_mapping = value.kind() == ValueKind::Map;
        let same = value.as_str().is_some() || is_mapping || text(value)? == value.to_string();
        Ok(if same { value.clone() } else { Value::from(text(value)?) })
    };
    let values = values.iter().map(python).collect::<Result<Vec<_>, _>>()?;
    format(style, template, &values).map(Value::from)
}

fn concatenate(a: &Value, b: &Value) -> Result<Value, Error> {
    joined(&text(a)?, &text(b)?)
}

/// Two texts as one, of a length that a prompt can have: doubling a text would soon take all memory.
fn joined(a: &str, b: &str) -> Result<Value, Error> {
    if a.len() + b.len() > MOST_TEXT {
        return Err(error(format!("a text of more than {MOST_TEXT} bytes")));
    }
    Ok(Value::from([a, b].concat()))
}

/// `b in a`: the operands in the order of minijinja, the container last.
fn contains(item: &Value, container: &Value) -> Result<bool, Error> {
    match (container.as_str(), item.as_str()) {
        (Some(text), Some(part)) => Ok(text.contains(part)),
        (Some(_), None) => Err(error("'in <string>' requires a string on its left")),
        _ if container.is_undefined() => Ok(false),
        _ if container.kind() == ValueKind::Map => Ok(container.try_iter()?.any(|key| key == *item)),
        _ => Ok(iterated(container)?.try_iter()?.any(|other| other == *item)),
    }
}

/// The order of values that Python orders.
pub(super) fn order(a: &Value, b: &Value) -> Result<Ordering, Error> {
    let ordered = match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => Some(a.cmp(b)),
        (None, None)
            if a.kind() == ValueKind::Seq && b.kind() == ValueKind::Seq && a.is_tuple() == b.is_tuple() =>
        {
            for (a, b) in a.try_iter()?.zip(b.try_iter()?) {
                if a != b {
                    return order(&a, &b);
                }
            }
            Some(a.len().cmp(&b.len()))
        }
        _ => match (integer(a), integer(b)) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => number(a).zip(number(b)).and_then(|(a, b)| a.partial_cmp(&b)),
        },
    };
    ordered.ok_or_else(|| unsupported("<", a, b))
}

fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    let index = |value: &Value| match integer(value) {
        None if !value.is_none() => Err(error("a slice has indices that are not integers")),
        index => Ok(index),
    };
    let (start, stop, step) = (index(start)?, index(stop)?, index(step)?.unwrap_or(1));
    let items: Vec<Value> = match value.as_str() {
        Some(text) => text.chars().map(Value::from).collect(),
        None if value.kind() != ValueKind::Map && value.len().is_some() => value.try_iter()?.collect(),
        None => return Err(error(format!("a value of type {} cannot be sliced", value.kind()))),
    };
    let length = items.len() as i128;
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |index: i128| if index < 0 { index + length } else { index }.clamp(lowest, highest);
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (mut at, last) = (start.map_or(first, place), stop.map_or(last, place));
    if step == 0 {
        return Err(error("the step of a slice is 0"));
    }
    let mut taken = Vec::new();
    while if step > 0 { at < last } else { at > last } {
        taken.extend(usize::try_from(at).ok().and_then(|at| items.get(at).cloned()));
        at = at.saturating_add(step);
    }
    Ok(match value.as_str() {
        Some(_) => Value::from(taken.iter().filter_map(Value::as_str).collect::<String>()),
        None if value.is_tuple() => tuple(taken),
        None => Value::from(taken),
    })
}

fn iterated(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            Err(error(format!("a value of type {} is not iterable", value.kind())))
        }
        _ => Ok(value.clone()),
    }
}

/// Refuses an undefined value in a strict template.
pub(super) fn check_defined(state: &State, value: &Value) -> Result<(), Error> {
    let is_strict = state.undefined_behavior() == UndefinedBehavior::Strict;
    if is_strict && value.is_undefined() { Err(ErrorKind::UndefinedError.into()) } else { Ok(()) }
}

/// An integer; a boolean is one.
pub(super) fn integer(value: &Value) -> Option<i128> {
    let is_integer = value.kind() == ValueKind::Bool || value.is_integer();
    is_integer.then(|| i128::try_from(value.clone()).ok())?
}

/// An integer or a float.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn unsupported(operator: &str, a: &Value, b: &Value) -> Error {
    error(format!("{operator} is not defined for {} and {}", a.kind(), b.kind()))
}

//! Functions and tests of chat templates.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::values::{View, error};

pub(super) fn add(environment: &mut Environment) {
    environment
        .add_function("raise_exception", |message: String| -> Result<Value, Error> { Err(error(message)) });
    environment.add_function("strftime_now", |format: &str| strftime(format, Utc::now()));
    environment.add_function("cycler", |items: Rest<Value>| match items.is_empty() {
        true => Err(error("cycler needs a value")),
        false => Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) })),
    });
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain)
    });
    // What has a length and can be indexed.
    environment.add_test("sequence", |value: &Value| match value.kind() {
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined => true,
        ValueKind::Iterable => value.len().is_some() && value.downcast_object_ref::<View>().is_none(),
        _ => false,
    });
}

/// Text of the present time for templates that state the date; in UTC, so that all machines of a run agree.
pub(super) fn strftime(format: &str, time: DateTime<Utc>) -> Result<String, Error> {
    let mut ours = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        ours.push(c);
        match if c == '%' { chars.next() } else { continue } {
            Some('f') => ours.push_str("6f"),
            // transformers takes the time without its zone.
            Some('z' | 'Z') => drop(ours.pop()),
            Some(directive) => ours.push(directive),
            None => ours.push('%'),
        }
    }
    let mut text = String::new();
    write!(text, "{}", time.format(&ours))
        .map_err(|_| error(format!("strftime_now: `{format}` has an unknown directive")))?;
    Ok(text)
}

/// What `cycler` returns.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Cycler {
    fn current(&self) -> Value {
        self.items[self.at.load(Ordering::Relaxed) % self.items.len()].clone()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(self: &Arc<Self>, _: &mut State, method: &str, _: &[Value]) -> Result<Value, Error> {
        match method {
            "next" => {
                let current = self.current();
                self.at.fetch_add(1, Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// Arguments by place or by name, as Python binds them.
pub(super) fn bind<const N: usize>(args: &[Value], names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    let (by_place, by_name): (&[Value], Kwargs) = from_args(args)?;
    if by_place.len() > N {
        return Err(error(format!("at most {N} arguments are possible")));
    }
    let mut bound = std::array::from_fn(|index| by_place.get(index).cloned());
    for (slot, name) in bound.iter_mut().zip(names) {
        if by_name.has(name) {
            let value = by_name.get(name)?;
            if slot.replace(value).is_some() {
                return Err(error(format!("two values for the argument {name}")));
            }
        }
    }
    by_name.assert_all_used()?;
    Ok(bound)
}

//! A JSON file of settings, or an object in one, read field by field. Every error names the file, the field and the
//! value.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ModelError;

/// A JSON file or an object in it.
pub(crate) struct Fields<'a> {
    pub(crate) json: &'a Map<String, Value>,
    pub(crate) path: &'a Path,
    /// Precedes field names in messages: the object's name and a dot, or nothing for the file itself.
    pub(crate) prefix: &'static str,
}

impl<'a> Fields<'a> {
    /// The object `name`, whose fields have `prefix` in messages. `None` without one or if it is empty.
    pub(crate) fn object(&self, name: &str, prefix: &'static str) -> Result<Option<Fields<'a>>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let json = value.as_object().ok_or_else(|| self.unsupported(name, "an object"))?;
        Ok((!json.is_empty()).then_some(Fields { json, prefix, path: self.path }))
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.json.get(field).filter(|value| !value.is_null())
    }

    /// A field of text; `None` without one or if it is empty.
    pub(crate) fn text(&self, field: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| self.unsupported(field, "supported: text or null"))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    pub(crate) fn size(&self, field: &str, default: Option<i64>) -> Result<i64, ModelError> {
        self.value(field, default, "a positive whole number below 2^31", whole)
    }

    pub(crate) fn float(&self, field: &str, default: Option<f64>) -> Result<f64, ModelError> {
        self.value(field, default, "a number", Value::as_f64)
    }

    pub(crate) fn bool(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        self.value(field, Some(default), "true or false", Value::as_bool)
    }

    fn value<T>(
        &self,
        field: &str,
        default: Option<T>,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, ModelError> {
        match (self.get(field), default) {
            (None, Some(default)) => Ok(default),
            (value, _) => value
                .and_then(read)
                .ok_or_else(|| self.error(field, &format!("is missing or not {expected}"))),
        }
    }

    pub(crate) fn unsupported(&self, field: &str, supported: &str) -> ModelError {
        let value = self.json.get(field).unwrap_or(&Value::Null);
        self.error(field, &format!("= {value} is not supported ({supported})"))
    }

    pub(crate) fn error(&self, field: &str, problem: &str) -> ModelError {
        ModelError::field(self.path, &format!("{}{field}", self.prefix), problem)
    }
}

/// The bound keeps products of two sizes within 64 bits.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().filter(|number| (1..1 << 31).contains(number))
}

//! The JSON Schema of the recipe, taken from the code that reads it: what is not accepted cannot be listed.
//!
//! A tracing deserializer answers every request of the recipe's `Deserialize` with a dummy value and notes what was
//! asked for. Editors that know JSON Schema then complete and check recipes.

use serde::de::value::{Error, StrDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value, json};

/// The JSON Schema of `T`, with `defaults` (a serialised default value of `T`) as its defaults.
///
/// # Panics
/// When `T` asks for a shape that configs do not have (a bug in a config struct).
pub fn of<'de, T: Deserialize<'de>>(defaults: &Value) -> Value {
    let mut shape = Shape::Any;
    T::deserialize(Tracer { shape: &mut shape }).expect("config structs are plain records");
    let mut schema = Map::new();
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.extend(describe(&shape, Some(defaults)));
    Value::Object(schema)
}

/// What a value was asked to be.
enum Shape {
    Any,
    Plain(&'static str),
    Count,
    CountOrAuto,
    Device,
    Choice(&'static [&'static str]),
    List(Box<Shape>),
    Record(Vec<(&'static str, Shape)>),
}

fn describe(shape: &Shape, default: Option<&Value>) -> Map<String, Value> {
    let mut schema = Map::new();
    match shape {
        Shape::Any => {}
        Shape::Plain(name) => drop(schema.insert("type".into(), (*name).into())),
        Shape::Count => {
            schema.insert("type".into(), "integer".into());
            schema.insert("minimum".into(), 0.into());
        }
        Shape::CountOrAuto => {
            let choices = json!([{ "type": "integer", "minimum": 0 }, { "const": "auto" }]);
            schema.insert("anyOf".into(), choices);
        }
        Shape::Device => {
            schema.insert("type".into(), "string".into());
            schema.insert("pattern".into(), "^(auto|cpu|cuda(:[0-9]+)?)$".into());
        }
        Shape::Choice(names) => drop(schema.insert("enum".into(), json!(names))),
        Shape::List(item) => {
            schema.insert("type".into(), "array".into());
            schema.insert("items".into(), Value::Object(describe(item, None)));
        }
        Shape::Record(fields) => {
            let of_field = |(name, shape): &(&'static str, Shape)| {
                let default = default.and_then(|value| value.get(name));
                (name.to_string(), Value::Object(describe(shape, default)))
            };
            schema.insert("type".into(), "object".into());
            schema.insert("additionalProperties".into(), false.into());
            schema.insert("properties".into(), Value::Object(fields.iter().map(of_field).collect()));
        }
    }
    let of_leaf = default.filter(|value| !value.is_null() && !matches!(shape, Shape::Record(_)));
    if let Some(value) = of_leaf {
        schema.insert("default".into(), value.clone());
    }
    schema
}

struct Tracer<'a> {
    shape: &'a mut Shape,
}

macro_rules! trace {
    ($($method:ident => $shape:expr, $visit:ident($value:expr);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            *self.shape = $shape;
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    trace! {
        deserialize_bool => Shape::Plain("boolean"), visit_bool(false);
        deserialize_i8 => Shape::Plain("integer"), visit_i8(0);
        deserialize_i16 => Shape::Plain("integer"), visit_i16(0);
        deserialize_i32 => Shape::Plain("integer"), visit_i32(0);
        deserialize_i64 => Shape::Plain("integer"), visit_i64(0);
        deserialize_u8 => Shape::Count, visit_u8(0);
        deserialize_u16 => Shape::Count, visit_u16(0);
        deserialize_u32 => Shape::Count, visit_u32(0);
        deserialize_u64 => Shape::Count, visit_u64(0);
        deserialize_f32 => Shape::Plain("number"), visit_f32(0.0);
        deserialize_f64 => Shape::Plain("number"), visit_f64(0.0);
        deserialize_str => Shape::Plain("string"), visit_str("");
        deserialize_string => Shape::Plain("string"), visit_str("");
        deserialize_map => Shape::Plain("object"), visit_map(Fields { names: [].iter(), shapes: Vec::new() });
    }

    /// A value that may be of several kinds, among them a number.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f64(0.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == "CountOrAuto" {
            *self.shape = Shape::CountOrAuto;
            return visitor.visit_u64(0);
        }
        if name == "DeviceName" {
            *self.shape = Shape::Device;
            return visitor.visit_str("auto");
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut item = Shape::Any;
        let value = visitor.visit_seq(OneItem { shape: Some(&mut item) })?;
        *self.shape = Shape::List(Box::new(item));
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut trace = Fields { names: fields.iter(), shapes: Vec::new() };
        let value = visitor.visit_map(&mut trace)?;
        *self.shape = Shape::Record(trace.shapes);
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.shape = Shape::Choice(variants);
        visitor.visit_enum(FirstVariant(variants[0].into_deserializer()))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// Offers every field of a struct once.
struct Fields {
    names: std::slice::Iter<'static, &'static str>,
    shapes: Vec<(&'static str, Shape)>,
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else { return Ok(None) };
        self.shapes.push((name, Shape::Any));
        let name: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (_, shape) = self.shapes.last_mut().expect("a key is asked for before its value");
        seed.deserialize(Tracer { shape })
    }
}

struct OneItem<'a> {
    shape: Option<&'a mut Shape>,
}

impl<'de> SeqAccess<'de> for OneItem<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.shape.take().map(|shape| seed.deserialize(Tracer { shape })).transpose()
    }
}

struct FirstVariant(StrDeserializer<'static, Error>);

impl<'de> EnumAccess<'de> for FirstVariant {
    type Error = Error;
    type Variant = <StrDeserializer<'static, Error> as EnumAccess<'de>>::Variant;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self::Variant), Error> {
        EnumAccess::variant_seed(self.0, seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Deserialize, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Plan {
        path: std::path::PathBuf,
        limit: Option<usize>,
        rate: f64,
        kind: Kind,
        parts: Vec<Part>,
        part: Part,
    }

    #[derive(Deserialize, Serialize, Default)]
    #[serde(default)]
    struct Part {
        on: bool,
        shift: i64,
    }

    #[derive(Deserialize, Serialize, Default)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        #[default]
        One,
        Two,
    }

    impl Default for Plan {
        fn default() -> Self {
            let (kind, part) = (Kind::Two, Part::default());
            Self { path: "a".into(), limit: None, rate: 0.5, kind, parts: Vec::new(), part }
        }
    }

    #[test]
    fn every_field_is_listed_with_type_and_default() {
        let schema = of::<Plan>(&serde_json::to_value(Plan::default()).unwrap());
        let part = |on: Value, shift: Value| json!({"type": "object", "additionalProperties": false, "properties": {"on": on, "shift": shift}});
        let plain = part(json!({"type": "boolean"}), json!({"type": "integer"}));
        let filled =
            part(json!({"type": "boolean", "default": false}), json!({"type": "integer", "default": 0}));
        let expected = json!({
            "path": {"type": "string", "default": "a"},
            "limit": {"type": "integer", "minimum": 0},
            "rate": {"type": "number", "default": 0.5},
            "kind": {"enum": ["one", "two"], "default": "two"},
            "parts": {"type": "array", "items": plain, "default": []},
            "part": filled,
        });
        assert_eq!(schema["properties"], expected);
        assert_eq!(schema["additionalProperties"], json!(false));
    }
}

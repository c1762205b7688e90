//! JSON Schemas of the TOML files, for editors, derived from the structs that read them.

use schemars::JsonSchema;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

/// The JSON Schema of `T`, with all sections inline.
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let generator = settings.with_transform(RecursiveTransform(for_toml)).into_generator();
    generator.into_root_schema_for::<T>().into()
}

/// Removes nulls, which TOML does not have, formats of numbers, which JSON Schema does not know, and paragraphs of doc
/// comments after the first, which are for developers.
fn for_toml(schema: &mut Schema) {
    let Some(fields) = schema.as_object_mut() else { return };
    fields.remove("format");
    if fields.get("default").is_some_and(Value::is_null) || fields.contains_key("properties") {
        fields.remove("default");
    }
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    }
    if let Some(Value::Array(types)) = fields.get_mut("type")
        && let [Value::String(only), Value::String(null)] = types.as_slice()
        && null == "null"
    {
        let only = only.as_str().into();
        fields.insert("type".into(), only);
    }
    if let Some(Value::Array(choices)) = fields.get("anyOf")
        && let [Value::Object(only), null] = choices.as_slice()
        && null["type"] == "null"
    {
        let only = only.clone();
        fields.remove("anyOf");
        for (key, value) in only {
            fields.entry(key).or_insert(value);
        }
    }
}

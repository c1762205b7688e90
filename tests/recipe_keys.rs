//! The keys of recipes: their schema, and the tables of docs/configuration.md, which are made from it.
//!
//! `JACOBI_UPDATE_DOCS=1 cargo test --test cli documented` regenerates the tables.

use jacobi_cli::recipe::{ModelSection, Recipe};
use jacobi_datasets::{PromptsConfig, Section};
use jacobi_eval::{EvalConfig, TuneConfig};
use jacobi_trainer::TrainConfig;
use jacobi_trajectory_gen::GenerateConfig;
use serde_json::Value;

use crate::root;

/// All keys of the object `schema` with their schemas, those of sections within it as `section.key`. The entries of
/// lists are left out.
pub fn keys(schema: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, schema) in schema["properties"].as_object().unwrap() {
        match schema.get("properties") {
            Some(_) => {
                found.extend(keys(schema).into_iter().map(|(key, schema)| (format!("{name}.{key}"), schema)))
            }
            None => found.push((name.clone(), schema.clone())),
        }
    }
    found
}

/// The neutral keys of all sections with the reasons.
pub fn neutral() -> Vec<(String, &'static str)> {
    fn of<S: Section>() -> impl Iterator<Item = (String, &'static str)> {
        S::NEUTRAL.iter().map(|(key, reason)| (format!("{}.{key}", S::NAME), *reason))
    }
    of::<ModelSection>()
        .chain(of::<PromptsConfig>())
        .chain(of::<GenerateConfig>())
        .chain(of::<TrainConfig>())
        .chain(of::<TuneConfig>())
        .chain(of::<EvalConfig>())
        .collect()
}

/// The possible values of a key, with their meanings.
fn choices(schema: &Value) -> impl Iterator<Item = (&Value, &str)> {
    let lists = ["oneOf", "anyOf"].into_iter().filter_map(|list| schema[list].as_array());
    lists.flatten().filter_map(|one| Some((one.get("const")?, one["description"].as_str()?)))
}

/// The default as TOML.
fn default_of(schema: &Value) -> String {
    let is_section = schema.get("properties").is_some();
    match &schema["default"] {
        Value::Null if is_section => String::new(),
        Value::Null => "none".to_owned(),
        Value::String(text) if text.is_empty() => String::new(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Object(fields) if fields.is_empty() => "none".to_owned(),
        value @ Value::Array(_) => format!("`{}`", toml::Value::try_from(value).unwrap()),
        value => format!("`{value}`"),
    }
}

/// The row of a key. A description may end with the default in words.
fn row(key: &str, schema: &Value) -> String {
    let description = schema["description"].as_str().unwrap_or_default();
    let (meaning, default) = match description.split_once(" Default: ") {
        Some((meaning, default)) => (meaning, default.trim_end_matches('.').to_owned()),
        None => (description, default_of(schema)),
    };
    let choices = choices(schema).map(|(value, description)| format!(" `{value}`: {description}"));
    format!("| `{key}` | {default} | {meaning}{} |\n", choices.collect::<String>())
}

/// The table called `name` in the manual: that of a section, or of the neutral keys.
fn table(name: &str, recipe: &Value) -> String {
    if name == "neutral keys" {
        let rows = neutral().into_iter().map(|(key, reason)| format!("| `{key}` | {reason} |\n"));
        return format!("| key | why it may change |\n|---|---|\n{}", rows.collect::<String>());
    }
    let section = name.split('.').filter(|part| *part != "top").fold(recipe, |schema, part| {
        let inner = &schema["properties"][part];
        inner.get("items").unwrap_or(inner)
    });
    let rows = section["properties"].as_object().unwrap_or_else(|| panic!("there is no section {name}"));
    let rows: String = rows.iter().map(|(key, schema)| row(key, schema)).collect();
    format!("| key | default | meaning |\n|---|---|---|\n{rows}")
}

#[test]
fn every_recipe_key_is_documented() {
    let path = root().join("docs/configuration.md");
    let manual = fs_err::read_to_string(&path).unwrap();
    let recipe = Recipe::schema();
    let mut parts = manual.split("<!-- table: ");
    let mut current = parts.next().unwrap().to_owned();
    let mut names = Vec::new();
    for part in parts {
        let (name, rest) = part.split_once(" -->\n").unwrap();
        let (_, rest) = rest.split_once("<!-- end of table -->").unwrap();
        current +=
            &format!("<!-- table: {name} -->\n\n{}\n<!-- end of table -->{rest}", table(name, &recipe));
        names.push(name);
    }
    let sections = [
        "top",
        "model",
        "prompts",
        "generate",
        "train",
        "train.pc_terms",
        "train.adapter",
        "tune",
        "eval",
        "eval.tasks",
        "eval.sandbox",
        "eval.decoders",
    ];
    assert_eq!(names, [&sections[..], &["neutral keys"]].concat());
    if std::env::var_os("JACOBI_UPDATE_DOCS").is_some() {
        fs_err::write(&path, current).unwrap();
        return;
    }
    assert!(
        manual == current,
        "the tables of {} are not those of the code: JACOBI_UPDATE_DOCS=1 cargo test --test cli documented",
        path.display()
    );
}

#[test]
fn every_key_has_a_description_and_each_of_its_values_too() {
    let recipe = Recipe::schema();
    let sections = [&recipe, &recipe["properties"]["eval"]["properties"]["tasks"]["items"]];
    for (key, schema) in sections.into_iter().flat_map(keys) {
        let text = schema["description"].as_str().unwrap_or_default();
        assert!(text.ends_with(['.', ')']) && !text.contains("[`"), "{key}: {text:?}");
        let values = schema["oneOf"].as_array().map_or(0, Vec::len);
        assert!(values <= choices(&schema).count(), "{key}: a value has no description");
    }
}

/// Checks `value` against the parts of JSON Schema that ours uses.
fn check(schema: &Value, value: &Value, key: &str) -> Result<(), String> {
    let refuse = || Err(format!("{key} = {value} does not fit {schema}"));
    if let Some(choices) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        return if choices.iter().any(|one| check(one, value, key).is_ok()) { Ok(()) } else { refuse() };
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return refuse();
    }
    let is_of_type = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64(),
        Some("number") => value.is_number(),
        _ => false,
    };
    if !is_of_type {
        return refuse();
    }
    for item in value.as_array().into_iter().flatten() {
        check(&schema["items"], item, key)?;
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let inner =
            schema["properties"].get(name).ok_or_else(|| format!("{key}.{name} is not in the schema"))?;
        check(inner, value, &format!("{key}.{name}"))?;
    }
    Ok(())
}

#[test]
fn the_recipes_and_the_resolved_default_fit_the_schema() {
    let schema = Recipe::schema();
    let folder = root().join("configs");
    let mut texts = vec![Recipe::default().to_toml()];
    for entry in fs_err::read_dir(folder).unwrap() {
        texts.push(fs_err::read_to_string(entry.unwrap().path()).unwrap());
    }
    assert!(texts.len() > 4);
    for text in texts {
        let value: Value = toml::from_str(&text).unwrap();
        check(&schema, &value, "recipe").unwrap();
    }
    for wrong in [
        "[train]\nbatchsize = 4",
        "[train]\nbatch_size = -4",
        "[train]\nlr_schedule = \"cosin\"",
        "[generate]\nbatch_size = \"many\"",
        "[train]\nar_weight = { from = 1.0, till = 2.0 }",
    ] {
        let value: Value = toml::from_str(wrong).unwrap();
        assert!(check(&schema, &value, "recipe").is_err(), "{wrong}");
    }
}

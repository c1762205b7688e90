//! What the fuzz targets run: a parser of ours on any bytes. It may return an error, and must not panic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use jacobi_cli::recipe::Recipe;
use jacobi_datasets::schema::trajectory::seal;
use jacobi_datasets::{
    Manifest, Message, Prompt, PromptFormat, PromptsConfig, Responses, Role, Tokenizer, read_all,
    read_prompts, read_shard,
};
use jacobi_model::Architecture;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value};
use tempfile::TempDir;

#[path = "../../tests/case_model.rs"]
mod case_model;

use case_model::{ModelSpec, write_model};

static SCRATCH: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

/// Writes a file of the input.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = SCRATCH.path().join(name);
    fs_err::write(&path, bytes).expect("a temporary file");
    path
}

/// The directory of the tiny model of tests/cases, made once.
fn model_dir() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let dir = SCRATCH.path().join("model");
        write_model(&dir, &ModelSpec::default(), Path::new(""));
        dir
    });
    &DIR
}

/// A file of prompts in JSON, CSV or TSV, also compressed, under recipes that read its columns in several ways.
pub fn prompts(bytes: &[u8]) {
    // The pages of Parquet files are read by the parquet crate.
    if bytes.starts_with(b"PAR1") {
        return;
    }
    let path = file("prompts.jsonl", bytes);
    let id_column = Some("id".to_owned());
    let plain = PromptsConfig { path, id_column, ..PromptsConfig::default() };
    let conversation = |column: &str| PromptsConfig {
        messages_column: Some(column.to_owned()),
        role_map: BTreeMap::from([("bing".to_owned(), Role::Assistant)]),
        system: Some("s".to_owned()),
        ..plain.clone()
    };
    let templates = PromptsConfig {
        template: Some("{{ prompt }}".to_owned()),
        answer_template: Some("{{ answer }}".to_owned()),
        filter_column: Some("domain".to_owned()),
        filter_drop: vec!["a".to_owned()],
        ..plain.clone()
    };
    let values = |format| PromptsConfig { format, ..plain.clone() };
    for config in [
        conversation("messages"),
        conversation("conversations"),
        templates,
        values(PromptFormat::Csv),
        values(PromptFormat::Tsv),
        plain.clone(),
    ] {
        drop(read_prompts(&config));
    }
}

/// A file of responses, matched to prompts.
pub fn responses(bytes: &[u8]) {
    static TOKENIZER: LazyLock<Tokenizer> =
        LazyLock::new(|| Tokenizer::load(model_dir()).expect("the tiny model"));
    if bytes.starts_with(b"PAR1") {
        return;
    }
    let Ok(responses) = Responses::read(&file("responses.jsonl", bytes)) else { return };
    let mut matching = responses.matching();
    for (id, text) in [("q1", "2+2? a"), ("q2", "3+3? b"), ("fine", "hi"), ("q1", "2+2? a")] {
        let messages = vec![Message::new("user", text)];
        let prompt = Prompt { id: id.to_owned(), messages, tools: None, answer: None, response: None };
        let tokens = TOKENIZER.encode_chat(&prompt).expect("a short prompt");
        drop(matching.take(&prompt, &tokens, &TOKENIZER));
    }
}

/// config.json.
pub fn config_json(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return };
    let Ok(architecture) = Architecture::from_json(&json, Path::new("config.json")) else { return };
    let numbers = (architecture.context_length(), architecture.parameter_count(), architecture.group_size());
    assert!(numbers.0 > 0 && numbers.2 > 0, "{numbers:?}");
}

/// The files of a tokenizer directory besides tokenizer.json: after a line `--- NAME`, the text of that file.
pub fn tokenizer_dir(bytes: &[u8]) {
    const NAMES: [&str; 6] = [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
        "config.json",
    ];
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let dir = model_dir();
    for name in NAMES {
        drop(fs_err::remove_file(dir.join(name)));
    }
    for part in text.split("--- ").skip(1) {
        let Some((name, content)) = part.split_once('\n') else { continue };
        if NAMES.contains(&name) {
            fs_err::write(dir.join(name), content).expect("a temporary file");
        }
    }
    let Ok(tokenizer) = Tokenizer::load(dir) else { return };
    if is_cheap(text) {
        let messages = [Message::new("system", "s"), Message::new("user", "hi <|im_end|>")];
        drop(tokenizer.encode_chat(&messages[..]));
    }
    if let Ok(ids) = tokenizer.encode("hi<s> [assistant]") {
        tokenizer.decode(&ids);
    }
}

/// Templates may loop and multiply texts for as long as they like.
fn is_cheap(template: &str) -> bool {
    let has_large_number =
        template.split(|c: char| !c.is_ascii_digit() && c != '_').any(|digits| digits.len() > 2);
    template.matches("for").count() < 3
        && !template.contains("range")
        && !template.contains('*')
        && !has_large_number
}

/// manifest.json of a directory of shards, and the metadata of a shard: lines `KEY=VALUE`, or a whole Parquet file.
pub fn shards(bytes: &[u8]) {
    if bytes.starts_with(b"PAR1") {
        let path = file("damaged.parquet", bytes);
        drop(read_shard(&path));
        return;
    }
    let dir = file("manifest.json", bytes).parent().expect("a directory").to_path_buf();
    if let Ok(Some(manifest)) = Manifest::load(&dir) {
        manifest.bytes();
        drop(read_all(&dir));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let entries =
        pairs.map(|(key, value)| KeyValue::new(format!("jacobi.{key}"), value.to_owned())).collect();
    drop(read_shard(&file("shard.parquet", &shard(entries))));
}

/// A Parquet file without rows, with its digest: without, nothing of it would be read.
fn shard(entries: Vec<KeyValue>) -> Vec<u8> {
    let schema = parse_message_type("message m { required int32 a; }").expect("a schema");
    let properties = WriterProperties::builder().set_key_value_metadata(Some(entries)).build();
    let writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties));
    seal(writer.and_then(SerializedFileWriter::into_inner).expect("a file in memory"))
}

/// A recipe, with the `--set` arguments that are behind `#set ` in it. A resolved recipe resolves to itself.
pub fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let assignments: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("#set ")).map(str::to_owned).collect();
    let Ok(recipe) = Recipe::load(&file("recipe.toml", bytes), &assignments) else { return };
    let resolved = recipe.to_toml();
    let again = Recipe::load(&file("resolved.toml", resolved.as_bytes()), &[]);
    assert_eq!(again.expect("a resolved recipe is valid").to_toml(), resolved);
}

//! Files made by hand: what is read, what is refused, and a whole conversion of a two-head model.

use super::*;

/// Writes the format; the least that the tests need.
struct Writer {
    metadata: Vec<u8>,
    metadata_count: u64,
    table: Vec<u8>,
    table_count: u64,
    data: Vec<u8>,
}

impl Writer {
    fn new() -> Self {
        Self { metadata: Vec::new(), metadata_count: 0, table: Vec::new(), table_count: 0, data: Vec::new() }
    }

    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) -> &mut Self {
        text(&mut self.metadata, key);
        self.metadata.extend(kind.to_le_bytes());
        self.metadata.extend(value);
        self.metadata_count += 1;
        self
    }

    fn size(&mut self, key: &str, value: u32) -> &mut Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    fn float(&mut self, key: &str, value: f32) -> &mut Self {
        self.entry(key, 6, &value.to_le_bytes())
    }

    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        let mut bytes = Vec::new();
        text(&mut bytes, value);
        self.entry(key, 8, &bytes)
    }

    fn texts(&mut self, key: &str, values: &[&str]) -> &mut Self {
        let mut bytes = [8u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|value| text(&mut bytes, value));
        self.entry(key, 9, &bytes)
    }

    /// `shape` is rows first.
    fn tensor(&mut self, name: &str, shape: &[u64], kind: u32, bytes: &[u8]) -> &mut Self {
        text(&mut self.table, name);
        self.table.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|dim| self.table.extend(dim.to_le_bytes()));
        self.table.extend(kind.to_le_bytes());
        self.table.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.table_count += 1;
        self
    }

    fn floats(&mut self, name: &str, shape: &[u64], first: f32) -> &mut Self {
        let count = shape.iter().product::<u64>();
        let bytes: Vec<u8> = (0..count).flat_map(|i| (first + i as f32).to_le_bytes()).collect();
        self.tensor(name, shape, 0, &bytes)
    }

    fn finish(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.table_count.to_le_bytes());
        out.extend(self.metadata_count.to_le_bytes());
        out.extend(&self.metadata);
        out.extend(&self.table);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}

/// One layer, two query heads and one key head of width 4, hidden 8, inner 6, three tokens.
fn tiny_metadata() -> Writer {
    let mut writer = Writer::new();
    writer
        .text("general.architecture", "llama")
        .size("llama.block_count", 1)
        .size("llama.context_length", 64)
        .size("llama.embedding_length", 8)
        .size("llama.feed_forward_length", 6)
        .size("llama.attention.head_count", 2)
        .size("llama.attention.head_count_kv", 1)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .float("llama.rope.freq_base", 100_000.0)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &["<e>", "a", "b"])
        .entry("tokenizer.ggml.token_type", 9, &{
            let mut bytes = [5u32.to_le_bytes().as_slice(), &3u64.to_le_bytes()].concat();
            [3i32, 1, 1].iter().for_each(|kind| bytes.extend(kind.to_le_bytes()));
            bytes
        })
        .texts("tokenizer.ggml.merges", &["a b"])
        .size("tokenizer.ggml.eos_token_id", 0)
        .entry("tokenizer.ggml.add_bos_token", 7, &[1])
        .text("tokenizer.chat_template", "{{ messages }}");
    writer
}

fn tiny_tensors(writer: &mut Writer) -> &mut Writer {
    writer
        .floats("token_embd.weight", &[3, 8], 0.0)
        .floats("output_norm.weight", &[8], 1.0)
        .floats("blk.0.attn_norm.weight", &[8], 2.0)
        .floats("blk.0.attn_q.weight", &[8, 8], 0.0)
        .floats("blk.0.attn_k.weight", &[4, 8], 0.0)
        .floats("blk.0.attn_v.weight", &[4, 8], 0.0)
        .floats("blk.0.attn_output.weight", &[8, 8], 0.0)
        .floats("blk.0.ffn_norm.weight", &[8], 3.0)
        .floats("blk.0.ffn_gate.weight", &[6, 8], 0.0)
        .floats("blk.0.ffn_up.weight", &[6, 8], 0.0)
        .floats("blk.0.ffn_down.weight", &[8, 6], 0.0)
}

/// What `convert` says of `bytes`, and the directory it wrote to.
fn converted(bytes: &[u8]) -> (tempfile::TempDir, Result<TokenizerMetadata, GgufError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    fs_err::write(&path, bytes).unwrap();
    let outcome = convert(&path, &dir.path().join("out"));
    (dir, outcome)
}

fn refusal(bytes: &[u8]) -> String {
    let (dir, outcome) = converted(bytes);
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("tiny.gguf"), "{message}");
    assert!(!dir.path().join("out").exists(), "written in spite of {message}");
    message
}

#[test]
fn a_tiny_model_is_converted_whole() {
    let (dir, outcome) = converted(&tiny_tensors(&mut tiny_metadata()).finish());
    let tokenizer = outcome.unwrap();
    assert_eq!(tokenizer.tokens, ["<e>", "a", "b"]);
    assert_eq!((tokenizer.token_types, tokenizer.merges), (vec![3, 1, 1], vec!["a b".to_owned()]));
    assert_eq!((tokenizer.eos_token_id, tokenizer.bos_token_id), (Some(0), None));
    assert!(tokenizer.add_bos_token && !tokenizer.add_space_prefix);

    let config = fs_err::read_to_string(dir.path().join("out/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    for (field, value) in [
        ("rms_norm_eps", serde_json::json!(1e-5)),
        ("rope_theta", serde_json::json!(100_000.0)),
        ("tie_word_embeddings", true.into()),
        ("head_dim", 4.into()),
        ("vocab_size", 3.into()),
        ("eos_token_id", 0.into()),
        ("rope_scaling", serde_json::Value::Null),
    ] {
        assert_eq!(config[field], value, "{field}");
    }

    let bytes = fs_err::read(dir.path().join("out/model.safetensors")).unwrap();
    let weights = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(weights.len(), 11);
    let first_of_rows = |name: &str| -> Vec<f32> {
        let tensor = weights.tensor(name).unwrap();
        let row = tensor.shape()[1] * 2;
        tensor.data().chunks(row).map(|row| half::bf16::from_le_bytes([row[0], row[1]]).to_f32()).collect()
    };
    let query = first_of_rows("model.layers.0.self_attn.q_proj.weight");
    assert_eq!(
        query,
        [0.0, 16.0, 8.0, 24.0, 32.0, 48.0, 40.0, 56.0],
        "even rows of a head first, then odd ones"
    );
    let value = first_of_rows("model.layers.0.self_attn.v_proj.weight");
    assert_eq!(value, [0.0, 8.0, 16.0, 24.0], "no rotary pairs in v");
}

#[test]
fn an_untied_head_and_linear_scaling_reach_the_config() {
    let mut writer = tiny_metadata();
    writer.text("llama.rope.scaling.type", "linear").float("llama.rope.scaling.factor", 4.0);
    tiny_tensors(&mut writer).floats("output.weight", &[3, 8], 5.0);
    let (dir, outcome) = converted(&writer.finish());
    outcome.unwrap();
    let config = fs_err::read_to_string(dir.path().join("out/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
    assert_eq!(config["rope_scaling"], serde_json::json!({"rope_type": "linear", "factor": 4.0}));
}

#[test]
fn what_would_be_converted_wrongly_is_refused_by_name() {
    let with = |change: fn(&mut Writer)| {
        let mut writer = tiny_metadata();
        change(&mut writer);
        tiny_tensors(&mut writer).finish()
    };
    let rows: &[(Vec<u8>, &str)] = &[
        (with(|w| _ = w.size("llama.expert_count", 8)), "llama.expert_count"),
        (with(|w| _ = w.text("llama.rope.scaling.type", "yarn")), "yarn"),
        (with(|w| _ = w.size("llama.rope.dimension_count", 2)), "llama.rope.dimension_count"),
        (with(|w| _ = w.size("llama.vocab_size", 4)), "llama.vocab_size"),
        (with(|w| _ = w.size("tokenizer.ggml.bos_token_id", 3)), "tokenizer.ggml.bos_token_id"),
        (with(|w| _ = w.size("llama.block_count", 1)), "given twice"),
        (with(|w| _ = w.size("general.alignment", 3)), "general.alignment"),
        (with(|w| _ = w.floats("rope_freqs.weight", &[2], 1.0)), "rope_freqs.weight"),
        (with(|w| _ = w.tensor("odd", &[256], 10, &[0; 84])), "Q2_K"),
        (with(|w| _ = w.tensor("odd", &[33], 8, &[0; 68])), "no whole blocks"),
        (with(|w| _ = w.tensor("odd", &[u64::MAX, 32], 8, &[])), "overflows"),
        (with(|w| _ = w.entry("flag", 7, &[2])), "bool of value 2"),
        (with(|w| _ = w.entry("odd", 13, &[])), "value type 13"),
        (tiny_metadata().finish(), "token_embd.weight"),
        (Writer::new().text("general.architecture", "mamba").finish(), "mamba"),
        (Writer::new().finish(), "general.architecture"),
    ];
    for (bytes, named) in rows {
        let message = refusal(bytes);
        assert!(message.contains(named), "{named}: {message}");
    }
}

#[test]
fn a_file_of_another_format_or_version_is_refused() {
    let with_version = |version: u32| [b"GGUF".as_slice(), &version.to_le_bytes(), &[0; 16]].concat();
    for (bytes, named) in [
        (Vec::new(), "not a GGUF file"),
        (b"PK\x03\x04zip".to_vec(), "not a GGUF file"),
        (with_version(1), "version 1"),
        (with_version(3u32.swap_bytes()), "little-endian"),
    ] {
        let message = refusal(&bytes);
        assert!(message.contains(named), "{named}: {message}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = tiny_tensors(&mut tiny_metadata()).finish();
    // The last tensor, 192 bytes, fills its alignment: no byte of the file may be missing.
    for len in (4..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let error = GgufFile::parse(Path::new("tiny.gguf"), whole[..len].to_vec()).unwrap_err();
        assert!(matches!(error, GgufError::Truncated { .. }), "cut to {len} bytes: {error}");
    }
    assert!(GgufFile::parse(Path::new("tiny.gguf"), whole).is_ok());
}

#[test]
fn false_lengths_and_nesting_end_in_an_error_not_in_an_allocation() {
    let endless = [8u32.to_le_bytes().as_slice(), &u64::MAX.to_le_bytes()].concat();
    let nested = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat().repeat(6);
    for value in [endless, nested] {
        let bytes = Writer::new().entry("list", 9, &value).finish();
        assert!(GgufFile::parse(Path::new("tiny.gguf"), bytes).is_err());
    }
}

#[test]
fn every_metadata_type_is_read() {
    let mut writer = Writer::new();
    let rows: &[(u32, Vec<u8>, Value)] = &[
        (0, vec![200], Value::U8(200)),
        (1, vec![200], Value::I8(-56)),
        (2, 60_000u16.to_le_bytes().into(), Value::U16(60_000)),
        (3, (-2i16).to_le_bytes().into(), Value::I16(-2)),
        (4, 7u32.to_le_bytes().into(), Value::U32(7)),
        (5, (-7i32).to_le_bytes().into(), Value::I32(-7)),
        (6, 0.5f32.to_le_bytes().into(), Value::F32(0.5)),
        (7, vec![1], Value::Bool(true)),
        (8, [2u64.to_le_bytes().as_slice(), b"hi"].concat(), Value::String("hi".into())),
        (
            9,
            [0u32.to_le_bytes().as_slice(), &1u64.to_le_bytes(), &[9]].concat(),
            Value::Array(vec![Value::U8(9)]),
        ),
        (10, u64::MAX.to_le_bytes().into(), Value::U64(u64::MAX)),
        (11, i64::MIN.to_le_bytes().into(), Value::I64(i64::MIN)),
        (12, 0.25f64.to_le_bytes().into(), Value::F64(0.25)),
    ];
    for (kind, bytes, _) in rows {
        writer.entry(&kind.to_string(), *kind, bytes);
    }
    let file = GgufFile::parse(Path::new("tiny.gguf"), writer.finish()).unwrap();
    for (kind, _, value) in rows {
        assert_eq!(&file.metadata()[&kind.to_string()], value);
    }
}

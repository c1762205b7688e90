//! The shapes that are measured, and how much of each.

use serde_json::{Map, Value};

/// A model's config.json, and what it is called in figures.
pub struct Shape {
    pub name: &'static str,
    pub config: Value,
    /// Layers that are trained: as many as fit into the memory of one GPU with their optimizer state.
    pub trained_layers: i64,
}

/// How much is measured.
pub struct Scale {
    pub rounds: usize,
    /// Tokens before a pass.
    pub contexts: [usize; 3],
    /// Rows of a pass, and the tokens before it.
    pub widths: &'static [usize],
    pub width_context: usize,
    /// Passes that are timed together.
    pub passes: usize,
    /// Passes of a multi-block decoder.
    pub decoder_passes: usize,
    /// Requests side by side, their prompts, their responses.
    pub slots: usize,
    pub prompt: usize,
    pub response: usize,
    /// Packed tokens of a row in training, and rows of a step.
    pub row_tokens: usize,
    pub rows: usize,
    /// Size of the square matrices whose product is the peak, and elements that are copied.
    pub product: i64,
    pub copied: i64,
}

impl Scale {
    pub fn full() -> Self {
        Self {
            rounds: 3,
            contexts: [1, 2048, 7936],
            widths: &[1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512],
            width_context: 512,
            passes: 32,
            decoder_passes: 64,
            slots: 256,
            prompt: 64,
            response: 128,
            row_tokens: 8192,
            rows: 2,
            product: 8192,
            copied: 1 << 29,
        }
    }

    pub fn smoke() -> Self {
        Self {
            rounds: 1,
            contexts: [1, 16, 48],
            widths: &[1, 2, 8, 12],
            width_context: 8,
            passes: 2,
            decoder_passes: 4,
            slots: 3,
            prompt: 4,
            response: 6,
            row_tokens: 512,
            rows: 1,
            product: 64,
            copied: 1 << 12,
        }
    }
}

/// Both shapes, the smaller one first; for a smoke run tiny ones with the same switches.
pub fn all(smoke: bool) -> Vec<Shape> {
    let shapes = [
        ("smollm2-135m", include_str!("../../model-configs/smollm2-135m-instruct.json"), 30),
        ("qwen2.5-7b", include_str!("../../model-configs/qwen2.5-coder-7b-instruct.json"), 8),
    ];
    let shape = |(name, text, trained_layers)| {
        let mut config: Value = serde_json::from_str(text).expect("a committed config.json");
        if smoke {
            shrink(config.as_object_mut().expect("a config.json is an object"));
        }
        Shape { name, config, trained_layers: if smoke { 1 } else { trained_layers } }
    };
    shapes.into_iter().map(shape).collect()
}

fn shrink(config: &mut Map<String, Value>) {
    let sizes = [
        ("hidden_size", 48),
        ("intermediate_size", 64),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 6),
        ("num_key_value_heads", 2),
        ("vocab_size", 300),
        ("max_position_embeddings", 1024),
    ];
    for (field, value) in sizes {
        config.insert(field.into(), value.into());
    }
    config.remove("head_dim");
}

/// `config` with some fields replaced.
pub fn with(config: &Value, fields: &[(&str, i64)]) -> Value {
    let mut config = config.clone();
    for (field, value) in fields {
        config[*field] = (*value).into();
    }
    config
}

/// A directory that holds it.
pub fn directory(config: &Value) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs_err::write(folder.path().join("config.json"), config.to_string())?;
    Ok(folder)
}

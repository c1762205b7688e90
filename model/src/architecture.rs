//! The shape of a model: what config.json says, checked field by field. One function per family.
//!
//! A field that would change the forward pass and is not supported is an error that names it; a field that is
//! not known at all is an error too, because ignoring it could change the model silently.

use std::path::Path;

use jacobi_torch_ext::HeadShape;
use serde_json::{Map, Value};

use crate::{ModelError, rope::RopeConfig};

/// The families whose config.json is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `LlamaForCausalLM`.
    Llama,
    /// `Qwen2ForCausalLM` (Qwen2 and Qwen2.5): biases on q, k and v.
    Qwen2,
    /// `Qwen3ForCausalLM`: RMSNorm on every query and key head.
    Qwen3,
    /// `MistralForCausalLM`: as Llama, with a sliding window in its first version.
    Mistral,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Mistral];

    /// As `architectures` and as `model_type` of config.json name it.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Llama => ("LlamaForCausalLM", "llama"),
            Self::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            Self::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
            Self::Mistral => ("MistralForCausalLM", "mistral"),
        }
    }
}

/// Sizes and switches of one Transformer.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "families differ by independent switches")]
pub struct Architecture {
    /// The family.
    pub family: Family,
    /// Rows of the embedding, V.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Number of decoder layers.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads; a divisor of the query heads.
    pub num_key_value_heads: i64,
    /// Width of one head.
    pub head_dim: i64,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f64,
    /// Standard deviation of random initialisation.
    pub initializer_range: f64,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Biases on the q, k and v projections.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub output_bias: bool,
    /// RMSNorm on every query and key head, before the rotation.
    pub qk_norm: bool,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Longest context of the rotary embedding, in tokens.
    pub max_position_embeddings: i64,
    /// How many tokens back a token sees; `None`: all.
    pub sliding_window: Option<i64>,
    /// `torch_dtype` as stored.
    pub stored_dtype: Option<String>,
    /// config.json as read: written back with every checkpoint.
    pub config_json: Map<String, Value>,
}

/// Fields that do not change the forward pass.
const NEUTRAL: &[&str] = &[
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "_name_or_path",
    "attention_dropout",
    "is_llama_config",
    "max_window_layers",
    "sliding_window",
    "transformers.js_config",
    "unk_token_id",
    "_attn_implementation_autoset",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "problem_type",
];

/// Fields that are read below.
const READ: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "initializer_range",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "tie_word_embeddings",
    "max_position_embeddings",
];

/// Fields supported with one value only, as JSON text.
const FIXED: &[(&str, &str)] = &[
    ("hidden_act", "\"silu\""),
    ("mlp_bias", "false"),
    ("pretraining_tp", "1"),
    ("rope_interleaved", "false"),
    ("use_sliding_window", "false"),
    ("use_mrope", "false"),
];

impl Architecture {
    /// Reads `dir/config.json`.
    ///
    /// # Errors
    /// Missing or malformed file; a family, field or value that is not supported, by name.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        if !dir.is_dir() {
            return Err(ModelError::NoDirectory { path: dir.to_path_buf() });
        }
        let path = dir.join("config.json");
        if !path.is_file() {
            return Err(ModelError::MissingFile { dir: dir.to_path_buf(), file: "config.json".into() });
        }
        let text = fs_err::read_to_string(&path)?;
        let json: Map<String, Value> = serde_json::from_str(&text).map_err(|e| ModelError::json(&path, e))?;
        Self::from_json(&json, &path)
    }

    /// Reads a parsed config.json; `path` is for messages.
    ///
    /// # Errors
    /// A family, field or value that is not supported, by name.
    pub fn from_json(json: &Map<String, Value>, path: &Path) -> Result<Self, ModelError> {
        let config = Fields { json, path };
        let family = config.family()?;
        config.check_known()?;
        match family {
            Family::Llama => config.llama(),
            Family::Qwen2 => config.qwen2(),
            Family::Qwen3 => config.qwen3(),
            Family::Mistral => config.mistral(),
        }
    }

    /// Longest context that is computed exactly, in tokens: within a sliding window attention is plain causal
    /// attention, beyond it nothing is computed at all.
    pub fn context_length(&self) -> i64 {
        self.sliding_window.map_or(self.max_position_embeddings, |w| w.min(self.max_position_embeddings))
    }

    /// Number of parameters; a tied head counts once.
    pub fn parameter_count(&self) -> usize {
        let (queries, keys) =
            (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let attention = self.hidden_size * (2 * queries + 2 * keys)
            + if self.qkv_bias { queries + 2 * keys } else { 0 }
            + if self.output_bias { self.hidden_size } else { 0 }
            + if self.qk_norm { 2 * self.head_dim } else { 0 };
        let layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size;
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        let outside = embeddings * self.vocab_size * self.hidden_size + self.hidden_size;
        (self.num_hidden_layers * layer + outside) as usize
    }

    /// Query heads per key/value head.
    pub fn group_size(&self) -> i64 {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// The heads of attention.
    pub(crate) fn heads(&self) -> HeadShape {
        HeadShape {
            queries: self.num_attention_heads as usize,
            keys: self.num_key_value_heads as usize,
            width: self.head_dim as usize,
        }
    }
}

/// config.json and its path, read field by field.
struct Fields<'a> {
    json: &'a Map<String, Value>,
    path: &'a Path,
}

impl Fields<'_> {
    fn llama(&self) -> Result<Architecture, ModelError> {
        let bias = self.bool("attention_bias", false)?;
        Ok(Architecture { qkv_bias: bias, output_bias: bias, ..self.common(Family::Llama)? })
    }

    fn qwen2(&self) -> Result<Architecture, ModelError> {
        Ok(Architecture { qkv_bias: true, ..self.common(Family::Qwen2)? })
    }

    fn qwen3(&self) -> Result<Architecture, ModelError> {
        let bias = self.bool("attention_bias", false)?;
        let common = self.common(Family::Qwen3)?;
        Ok(Architecture { qkv_bias: bias, output_bias: bias, qk_norm: true, ..common })
    }

    fn mistral(&self) -> Result<Architecture, ModelError> {
        // Absent, it is 4096: the default of the first Mistral. Later ones have it null.
        let sliding_window = match self.json.get("sliding_window") {
            Some(Value::Null) => None,
            _ => Some(self.size("sliding_window", Some(4096))?),
        };
        Ok(Architecture { sliding_window, ..self.common(Family::Mistral)? })
    }

    /// What the families share, with every switch off.
    fn common(&self, family: Family) -> Result<Architecture, ModelError> {
        let hidden_size = self.size("hidden_size", None)?;
        let heads = self.size("num_attention_heads", None)?;
        let usual_head_dim = if family == Family::Qwen3 { 128 } else { hidden_size / heads };
        let head_dim = self.size("head_dim", Some(usual_head_dim))?;
        let max_position_embeddings = self.size("max_position_embeddings", None)?;
        let kv_heads = self.size("num_key_value_heads", Some(heads))?;
        if heads % kv_heads != 0 {
            return Err(self.unsupported("num_key_value_heads", "it must divide num_attention_heads"));
        }
        let stored = self.json.get("torch_dtype").or_else(|| self.json.get("dtype")).and_then(Value::as_str);
        Ok(Architecture {
            family,
            vocab_size: self.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: self.size("intermediate_size", None)?,
            num_hidden_layers: self.size("num_hidden_layers", None)?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            rms_norm_eps: self.float("rms_norm_eps", Some(1e-6))?,
            initializer_range: self.float("initializer_range", Some(0.02))?,
            rope: RopeConfig::from_json(self.json, self.path, head_dim, max_position_embeddings)?,
            qkv_bias: false,
            output_bias: false,
            qk_norm: false,
            tie_word_embeddings: self.bool("tie_word_embeddings", false)?,
            max_position_embeddings,
            sliding_window: None,
            stored_dtype: stored.map(str::to_owned),
            config_json: self.json.clone(),
        })
    }

    fn family(&self) -> Result<Family, ModelError> {
        let architecture = self.json.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        let model_type = self.json.get("model_type").and_then(Value::as_str);
        let is = |family: &Family| match (architecture, model_type) {
            (Some(name), _) => name == family.names().0,
            (None, name) => name == Some(family.names().1),
        };
        Family::ALL.into_iter().find(is).ok_or_else(|| ModelError::UnsupportedArchitecture {
            path: self.path.to_path_buf(),
            found: architecture.or(model_type).unwrap_or("none given").to_owned(),
            supported: Family::ALL.map(|family| family.names().0).join(", "),
        })
    }

    fn check_known(&self) -> Result<(), ModelError> {
        for (field, value) in self.json {
            let name = field.as_str();
            if let Some((_, supported)) = FIXED.iter().find(|(fixed, _)| *fixed == name) {
                let found = value.to_string();
                if !value.is_null() && found != *supported {
                    return Err(self.unsupported(name, &format!("supported: {supported}")));
                }
            } else if name == "layer_types" {
                let full = |v: &Vec<Value>| v.iter().all(|t| t.as_str() == Some("full_attention"));
                if !value.is_null() && !value.as_array().is_some_and(full) {
                    return Err(self.unsupported(name, "supported: full_attention in every layer"));
                }
            } else if !NEUTRAL.contains(&name) && !READ.contains(&name) {
                return Err(ModelError::UnknownField { path: self.path.to_path_buf(), field: field.clone() });
            }
        }
        Ok(())
    }

    fn unsupported(&self, field: &str, supported: &str) -> ModelError {
        ModelError::UnsupportedValue {
            path: self.path.to_path_buf(),
            field: field.to_owned(),
            value: self.json.get(field).map(Value::to_string).unwrap_or_default(),
            supported: supported.to_owned(),
        }
    }

    fn missing(&self, field: &str, expected: &'static str) -> ModelError {
        ModelError::MissingField { path: self.path.to_path_buf(), field: field.to_owned(), expected }
    }

    fn size(&self, field: &str, default: Option<i64>) -> Result<i64, ModelError> {
        match (self.json.get(field), default) {
            (None | Some(Value::Null), Some(default)) => Ok(default),
            (value, _) => value
                .and_then(Value::as_i64)
                .filter(|n| *n > 0)
                .ok_or_else(|| self.missing(field, "a positive whole number")),
        }
    }

    fn float(&self, field: &str, default: Option<f64>) -> Result<f64, ModelError> {
        match (self.json.get(field), default) {
            (None | Some(Value::Null), Some(default)) => Ok(default),
            (value, _) => value.and_then(Value::as_f64).ok_or_else(|| self.missing(field, "a number")),
        }
    }

    fn bool(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        match self.json.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.missing(field, "true or false")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: &[(&str, Value)]) -> Map<String, Value> {
        let base = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":97,"hidden_size":32,"intermediate_size":64,
            "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-5,
            "max_position_embeddings":64,"rope_theta":10000.0,"hidden_act":"silu","tie_word_embeddings":false}"#;
        let mut json: Map<String, Value> = serde_json::from_str(base).unwrap();
        for (key, value) in change {
            json.insert((*key).to_owned(), value.clone());
        }
        json
    }

    #[test]
    fn a_field_that_would_change_the_model_is_refused_by_name() {
        let rows: &[(&str, Value, &str)] = &[
            ("hidden_act", "gelu".into(), "hidden_act"),
            ("mlp_bias", true.into(), "mlp_bias"),
            ("use_sliding_window", true.into(), "use_sliding_window"),
            ("num_experts", 8.into(), "num_experts"),
            ("vocab_size", (-1).into(), "vocab_size"),
            ("num_key_value_heads", 3.into(), "num_key_value_heads"),
            ("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 4.0}), "yarn"),
            ("rope_scaling", serde_json::json!({"rope_type": "linear"}), "factor"),
            ("architectures", serde_json::json!(["MambaForCausalLM"]), "MambaForCausalLM"),
        ];
        for (field, value, named) in rows {
            let json = config(&[(field, value.clone())]);
            let error = Architecture::from_json(&json, Path::new("m/config.json")).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("m/config.json"), "{field}: {error}");
        }
    }

    #[test]
    fn families_differ_by_their_flags() {
        let llama = Architecture::from_json(&config(&[]), Path::new("c")).unwrap();
        assert!(!llama.qkv_bias && llama.head_dim == 8 && llama.group_size() == 2);
        let qwen = config(&[("architectures", serde_json::json!(["Qwen2ForCausalLM"]))]);
        let qwen = Architecture::from_json(&qwen, Path::new("c")).unwrap();
        assert!(qwen.qkv_bias && !qwen.output_bias && !qwen.qk_norm);
        let qwen3 = config(&[("architectures", serde_json::json!(["Qwen3ForCausalLM"]))]);
        let qwen3 = Architecture::from_json(&qwen3, Path::new("c")).unwrap();
        assert!(qwen3.qk_norm && !qwen3.qkv_bias && qwen3.head_dim == 128);
    }

    #[test]
    fn a_sliding_window_bounds_the_context() {
        let rows: &[(&[(&str, Value)], i64)] = &[
            (&[("sliding_window", Value::Null)], 8192),
            (&[("sliding_window", 16.into())], 16),
            (&[("sliding_window", 16_384.into())], 8192),
            (&[], 4096),
        ];
        for (change, expected) in rows {
            let family = [("model_type", "mistral".into()), ("max_position_embeddings", 8192.into())];
            let mut json = config(&[&family, *change].concat());
            json.remove("architectures");
            let mistral = Architecture::from_json(&json, Path::new("c")).unwrap();
            assert_eq!(
                (mistral.family, mistral.context_length()),
                (Family::Mistral, *expected),
                "{change:?}"
            );
        }
        let error = Architecture::from_json(
            &config(&[
                ("architectures", serde_json::json!(["MistralForCausalLM"])),
                ("sliding_window", 0.into()),
            ]),
            Path::new("c"),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("sliding_window"), "{error}");
    }
}

//! The sizes and switches of a model, read from config.json field by field. One function per family.
//!
//! An unsupported value that would change the forward pass is an error that names its field. So is an unknown
//! field: ignoring it could change the model silently.

use std::path::Path;

use jacobi_torch_ext::HeadShape;
use serde_json::{Map, Value};

use crate::{
    ModelError,
    rope::{RopeConfig, RopeScaling},
};

#[cfg(test)]
mod tests;

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

    /// Its names in config.json: in `architectures`, and as `model_type`.
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
    /// Standard deviation of random weight matrices.
    pub initializer_range: f64,
    /// Rotary embedding.
    pub(crate) rope: RopeConfig,
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
    /// config.json as read; it is written with every checkpoint.
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
        let config = Fields { json, path, prefix: "" };
        let family = config.family()?;
        config.check_known()?;
        match family {
            Family::Llama => config.llama(),
            Family::Qwen2 => config.qwen2(),
            Family::Qwen3 => config.qwen3(),
            Family::Mistral => config.mistral(),
        }
    }

    /// Longest text that is computed, in tokens. A sliding window ends it: within the window, attention is
    /// plain causal attention.
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

/// config.json or an object in it, read field by field.
struct Fields<'a> {
    json: &'a Map<String, Value>,
    path: &'a Path,
    /// Precedes field names in messages: the object's name and a dot, or nothing for config.json itself.
    prefix: &'static str,
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
        // The first Mistral has no such field and a window of 4096; in later ones the field is null.
        let sliding_window = match self.json.get("sliding_window") {
            Some(Value::Null) => None,
            _ => Some(self.size("sliding_window", Some(4096))?),
        };
        Ok(Architecture { sliding_window, ..self.common(Family::Mistral)? })
    }

    /// The fields that all families share; every switch is off.
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
            rope: self.rope(head_dim, max_position_embeddings)?,
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

    fn rope(&self, head_dim: i64, context: i64) -> Result<RopeConfig, ModelError> {
        // transformers 5 writes `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
        let object = |name: &str, prefix| {
            let json = self.json.get(name).and_then(Value::as_object)?;
            Some(Fields { json, prefix, ..*self })
        };
        let table =
            object("rope_parameters", "rope_parameters.").or_else(|| object("rope_scaling", "rope_scaling."));
        let theta = self.float("rope_theta", Some(10_000.0))?;
        let Some(table) = table else {
            return Ok(RopeConfig { theta, scaling: RopeScaling::None, head_dim });
        };
        let field = if table.json.contains_key("rope_type") { "rope_type" } else { "type" };
        let scaling = match table.json.get(field).and_then(Value::as_str).unwrap_or("default") {
            // "Dynamic NTK" changes only texts longer than max_position_embeddings, and none is computed.
            "default" => RopeScaling::None,
            "dynamic" => {
                table.float("factor", None)?;
                RopeScaling::None
            }
            "linear" => RopeScaling::Linear { factor: table.float("factor", None)? },
            "llama3" => RopeScaling::Llama3 {
                factor: table.float("factor", None)?,
                low_freq_factor: table.float("low_freq_factor", None)?,
                high_freq_factor: table.float("high_freq_factor", None)?,
                original_context: table.float("original_max_position_embeddings", Some(context as f64))?,
            },
            _ => return Err(table.unsupported(field, "supported: default, linear, dynamic, llama3")),
        };
        Ok(RopeConfig { theta: table.float("rope_theta", Some(theta))?, scaling, head_dim })
    }

    fn family(&self) -> Result<Family, ModelError> {
        let architecture = self.json.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        let model_type = self.json.get("model_type").and_then(Value::as_str);
        let is = |family: &Family| match (architecture, model_type) {
            (Some(name), _) => name == family.names().0,
            (None, name) => name == Some(family.names().1),
        };
        Family::ALL.into_iter().find(is).ok_or_else(|| {
            let field = if architecture.is_some() { "architectures" } else { "model_type" };
            let names = Family::ALL.map(|family| family.names().0).join(", ");
            self.unsupported(field, &format!("supported: {names}"))
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
                let problem = "is not a known field, and ignoring it could change the model; remove it if it is only a note";
                return Err(self.error(name, problem));
            }
        }
        Ok(())
    }

    fn size(&self, field: &str, default: Option<i64>) -> Result<i64, ModelError> {
        self.value(field, default, "a positive whole number", |value| value.as_i64().filter(|n| *n > 0))
    }

    fn float(&self, field: &str, default: Option<f64>) -> Result<f64, ModelError> {
        self.value(field, default, "a number", Value::as_f64)
    }

    fn bool(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        self.value(field, Some(default), "true or false", Value::as_bool)
    }

    fn value<T>(
        &self,
        field: &str,
        default: Option<T>,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, ModelError> {
        match (self.json.get(field), default) {
            (None | Some(Value::Null), Some(default)) => Ok(default),
            (value, _) => value
                .and_then(read)
                .ok_or_else(|| self.error(field, &format!("is missing or not {expected}"))),
        }
    }

    fn unsupported(&self, field: &str, supported: &str) -> ModelError {
        let value = self.json.get(field).unwrap_or(&Value::Null);
        self.error(field, &format!("= {value} is not supported ({supported})"))
    }

    fn error(&self, field: &str, problem: &str) -> ModelError {
        ModelError::field(self.path, &format!("{}{field}", self.prefix), problem)
    }
}

//! The sizes and switches of a model, read from config.json field by field. One function per family.
//!
//! An unsupported value that would change the forward pass is an error that names its field. So is an unknown
//! field (known.rs): ignoring it could change the model silently.

use std::path::Path;

use jacobi_torch_ext::HeadShape;
use serde_json::{Map, Value};

use crate::{ModelError, fields::Fields, rope::RopeConfig};

mod known;
mod rotary;
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

    /// Key and value heads (`None`: as many as query heads) and `max_position_embeddings` where config.json has no
    /// such field: the defaults of transformers.
    fn defaults(self) -> (Option<i64>, i64) {
        match self {
            Self::Llama => (None, 2048),
            Self::Qwen2 | Self::Qwen3 => (Some(32), 32_768),
            Self::Mistral => (Some(8), 131_072),
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
    /// As stored; [`Architecture::context_length`] is the longest text.
    pub max_position_embeddings: i64,
    /// How many tokens back a token sees; `None`: all.
    pub sliding_window: Option<i64>,
    /// `torch_dtype` as stored.
    pub stored_dtype: Option<String>,
    /// config.json as read; it is written with every checkpoint.
    pub config_json: Map<String, Value>,
}

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
        config.check_known(family)?;
        match family {
            Family::Llama => config.llama(),
            Family::Qwen2 => config.qwen2(),
            Family::Qwen3 => config.qwen3(),
            Family::Mistral => config.mistral(),
        }
    }

    /// Longest text that is computed, in tokens. YaRN can extend `max_position_embeddings`. A sliding window ends
    /// the text: within the window, attention is plain causal attention.
    pub fn context_length(&self) -> i64 {
        let context = self.rope.context(self.max_position_embeddings);
        self.sliding_window.map_or(context, |window| window.min(context))
    }

    /// Number of parameters; a tied head counts once.
    pub fn parameter_count(&self) -> usize {
        // Sizes below 2^31 overflow 64 bits, but not 128.
        let [hidden, head] = [self.hidden_size, self.head_dim].map(i128::from);
        let (queries, keys) =
            (i128::from(self.num_attention_heads) * head, i128::from(self.num_key_value_heads) * head);
        let attention = hidden * (2 * queries + 2 * keys)
            + if self.qkv_bias { queries + 2 * keys } else { 0 }
            + if self.output_bias { hidden } else { 0 }
            + if self.qk_norm { 2 * head } else { 0 };
        let layer = attention + 3 * hidden * i128::from(self.intermediate_size) + 2 * hidden;
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        let outside = embeddings * i128::from(self.vocab_size) * hidden + hidden;
        usize::try_from(i128::from(self.num_hidden_layers) * layer + outside).unwrap_or(usize::MAX)
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
        let head_dim = self.size("head_dim", Some(usual_head_dim).filter(|width| *width > 0))?;
        if head_dim % 2 != 0 {
            return Err(
                self.error("head_dim", &format!("is {head_dim}, an odd width, which cannot be rotated"))
            );
        }
        let (kv_heads, context) = family.defaults();
        let max_position_embeddings = self.size("max_position_embeddings", Some(context))?;
        // A null is as many as query heads.
        let usual_kv_heads = if self.json.contains_key("num_key_value_heads") { None } else { kv_heads };
        let kv_heads = self.size("num_key_value_heads", Some(usual_kv_heads.unwrap_or(heads)))?;
        if heads % kv_heads != 0 {
            return Err(self.unsupported("num_key_value_heads", "it must divide num_attention_heads"));
        }
        let stored = self.get("dtype").or_else(|| self.get("torch_dtype")).and_then(Value::as_str);
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

    fn family(&self) -> Result<Family, ModelError> {
        let architecture = self.json.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        let model_type = self.get("model_type").and_then(Value::as_str);
        let by_type = Family::ALL.into_iter().find(|family| Some(family.names().1) == model_type);
        let by_name = Family::ALL.into_iter().find(|family| Some(family.names().0) == architecture);
        let names = || Family::ALL.map(|family| family.names().0).join(", ");
        match (by_name, by_type) {
            (Some(name), Some(other)) if name != other => {
                let problem = format!("one of the same family as architectures, {}", name.names().0);
                Err(self.unsupported("model_type", &problem))
            }
            (Some(family), _) => Ok(family),
            (None, Some(family)) if architecture.is_none() => Ok(family),
            _ => {
                let field = if architecture.is_some() { "architectures" } else { "model_type" };
                Err(self.unsupported(field, &format!("supported: {}", names())))
            }
        }
    }
}

//! From a parsed GGUF file of the `llama` architecture to `config.json`, `generation_config.json` and bf16 weights.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use half::bf16;
use safetensors::{Dtype, View};
use serde_json::{Map, json};

use super::{GgufError, GgufFile, TensorInfo, TokenizerMetadata, Value};

/// Metadata of the architecture that is read below. Any other `llama.*` key could change the model: an error.
const KNOWN: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.type",
    "vocab_size",
];

/// Above any size in use, and so small that products of two cannot overflow.
const LARGEST: usize = 1 << 24;

/// Converts the `llama`-architecture GGUF file `gguf` into weights and configuration inside `out_dir`, which is created.
///
/// Writes `config.json`, `generation_config.json` and `model.safetensors` (bf16, Hugging Face names and layout: the
/// rotary pairs of the q and k projections, which llama.cpp interleaves, are put back as halves). Each value is
/// dequantised to f32 and rounded to the nearest bf16.
///
/// # Errors
/// A file that is not GGUF, not whole, or of another architecture; metadata or tensors that are missing or that this
/// conversion would get wrong, by name; a directory that cannot be written.
pub fn convert(gguf: &Path, out_dir: &Path) -> Result<TokenizerMetadata, GgufError> {
    let file = GgufFile::open(gguf)?;
    let source = Source { file: &file };
    let shape = source.shape()?;
    let tokenizer = source.tokenizer(&shape)?;
    let config = source.config(&shape, &tokenizer)?;
    let tensors = source.tensors(&shape)?;

    fs_err::create_dir_all(out_dir)?;
    let config_path = out_dir.join("config.json");
    write_json(&config_path, &config)?;
    write_json(&out_dir.join("generation_config.json"), &generation_config(&tokenizer))?;
    let path = out_dir.join("model.safetensors");
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(format), &path)
        .map_err(|source| GgufError::Write { path: path.clone(), source })?;
    // The crate writes through a private temporary file; a model is to be read by whoever may read its config.
    fs_err::set_permissions(&path, fs_err::metadata(&config_path)?.permissions())?;
    fs_err::File::open(&path)?.sync_all()?;
    Ok(tokenizer)
}

fn write_json(path: &Path, value: &Map<String, serde_json::Value>) -> Result<(), GgufError> {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value is always printable");
    text.push('\n');
    Ok(fs_err::write(path, text)?)
}

fn generation_config(tokenizer: &TokenizerMetadata) -> Map<String, serde_json::Value> {
    let ids = [
        ("bos_token_id", tokenizer.bos_token_id),
        ("eos_token_id", tokenizer.eos_token_id),
        ("pad_token_id", tokenizer.padding_token_id),
    ];
    ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), id?.into()))).collect()
}

/// The sizes that shapes follow from.
struct Shape {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_layers: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    context_length: usize,
}

/// A tensor under its Hugging Face name and what it takes to make it.
struct Target<'a> {
    file: &'a GgufFile,
    tensor: &'a TensorInfo,
    /// Heads whose rotary pairs are interleaved.
    rotary_heads: Option<usize>,
}

impl View for Target<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut values = self.file.dequantize(self.tensor);
        if let Some(heads) = self.rotary_heads {
            values = halves_from_pairs(&values, heads, self.tensor.shape[0] / heads);
        }
        values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        self.tensor.shape.iter().product::<usize>() * 2
    }
}

/// Rows of each head from (0, d/2, 1, d/2 + 1, ..), llama.cpp's order, to (0, 1, 2, ..), that of transformers.
fn halves_from_pairs(values: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let width = values.len() / (heads * head_dim);
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for row in 0..head_dim {
            let (half, index) = (row / (head_dim / 2), row % (head_dim / 2));
            let source = head * head_dim + index * 2 + half;
            out.extend_from_slice(&values[source * width..][..width]);
        }
    }
    out
}

/// A file being converted.
struct Source<'a> {
    file: &'a GgufFile,
}

impl<'a> Source<'a> {
    fn shape(&self) -> Result<Shape, GgufError> {
        let architecture = self.text("general.architecture")?;
        if architecture != "llama" {
            return Err(self.unsupported("general.architecture", "supported: llama"));
        }
        for key in self.file.metadata().keys().filter_map(|key| key.strip_prefix("llama.")) {
            if !KNOWN.contains(&key) {
                return Err(self.unsupported(&format!("llama.{key}"), "this key is not known here"));
            }
        }
        let num_heads = self.size("llama.attention.head_count", None)?;
        let hidden_size = self.size("llama.embedding_length", None)?;
        let head_dim = self.size("llama.attention.key_length", Some(hidden_size / num_heads))?;
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            if self.size(key, Some(head_dim))? != head_dim {
                return Err(self.unsupported(key, &format!("it must be the head width, {head_dim}")));
            }
        }
        if head_dim % 2 != 0 {
            return Err(self.unsupported("llama.attention.key_length", "it must be even"));
        }
        let vocab_size = self.array("tokenizer.ggml.tokens")?.len();
        if self.size("llama.vocab_size", Some(vocab_size))? != vocab_size {
            return Err(
                self.unsupported("llama.vocab_size", &format!("the tokenizer has {vocab_size} tokens"))
            );
        }
        Ok(Shape {
            vocab_size,
            hidden_size,
            intermediate_size: self.size("llama.feed_forward_length", None)?,
            num_layers: self.size("llama.block_count", None)?,
            num_heads,
            num_kv_heads: self.size("llama.attention.head_count_kv", Some(num_heads))?,
            head_dim,
            context_length: self.size("llama.context_length", None)?,
        })
    }

    fn tokenizer(&self, shape: &Shape) -> Result<TokenizerMetadata, GgufError> {
        let types = self.array("tokenizer.ggml.token_type")?.iter();
        let types: Vec<u32> = types.filter_map(|kind| u32::try_from(kind.as_u64()?).ok()).collect();
        if types.len() != shape.vocab_size {
            return Err(self.missing("tokenizer.ggml.token_type", "a whole number per token"));
        }
        let metadata = self.file.metadata();
        let flag = |key: &str| matches!(metadata.get(key), Some(Value::Bool(true)));
        Ok(TokenizerMetadata {
            model: self.text("tokenizer.ggml.model")?.to_owned(),
            pre: self.text("tokenizer.ggml.pre")?.to_owned(),
            tokens: self.texts("tokenizer.ggml.tokens")?,
            token_types: types,
            merges: self.texts("tokenizer.ggml.merges")?,
            chat_template: metadata.get("tokenizer.chat_template").and_then(Value::as_str).map(str::to_owned),
            bos_token_id: self.token_id("bos", shape)?,
            eos_token_id: self.token_id("eos", shape)?,
            unknown_token_id: self.token_id("unknown", shape)?,
            padding_token_id: self.token_id("padding", shape)?,
            add_space_prefix: flag("tokenizer.ggml.add_space_prefix"),
            add_bos_token: flag("tokenizer.ggml.add_bos_token"),
            context_length: shape.context_length,
        })
    }

    fn config(
        &self,
        shape: &Shape,
        tokenizer: &TokenizerMetadata,
    ) -> Result<Map<String, serde_json::Value>, GgufError> {
        let tied = !self.file.tensors().iter().any(|tensor| tensor.name == "output.weight");
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "head_dim": shape.head_dim,
            "hidden_act": "silu",
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "max_position_embeddings": shape.context_length,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": shape.num_heads,
            "num_hidden_layers": shape.num_layers,
            "num_key_value_heads": shape.num_kv_heads,
            "pad_token_id": tokenizer.padding_token_id,
            "rms_norm_eps": self.float("llama.attention.layer_norm_rms_epsilon", None)?,
            "rope_scaling": self.rope_scaling()?,
            "rope_theta": self.float("llama.rope.freq_base", Some(10000.0))?,
            "tie_word_embeddings": tied,
            "torch_dtype": "bfloat16",
            "vocab_size": shape.vocab_size,
        });
        let serde_json::Value::Object(config) = config else { unreachable!("json! of braces is an object") };
        Ok(config)
    }

    fn rope_scaling(&self) -> Result<serde_json::Value, GgufError> {
        let key = "llama.rope.scaling.type";
        match self.file.metadata().get(key).map(Value::as_str) {
            None | Some(Some("none")) => Ok(serde_json::Value::Null),
            Some(Some("linear")) => {
                let factor = self.float("llama.rope.scaling.factor", None)?;
                Ok(json!({"rope_type": "linear", "factor": factor}))
            }
            Some(_) => Err(self.unsupported(key, "supported: none, linear")),
        }
    }

    /// Every tensor under its Hugging Face name; all of them there, none left over, each of its shape.
    fn tensors(&self, shape: &Shape) -> Result<Vec<(String, Target<'a>)>, GgufError> {
        let by_name: HashMap<&str, &TensorInfo> =
            self.file.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut left: BTreeSet<&str> = by_name.keys().copied().collect();
        let mut targets = Vec::new();
        for expected in expected_tensors(shape, by_name.contains_key("output.weight")) {
            let found = by_name.get(expected.name.as_str()).copied();
            let Some(tensor) = found.filter(|tensor| tensor.shape == expected.shape) else {
                return Err(GgufError::WrongShape {
                    path: self.file.path().to_path_buf(),
                    found: found.map(|tensor| tensor.shape.clone()),
                    tensor: expected.name,
                    expected: expected.shape,
                });
            };
            left.remove(tensor.name.as_str());
            let target = Target { file: self.file, tensor, rotary_heads: expected.rotary_heads };
            targets.push((expected.hugging_face, target));
        }
        match left.first() {
            None => Ok(targets),
            Some(name) => Err(GgufError::UnknownTensor {
                path: self.file.path().to_path_buf(),
                tensor: (*name).to_owned(),
            }),
        }
    }

    fn token_id(&self, role: &str, shape: &Shape) -> Result<Option<u32>, GgufError> {
        let key = format!("tokenizer.ggml.{role}_token_id");
        let Some(value) = self.file.metadata().get(&key) else { return Ok(None) };
        let id =
            value.as_u64().filter(|id| *id < shape.vocab_size as u64).and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| self.unsupported(&key, "it must be the id of a token"))
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize, GgufError> {
        match (self.file.metadata().get(key), default) {
            (None, Some(default)) => Ok(default),
            (value, _) => value
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok())
                .filter(|n| *n > 0 && *n <= LARGEST)
                .ok_or_else(|| self.missing(key, "a positive whole number of sensible size")),
        }
    }

    /// A number as the shortest decimal that gives the stored f32: 1e-5, not 9.99999974e-6.
    fn float(&self, key: &str, default: Option<f64>) -> Result<f64, GgufError> {
        match (self.file.metadata().get(key), default) {
            (None, Some(default)) => Ok(default),
            (Some(Value::F32(value)), _) if value.is_finite() => {
                Ok(value.to_string().parse().expect("a printed float parses"))
            }
            (Some(Value::F64(value)), _) if value.is_finite() => Ok(*value),
            _ => Err(self.missing(key, "a finite number")),
        }
    }

    fn text(&self, key: &str) -> Result<&'a str, GgufError> {
        self.file.metadata().get(key).and_then(Value::as_str).ok_or_else(|| self.missing(key, "a text"))
    }

    fn array(&self, key: &str) -> Result<&'a [Value], GgufError> {
        self.file.metadata().get(key).and_then(Value::as_array).ok_or_else(|| self.missing(key, "a list"))
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, GgufError> {
        let texts = self.array(key)?.iter().map(|value| value.as_str().map(str::to_owned));
        texts.collect::<Option<_>>().ok_or_else(|| self.missing(key, "a list of texts"))
    }

    fn missing(&self, key: &str, expected: &'static str) -> GgufError {
        GgufError::MissingMetadata { path: self.file.path().to_path_buf(), key: key.to_owned(), expected }
    }

    fn unsupported(&self, key: &str, supported: &str) -> GgufError {
        let value = self.file.metadata().get(key);
        GgufError::UnsupportedMetadata {
            path: self.file.path().to_path_buf(),
            key: key.to_owned(),
            value: value.map_or_else(|| "(default)".to_owned(), |value| format!("{value:?}")),
            supported: supported.to_owned(),
        }
    }
}

/// A tensor that the architecture calls for.
struct Expected {
    name: String,
    hugging_face: String,
    shape: Vec<usize>,
    rotary_heads: Option<usize>,
}

fn expected_tensors(shape: &Shape, untied: bool) -> Vec<Expected> {
    let (hidden, inner) = (shape.hidden_size, shape.intermediate_size);
    let (query, key) = (shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim);
    let whole = |name: &str, hugging_face: &str, shape: &[usize]| Expected {
        name: name.to_owned(),
        hugging_face: hugging_face.to_owned(),
        shape: shape.to_vec(),
        rotary_heads: None,
    };
    let mut all = vec![
        whole("token_embd.weight", "model.embed_tokens.weight", &[shape.vocab_size, hidden]),
        whole("output_norm.weight", "model.norm.weight", &[hidden]),
    ];
    if untied {
        all.push(whole("output.weight", "lm_head.weight", &[shape.vocab_size, hidden]));
    }
    let layer: [(&str, &str, &[usize], Option<usize>); 9] = [
        ("attn_norm", "input_layernorm", &[hidden], None),
        ("attn_q", "self_attn.q_proj", &[query, hidden], Some(shape.num_heads)),
        ("attn_k", "self_attn.k_proj", &[key, hidden], Some(shape.num_kv_heads)),
        ("attn_v", "self_attn.v_proj", &[key, hidden], None),
        ("attn_output", "self_attn.o_proj", &[hidden, query], None),
        ("ffn_norm", "post_attention_layernorm", &[hidden], None),
        ("ffn_gate", "mlp.gate_proj", &[inner, hidden], None),
        ("ffn_up", "mlp.up_proj", &[inner, hidden], None),
        ("ffn_down", "mlp.down_proj", &[hidden, inner], None),
    ];
    for i in 0..shape.num_layers {
        all.extend(layer.iter().map(|(name, hugging_face, shape, rotary_heads)| Expected {
            name: format!("blk.{i}.{name}.weight"),
            hugging_face: format!("model.layers.{i}.{hugging_face}.weight"),
            shape: shape.to_vec(),
            rotary_heads: *rotary_heads,
        }));
    }
    all
}

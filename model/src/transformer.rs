//! Embedding, decoder layers, final norm, head: the plain forward pass over whole sequences, which autograd
//! can follow, and the one over KV caches. The passes of training are in [`crate::training`].
//!
//! Legend: b batch, t tokens, v vocabulary.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::{
    AdaptedRows, Adapter, Architecture, AttentionMask, Compute, ModelError, Rope, RopeTable, StoredAdapter,
    attention::Past,
    digest::{known_weight_hash, weight_hash},
    layer::DecoderLayer,
    norm::RmsNorm,
    weights::{OpenedFiles, WeightSource},
};

/// A decoder-only Transformer of one of the supported families.
pub struct Transformer {
    architecture: Architecture,
    kind: Kind,
    pub(crate) embed_tokens: Tensor,
    pub(crate) layers: Vec<DecoderLayer>,
    pub(crate) norm: RmsNorm,
    pub(crate) lm_head: Tensor,
    parameters: Vec<(String, Tensor)>,
    /// The number of parameters up to the end of each bucket.
    pub(crate) bucket_ends: Vec<usize>,
}

/// Token ids as an int64 tensor `[t]`.
pub fn token_tensor(tokens: &[u32]) -> Tensor {
    let tokens: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    Tensor::from_slice(&tokens)
}

/// A model read from a directory.
pub struct LoadedModel {
    /// The model.
    pub transformer: Transformer,
    dir: PathBuf,
    opened: OpenedFiles,
}

impl LoadedModel {
    /// BLAKE3 of the weight files, which identifies the model. It is worked out when it is asked for.
    ///
    /// # Errors
    /// A weight file that cannot be read any more, or has changed since it was opened.
    pub fn weight_hash(&self) -> Result<String, ModelError> {
        let hash = weight_hash(&self.dir)?;
        self.opened.require_unchanged()?;
        Ok(hash)
    }

    /// The adapter in the directory `dir`, in fp32 on the model's device.
    ///
    /// # Errors
    /// Every way an adapter directory can be wrong, also that it belongs to another model: see [`ModelError`].
    pub fn adapter(&self, dir: &Path) -> Result<Adapter, ModelError> {
        let stored = StoredAdapter::read(dir)?;
        stored.attach(self.transformer.architecture(), &self.weight_hash()?, self.transformer.device())
    }
}

/// Loads `config.json` and the weights of a Hugging Face directory.
///
/// # Errors
/// Every way a directory can be wrong: see [`ModelError`].
pub fn load(dir: &Path, compute: impl Into<Compute>) -> Result<LoadedModel, ModelError> {
    let (architecture, options) = read_config(dir, compute.into())?;
    let (source, opened) = WeightSource::read(dir, options)?;
    let transformer = Transformer::build(architecture, source)?;
    Ok(LoadedModel { transformer, dir: dir.to_path_buf(), opened })
}

/// A model directory as its headers describe it.
pub struct Outline {
    /// Sizes and switches.
    pub architecture: Architecture,
    /// The shape of every parameter, in the order of [`Transformer::parameters`].
    pub parameters: Vec<(String, Vec<i64>)>,
    /// [`LoadedModel::weight_hash`], if this machine has worked it out before.
    pub weight_hash: Option<String>,
}

/// Checks a model directory as [`load`] does, without reading the values of its weights.
///
/// # Errors
/// As [`load`], except for values.
pub fn outline(dir: &Path) -> Result<Outline, ModelError> {
    let architecture = Architecture::from_dir(dir)?;
    let transformer = Transformer::build(architecture, WeightSource::read_headers(dir)?)?;
    let shape = |(name, tensor): &(String, Tensor)| (name.clone(), tensor.size());
    let parameters = transformer.parameters.iter().map(shape).collect();
    Ok(Outline { architecture: transformer.architecture, parameters, weight_hash: known_weight_hash(dir) })
}

/// `dir/config.json`, and the dtype and device to compute with.
fn read_config(dir: &Path, compute: Compute) -> Result<(Architecture, (Kind, Device)), ModelError> {
    let architecture = Architecture::from_dir(dir)?;
    let kind = compute.dtype.resolve(architecture.stored_dtype.as_deref());
    Ok((architecture, (kind, compute.device)))
}

impl Transformer {
    /// Random parameters for `dir/config.json`, drawn on the device; the same device gives the same ones for
    /// a `seed`.
    ///
    /// # Errors
    /// A missing or unsupported config.json.
    pub fn random(dir: &Path, compute: impl Into<Compute>, seed: u64) -> Result<Self, ModelError> {
        let (architecture, options) = read_config(dir, compute.into())?;
        let source = WeightSource::random(architecture.initializer_range, seed, options);
        Self::build(architecture, source)
    }

    fn build(shape: Architecture, mut source: WeightSource) -> Result<Self, ModelError> {
        let (kind, _) = source.options;
        let vocabulary = [shape.vocab_size, shape.hidden_size];
        let mut root = source.root();
        let mut model = root.child("model");
        let embed_tokens = model.child("embed_tokens").take("weight", &vocabulary)?;
        let mut bucket_ends = vec![model.taken()];
        let mut layers = Vec::new();
        for i in 0..shape.num_hidden_layers {
            layers.push(DecoderLayer::new(&mut model.child("layers").child(i), &shape, i as usize)?);
            bucket_ends.push(model.taken());
        }
        let norm = RmsNorm::new(&mut model.child("norm"), shape.hidden_size, shape.rms_norm_eps)?;
        let lm_head = match shape.tie_word_embeddings {
            true => embed_tokens.shallow_clone(),
            false => root.child("lm_head").take("weight", &vocabulary)?,
        };
        bucket_ends.push(root.taken());
        let parameters = source.finish()?;
        Ok(Self { architecture: shape, kind, embed_tokens, layers, norm, lm_head, parameters, bucket_ends })
    }

    /// Sizes and switches.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The compute dtype.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// Every parameter with its Hugging Face name, in a fixed order. The tensors share the model's memory.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// Number of parameters; a tied head counts once.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(|(_, t)| t.numel()).sum()
    }

    /// Rotary table for positions `0..length`.
    pub fn rope_table(&self, length: i64) -> RopeTable {
        RopeTable::new(&self.architecture.rope, length, self.kind, self.device())
    }

    /// Final hidden states `[b, t, hidden]`, after the last norm, of `tokens_bt` (int64); autograd can
    /// follow. The tests compare the passes of training and decoding with it.
    pub fn hidden(&self, tokens_bt: &Tensor, rope: &Rope, mask: &AttentionMask) -> Tensor {
        self.hidden_adapted(tokens_bt, rope, mask, None, &mut |_| {})
    }

    /// As [`Transformer::hidden`]. Some rows (tokens) of every sequence may use an adapter; `observe` sees the embedding and
    /// then every layer's output, before the norm.
    pub fn hidden_adapted(
        &self,
        tokens_bt: &Tensor,
        rope: &Rope,
        mask: &AttentionMask,
        adapted: Option<AdaptedRows>,
        observe: &mut dyn FnMut(&Tensor),
    ) -> Tensor {
        let mask = mask.folded(self.architecture.group_size());
        let mut x = self.embed(tokens_bt);
        observe(&x);
        for layer in &self.layers {
            x = layer.forward(&x, rope, mask.as_ref(), adapted);
            observe(&x);
        }
        self.norm.forward(&x)
    }

    /// Final hidden states `[t, hidden]` of `tokens_t`, which follow the cached tokens of `past`; without
    /// gradients. Projections are stacked, and every addition is fused with the norm that follows it.
    pub(crate) fn infer(
        &self,
        tokens_t: &Tensor,
        rope: &Rope,
        past: &Past,
        adapted: Option<AdaptedRows>,
    ) -> Tensor {
        let mut x = self.embed(tokens_t);
        let norms = self.layers.iter().map(|layer| &layer.input_layernorm).chain([&self.norm]);
        let mut normed = None;
        for ((index, layer), next_norm) in self.layers.iter().enumerate().zip(norms.skip(1)) {
            let input = normed.unwrap_or_else(|| layer.input_layernorm.forward(&x));
            let attended = layer.self_attn.infer(&input, rope, past, (index, adapted));
            let between = layer.post_attention_layernorm.forward_added(&mut x, &attended);
            normed = Some(next_norm.forward_added(&mut x, &layer.mlp.infer(&between, adapted)));
        }
        normed.unwrap_or_else(|| self.norm.forward(&x))
    }

    /// Logits `[.., v]` of hidden states `[.., hidden]`, in the compute dtype.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(&self.lm_head, None::<&Tensor>)
    }

    /// The head's weight `[v, hidden]`.
    pub(crate) fn head_weight(&self) -> Tensor {
        self.lm_head.shallow_clone()
    }
}

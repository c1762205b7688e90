//! Embedding, decoder layers, final norm, head: the forward pass over caches, and the plain one over whole rows, which
//! autograd can follow. That of training is in [`crate::training`].
//!
//! Legend: b batch, t tokens, v vocabulary.

use std::{cell::RefCell, path::Path};

use jacobi_torch_ext::{FixedRows, PassPlan};
use tch::{Device, Kind, Tensor};

use crate::{
    Architecture, AttentionMask, Compute, ModelError, Rope, RopeTable, Shapes,
    attention::{Behind, FoldedMask},
    cache::KvCache,
    fixed::{FixedPasses, Found},
    layer::DecoderLayer,
    norm::RmsNorm,
    weights::WeightSource,
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
    /// Where among the parameters each bucket ends.
    pub(crate) bucket_ends: Vec<usize>,
    pub(crate) shapes: Shapes,
    /// Passes of fixed shape between two sessions.
    pub(crate) idle: RefCell<Option<FixedPasses>>,
}

/// What a pass of fixed shape works on.
pub(crate) struct Context<'a> {
    pub(crate) model: &'a Transformer,
    pub(crate) cache: &'a KvCache,
    pub(crate) rope: &'a RopeTable,
}

/// Token ids as an int64 tensor `[t]`.
pub fn token_tensor(tokens: &[u32]) -> Tensor {
    let tokens: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    Tensor::from_slice(&tokens)
}

/// A model read from a directory, with what identifies it.
pub struct LoadedModel {
    /// The model.
    pub transformer: Transformer,
    /// blake3 of the weight files.
    pub weight_hash: String,
}

/// Loads `config.json` and the weights of a Hugging Face directory.
///
/// # Errors
/// Every way a directory can be wrong: see [`ModelError`].
pub fn load(dir: &Path, compute: impl Into<Compute>) -> Result<LoadedModel, ModelError> {
    let (architecture, Compute { dtype, device }) = (Architecture::from_dir(dir)?, compute.into());
    let kind = dtype.resolve(architecture.stored_dtype.as_deref());
    let (mut source, weight_hash) = WeightSource::read(dir, (kind, device))?;
    let transformer = Transformer::build(architecture, &mut source, kind)?;
    Ok(LoadedModel { transformer: transformer.with_parameters(source.finish()?), weight_hash })
}

impl Transformer {
    /// Random parameters for `dir/config.json`, made where they are kept, reproducible there from `seed`.
    ///
    /// # Errors
    /// A missing or unsupported config.json.
    pub fn random(dir: &Path, compute: impl Into<Compute>, seed: u64) -> Result<Self, ModelError> {
        let (architecture, Compute { dtype, device }) = (Architecture::from_dir(dir)?, compute.into());
        let kind = dtype.resolve(architecture.stored_dtype.as_deref());
        let mut source = WeightSource::random(architecture.initializer_range, seed, (kind, device));
        let transformer = Self::build(architecture, &mut source, kind)?;
        Ok(transformer.with_parameters(source.finish()?))
    }

    fn build(shape: Architecture, source: &mut WeightSource, kind: Kind) -> Result<Self, ModelError> {
        let vocabulary = [shape.vocab_size, shape.hidden_size];
        let mut root = source.root();
        let mut model = root.child("model");
        let embed_tokens = model.child("embed_tokens").take("weight", &vocabulary)?;
        let mut bucket_ends = vec![model.taken()];
        let mut layers = Vec::new();
        for i in 0..shape.num_hidden_layers {
            layers.push(DecoderLayer::new(&mut model.child("layers").child(i), &shape)?);
            bucket_ends.push(model.taken());
        }
        let norm = RmsNorm::new(&mut model.child("norm"), shape.hidden_size, shape.rms_norm_eps)?;
        let lm_head = match shape.tie_word_embeddings {
            true => embed_tokens.shallow_clone(),
            false => root.child("lm_head").take("weight", &vocabulary)?,
        };
        bucket_ends.push(root.taken());
        let shapes = if embed_tokens.device() == Device::Cpu { Shapes::AsTheyCome } else { Shapes::Fixed };
        Ok(Self {
            architecture: shape,
            kind,
            embed_tokens,
            layers,
            norm,
            lm_head,
            parameters: vec![],
            bucket_ends,
            shapes,
            idle: RefCell::default(),
        })
    }

    fn with_parameters(mut self, parameters: Vec<(String, Tensor)>) -> Self {
        self.parameters = parameters;
        self
    }

    /// Has the passes of sessions with one sequence have these shapes: fixed ones by default on a GPU, which repeats them, and
    /// not on a CPU, whose kernels take what comes.
    pub fn set_shapes(&mut self, shapes: Shapes) {
        self.shapes = shapes;
    }

    /// Sizes and switches.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The compute dtype.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// Every parameter under its Hugging Face name, in a fixed order. The handles share storage with the model.
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

    /// Final hidden states `[b, t, hidden]`, after the last norm, of `tokens_bt` (int64); with gradients if they are on: the obvious form,
    /// which the passes of training and decoding are tested against.
    pub fn hidden(&self, tokens_bt: &Tensor, rope: &Rope, mask: &AttentionMask) -> Tensor {
        self.hidden_observed(tokens_bt, rope, mask, &mut |_| {})
    }

    /// As [`Transformer::hidden`]; `observe` sees the embedding and then every layer's output, before the norm.
    pub fn hidden_observed(
        &self,
        tokens_bt: &Tensor,
        rope: &Rope,
        mask: &AttentionMask,
        observe: &mut dyn FnMut(&Tensor),
    ) -> Tensor {
        let mask = FoldedMask::new(mask, self.architecture.group_size());
        let mut x = Tensor::embedding(&self.embed_tokens, tokens_bt, -1, false, false);
        observe(&x);
        for layer in &self.layers {
            x = layer.forward(&x, rope, &mask);
            observe(&x);
        }
        self.norm.forward(&x)
    }

    /// The same for `tokens_t` of several sequences behind their caches, `[t, hidden]`, without gradients: the layers'
    /// equations with stacked projections, and every addition together with the norm that follows it.
    pub(crate) fn infer(
        &self,
        tokens_t: &Tensor,
        rope: &Rope,
        plan: &PassPlan,
        caches: &[&KvCache],
    ) -> Tensor {
        self.infer_behind(tokens_t, rope, &Behind::Caches(plan, caches))
    }

    fn infer_behind(&self, tokens_t: &Tensor, rope: &Rope, behind: &Behind) -> Tensor {
        let mut x = Tensor::embedding(&self.embed_tokens, tokens_t, -1, false, false);
        let norms = self.layers.iter().map(|layer| &layer.input_layernorm).chain([&self.norm]);
        let mut normed = None;
        for ((index, layer), next_norm) in self.layers.iter().enumerate().zip(norms.skip(1)) {
            let input = normed.unwrap_or_else(|| layer.input_layernorm.forward(&x));
            let attended = layer.self_attn.infer(&input, rope, behind, index);
            let between = layer.post_attention_layernorm.forward_added(&mut x, &attended);
            normed = Some(next_norm.forward_added(&mut x, &layer.mlp.infer(&between)));
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

impl Context<'_> {
    /// The pass over `rows` of which `asked` says tokens, depths and how many are cached. Waits for nothing, so that it can be
    /// recorded.
    pub(crate) fn fixed(&self, rows: &FixedRows, asked: &Tensor) -> Found {
        let n = asked.size()[0] / 2;
        let (tokens, depths, cached) =
            (asked.narrow(0, 0, n), asked.narrow(0, n, n), asked.narrow(0, 2 * n, 1));
        // Rows that nobody reads may lie beyond the last position.
        let positions = (depths + &cached).clamp_max(self.rope.len() - 1);
        let behind = Behind::Fixed(rows.behind(&cached), self.cache);
        let hidden_nh = self.model.infer_behind(&tokens, &self.rope.at(&positions), &behind);
        let logits_nv = self.model.logits(&hidden_nh);
        let greedy_n = logits_nv.argmax(-1, false);
        Found { hidden_nh, logits_nv, greedy_n }
    }
}

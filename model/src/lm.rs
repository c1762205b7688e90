//! The seam between decoders and models: token ids in, greedy token ids out. Decoders are tested against scripted
//! fakes of these traits, and run on [`Transformer`].

use tch::{Kind, Tensor};

use crate::{AttentionMask, KvCache, RopeTable, Transformer};

/// A causal language model that can open decoding sessions.
pub trait LanguageModel {
    /// Number of token ids.
    fn vocab_size(&self) -> usize;
    /// Longest sequence, prompt and response together.
    fn context_length(&self) -> usize;
    /// A session with room for `capacity` tokens.
    fn session<'a>(&'a self, capacity: usize) -> Box<dyn Session + 'a>;
}

/// One sequence being decoded: its cached tokens.
pub trait Session {
    /// Tokens cached.
    fn len(&self) -> usize;
    /// Nothing cached yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Tokens there is room for.
    fn capacity(&self) -> usize;
    /// Forgets every cached token from `len` on.
    fn truncate(&mut self, len: usize);
    /// Feeds `tokens` behind the cached ones and caches them. Returns the greedy next token after each fed
    /// position from index `first_output` on.
    fn forward_greedy(&mut self, tokens: &[u32], first_output: usize) -> Vec<u32>;
}

impl LanguageModel for Transformer {
    fn vocab_size(&self) -> usize {
        self.architecture().vocab_size as usize
    }

    fn context_length(&self) -> usize {
        self.architecture().max_position_embeddings as usize
    }

    fn session<'a>(&'a self, capacity: usize) -> Box<dyn Session + 'a> {
        let capacity = capacity as i64;
        Box::new(TransformerSession {
            cache: KvCache::new(self.architecture(), capacity, self.kind(), self.device()),
            rope: self.rope_table(capacity),
            model: self,
        })
    }
}

struct TransformerSession<'a> {
    model: &'a Transformer,
    cache: KvCache,
    rope: RopeTable,
}

impl Session for TransformerSession<'_> {
    fn len(&self) -> usize {
        self.cache.len() as usize
    }

    fn capacity(&self) -> usize {
        self.cache.capacity() as usize
    }

    fn truncate(&mut self, len: usize) {
        self.cache.truncate(len as i64);
    }

    fn forward_greedy(&mut self, tokens: &[u32], first_output: usize) -> Vec<u32> {
        tch::no_grad(|| {
            let (t, cached, device) = (tokens.len() as i64, self.cache.len(), self.model.device());
            let tokens_bt = token_tensor(tokens).to_device(device).unsqueeze(0);
            let mask = AttentionMask::causal(t, cached, self.model.kind(), device);
            let rope = self.rope.range(cached, t);
            let hidden = self.model.hidden(&tokens_bt, &rope, &mask, Some(&mut self.cache));
            let wanted = hidden.narrow(1, first_output as i64, t - first_output as i64).squeeze_dim(0);
            let greedy = self.model.logits(&wanted).argmax(-1, false);
            to_token_ids(&greedy)
        })
    }
}

/// Token ids as an int64 tensor `[t]`.
pub fn token_tensor(tokens: &[u32]) -> Tensor {
    let tokens: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    Tensor::from_slice(&tokens)
}

/// An int64 tensor `[t]` as token ids.
pub fn to_token_ids(tokens: &Tensor) -> Vec<u32> {
    let tokens = tokens.to_device(tch::Device::Cpu).to_kind(Kind::Int64).contiguous();
    let ids = Vec::<i64>::try_from(&tokens).expect("a one-dimensional int64 tensor");
    ids.into_iter().map(|id| u32::try_from(id).expect("token ids are not negative")).collect()
}

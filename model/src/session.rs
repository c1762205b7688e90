//! Decoding sessions of the Transformer: rows of several sequences in one forward pass, packed without padding.
//!
//! Legend: t rows of the pass, h hidden size, v vocabulary.

use std::{
    borrow::Borrow,
    cell::{OnceCell, RefCell},
};

use jacobi_torch_ext::{
    Graph, PassPlan, Span, argmax, column_ids, download, keep_freed_memory, linear, linear_argmax, top,
    upload,
};
use tch::{Device, Kind, Tensor};

use crate::{
    AdaptedRows, Adapter, LanguageModel, Place, Predictions, Record, RopeTable, Rows, Session, Transformer,
    Work, attention::Past, cache::KvCache, fixed::FixedPasses, token_tensor,
};

impl LanguageModel for Transformer {
    fn vocab_size(&self) -> usize {
        self.architecture().vocab_size as usize
    }

    fn context_length(&self) -> usize {
        self.architecture().context_length() as usize
    }

    fn cache_bytes_per_token(&self) -> usize {
        let shape = self.architecture();
        let numbers = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim;
        numbers as usize * self.kind().elt_size_in_bytes()
    }

    fn session<'a>(&'a self, slots: usize, capacity: usize) -> Box<dyn Session + 'a> {
        Box::new(TransformerSession::new(self, None, slots, capacity))
    }
}

/// A [`Transformer`] for decoding on any device. On a GPU, a session of one sequence runs passes of fixed
/// shape; their recordings are kept here for the next session. All other sessions are those of the
/// Transformer itself.
pub struct DecodingModel<M = Transformer> {
    // Fields are dropped in this order: recorded passes before the parameters they read.
    idle: RefCell<Option<FixedPasses>>,
    has_fixed_shapes: bool,
    record: Record,
    adapter: Option<Adapter>,
    model: M,
}

impl<M: Borrow<Transformer>> DecodingModel<M> {
    /// Over `model`, whose parameters must not move in memory as long as this lives.
    pub fn new(model: M) -> Self {
        let has_fixed_shapes = model.borrow().device() != Device::Cpu;
        Self { idle: RefCell::default(), has_fixed_shapes, record: Graph::record, adapter: None, model }
    }

    /// With a copy of `adapter`, if there is one, for the rows that ask for it.
    pub fn with_adapter<'a>(self, adapter: impl Into<Option<&'a Adapter>>) -> Self {
        let model = self.model.borrow();
        let copy = |adapter: &Adapter| adapter.to(model.architecture(), model.kind(), model.device());
        let adapter = adapter.into().map(copy);
        Self { adapter, ..self }
    }

    /// With passes of fixed shape on every device, to compare them on a CPU with passes of any shape.
    pub fn with_fixed_shapes(model: M) -> Self {
        Self { has_fixed_shapes: true, ..Self::new(model) }
    }

    /// With another function that records passes, for tests.
    pub fn recorded_by(self, record: Record) -> Self {
        Self { record, ..self }
    }
}

impl<M: Borrow<Transformer>> LanguageModel for DecodingModel<M> {
    fn vocab_size(&self) -> usize {
        self.model.borrow().vocab_size()
    }

    fn context_length(&self) -> usize {
        self.model.borrow().context_length()
    }

    fn has_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    fn cache_bytes_per_token(&self) -> usize {
        self.model.borrow().cache_bytes_per_token()
    }

    fn session<'a>(&'a self, slots: usize, capacity: usize) -> Box<dyn Session + 'a> {
        let (model, adapter) = (self.model.borrow(), self.adapter.as_ref());
        if slots != 1 || !self.has_fixed_shapes {
            return Box::new(TransformerSession::new(model, adapter, slots, capacity));
        }
        let idle = self.idle.take().filter(|idle| idle.fits(capacity));
        let mut passes = idle.unwrap_or_else(|| FixedPasses::new(model, capacity, self.record));
        passes.cache.truncate(0);
        Box::new(FixedSession { model, adapter, passes: Some(passes), idle: &self.idle })
    }
}

struct TransformerSession<'a> {
    model: &'a Transformer,
    adapter: Option<&'a Adapter>,
    /// By slot.
    caches: Vec<KvCache>,
    rope: RopeTable,
}

impl<'a> TransformerSession<'a> {
    fn new(model: &'a Transformer, adapter: Option<&'a Adapter>, slots: usize, capacity: usize) -> Self {
        // So that every pass reuses the memory of the one before.
        keep_freed_memory();
        Self {
            caches: KvCache::several(model.architecture(), slots, capacity, model.kind(), model.device()),
            // The rows of a pass need room in the cache after the text, but no position is beyond the context.
            rope: model.rope_table(capacity.min(model.context_length()) as i64),
            adapter,
            model,
        }
    }
}

impl Session for TransformerSession<'_> {
    fn cached(&self, slot: usize) -> usize {
        self.caches[slot].len()
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.caches[slot].truncate(len);
    }

    fn keep(&mut self, slot: usize, rows: &[usize]) {
        self.caches[slot].keep(rows);
    }

    fn forward(&mut self, work: &[Work]) -> Box<dyn Predictions> {
        let caches: Vec<&KvCache> = self.caches.iter().collect();
        forward_any_shape((self.model, self.adapter), &caches, &self.rope, work)
    }
}

/// A session of one sequence. Its passes have fixed shapes, except those that fit none: prompts, and passes with an adapter.
struct FixedSession<'a> {
    model: &'a Transformer,
    adapter: Option<&'a Adapter>,
    /// `None` once the session has ended.
    passes: Option<FixedPasses>,
    /// Where the passes go for the next session.
    idle: &'a RefCell<Option<FixedPasses>>,
}

impl FixedSession<'_> {
    fn passes(&mut self) -> &mut FixedPasses {
        self.passes.as_mut().expect("the session has not ended")
    }
}

impl Session for FixedSession<'_> {
    fn cached(&self, _: usize) -> usize {
        self.passes.as_ref().map_or(0, |passes| passes.cache.len())
    }

    fn truncate(&mut self, _: usize, len: usize) {
        self.passes().cache.truncate(len);
    }

    fn keep(&mut self, _: usize, rows: &[usize]) {
        self.passes().cache.keep(rows);
    }

    fn forward(&mut self, work: &[Work]) -> Box<dyn Predictions> {
        let (model, adapter) = (self.model, self.adapter);
        if let [Work { place: Place::End, rows, first_output, .. }] = work
            && let Some(found) = tch::no_grad(|| self.passes().forward(model, rows))
        {
            let count = (rows.len() - first_output) as i64;
            let wanted = |x: &Tensor| x.narrow(0, *first_output as i64, count);
            return Box::new(LazyLogits {
                hidden_th: wanted(&found.hidden_nh),
                head_vh: model.head_weight(),
                logits_tv: wanted(&found.logits_nv).into(),
                greedy_t: Some(wanted(&found.greedy_n)),
                on_host: RefCell::default(),
            });
        }
        let FixedPasses { cache, rope, .. } = self.passes();
        forward_any_shape((model, adapter), &[cache], rope, work)
    }
}

impl Drop for FixedSession<'_> {
    fn drop(&mut self) {
        self.idle.replace(self.passes.take());
    }
}

fn forward_any_shape(
    (model, adapter): (&Transformer, Option<&Adapter>),
    caches: &[&KvCache],
    rope: &RopeTable,
    work: &[Work],
) -> Box<dyn Predictions> {
    tch::no_grad(|| {
        let tokens: Vec<u32> = work.iter().flat_map(|work| work.rows.tokens()).copied().collect();
        let mut tokens_t = token_tensor(&tokens);
        let mut start = 0;
        let mut spans = Vec::with_capacity(work.len());
        for (at, piece) in work.iter().enumerate() {
            let cache = caches[piece.slot];
            check(piece, &work[..at], cache);
            spans.push(span(start, piece, cache.len()));
            start += piece.rows.len();
        }
        let adapted = adapted_rows(adapter, work);
        let angles = match work {
            // They lie side by side in the table.
            [only] if only.rows.is_chain() => {
                upload([&mut tokens_t], model.device());
                rope.range(tokens_before(caches, only) as i64, only.rows.len() as i64)
            }
            _ => {
                let mut positions_t = positions(caches, work);
                upload([&mut tokens_t, &mut positions_t], model.device());
                rope.at(&positions_t)
            }
        };
        // The caches of all layers have the same shapes and strides.
        let first_layer: Vec<[&Tensor; 2]> = caches.iter().map(|cache| cache.layer(0)).collect();
        let plan = PassPlan::new(model.architecture().heads(), spans, &first_layer);
        let hidden = model.infer(&tokens_t, &angles, &Past::AnyShape(&plan, caches), adapted);
        let predictions: Box<dyn Predictions> = Box::new(LazyLogits {
            hidden_th: wanted(&hidden, work),
            head_vh: model.head_weight(),
            logits_tv: OnceCell::new(),
            greedy_t: None,
            on_host: RefCell::default(),
        });
        predictions
    })
}

/// The tokens before the rows.
fn tokens_before(caches: &[&KvCache], work: &Work) -> usize {
    match work.place {
        Place::End => caches[work.slot].len(),
        Place::After(prefix) | Place::Adapted(prefix) => prefix,
    }
}

/// The position of every row in its sequence, int64 `[t]`.
fn positions(caches: &[&KvCache], work: &[Work]) -> Tensor {
    let of_work = |work| {
        let before = tokens_before(caches, work);
        (0..work.rows.len()).map(move |row| (before + work.rows.depth(row)) as i64)
    };
    Tensor::from_slice(&work.iter().flat_map(of_work).collect::<Vec<i64>>())
}

/// The rows of the adapted work, which comes last.
fn adapted_rows<'a>(adapter: Option<&'a Adapter>, work: &[Work]) -> Option<AdaptedRows<'a>> {
    let is_adapted = |work: &Work| matches!(work.place, Place::Adapted(_));
    let at = work.iter().position(is_adapted)?;
    assert!(work[at..].iter().all(is_adapted), "adapted work comes last");
    let first = work[..at].iter().map(|work| work.rows.len()).sum();
    Some(AdaptedRows { adapter: adapter.expect("a model with an adapter"), first })
}

/// `earlier` is the work before it in the pass.
fn check(work: &Work, earlier: &[Work], cache: &KvCache) {
    let rows = work.rows.len();
    assert!(rows > 0, "work has rows");
    match work.place {
        Place::End => {
            let (len, capacity) = (cache.len(), cache.capacity());
            assert!(len + rows <= capacity, "{len} + {rows} tokens in {capacity}");
        }
        Place::After(prefix) => assert!(prefix <= cache.len(), "after {prefix} of {} tokens", cache.len()),
        Place::Adapted(prefix) => {
            let end = earlier.iter().find(|other| other.slot == work.slot && other.place == Place::End);
            let chain = |rows: &Rows| (0..rows.len()).take_while(|&row| rows.depth(row) == row).count();
            let tokens = cache.len() + end.map_or(0, |end| chain(end.rows));
            assert!(prefix <= tokens, "after {prefix} of {tokens} tokens");
        }
    }
}

/// The hidden states of the rows whose predictions are wanted.
fn wanted(hidden: &Tensor, work: &[Work]) -> Tensor {
    if work.iter().all(|work| work.first_output == 0) {
        return hidden.shallow_clone();
    }
    let mut end = 0;
    let parts: Vec<Tensor> = work
        .iter()
        .map(|work| {
            let start = end + work.first_output;
            end += work.rows.len();
            hidden.narrow(0, start as i64, (end - start) as i64)
        })
        .collect();
    if parts.len() == 1 { parts[0].shallow_clone() } else { Tensor::cat(&parts, 0) }
}

fn span(start: usize, work: &Work, cached: usize) -> Span {
    let rows = work.rows;
    let range = start..start + rows.len();
    let parents = || (0..rows.len()).map(|row| rows.parent(row)).collect::<Vec<_>>();
    match work.place {
        Place::End if rows.is_chain() => Span::chain(work.slot, range, cached),
        Place::End => Span::tree(work.slot, range, cached, &parents()),
        Place::After(prefix) | Place::Adapted(prefix) => {
            assert!(rows.is_chain(), "rows after a prefix are a chain");
            Span::uncached(work.slot, range, prefix)
        }
    }
}

/// The most rows of a pass whose logits are stored, since `top` and `logits` may be called after `greedy`. The logits of a
/// batch would take more memory than the weights. On a CPU `linear_argmax` finds the most probable tokens without them, so
/// the limit is that of one text; logits of single rows can be computed again.
fn most_stored_rows(device: Device) -> i64 {
    if device == Device::Cpu { 128 } else { 384 }
}

/// Rows of logits that are copied from a GPU together, for a sampler.
const ROWS_PER_COPY: usize = 16;

/// The hidden states of the wanted rows. Their logits are computed when they are needed.
struct LazyLogits {
    hidden_th: Tensor,
    head_vh: Tensor,
    logits_tv: OnceCell<Tensor>,
    /// The most probable tokens, if the pass computed them.
    greedy_t: Option<Tensor>,
    /// Rows of logits in the host's memory, and the number of the first.
    on_host: RefCell<Option<(usize, Tensor)>>,
}

impl LazyLogits {
    /// Whether the logits of all rows are stored, or may be.
    fn stores_logits(&self) -> bool {
        let rows = self.hidden_th.size()[0];
        self.logits_tv.get().is_some() || rows <= most_stored_rows(self.hidden_th.device())
    }

    fn logits(&self) -> &Tensor {
        self.logits_tv.get_or_init(|| tch::no_grad(|| linear(&self.hidden_th, &self.head_vh, None)))
    }
}

impl Predictions for LazyLogits {
    fn greedy(&self) -> Vec<u32> {
        if let Some(greedy) = &self.greedy_t {
            return column_ids(greedy);
        }
        if !self.stores_logits() {
            return tch::no_grad(|| linear_argmax(&self.hidden_th, &self.head_vh));
        }
        argmax(self.logits())
    }

    fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>> {
        if rows.is_empty() {
            return Vec::new();
        }
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let rows = Tensor::from_slice(&rows).to_device(self.hidden_th.device());
        tch::no_grad(|| {
            let logits = match self.stores_logits() {
                true => self.logits().index_select(0, &rows),
                false => linear(&self.hidden_th.index_select(0, &rows), &self.head_vh, None),
            };
            top(&logits, k)
        })
    }

    fn logits(&self, row: usize) -> Vec<f32> {
        // A sampler asks for one row after the other, and each copy from a GPU waits for it.
        let logits = LazyLogits::logits(self);
        let start = row - row % ROWS_PER_COPY;
        let count = ROWS_PER_COPY.min(logits.size()[0] as usize - start);
        let mut on_host = self.on_host.borrow_mut();
        let piece = on_host.take().filter(|(first, _)| *first == start).unwrap_or_else(|| {
            let copied = download(&logits.narrow(0, start as i64, count as i64));
            (start, copied.expect("work of the GPU"))
        });
        let (_, rows) = on_host.insert(piece);
        let row = rows.get((row - start) as i64).to_kind(Kind::Float).contiguous();
        Vec::<f32>::try_from(&row).expect("a one-dimensional fp32 tensor")
    }
}

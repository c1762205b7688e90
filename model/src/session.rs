//! Decoding sessions of the Transformer: rows of several sequences in one forward pass, packed without padding.
//!
//! Legend: t rows of the pass, v vocabulary.

use jacobi_torch_ext::{Span, argmax, top};
use tch::{Kind, Tensor};

use crate::{
    KvCache, LanguageModel, Predictions, RopeTable, Rows, Session, Transformer, Work, rope::Rope,
    token_tensor,
};

impl LanguageModel for Transformer {
    fn vocab_size(&self) -> usize {
        self.architecture().vocab_size as usize
    }

    fn context_length(&self) -> usize {
        self.architecture().context_length() as usize
    }

    fn session<'a>(&'a self, slots: usize, capacity: usize) -> Box<dyn Session + 'a> {
        let cache = |_| KvCache::new(self.architecture(), capacity, self.kind(), self.device());
        Box::new(TransformerSession {
            caches: (0..slots).map(cache).collect(),
            // Rows of a pass take room in the cache beyond the text, but no position beyond the context.
            rope: self.rope_table(capacity.min(self.context_length()) as i64),
            model: self,
        })
    }
}

struct TransformerSession<'a> {
    model: &'a Transformer,
    /// By slot.
    caches: Vec<KvCache>,
    rope: RopeTable,
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
        tch::no_grad(|| {
            let tokens: Vec<u32> = work.iter().flat_map(|work| work.rows.tokens()).copied().collect();
            let tokens_t = token_tensor(&tokens).to_device(self.model.device());
            let rope = self.angles(work);
            let mut start = 0;
            let mut spans = Vec::with_capacity(work.len());
            for Work { slot, rows, .. } in work {
                let cache = &self.caches[*slot];
                assert!(!rows.is_empty(), "a sequence in a pass has rows");
                assert!(
                    cache.len() + rows.len() <= cache.capacity(),
                    "{} + {} tokens in {}",
                    cache.len(),
                    rows.len(),
                    cache.capacity()
                );
                spans.push((span(start, cache.len(), rows), cache));
                start += rows.len();
            }
            let hidden = self.model.infer(&tokens_t, &rope, &spans);
            let wanted: Vec<Tensor> = work
                .iter()
                .zip(&spans)
                .map(|(work, (span, _))| {
                    let from = span.rows.start + work.first_output;
                    hidden.narrow(0, from as i64, (span.rows.end - from) as i64)
                })
                .collect();
            let wanted = if wanted.len() == 1 { wanted[0].shallow_clone() } else { Tensor::cat(&wanted, 0) };
            let predictions: Box<dyn Predictions> = Box::new(Logits { tv: self.model.infer_logits(&wanted) });
            predictions
        })
    }
}

impl TransformerSession<'_> {
    /// The rotary angles of every row, by its position in its sequence.
    fn angles(&self, work: &[Work]) -> Rope {
        if let [Work { slot, rows, .. }] = work
            && rows.is_chain()
        {
            return self.rope.range(self.cached(*slot) as i64, rows.len() as i64);
        }
        let positions: Vec<i64> = work
            .iter()
            .flat_map(|work| {
                let cached = self.cached(work.slot);
                (0..work.rows.len()).map(move |row| (cached + work.rows.depth(row)) as i64)
            })
            .collect();
        self.rope.at(&Tensor::from_slice(&positions).to_device(self.model.device()))
    }
}

fn span(start: usize, cached: usize, rows: &Rows) -> Span {
    let range = start..start + rows.len();
    if rows.is_chain() {
        return Span::chain(range, cached);
    }
    let parents: Vec<Option<usize>> = (0..rows.len()).map(|row| rows.parent(row)).collect();
    Span::tree(range, cached, &parents)
}

struct Logits {
    tv: Tensor,
}

impl Predictions for Logits {
    fn greedy(&self) -> Vec<u32> {
        argmax(&self.tv)
    }

    fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>> {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let rows = Tensor::from_slice(&rows).to_device(self.tv.device());
        tch::no_grad(|| top(&self.tv.index_select(0, &rows), k))
    }

    fn logits(&self, row: usize) -> Vec<f32> {
        let row = self.tv.get(row as i64).to_kind(Kind::Float).to_device(tch::Device::Cpu).contiguous();
        Vec::<f32>::try_from(&row).expect("a one-dimensional fp32 tensor")
    }
}

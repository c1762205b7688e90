//! A scripted language model for tests: logits are a hash of the position and the last few tokens.

use jacobi_model::{LanguageModel, Place, Predictions, Rows, Session, Work};

/// `memory` = how many preceding tokens the next one depends on; 0 makes any draft converge at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scripted {
    pub(crate) vocabulary: usize,
    pub(crate) context: usize,
    pub(crate) seed: u64,
    pub(crate) memory: usize,
    /// This many of ten positions on average ignore the context, as in a model after Jacobi forcing.
    pub(crate) forced: u64,
}

impl Scripted {
    /// Logits between -2 and 2 of the token after `text`.
    pub(crate) fn logits(&self, text: &[u32]) -> Vec<f32> {
        let mut hash = self.seed ^ (text.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let memory = if (hash >> 32) % 10 < self.forced { 0 } else { self.memory };
        for &token in &text[text.len().saturating_sub(memory)..] {
            hash = (hash ^ u64::from(token)).wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(31);
        }
        let logit = |token: u64| {
            let mixed =
                (hash ^ token.wrapping_mul(0x94D0_49BB_1331_11EB)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((mixed ^ (mixed >> 29)) % 4001) as f32 / 1000.0 - 2.0
        };
        (0..self.vocabulary as u64).map(logit).collect()
    }
}

impl LanguageModel for Scripted {
    fn vocab_size(&self) -> usize {
        self.vocabulary
    }

    fn context_length(&self) -> usize {
        self.context
    }

    fn cache_bytes_per_token(&self) -> usize {
        1
    }

    fn session<'a>(&'a self, slots: usize, capacity: usize) -> Box<dyn Session + 'a> {
        ScriptedSession::open(self, None, slots, capacity)
    }
}

/// The logits of the token after a text.
pub(crate) type Logits<'a> = &'a dyn Fn(&[u32]) -> Vec<f32>;

/// A scripted model with an adapter, under which `adapter` gives the logits of the token after a text.
pub(crate) struct Adapted<'m> {
    pub(crate) base: Scripted,
    pub(crate) adapter: Logits<'m>,
}

impl LanguageModel for Adapted<'_> {
    fn vocab_size(&self) -> usize {
        self.base.vocab_size()
    }

    fn context_length(&self) -> usize {
        self.base.context_length()
    }

    fn has_adapter(&self) -> bool {
        true
    }

    fn cache_bytes_per_token(&self) -> usize {
        1
    }

    fn session<'a>(&'a self, slots: usize, capacity: usize) -> Box<dyn Session + 'a> {
        ScriptedSession::open(&self.base, Some(self.adapter), slots, capacity)
    }
}

struct ScriptedSession<'a> {
    model: &'a Scripted,
    adapter: Option<Logits<'a>>,
    texts: Vec<Vec<u32>>,
    last: Vec<Rows>,
    capacity: usize,
}

impl<'a> ScriptedSession<'a> {
    fn open(
        model: &'a Scripted,
        adapter: Option<Logits<'a>>,
        slots: usize,
        capacity: usize,
    ) -> Box<dyn Session + 'a> {
        Box::new(Self {
            model,
            adapter,
            texts: vec![vec![]; slots],
            last: vec![Rows::default(); slots],
            capacity,
        })
    }
}

impl Session for ScriptedSession<'_> {
    fn cached(&self, slot: usize) -> usize {
        self.texts[slot].len()
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        assert!(len <= self.texts[slot].len());
        self.texts[slot].truncate(len);
    }

    fn forward(&mut self, work: &[Work]) -> Box<dyn Predictions> {
        let mut logits = Vec::new();
        for (at, Work { slot, place, rows, first_output }) in work.iter().enumerate() {
            let text = &self.texts[*slot];
            let (before, adapter) = match *place {
                Place::End => {
                    let others = &work[..at];
                    let twice = others.iter().any(|other| other.slot == *slot && other.place == Place::End);
                    assert!(!twice, "slot {slot} twice");
                    assert!(
                        text.len() + rows.len() <= self.capacity,
                        "{} + {} tokens",
                        text.len(),
                        rows.len()
                    );
                    self.last[*slot] = (*rows).clone();
                    (text.clone(), None)
                }
                Place::After(prefix) => (text[..prefix].to_vec(), None),
                Place::Adapted(prefix) => {
                    let last = &self.last[*slot];
                    let of_pass = prefix.checked_sub(text.len() + 1).map(|row| last.path(row));
                    let seen = of_pass.into_iter().flatten().map(|row| last.tokens()[row]);
                    let cached = text[..prefix.min(text.len())].iter().copied();
                    (cached.chain(seen).collect(), Some(self.adapter.expect("a model with an adapter")))
                }
            };
            for row in *first_output..rows.len() {
                assert!(before.len() + rows.depth(row) < self.model.context, "a position beyond the context");
                let path = rows.path(row).into_iter().map(|at| rows.tokens()[at]);
                let text: Vec<u32> = before.iter().copied().chain(path).collect();
                logits.push(adapter.map_or_else(|| self.model.logits(&text), |adapter| adapter(&text)));
            }
        }
        Box::new(Table(logits))
    }

    fn keep(&mut self, slot: usize, rows: &[usize]) {
        let last = &self.last[slot];
        for (depth, &row) in rows.iter().enumerate() {
            assert_eq!(last.depth(row), depth, "kept rows are one path");
            self.texts[slot].push(last.tokens()[row]);
        }
    }
}

struct Table(Vec<Vec<f32>>);

impl Predictions for Table {
    fn greedy(&self) -> Vec<u32> {
        (0..self.0.len()).map(|row| self.top(&[row], 1)[0][0].0).collect()
    }

    fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>> {
        let best = |&row: &usize| {
            let total = self.0[row].iter().map(|logit| logit.exp()).sum::<f32>().ln();
            let mut tokens: Vec<(u32, f32)> =
                (0..).zip(self.0[row].iter().map(|logit| logit - total)).collect();
            tokens.sort_by(|a, b| b.1.total_cmp(&a.1));
            tokens.truncate(k);
            tokens
        };
        rows.iter().map(best).collect()
    }

    fn logits(&self, row: usize) -> Vec<f32> {
        self.0[row].clone()
    }
}

//! What sampling costs on the host: a model whose passes cost nothing, with a vocabulary of 152,000 tokens.

use std::{cell::Cell, rc::Rc};

use jacobi_datasets::Rng;
use jacobi_decoder::{Decoding, MultiBlockConfig, RandomSampling, Sampling, Settings, StopRules, Strategy};
use jacobi_model::{LanguageModel, Predictions, Session, Work};

use crate::sheet::{Bound, Sheet};

const VOCABULARY: usize = 152_000;
const ROWS: usize = 16;
const PASSES: usize = 20;

/// The same logits after every row, and how often they were read.
#[derive(Clone)]
struct Constant {
    logits: Rc<Vec<f32>>,
    reads: Rc<Cell<usize>>,
}

impl LanguageModel for Constant {
    fn vocab_size(&self) -> usize {
        VOCABULARY
    }

    fn context_length(&self) -> usize {
        1 << 16
    }

    fn cache_bytes_per_token(&self) -> usize {
        1
    }

    fn session<'a>(&'a self, _: usize, _: usize) -> Box<dyn Session + 'a> {
        Box::new(ConstantSession { model: self.clone(), cached: 0 })
    }
}

struct ConstantSession {
    model: Constant,
    cached: usize,
}

impl Session for ConstantSession {
    fn cached(&self, _: usize) -> usize {
        self.cached
    }

    fn truncate(&mut self, _: usize, len: usize) {
        self.cached = len;
    }

    fn forward(&mut self, work: &[Work]) -> Box<dyn Predictions> {
        self.cached += if self.cached == 0 { work[0].rows.len() } else { 0 };
        Box::new(self.model.clone())
    }

    fn keep(&mut self, _: usize, rows: &[usize]) {
        self.cached += rows.len();
    }
}

impl Predictions for Constant {
    fn greedy(&self) -> Vec<u32> {
        unreachable!("sampling reads logits")
    }

    fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>> {
        rows.iter().map(|_| (0..k as u32).map(|token| (token, -1.0 - token as f32)).collect()).collect()
    }

    fn logits(&self, _: usize) -> Vec<f32> {
        self.reads.set(self.reads.get() + 1);
        self.logits.to_vec()
    }
}

/// Passes of 16 rows of which a few need a token (a block of 3 with a tree), and of which all do.
pub fn measure(sheet: &mut Sheet, rounds: usize) {
    let mut random = Rng::new(&[1]);
    let logits = (0..VOCABULARY).map(|_| 8.0 * (random.next_f64() as f32 - 0.5)).collect();
    let model = Constant { logits: Rc::new(logits), reads: Rc::default() };
    for (block_size, few) in [(3, true), (ROWS, false)] {
        let config = MultiBlockConfig {
            block_size,
            pool_size: 0,
            tree_budget: ROWS - block_size,
            ..MultiBlockConfig::default()
        };
        let stop = StopRules { max_new_tokens: 1 << 12, eos_token_ids: vec![] };
        let sampling = Sampling::Random(RandomSampling::default());
        let settings = Settings { sampling, ..Settings::greedy(Strategy::MultiBlock(config), stop) };
        let (mut milliseconds, mut reads) = (Vec::new(), 0.0);
        for _ in 0..rounds {
            let mut decoding = Decoding::new(&model, &[1, 2, 3], &settings);
            let before = (decoding.stats().decode_seconds, model.reads.get());
            decoding.by_ref().take(PASSES).for_each(drop);
            milliseconds.push(1e3 * (decoding.stats().decode_seconds - before.0) / PASSES as f64);
            reads = (model.reads.get() - before.1) as f64 / PASSES as f64;
        }
        let name = format!("sampling in a pass of {ROWS} rows, {VOCABULARY} tokens, {reads:.0} rows drawn");
        let value = sheet.samples(&name, "ms", &milliseconds);
        if few {
            sheet.bar(format!("{name}, ms"), value, Bound::AtMost(2.0));
        }
    }
}

//! One response being decoded: its text so far, its drafter, and the rules that end it.

use jacobi_datasets::FinishReason;
use jacobi_model::{LanguageModel, Rows};

use crate::{
    DecodeStats, Draft, Generation, Limit, Pass, Sampling, Settings, Strategy,
    drafter::{Autoregressive, Drafter},
    multi_block::Window,
    outputs::{DraftOutputs, Outputs},
};

pub(crate) struct Sequence {
    settings: Settings,
    /// The prompt and the response so far.
    text: Vec<u32>,
    /// Tokens of the prompt.
    prompt: usize,
    /// Longest `text`.
    limit: usize,
    /// The response to verify in the prefill; empty if there is none.
    given: Vec<u32>,
    finished: Option<FinishReason>,
    drafter: Box<dyn Drafter>,
    /// The next pass has one row, as in autoregressive decoding: it decides a near-tie.
    alone: bool,
    /// The last pass only drafted: the next one verifies that draft and ends the cycle.
    is_cycle_open: bool,
    stats: DecodeStats,
}

impl Sequence {
    /// # Panics
    /// If the prompt is empty or fills the context, `max_new_tokens` is 0, or the given response is empty.
    pub(crate) fn new(
        settings: Settings,
        prompt: &[u32],
        given: Option<Vec<u32>>,
        model: &dyn LanguageModel,
    ) -> Self {
        let context = model.context_length();
        assert!(!prompt.is_empty(), "a prompt has at least one token");
        assert!(prompt.len() < context, "a prompt of {} tokens fills the context of {context}", prompt.len());
        assert!(settings.stop.max_new_tokens > 0, "max_new_tokens is at least 1");
        assert!(given.as_ref().is_none_or(|given| !given.is_empty()), "a given response has a token");
        let limit = context.min(prompt.len() + settings.stop.max_new_tokens);
        let mut given = given.unwrap_or_default();
        given.truncate(limit - prompt.len());
        if let Some(end) = given.iter().position(|token| settings.stop.eos_token_ids.contains(token)) {
            given.truncate(end + 1);
        }
        Self {
            drafter: drafter(&settings.strategy, model),
            settings,
            text: prompt.to_vec(),
            prompt: prompt.len(),
            limit,
            given,
            finished: None,
            alone: false,
            is_cycle_open: false,
            stats: DecodeStats::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.finished.is_none()
    }

    pub(crate) fn finish_reason(&self) -> Option<FinishReason> {
        self.finished
    }

    pub(crate) fn stats(&self) -> DecodeStats {
        DecodeStats { tokens: self.text.len() - self.prompt - 1, ..self.stats.clone() }
    }

    pub(crate) fn is_greedy(&self) -> bool {
        self.settings.sampling == Sampling::Greedy
    }

    pub(crate) fn rank_rejections(&mut self) {
        self.drafter.rank_rejections();
    }

    pub(crate) fn text(&self) -> &[u32] {
        &self.text
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt(&self) -> usize {
        self.prompt
    }

    pub(crate) fn sampling(&self) -> &Sampling {
        &self.settings.sampling
    }

    /// The rows of the prefill, and the first row whose prediction is wanted.
    pub(crate) fn prefill(&self) -> (Rows, usize) {
        (Rows::chain(&[self.text.as_slice(), &self.given].concat()), self.prompt - 1)
    }

    /// Takes the first token from the prefill, and with it the right tokens of a given response. Returns the
    /// positions in the given response at which the model gives another token after the given ones before.
    pub(crate) fn begin(&mut self, outputs: &Outputs) -> Vec<usize> {
        let given = std::mem::take(&mut self.given);
        let draft = Draft::run(self.text[self.prompt - 1], &given, 1);
        let chosen = outputs.choose_all(&self.settings.sampling, draft.rows(), &self.text[..self.prompt - 1]);
        let agreed = draft.accepted(|row| chosen[row]).len() - 1;
        let whole = !given.is_empty() && agreed == given.len();
        // A given response that is right is taken as it is: the token that would follow it is not wanted.
        self.extend(&chosen[..agreed + usize::from(!whole)]);
        if whole && self.is_open() {
            self.finished = Some(FinishReason::Length);
        }
        (0..given.len()).filter(|&index| chosen[index] != given[index]).collect()
    }

    /// Counts a pass, or the time of the prefill if there is none.
    pub(crate) fn count(&mut self, pass: Option<&Pass>, seconds: f64) {
        match pass {
            Some(pass) => {
                self.stats.count(pass, !self.is_cycle_open, seconds);
                self.is_cycle_open = pass.draft.only_drafts() && !pass.path.is_empty();
            }
            None if self.stats.forwards == 0 => self.stats.prefill_seconds += seconds,
            None => {}
        }
    }

    /// The rows of the next pass.
    pub(crate) fn draft(&mut self) -> Draft {
        let known = self.text[self.text.len() - 1];
        if self.alone {
            return Draft::run(known, &[], 1);
        }
        // Row 0 and a row for each token to come. The prediction after the last row is not needed; the row makes the
        // draft of the last block whole.
        self.drafter.draft(&self.text, self.limit - self.text.len() + 1)
    }

    /// Takes the tokens that the pass over `draft` accepts.
    pub(crate) fn absorb(&mut self, draft: Draft, outputs: &DraftOutputs) -> Pass {
        let (before, sampling) = (&self.text[..self.text.len() - 1], &self.settings.sampling);
        let drafted = draft.adapted().map(|rows| outputs.adapted.choose_all(sampling, rows, &self.text));
        // A sampled token is drawn for the rows that need one: those of the path, and those the next draft comes from.
        let mut chosen = vec![None; draft.rows().len()];
        let mut choose = |row: usize| {
            let draw = || outputs.rows.choose(sampling, (draft.rows(), row), before);
            *chosen[row].get_or_insert_with(draw)
        };
        let mut path = draft.accepted(&mut choose);
        let near_tie = self.near_tie(&draft, &path, &outputs.rows);
        path.truncate(near_tie.unwrap_or(path.len()));
        let right: Vec<u32> = path.iter().map(|&row| choose(row)).collect();
        if let (Some(&last), None) = (path.last(), draft.adapted()) {
            for row in draft.continuation(last) {
                choose(row);
            }
        }
        let offset = self.text.len() - 1 - self.prompt;
        let tokens = self.extend(&right);
        let drafted = drafted.unwrap_or_default();
        let limit = match path.last() {
            _ if self.finished.is_some() => Limit::End,
            Some(&last) if !self.alone => draft.limit(last, right[right.len() - 1]),
            _ => Limit::Tie,
        };
        let mut pass = Pass { offset, draft, chosen, drafted, path, tokens, limit, rejected_rank: None };
        match (self.alone, pass.path.is_empty()) {
            (true, _) => self.drafter.skip(),
            (false, false) => {
                pass.rejected_rank = self.drafter.rejected_rank(&pass);
                self.drafter.learn(&pass, outputs);
            }
            (false, true) => {}
        }
        self.alone = near_tie.is_some();
        pass
    }

    /// The index on `path` of the first row whose two best tokens are closer than `strict_gap`; `None` for a
    /// pass over one row, which decides.
    fn near_tie(&self, draft: &Draft, path: &[usize], outputs: &Outputs) -> Option<usize> {
        let gap = self.settings.strict_gap?;
        if draft.width() == 1 || !self.is_greedy() {
            return None;
        }
        outputs
            .top(path, 2)
            .iter()
            .position(|best| matches!(best[..], [first, second] if first.1 - second.1 < gap))
    }

    /// Appends tokens up to the first that ends the response, and returns the appended ones.
    fn extend(&mut self, right: &[u32]) -> Vec<u32> {
        let start = self.text.len();
        for &token in right {
            self.text.push(token);
            if self.settings.stop.eos_token_ids.contains(&token) {
                self.finished = Some(FinishReason::Eos);
            } else if self.text.len() == self.limit {
                self.finished = Some(FinishReason::Length);
            }
            if self.finished.is_some() {
                break;
            }
        }
        self.text[start..].to_vec()
    }

    pub(crate) fn finish(mut self) -> Generation {
        let stats = self.stats();
        let tokens = self.text.split_off(self.prompt);
        let finish_reason = self.finished.expect("decoding runs until a rule ends it");
        Generation { tokens, finish_reason, stats }
    }
}

fn drafter(strategy: &Strategy, model: &dyn LanguageModel) -> Box<dyn Drafter> {
    match strategy {
        Strategy::Autoregressive => Box::new(Autoregressive),
        Strategy::Jacobi(config) => Box::new(Window::new(config.into(), model)),
        Strategy::MultiBlock(config) => Box::new(Window::new(config.clone(), model)),
    }
}

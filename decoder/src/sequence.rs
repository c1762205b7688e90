//! One response being decoded: text so far, the rules that end it, and what drafts for it.

use jacobi_datasets::FinishReason;

use crate::{DecodeStats, Draft, Generation, Pass, Sampling, Settings, drafter::Drafter, outputs::Outputs};

pub(crate) struct Sequence<'a> {
    settings: &'a Settings,
    /// The prompt and the response.
    text: Vec<u32>,
    prompt: usize,
    /// Longest `text`.
    limit: usize,
    finished: Option<FinishReason>,
    drafter: Box<dyn Drafter>,
    /// The next pass verifies the known-right token alone: a near-tie is decided as autoregressive decoding would.
    alone: bool,
    pub(crate) stats: DecodeStats,
}

impl<'a> Sequence<'a> {
    /// # Panics
    /// If the prompt is empty or fills the context, or no token is asked for.
    pub(crate) fn new(settings: &'a Settings, prompt: &[u32], context: usize) -> Self {
        assert!(!prompt.is_empty(), "a prompt has at least one token");
        assert!(prompt.len() < context, "a prompt of {} tokens fills the context of {context}", prompt.len());
        assert!(settings.stop.max_new_tokens > 0, "max_new_tokens is at least 1");
        Self {
            settings,
            text: prompt.to_vec(),
            prompt: prompt.len(),
            limit: context.min(prompt.len() + settings.stop.max_new_tokens),
            finished: None,
            drafter: settings.strategy.drafter(),
            alone: false,
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

    /// The prefill gives the first token.
    pub(crate) fn begin(&mut self, outputs: &Outputs, seconds: f64) {
        let draft = Draft::run(self.text[self.prompt - 1], &[], 1);
        let first = outputs.choose(&self.settings.sampling, &draft, &self.text);
        self.extend(&first);
        self.stats.prefill_seconds = seconds;
    }

    /// What the next pass verifies.
    pub(crate) fn draft(&mut self) -> Draft {
        let known = self.text[self.text.len() - 1];
        if self.alone {
            return Draft::run(known, &[], 1);
        }
        // The row of the last token that still fits is verified too: it completes its block.
        self.drafter.draft(&self.text, self.limit - self.text.len() + 1)
    }

    /// Takes what the pass over `draft` proved right.
    pub(crate) fn absorb(&mut self, draft: Draft, outputs: &Outputs) -> Pass {
        let chosen = outputs.choose(&self.settings.sampling, &draft, &self.text);
        let mut path = draft.accepted(&chosen);
        let near_tie = self.near_tie(&draft, &path, outputs);
        path.truncate(near_tie.unwrap_or(path.len()));
        let right: Vec<u32> = path.iter().map(|&row| chosen[row]).collect();
        let offset = self.text.len() - 1 - self.prompt;
        let tokens = self.extend(&right);
        let mut pass = Pass { offset, draft, chosen, path, tokens, rejected_rank: None };
        match (self.alone, pass.path.is_empty()) {
            (true, _) => self.drafter.skip(pass.tokens[0]),
            (false, false) => {
                pass.rejected_rank = self.drafter.rejected_rank(&pass);
                self.drafter.learn(&pass, outputs);
            }
            (false, true) => {}
        }
        self.alone = near_tie.is_some();
        pass
    }

    /// The place on `path` of the first row of a wide pass whose two best tokens are too close to call.
    fn near_tie(&self, draft: &Draft, path: &[usize], outputs: &Outputs) -> Option<usize> {
        let gap = self.settings.strict_gap?;
        if draft.rows().len() == 1 || !self.is_greedy() {
            return None;
        }
        outputs
            .top(path, 2)
            .iter()
            .position(|best| matches!(best[..], [first, second] if first.1 - second.1 < gap))
    }

    /// Appends tokens up to the first that ends the response, and returns those.
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

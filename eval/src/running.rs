//! Figures of a decoder so far, for progress lines.

use jacobi_datasets::schema::eval_row::EvalSample;

/// Sums over the prompts of one task that one decoder of one model has answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    right: usize,
    scored: usize,
    tokens: usize,
    seconds: f64,
    baseline: Option<f64>,
    /// Prompts without a response.
    pub failed: usize,
}

impl Running {
    /// Adds one prompt to the sums of all decoders, the autoregressive one first.
    pub(crate) fn add_prompt(all: &mut [Self], samples: &[EvalSample]) {
        for (running, sample) in all.iter_mut().zip(samples) {
            running.right += usize::from(sample.correct == Some(true));
            running.scored += usize::from(sample.correct.is_some());
            running.tokens += sample.response_tokens.saturating_sub(1);
            running.seconds += sample.decode_seconds;
            running.failed += usize::from(sample.error.is_some());
        }
        let baseline = all.first().and_then(Self::tps);
        all.iter_mut().for_each(|running| running.baseline = baseline);
    }

    /// Share of right answers.
    pub fn accuracy(&self) -> Option<f64> {
        (self.scored > 0).then(|| self.right as f64 / self.scored as f64)
    }

    /// Tokens per second of decoding.
    pub fn tps(&self) -> Option<f64> {
        (self.tokens > 0 && self.seconds > 0.0).then(|| self.tokens as f64 / self.seconds)
    }

    /// Tokens per second over those of the autoregressive decoder.
    pub fn speedup(&self) -> Option<f64> {
        Some(self.tps()? / self.baseline?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::sample;

    #[test]
    fn sums_grow_prompt_by_prompt() {
        let mut all = vec![Running::default(); 2];
        assert_eq!((all[1].accuracy(), all[1].speedup()), (None, None));
        let mut samples = [sample("ar", 21, 20, 2.0), sample("jacobi", 21, 5, 0.5)];
        samples[1].correct = Some(true);
        Running::add_prompt(&mut all, &samples);
        samples[1].correct = Some(false);
        (samples[1].error, samples[1].response_tokens, samples[1].decode_seconds) =
            (Some("x".into()), 0, 0.0);
        Running::add_prompt(&mut all, &samples);
        assert_eq!((all[0].accuracy(), all[0].tps(), all[0].speedup()), (None, Some(10.0), Some(1.0)));
        assert_eq!((all[1].accuracy(), all[1].speedup(), all[1].failed), (Some(0.5), Some(4.0), 1));
    }
}

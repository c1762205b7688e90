//! Converts responses to samples: text, verdict, statistics of the passes.

use jacobi_datasets::Message;
use jacobi_datasets::schema::eval_row::{EvalSample, EvalWidth};
use jacobi_decoder::{DecodeStats, Generation, WidthStats};

use crate::divergence::first_divergence;
use crate::run::{Answered, Bench, Passes, guarded};
use crate::tasks::Scorer;

impl Bench<'_> {
    /// The samples of one prompt, by decoder. Without an autoregressive response, the others are not
    /// compared.
    pub(crate) fn samples(&self, index: usize, answers: &[Answered], sitting: usize) -> Vec<EvalSample> {
        let reference = answers[0].as_ref().ok().map(|(generation, _)| generation.tokens.as_slice());
        let sample = |(turn, answer): (usize, &Answered)| {
            let reference = reference.filter(|_| turn > 0);
            let judged = answer
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|run| guarded(|| self.sample(index, turn, run, reference)).flatten());
            let sample = judged.unwrap_or_else(|reason| EvalSample {
                error: Some(reason),
                correct: self.questions[index].expected.as_ref().map(|_| false),
                ..self.blank(index, turn)
            });
            EvalSample { sitting, ..sample }
        };
        answers.iter().enumerate().map(sample).collect()
    }

    /// A sample without a response.
    pub(crate) fn blank(&self, index: usize, turn: usize) -> EvalSample {
        let (question, contender) = (&self.questions[index], &self.contenders[turn]);
        EvalSample {
            model: self.model.name.clone(),
            model_role: self.model.role,
            task: self.task.name.clone(),
            decoder: contender.strategy.name().as_str().to_owned(),
            decoder_settings: contender.decoder_settings(),
            sample_id: question.prompt.id.clone(),
            prompt: question.prompt.messages.last().map_or_else(String::new, Message::text),
            prompt_tokens: self.prompts[index].as_ref().map_or(0, Vec::len),
            expected: question.expected.clone().filter(|_| self.task.scorer != Scorer::Python),
            memory_floor: self.floor.filter(|_| turn == 0),
            ..EvalSample::default()
        }
    }

    /// `reference` is the autoregressive response; `None` for the autoregressive sample itself. An error if the
    /// response cannot be judged.
    fn sample(
        &self,
        index: usize,
        turn: usize,
        (generation, passes): &(Generation, Passes),
        reference: Option<&[u32]>,
    ) -> Result<EvalSample, String> {
        let text = (self.decode)(&generation.tokens);
        let verdict = self.judge.verdict(self.task, self.questions[index].expected.as_ref(), &text);
        let verdict = verdict.map_err(|error| error.to_string())?;
        let diverges = reference.and_then(|reference| first_divergence(&generation.tokens, reference));
        let DecodeStats { forwards, cycles, prefill_seconds, decode_seconds, ref acceptance, .. } =
            generation.stats;
        let width = |(&rows, width): (&usize, &WidthStats)| EvalWidth {
            rows,
            forwards: width.forwards,
            seconds: width.seconds,
        };
        let sources = generation.stats.accepted_from.iter();
        let limits = generation.stats.limited_by.iter();
        Ok(EvalSample {
            response_tokens: generation.tokens.len(),
            response_ids: generation.tokens.clone(),
            pieces: reference.map_or_else(Vec::new, |_| self.pieces(&generation.tokens, &text, passes)),
            text,
            finish_reason: generation.finish_reason,
            correct: verdict.correct,
            answer: verdict.answer,
            failure: verdict.failure,
            forwards,
            cycles,
            decode_seconds,
            prefill_seconds,
            matches_ar: reference.map(|_| diverges.is_none()),
            first_divergence: diverges,
            acceptance: acceptance.clone(),
            accepted_from: sources.map(|(source, &tokens)| (source.as_str().to_owned(), tokens)).collect(),
            limited_by: limits.map(|(limit, &passes)| (limit.as_str().to_owned(), passes)).collect(),
            widths: generation.stats.widths.iter().map(width).collect(),
            ..self.blank(index, turn)
        })
    }

    /// `text` cut into the pieces that each pass added, the prefill first. A character that a pass began
    /// belongs to the pass that ended it.
    pub(crate) fn pieces(&self, tokens: &[u32], text: &str, passes: &Passes) -> Vec<String> {
        let (mut end, mut cut) = (1, 0);
        let mut pieces = Vec::with_capacity(passes.len() + 1);
        for accepted in passes.iter().map(Some).chain([None]) {
            let so_far = (self.decode)(&tokens[..end.min(tokens.len())]);
            let known = so_far.trim_end_matches('\u{fffd}');
            let next = match accepted {
                None => text.len(),
                Some(_) if text.starts_with(known) => known.len().max(cut),
                Some(_) => cut,
            };
            pieces.push(text[cut..next].to_owned());
            cut = next;
            end += accepted.unwrap_or(&0);
        }
        pieces
    }
}

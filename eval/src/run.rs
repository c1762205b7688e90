//! The measuring loop. Models one after the other, each loaded once; for every prompt all decoders in turn, in
//! alternating order, so that drift of the machine (clock, neighbours) falls on all of them alike.

use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, ModelRole};
use jacobi_datasets::schema::eval_statistics::MemoryFloor;
use jacobi_datasets::{BadRow, Tokenizer};
use jacobi_decoder::{Generation, StopRules, generate};
use jacobi_model::{Dtype, LanguageModel, Transformer, dtype_name, load};

use crate::config::Contender;
use crate::divergence::{first_divergence, gap};
use crate::floor::memory_floor;
use crate::questions::{self, Question};
use crate::ranks::count_rejections;
use crate::score::{self, Record};
use crate::tasks::Task;
use crate::{EvalConfig, EvalError, EvalModel};

/// An evaluation to run.
#[derive(Clone, Copy, Debug)]
pub struct EvalJob<'a> {
    /// The models, in the order of the rows.
    pub models: &'a [EvalModel],
    /// Compute dtype.
    pub dtype: Dtype,
    /// Prompts, task and decoders.
    pub config: &'a EvalConfig,
    /// Seed of the random drafts and of the bootstrap.
    pub seed: u64,
}

/// One more sample is done.
#[derive(Clone, Debug)]
pub struct EvalProgress<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Before or after training.
    pub model_role: ModelRole,
    /// Name of the decoder.
    pub decoder: &'a str,
    /// Samples done, over all models, tasks and decoders; warm-up does not count.
    pub done: usize,
    /// Samples to do.
    pub total: usize,
    /// Tokens of this sample.
    pub tokens: usize,
    /// Decode forwards of this sample.
    pub forwards: usize,
}

/// What an evaluation found.
#[derive(Clone, Debug)]
pub struct EvalOutcome {
    /// One row per model, task and decoder, in this order, autoregressive first.
    pub rows: Vec<EvalRow>,
    /// Every sample: by model, then task, then decoder, then prompt.
    pub samples: Vec<EvalSample>,
    /// Malformed rows of the prompt files, left out.
    pub bad_rows: Vec<BadRow>,
    /// Whether the stop flag ended it early. The rows then hold the prompts that every decoder had finished.
    pub interrupted: bool,
}

/// Measures every model under every decoder. `stop` is looked at before each sample; `progress` hears of each one.
///
/// # Errors
/// The task, a decoder, the prompts, an answer, or a model is not usable: see [`EvalError`].
pub fn evaluate(
    job: &EvalJob,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&EvalProgress),
) -> Result<EvalOutcome, EvalError> {
    if job.models.is_empty() {
        return Err(EvalError::NoModels);
    }
    // A decoder that cannot be made is refused before anything is loaded.
    let no_stop = StopRules { max_new_tokens: 1, eos_token_ids: Vec::new() };
    let decoders = |model| Ok(job.config.contenders_of(model, job.seed, &no_stop)?.len());
    let decoders: Vec<usize> = job.models.iter().map(decoders).collect::<Result<_, EvalError>>()?;
    let (sets, bad_rows) = read_questions(job.config)?;
    // The first is measured at once; a flaw of the others must not wait until it was.
    for model in job.models.iter().skip(1) {
        open_model(model, job.dtype, &sets)?;
    }
    let questions: usize = sets.iter().map(|set| set.questions.len()).sum();
    let total = questions * decoders.iter().sum::<usize>();
    let mut done = 0;
    let mut outcome = EvalOutcome { rows: Vec::new(), samples: Vec::new(), bad_rows, interrupted: false };
    for (model, decoders) in job.models.iter().zip(&decoders) {
        let OpenModel { tokenizer, transformer, prompts } = open_model(model, job.dtype, &sets)?;
        let floor = memory_floor(&transformer);
        for (set, prompts) in sets.iter().zip(prompts) {
            let stop_rules = set.stop_rules(tokenizer.eos_token_ids());
            let bench = Bench {
                model,
                language_model: &transformer,
                decode: &|ids| tokenizer.decode(ids),
                task: &set.task,
                questions: &set.questions,
                prompts,
                contenders: &job.config.contenders_of(model, job.seed, &stop_rules)?,
            };
            let mut measured = bench.measure(job.config.warmup, stop, &mut |p| {
                progress(&EvalProgress { done: done + p.done, total, ..p.clone() });
            });
            done += set.questions.len() * decoders;
            bench.weigh_divergences(&mut measured, stop);
            bench.rank_rejections(job.config.rank_prompts, &mut measured, stop);
            outcome.add(measured, &set.task, (dtype_name(transformer.kind()), floor), job.seed);
            if outcome.interrupted {
                return Ok(outcome);
            }
        }
    }
    Ok(outcome)
}

impl EvalOutcome {
    fn add(&mut self, measured: Measured, task: &Task, (dtype, floor): (&str, MemoryFloor), seed: u64) {
        for (records, rejection_ranks) in measured.records.iter().zip(measured.ranks) {
            let row = score::row(records, &measured.records[0], dtype, seed);
            let of_run = |row: EvalRow| EvalRow {
                task_version: task.version,
                rejection_ranks,
                memory_floor: row.is_autoregressive().then_some(floor),
                ..row
            };
            self.rows.extend(row.map(of_run));
            self.samples.extend(records.iter().map(|record| record.sample.clone()));
        }
        self.interrupted = measured.interrupted;
    }
}

/// A task with its questions.
struct QuestionSet {
    task: Task,
    questions: Vec<Question>,
}

impl QuestionSet {
    fn stop_rules(&self, eos_token_ids: &[u32]) -> StopRules {
        let max_new_tokens = self.task.max_new_tokens.expect("tasks that are measured have a limit");
        StopRules { max_new_tokens, eos_token_ids: eos_token_ids.to_vec() }
    }
}

fn read_questions(config: &EvalConfig) -> Result<(Vec<QuestionSet>, Vec<BadRow>), EvalError> {
    let (mut sets, mut bad_rows) = (Vec::new(), Vec::new());
    for task in config.measured()? {
        let (questions, bad) = questions::read(&task)?;
        bad_rows.extend(bad);
        sets.push(QuestionSet { task, questions });
    }
    Ok((sets, bad_rows))
}

/// A model that can be measured.
struct OpenModel {
    tokenizer: Tokenizer,
    transformer: Transformer,
    /// Token ids of each question of each set.
    prompts: Vec<Vec<Vec<u32>>>,
}

fn open_model(model: &EvalModel, dtype: Dtype, sets: &[QuestionSet]) -> Result<OpenModel, EvalError> {
    let tokenizer = Tokenizer::load(&model.dir)?;
    let loaded =
        load(&model.dir, dtype).map_err(|source| EvalError::Model { name: model.name.clone(), source })?;
    let encode = |question: &Question| tokenizer.encode_chat(&question.prompt.messages);
    let context = loaded.transformer.context_length();
    let mut prompts = Vec::with_capacity(sets.len());
    for QuestionSet { questions, .. } in sets {
        let encoded = questions.iter().map(encode).collect::<Result<Vec<Vec<u32>>, _>>()?;
        questions::check_room(questions, &encoded, &model.name, context)?;
        prompts.push(encoded);
    }
    Ok(OpenModel { tokenizer, transformer: loaded.transformer, prompts })
}

/// One model with everything it is measured on.
struct Bench<'a> {
    model: &'a EvalModel,
    language_model: &'a dyn LanguageModel,
    decode: &'a dyn Fn(&[u32]) -> String,
    task: &'a Task,
    questions: &'a [Question],
    /// Token ids of each question.
    prompts: Vec<Vec<u32>>,
    /// Autoregressive first.
    contenders: &'a [Contender],
}

/// What was found, by decoder.
struct Measured {
    /// In the order of the prompts.
    records: Vec<Vec<Record>>,
    /// As [`EvalRow::rejection_ranks`].
    ranks: Vec<Vec<usize>>,
    interrupted: bool,
}

/// How many tokens each pass committed.
type Passes = Vec<usize>;

impl Bench<'_> {
    fn measure(&self, warmup: usize, stop: &AtomicBool, progress: &mut dyn FnMut(&EvalProgress)) -> Measured {
        let decoders = self.contenders.len();
        let mut measured = Measured {
            records: vec![Vec::new(); decoders],
            ranks: vec![Vec::new(); decoders],
            interrupted: false,
        };
        for prompt in self.prompts.iter().cycle().take(warmup) {
            for contender in self.contenders {
                if stop.load(Ordering::Relaxed) {
                    measured.interrupted = true;
                    return measured;
                }
                self.generate(prompt, contender);
            }
        }
        let total = self.prompts.len() * self.contenders.len();
        let mut done = 0;
        for (index, prompt) in self.prompts.iter().enumerate() {
            let mut order: Vec<usize> = (0..self.contenders.len()).collect();
            if index % 2 == 1 {
                order.reverse();
            }
            let mut runs: Vec<Option<(Generation, Passes)>> = self.contenders.iter().map(|_| None).collect();
            for turn in order {
                if stop.load(Ordering::Relaxed) {
                    measured.interrupted = true;
                    return measured;
                }
                let contender = &self.contenders[turn];
                let (generation, passes) = self.generate(prompt, contender);
                done += 1;
                progress(&EvalProgress {
                    model: &self.model.name,
                    model_role: self.model.role,
                    decoder: contender.name.as_str(),
                    done,
                    total,
                    tokens: generation.tokens.len(),
                    forwards: generation.stats.forwards,
                });
                runs[turn] = Some((generation, passes));
            }
            let runs: Vec<(Generation, Passes)> = runs.into_iter().flatten().collect();
            for (turn, run) in runs.iter().enumerate() {
                let reference = (turn > 0).then_some(runs[0].0.tokens.as_slice());
                measured.records[turn].push(self.record(index, turn, run, reference));
            }
        }
        measured
    }

    fn generate(&self, prompt: &[u32], contender: &Contender) -> (Generation, Passes) {
        let mut passes = Passes::new();
        let observe = &mut |pass: &jacobi_decoder::Pass| passes.push(pass.tokens.len());
        (generate(self.language_model, prompt, &contender.settings, observe), passes)
    }

    /// Adds the logit gaps of all divergences; afterwards, so that no timed run has them for a neighbour.
    fn weigh_divergences(&self, measured: &mut Measured, stop: &AtomicBool) {
        let [autoregressive, others @ ..] = &mut measured.records[..] else { return };
        for records in others {
            for ((record, reference), prompt) in records.iter_mut().zip(&*autoregressive).zip(&self.prompts) {
                if stop.load(Ordering::Relaxed) {
                    measured.interrupted = true;
                    return;
                }
                let (tokens, reference) = (&record.sample.response_ids, &reference.sample.response_ids);
                record.sample.divergence_gap = gap(self.language_model, prompt, tokens, reference);
            }
        }
    }

    /// Adds what the first `count` prompts say about the rejected drafts of each decoder that drafts; untimed, too.
    fn rank_rejections(&self, count: usize, measured: &mut Measured, stop: &AtomicBool) {
        for (contender, ranks) in self.contenders.iter().zip(&mut measured.ranks).skip(1) {
            for prompt in self.prompts.iter().take(count) {
                if stop.load(Ordering::Relaxed) {
                    measured.interrupted = true;
                    return;
                }
                count_rejections(self.language_model, prompt, &contender.settings, ranks);
            }
        }
    }

    /// `reference` is the autoregressive response, or `None` for that itself.
    fn record(
        &self,
        index: usize,
        turn: usize,
        (generation, passes): &(Generation, Passes),
        reference: Option<&[u32]>,
    ) -> Record {
        let (question, contender) = (&self.questions[index], &self.contenders[turn]);
        let text = (self.decode)(&generation.tokens);
        let answer = self.task.extract(&text);
        let diverges = reference.and_then(|reference| first_divergence(&generation.tokens, reference));
        let sample = EvalSample {
            model: self.model.name.clone(),
            model_role: self.model.role,
            task: self.task.name.clone(),
            decoder: contender.name.as_str().to_owned(),
            decoder_settings: contender.shown.clone(),
            sample_id: question.prompt.id.clone(),
            prompt: question.prompt.messages.last().map_or_else(String::new, |m| m.content.clone()),
            prompt_tokens: self.prompts[index].len(),
            response_tokens: generation.tokens.len(),
            response_ids: generation.tokens.clone(),
            pieces: reference.map_or_else(Vec::new, |_| self.pieces(&generation.tokens, &text, passes)),
            text,
            finish_reason: generation.finish_reason,
            correct: question.expected.as_ref().map(|expected| answer.as_ref() == Some(expected)),
            answer,
            expected: question.expected.clone(),
            forwards: generation.stats.forwards,
            decode_seconds: generation.stats.decode_seconds,
            prefill_seconds: generation.stats.prefill_seconds,
            matches_ar: reference.map(|_| diverges.is_none()),
            first_divergence: diverges,
            divergence_gap: None,
        };
        Record { sample, stats: generation.stats.clone() }
    }

    /// `text` cut where each pass ended, the prefill being the first. A pass that ends inside a character leaves that
    /// character to the next one.
    fn pieces(&self, tokens: &[u32], text: &str, passes: &Passes) -> Vec<String> {
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

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

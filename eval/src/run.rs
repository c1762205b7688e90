//! The measuring loop: models one after the other, each loaded once; for every prompt all decoders in turn, in
//! alternating order, so that drift of the machine (clock, other processes) affects all of them alike.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, ModelRole};
use jacobi_datasets::schema::eval_statistics::MemoryFloor;
use jacobi_datasets::schema::tuned::TunedModel;
use jacobi_decoder::{Decoding, Generation, RANKED, Settings, StopRules, generate};
use jacobi_model::{Compute, DecodingModel, Device, Dtype, LanguageModel, dtype_name};

use crate::divergence::gap;
use crate::floor::memory_floor;
use crate::journal::Journal;
use crate::judge::Judge;
use crate::opening::{LeftOut, PreparedModel, Tokens, Weights, prepare_model, read_questions};
use crate::questions::Question;
use crate::running::Running;
use crate::sandbox::Isolation;
use crate::score;
use crate::tasks::Task;
use crate::tuned::mark_tuned;
use crate::{EvalConfig, EvalError, EvalModel};

/// An evaluation to run.
#[derive(Clone, Copy, Debug)]
pub struct EvalJob<'a> {
    /// The models, in the order of the rows.
    pub models: &'a [EvalModel],
    /// Compute dtype.
    pub dtype: Dtype,
    /// Where to compute.
    pub device: Device,
    /// Prompts, task and decoders.
    pub config: &'a EvalConfig,
    /// Seed of the random drafts and of the bootstrap.
    pub seed: u64,
    /// The file that finished samples are appended to. Samples in it are not measured again; the caller makes
    /// sure that they were measured under the same settings.
    pub samples: &'a Path,
}

impl EvalJob<'_> {
    fn compute(&self) -> Compute {
        Compute { dtype: self.dtype, device: self.device }
    }
}

/// Progress after each sample.
#[derive(Clone, Debug)]
pub struct EvalProgress<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Before or after training.
    pub model_role: ModelRole,
    /// Name of the decoder.
    pub decoder: &'a str,
    /// Samples done, over all models, tasks and decoders, without the warm-up.
    pub done: usize,
    /// Samples to do.
    pub total: usize,
    /// Tokens of this sample.
    pub tokens: usize,
    /// Decode forwards of this sample.
    pub forwards: usize,
    /// Figures of the decoder on this task so far.
    pub so_far: Running,
}

/// The results of an evaluation.
#[derive(Clone, Debug, Default)]
pub struct EvalOutcome {
    /// One row per model, task and decoder, in this order, autoregressive first, then the tuned decoder.
    pub rows: Vec<EvalRow>,
    /// What tuning found for the models.
    pub tuned_models: Vec<TunedModel>,
    /// Every sample: by model, then task, then decoder, then prompt.
    pub samples: Vec<EvalSample>,
    /// Malformed rows of the prompt files, by task.
    pub left_out: Vec<LeftOut>,
    /// Figures that could not be measured, each with its reason.
    pub warnings: Vec<String>,
    /// How generated programs were isolated, if a task has any.
    pub isolation: Option<Isolation>,
    /// Whether the stop flag ended it early. The rows then cover the prompts that every decoder had answered.
    pub interrupted: bool,
}

/// Measures every model under every decoder. `stop` is read before each sample, `progress` called after each.
///
/// # Errors
/// [`EvalError`] for a task, decoder, prompt file, answer or model that cannot be used.
pub fn evaluate(
    job: &EvalJob,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&EvalProgress),
) -> Result<EvalOutcome, EvalError> {
    if job.models.is_empty() {
        return Err(EvalError::NoModels);
    }
    // Reports bad decoders before anything is loaded.
    let no_stop = StopRules { max_new_tokens: 1, eos_token_ids: Vec::new() };
    let contenders = |model, stop: &StopRules| job.config.contenders_of(model, job.models, job.seed, stop);
    let decoders = |model| Ok(contenders(model, &no_stop)?.len());
    let decoders: Vec<usize> = job.models.iter().map(decoders).collect::<Result<_, EvalError>>()?;
    let (sets, left_out) = read_questions(job.config)?;
    let mut journal = Journal::open(job.samples)?;
    let judge = Judge::open(sets.iter().map(|set| &set.task), &job.config.sandbox)?;
    // Reports errors of all models before the first one is measured, without loading any.
    let prepare = |model| prepare_model(model, &sets);
    let prepared: Vec<PreparedModel> = job.models.iter().map(prepare).collect::<Result<_, _>>()?;
    let mut weights = Weights::default();
    let questions: usize = sets.iter().map(|set| set.questions.len()).sum();
    let total = questions * decoders.iter().sum::<usize>();
    let mut done = 0;
    let mut outcome = EvalOutcome { isolation: judge.isolation(), left_out, ..EvalOutcome::default() };
    for ((model, decoders), PreparedModel { tokenizer, prompts }) in
        job.models.iter().zip(&decoders).zip(prepared)
    {
        let loaded = weights.load(model, job.compute())?;
        let adapter = model.adapter.as_deref().map(|dir| loaded.adapter(dir)).transpose();
        let adapter = adapter.map_err(|source| EvalError::Model { name: model.name.clone(), source })?;
        let transformer = &loaded.transformer;
        let floor = guarded(|| memory_floor(transformer));
        let missed =
            |reason: String| outcome.warnings.push(format!("no memory floor of {}: {reason}", model.name));
        let floor = floor.map_err(missed).ok();
        let language_model = DecodingModel::new(transformer).with_adapter(adapter.as_ref());
        for (set, prompts) in sets.iter().zip(prompts) {
            let stop_rules = set.stop_rules(tokenizer.eos_token_ids());
            let bench = Bench {
                model,
                language_model: &language_model,
                decode: &|ids| tokenizer.decode(ids),
                task: &set.task,
                judge: &judge,
                questions: &set.questions,
                prompts,
                contenders: &contenders(model, &stop_rules)?,
                floor,
            };
            let mut measured = bench.measure(job.config.warmup, &mut journal, stop, &mut |p| {
                progress(&EvalProgress { done: done + p.done, total, ..p.clone() });
            })?;
            done += set.questions.len() * decoders;
            bench.add_divergence_gaps(&mut measured, stop);
            bench.rank_rejections(job.config.rank_prompts, &mut measured, stop);
            outcome.add(measured, &set.task, dtype_name(transformer.kind()), job.seed);
            if outcome.interrupted {
                return Ok(outcome);
            }
        }
    }
    if job.config.tuned {
        outcome.tuned_models = mark_tuned(job.models, &mut outcome.rows)?;
    }
    Ok(outcome)
}

impl EvalOutcome {
    fn add(&mut self, measured: Measured, task: &Task, dtype: &str, seed: u64) {
        for (samples, rejection_ranks) in measured.samples.iter().zip(measured.ranks) {
            let row = score::row(samples, &measured.samples[0], dtype, seed);
            self.rows.extend(row.map(|row| EvalRow { task_version: task.version, rejection_ranks, ..row }));
        }
        self.samples.extend(measured.samples.into_iter().flatten());
        self.warnings.extend(measured.warnings);
        self.interrupted = measured.interrupted;
    }
}

/// One model on one task, under all decoders.
pub(crate) struct Bench<'a> {
    pub(crate) model: &'a EvalModel,
    pub(crate) language_model: &'a dyn LanguageModel,
    pub(crate) decode: &'a dyn Fn(&[u32]) -> String,
    pub(crate) task: &'a Task,
    pub(crate) judge: &'a Judge,
    pub(crate) questions: &'a [Question],
    /// Token ids of each question.
    pub(crate) prompts: Vec<Tokens>,
    /// The decoders, autoregressive first.
    pub(crate) contenders: &'a [Settings],
    /// `None` if it could not be measured.
    pub(crate) floor: Option<MemoryFloor>,
}

/// Results by decoder.
struct Measured {
    /// In the order of the prompts.
    samples: Vec<Vec<EvalSample>>,
    /// As [`EvalRow::rejection_ranks`].
    ranks: Vec<Vec<usize>>,
    /// As [`EvalOutcome::warnings`].
    warnings: Vec<String>,
    interrupted: bool,
}

/// Number of tokens that each pass added.
pub(crate) type Passes = Vec<usize>;

/// A response, or the reason why there is none.
pub(crate) type Answered = Result<(Generation, Passes), String>;

/// The result of `work`, or the message of its panic: a failure within libtorch must not lose the other samples and
/// figures.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
    })
}

impl Bench<'_> {
    /// Takes samples from the journal; measures and appends the missing ones.
    fn measure(
        &self,
        warmup: usize,
        journal: &mut Journal,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&EvalProgress),
    ) -> Result<Measured, EvalError> {
        let decoders = self.contenders.len();
        let samples = (0..decoders).map(|_| Vec::with_capacity(self.prompts.len())).collect();
        let ranks = vec![Vec::new(); decoders];
        let mut measured = Measured { samples, ranks, warnings: Vec::new(), interrupted: false };
        let mut running = vec![Running::default(); decoders];
        let mut is_warm = false;
        for index in 0..self.prompts.len() {
            let blanks: Vec<EvalSample> = (0..decoders).map(|turn| self.blank(index, turn)).collect();
            let samples = match journal.take(&blanks) {
                Some(kept) => kept,
                None => {
                    is_warm = is_warm || self.warm_up(warmup, stop);
                    let done = index * decoders;
                    let answered = self.answer(index, stop, &mut |turn, in_turn, response| {
                        progress(&self.progress(&running[turn], turn, done + in_turn, response));
                    });
                    let Some(answered) = answered.filter(|_| is_warm) else {
                        measured.interrupted = true;
                        return Ok(measured);
                    };
                    let samples = self.samples(index, &answered, journal.sitting);
                    journal.append(&samples)?;
                    samples
                }
            };
            Running::add_prompt(&mut running, &samples);
            for (all, sample) in measured.samples.iter_mut().zip(samples) {
                all.push(sample);
            }
        }
        Ok(measured)
    }

    /// Decodes some prompts without counting them. False if the stop flag ended it.
    fn warm_up(&self, prompts: usize, stop: &AtomicBool) -> bool {
        for prompt in self.prompts.iter().flatten().cycle().take(prompts) {
            for contender in self.contenders {
                if stop.load(Ordering::Relaxed) {
                    return false;
                }
                // A failure here will be reported when the prompt is measured.
                let _ = self.generate(prompt, contender);
            }
        }
        true
    }

    /// The responses of all decoders to one prompt; `None` if the stop flag ended it. `report` gets the
    /// decoder's index, the number of responses so far, and the response.
    fn answer(
        &self,
        index: usize,
        stop: &AtomicBool,
        report: &mut dyn FnMut(usize, usize, &Answered),
    ) -> Option<Vec<Answered>> {
        let mut order: Vec<usize> = (0..self.contenders.len()).collect();
        if index % 2 == 1 {
            order.reverse();
        }
        let mut answers: Vec<Option<Answered>> = self.contenders.iter().map(|_| None).collect();
        for (done, turn) in order.into_iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let answer = match &self.prompts[index] {
                Ok(prompt) => self.generate(prompt, &self.contenders[turn]),
                Err(reason) => Err(reason.clone()),
            };
            report(turn, done + 1, &answer);
            answers[turn] = Some(answer);
        }
        answers.into_iter().collect()
    }

    fn generate(&self, prompt: &[u32], contender: &Settings) -> Answered {
        let mut passes = Passes::new();
        let observe = &mut |pass: &jacobi_decoder::Pass| passes.push(pass.tokens.len());
        let generation = guarded(|| generate(self.language_model, prompt, contender, observe))?;
        Ok((generation, passes))
    }

    fn progress(&self, so_far: &Running, turn: usize, done: usize, response: &Answered) -> EvalProgress<'_> {
        let generation = response.as_ref().ok().map(|(generation, _)| generation);
        EvalProgress {
            model: &self.model.name,
            model_role: self.model.role,
            decoder: self.contenders[turn].strategy.name().as_str(),
            done,
            total: self.prompts.len() * self.contenders.len(),
            tokens: generation.map_or(0, |generation| generation.tokens.len()),
            forwards: generation.map_or(0, |generation| generation.stats.forwards),
            so_far: so_far.clone(),
        }
    }

    /// Adds the logit gaps of all divergences, after all timed runs. A gap that cannot be computed is left out with a
    /// warning.
    fn add_divergence_gaps(&self, measured: &mut Measured, stop: &AtomicBool) {
        let mut failures = Vec::new();
        let [autoregressive, others @ ..] = &mut measured.samples[..] else { return };
        for samples in others {
            for ((sample, reference), prompt) in samples.iter_mut().zip(&*autoregressive).zip(&self.prompts) {
                if stop.load(Ordering::Relaxed) {
                    measured.interrupted = true;
                    return;
                }
                if let (Some(_), Ok(prompt)) = (sample.first_divergence, prompt) {
                    let (tokens, reference) = (&sample.response_ids, &reference.response_ids);
                    let gap = guarded(|| gap(self.language_model, prompt, tokens, reference));
                    let missed = |reason: String| failures.push(format!("{}: {reason}", sample.sample_id));
                    sample.divergence_gap = gap.map_err(missed).ok().flatten();
                }
            }
        }
        if let Some(first) = failures.first() {
            let (count, name) = (failures.len(), &self.model.name);
            measured.warnings.push(format!("{count} logit gaps of {name} are left out; the first, {first}"));
        }
    }

    /// Adds the ranks that right tokens had where drafts were wrong, on the first `count` prompts, after all
    /// timed runs. A decoder that fails on one of them gets none, and a warning.
    fn rank_rejections(&self, count: usize, measured: &mut Measured, stop: &AtomicBool) {
        for ((contender, ranks), samples) in
            self.contenders.iter().zip(&mut measured.ranks).zip(&measured.samples).skip(1)
        {
            for (prompt, sample) in self.prompts.iter().zip(samples).take(count) {
                if stop.load(Ordering::Relaxed) {
                    measured.interrupted = true;
                    return;
                }
                let (Ok(prompt), None) = (prompt, &sample.error) else { continue };
                let add = || {
                    ranks.resize(RANKED + 1, 0);
                    let passes = Decoding::new(self.language_model, prompt, contender).rank_rejections();
                    passes.filter_map(|pass| pass.rejected_rank).for_each(|rank| ranks[rank] += 1);
                };
                if let Err(reason) = guarded(add) {
                    let (name, decoder) = (&self.model.name, contender.strategy.name().as_str());
                    measured.warnings.push(format!("no ranks of {name} under {decoder}: {reason}"));
                    ranks.clear();
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The headline: the rows it compares, and its figures.

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};

use crate::table::{shown_decoder, tasks};
use crate::text::{NOT_MEASURED, gaps, interval, number, percent, times};

/// One figure with its label and a comparison.
pub(crate) struct Figure {
    pub(crate) value: String,
    pub(crate) label: String,
    pub(crate) note: String,
}

/// The rows to compare. A run may have only one of the two models, or no parallel decoder.
pub(crate) struct Compared<'a> {
    pub(crate) base_ar: Option<&'a EvalRow>,
    pub(crate) base_parallel: Option<&'a EvalRow>,
    pub(crate) after_ar: Option<&'a EvalRow>,
    /// The decoder that tuning chose, else the fastest one.
    pub(crate) after_parallel: Option<&'a EvalRow>,
    pub(crate) fastest: Option<&'a EvalRow>,
    /// Whether "after" is a trained model, or the base with an adapter; otherwise it is the base model.
    pub(crate) has_trained: bool,
}

impl<'a> Compared<'a> {
    /// One comparison per task, in order.
    pub(crate) fn by_task(rows: &'a [EvalRow]) -> Vec<Self> {
        let of_task = |task: &str| rows.iter().filter(|row| row.task == task).collect::<Vec<_>>();
        tasks(rows).into_iter().map(|task| Self::of(&of_task(task))).collect()
    }

    /// The comparison of rows of one task.
    pub(crate) fn of(rows: &[&'a EvalRow]) -> Self {
        let has = |role: &ModelRole| rows.iter().any(|row| row.model_role == *role);
        let after_role = [ModelRole::Trained, ModelRole::Adapter].into_iter().find(has).unwrap_or_default();
        let has_trained = after_role != ModelRole::Base;
        let fastest = fastest(rows, after_role);
        let is_tuned = |row: &&EvalRow| row.model_role == after_role && row.tuned && !row.is_autoregressive();
        let after_parallel = rows.iter().copied().find(is_tuned).or(fastest);
        let after_name = after_parallel.map(|row| row.model.as_str());
        let base = || rows.iter().copied().filter(|row| row.model_role == ModelRole::Base);
        let of_after = |row: &&EvalRow| after_name.is_none_or(|name| name == row.model);
        let same_settings = |row: &&EvalRow| after_parallel.is_some_and(|after| after.is_decoded_as(row));
        // If several evaluations are compared, base and trained model of one evaluation have the same name.
        let has_own = base().any(|row| of_after(&row));
        let before = |wanted: &dyn Fn(&&'a EvalRow) -> bool| {
            base().filter(|row| !has_own || of_after(row)).find(wanted)
        };
        let of_role = |row: &&EvalRow| row.model_role == after_role && row.is_autoregressive();
        Self {
            base_ar: before(&|row| row.is_autoregressive()),
            base_parallel: before(&same_settings),
            after_ar: rows.iter().copied().filter(of_after).find(of_role),
            after_parallel,
            fastest,
            has_trained,
        }
    }

    /// Whether no decoder beat `ar`, here or in tuning.
    pub(crate) fn has_winning_ar(&self) -> bool {
        let is_slower = |row: &EvalRow| row.speedup_over_ar.is_some_and(|speedup| speedup <= 1.0);
        self.fastest.is_some_and(is_slower) || self.after_ar.is_some_and(|row| row.tuned)
    }

    /// That no decoder beat `ar`, or that one was faster than the tuned one.
    pub(crate) fn remark(&self) -> Option<String> {
        let (shown, fastest) = (self.after_parallel?, self.fastest?);
        let (label, speedup) = (fastest.decoder_label(), fastest.speedup_over_ar?);
        let times = times(Some(speedup));
        match self.has_winning_ar() {
            true if speedup <= 1.0 => Some(format!(
                "No decoder beat ar: the fastest of the others, {label}, has {times} its tokens/s."
            )),
            true => Some(format!("Tuning chose ar; here {label} has {times} its tokens/s.")),
            false => (fastest.tps > shown.tps)
                .then(|| format!("Faster here than the tuned decoder: {label}, {times} over ar.")),
        }
    }

    /// The figures of the headline, most important first; empty without a parallel decoder.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let Some(after) = self.after_parallel else { return Vec::new() };
        let mut figures = vec![self.tokens_per_forward(after), self.speedup(after)];
        if after.accuracy.is_some() {
            figures.push(self.accuracy(after));
        }
        figures.push(exact_match(after));
        figures.extend(self.ends(after));
        figures
    }

    fn tokens_per_forward(&self, after: &EvalRow) -> Figure {
        let before = self.base_parallel.and_then(|row| row.tpf).filter(|_| self.has_trained);
        let note = match (before, after.tpf) {
            (Some(before), Some(now)) => {
                let without = match after.model_role {
                    ModelRole::Adapter => "without the adapter",
                    _ => "before training",
                };
                format!("{} {without}, {} times that", number(Some(before)), number(Some(now / before)))
            }
            _ => "1.00 is one token at a time".to_owned(),
        };
        Figure {
            value: number(after.tpf),
            label: format!("tokens per forward pass ({})", shown_decoder(after)),
            note,
        }
    }

    fn speedup(&self, after: &EvalRow) -> Figure {
        let ar = self.after_ar.and_then(|row| row.tps);
        Figure {
            value: times(after.speedup_over_ar),
            label: "tokens/s over our ar loop".to_owned(),
            note: format!("{} against {} tokens/s, same model, same run", number(after.tps), number(ar)),
        }
    }

    fn accuracy(&self, after: &EvalRow) -> Figure {
        let base = self.base_ar.and_then(|row| row.accuracy).filter(|_| self.has_trained);
        let note = match (base, after.accuracy) {
            (Some(base), Some(now)) => {
                let points = (now - base) * 100.0;
                format!("{} base model under ar ({points:+.1} points)", percent(Some(base)))
            }
            _ => {
                format!("{} under ar", self.after_ar.map_or(NOT_MEASURED.to_owned(), |r| percent(r.accuracy)))
            }
        };
        Figure { value: percent(after.accuracy), label: format!("{} accuracy", after.task), note }
    }

    /// How many responses end by themselves, with the base model's, and their length.
    fn ends(&self, after: &EvalRow) -> Option<Figure> {
        after.ended?;
        let share =
            |row: &EvalRow| format!("{} ({})", percent(row.ended), interval(row.ended_interval, percent));
        let base = self.base_ar.filter(|row| self.has_trained && row.ended.is_some());
        let (before, length_before) = base.map_or_else(Default::default, |row| {
            let length = number(row.mean_response_tokens);
            (format!("; {} base model under ar", share(row)), format!(" after {length}"))
        });
        let note = format!(
            "95 % interval {}{before}; mean length {} tokens{length_before}",
            interval(after.ended_interval, percent),
            number(after.mean_response_tokens)
        );
        Some(Figure { value: percent(after.ended), label: "of responses end by themselves".to_owned(), note })
    }
}

fn exact_match(after: &EvalRow) -> Figure {
    let mut note = format!("{} samples, token for token", after.samples);
    if after.model_role == ModelRole::Adapter {
        note += "; the base model verifies every token, the adapter only drafts";
    }
    if after.divergence_gap_max.is_some() {
        note += "; logit gap at divergences ";
        note += &gaps(after.divergence_gap_median, after.divergence_gap_max);
    }
    Figure { value: percent(after.exact_match_ar), label: "exact match with ar".to_owned(), note }
}

/// The parallel row with the most tokens per second.
fn fastest<'a>(rows: &[&'a EvalRow], role: ModelRole) -> Option<&'a EvalRow> {
    let parallel = rows.iter().copied().filter(|row| row.model_role == role && !row.is_autoregressive());
    parallel.max_by(|a, b| a.tps.unwrap_or(0.0).total_cmp(&b.tps.unwrap_or(0.0)))
}

#[cfg(test)]
mod tests;

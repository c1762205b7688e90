//! The headline: which rows carry it and the few figures it states.

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};

use crate::table::tasks;
use crate::text::{NOT_MEASURED, gaps, number, percent, times};

/// One figure with what it is and what it is held against.
pub(crate) struct Figure {
    pub(crate) value: String,
    pub(crate) label: String,
    pub(crate) note: String,
}

/// The rows a reader compares. A run may have only one of the two models, or no parallel decoder at all.
pub(crate) struct Compared<'a> {
    pub(crate) base_ar: Option<&'a EvalRow>,
    pub(crate) base_parallel: Option<&'a EvalRow>,
    pub(crate) after_ar: Option<&'a EvalRow>,
    pub(crate) after_parallel: Option<&'a EvalRow>,
    /// Whether "after" is a trained model; else it is the base model itself.
    pub(crate) has_trained: bool,
}

impl<'a> Compared<'a> {
    /// A comparison for each task, in their order.
    pub(crate) fn by_task(rows: &'a [EvalRow]) -> Vec<Self> {
        let of_task = |task: &str| rows.iter().filter(|row| row.task == task).collect::<Vec<_>>();
        tasks(rows).into_iter().map(|task| Self::of(&of_task(task))).collect()
    }

    /// Of rows of one task.
    pub(crate) fn of(rows: &[&'a EvalRow]) -> Self {
        let has_trained = rows.iter().any(|row| row.model_role == ModelRole::Trained);
        let after_role = if has_trained { ModelRole::Trained } else { ModelRole::Base };
        let after_parallel = fastest(rows, after_role);
        let after_name = after_parallel.map(|row| row.model.as_str());
        let base = || rows.iter().copied().filter(|row| row.model_role == ModelRole::Base);
        let of_after = |row: &&EvalRow| after_name.is_none_or(|name| name == row.model);
        let same_settings = |row: &&EvalRow| after_parallel.is_some_and(|after| after.is_decoded_as(row));
        // Of the same evaluation where several are compared: there they go by one name.
        let before = |wanted: &dyn Fn(&&'a EvalRow) -> bool| {
            base().filter(of_after).find(wanted).or_else(|| base().find(wanted))
        };
        let of_role = |row: &&EvalRow| row.model_role == after_role && row.is_autoregressive();
        Self {
            base_ar: before(&|row| row.is_autoregressive()),
            base_parallel: before(&same_settings),
            after_ar: rows.iter().copied().filter(of_after).find(of_role),
            after_parallel,
            has_trained,
        }
    }

    /// The figures of the headline, most important first; empty if no parallel decoder ran.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let Some(after) = self.after_parallel else { return Vec::new() };
        let mut figures = vec![self.tokens_per_forward(after), self.speedup(after)];
        if after.accuracy.is_some() {
            figures.push(self.accuracy(after));
        }
        figures.push(exact_match(after));
        figures
    }

    fn tokens_per_forward(&self, after: &EvalRow) -> Figure {
        let before = self.base_parallel.and_then(|row| row.tpf).filter(|_| self.has_trained);
        let note = match (before, after.tpf) {
            (Some(before), Some(now)) => {
                format!("{} before training, {} times that", number(Some(before)), number(Some(now / before)))
            }
            _ => "1.00 is one token at a time".to_owned(),
        };
        Figure {
            value: number(after.tpf),
            label: format!("tokens per forward pass ({})", after.decoder_label()),
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
}

fn exact_match(after: &EvalRow) -> Figure {
    let mut note = format!("{} samples, token for token", after.samples);
    if after.divergence_gap_max.is_some() {
        note += "; logit gap where they part ";
        note += &gaps(after.divergence_gap_median, after.divergence_gap_max);
    }
    Figure { value: percent(after.exact_match_ar), label: "exact match with ar".to_owned(), note }
}

/// The parallel row of most tokens per second, which is what a user would choose.
fn fastest<'a>(rows: &[&'a EvalRow], role: ModelRole) -> Option<&'a EvalRow> {
    let parallel = rows.iter().copied().filter(|row| row.model_role == role && !row.is_autoregressive());
    parallel.max_by(|a, b| a.tps.unwrap_or(0.0).total_cmp(&b.tps.unwrap_or(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::rows;

    fn lines(rows: &[EvalRow]) -> Vec<String> {
        let compared = Compared::by_task(rows);
        let figures: Vec<Figure> = compared.iter().flat_map(Compared::figures).collect();
        figures.iter().map(|f| format!("{} | {} | {}", f.value, f.label, f.note)).collect()
    }

    #[test]
    fn before_and_after() {
        assert_eq!(
            lines(&rows()),
            [
                "2.71 | tokens per forward pass (jacobi n=16) | 1.08 before training, 2.51 times that",
                "2.32x | tokens/s over our ar loop | 95.2 against 41.0 tokens/s, same model, same run",
                "92.2 % | gsm8k accuracy | 93.8 % base model under ar (-1.6 points)",
                "98.4 % | exact match with ar | 64 samples, token for token; logit gap where they part 0.031, at most 0.031",
            ]
        );
    }

    #[test]
    fn each_task_has_its_own_headline() {
        let mut rows = rows();
        let other =
            |row: EvalRow| EvalRow { task: "math500".to_owned(), tpf: row.tpf.map(|tpf| tpf * 2.0), ..row };
        rows.extend(rows.clone().into_iter().map(other));
        let lines = lines(&rows);
        assert_eq!(lines.len(), 8);
        assert!(
            lines[0].starts_with("2.71 |") && lines[4].starts_with("5.42 |") && lines[6].contains("math500")
        );
    }

    #[test]
    fn before_is_the_base_of_the_same_evaluation() {
        let named = |name: &'static str, tpf: f64| {
            rows().into_iter().map(move |row| EvalRow {
                model: name.to_owned(),
                tpf: row.tpf.map(|t| t * tpf),
                ..row
            })
        };
        let mut rows: Vec<EvalRow> = named("slow", 2.0).chain(named("fast", 1.0)).collect();
        rows[7].tps = Some(500.0);
        assert!(lines(&rows)[0].ends_with("1.08 before training, 2.51 times that"), "{:?}", lines(&rows));
    }

    #[test]
    fn one_model_has_no_before() {
        let lines = lines(&rows()[..2]);
        assert_eq!(lines[0], "1.08 | tokens per forward pass (jacobi n=16) | 1.00 is one token at a time");
        assert_eq!(lines[2], "93.8 % | gsm8k accuracy | 93.8 % under ar");
    }

    #[test]
    fn ar_alone_has_no_headline_and_no_accuracy_is_left_out() {
        assert!(lines(&rows()[..1]).is_empty());
        let mut rows = rows();
        for row in &mut rows {
            row.accuracy = None;
        }
        assert_eq!(lines(&rows).len(), 3);
    }
}

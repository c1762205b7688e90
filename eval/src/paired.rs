//! McNemar's exact test: is one decoder or model right more often than another, on the prompts that both answered?
//!
//! Only prompts that exactly one of them gets right count. If both are equally good, each of these is equally
//! likely to be either's (McNemar 1947; exact: the two-sided binomial test at 1/2).

use std::collections::BTreeMap;

use jacobi_datasets::schema::eval_row::{AUTOREGRESSIVE, EvalSample};
use jacobi_datasets::schema::eval_statistics::{Answerer, PairedTest};

/// The p-value: the probability of a split at least as uneven as `a` to `b` in `a + b` tosses of a fair coin.
pub(crate) fn mcnemar(a: usize, b: usize) -> f64 {
    let (n, m) = (a + b, a.min(b));
    // The largest term of the tail, C(n, m) / 2^n. Halved while it grows, since C(n, m) overflows for large n.
    let (mut largest, mut halvings) = (1.0, 0);
    for k in 1..=m {
        largest *= (n - k + 1) as f64 / k as f64;
        while largest > 1.0 && halvings < n {
            largest /= 2.0;
            halvings += 1;
        }
    }
    largest *= 0.5_f64.powi((n - halvings) as i32);
    let (mut term, mut tail) = (1.0, 1.0);
    for k in (1..=m).rev() {
        term *= k as f64 / (n - k + 1) as f64;
        tail += term;
    }
    // An even split counts the middle term twice, so the sum can exceed 1.
    (2.0 * largest * tail).min(1.0)
}

/// The samples of one model under one decoder on one task.
struct Series<'a> {
    answerer: Answerer,
    task: &'a str,
    samples: Vec<&'a EvalSample>,
}

impl Series<'_> {
    /// Whether both have the same task and model; decoders may differ.
    fn is_same_model_as(&self, other: &Self) -> bool {
        let model = |of: &Self| (of.answerer.model.clone(), of.answerer.model_role);
        self.task == other.task && model(self) == model(other)
    }

    /// Whether both have the same task and decoder; models may differ.
    fn is_same_decoder_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.answerer, &other.answerer);
        self.task == other.task && (&a.decoder, &a.decoder_settings) == (&b.decoder, &b.decoder_settings)
    }
}

/// The tests, in the order of the samples: each decoder against the autoregressive one of the same model, and
/// each model against the first one, and against the first one of its role, under the same decoder. Samples
/// without a verdict are left out.
pub fn paired_tests(samples: &[EvalSample]) -> Vec<PairedTest> {
    let series = series(samples);
    let mut tests = Vec::new();
    for (index, b) in series.iter().enumerate() {
        let earlier = || series[..index].iter();
        let baseline = |a: &&Series| a.answerer.decoder == AUTOREGRESSIVE && a.is_same_model_as(b);
        tests.extend(earlier().find(baseline).map(|a| test(a, b)));
        let first = earlier().find(|a| a.is_same_decoder_as(b));
        tests.extend(first.map(|a| test(a, b)));
        let role = b.answerer.model_role;
        let first_of_role = earlier().find(|a| a.is_same_decoder_as(b) && a.answerer.model_role == role);
        let is_other = |a: &&Series| first.is_some_and(|first| first.answerer != a.answerer);
        tests.extend(first_of_role.filter(is_other).map(|a| test(a, b)));
    }
    tests.retain(|test| test.both + test.only_a + test.only_b + test.neither > 0);
    tests
}

fn series(samples: &[EvalSample]) -> Vec<Series<'_>> {
    let mut all: Vec<Series> = Vec::new();
    for sample in samples {
        let answerer = Answerer {
            model: sample.model.clone(),
            model_role: sample.model_role,
            decoder: sample.decoder.clone(),
            decoder_settings: sample.decoder_settings.clone(),
        };
        // Samples of one series are mostly adjacent, so the search starts at the last one.
        let found = all.iter_mut().rev().find(|of| of.answerer == answerer && of.task == sample.task);
        match found {
            Some(of) => of.samples.push(sample),
            None => all.push(Series { answerer, task: &sample.task, samples: vec![sample] }),
        }
    }
    all
}

fn test(a: &Series, b: &Series) -> PairedTest {
    let verdicts: BTreeMap<&str, bool> =
        a.samples.iter().filter_map(|s| Some((s.sample_id.as_str(), s.correct?))).collect();
    let mut counts = [[0; 2]; 2];
    for sample in &b.samples {
        if let (Some(&of_a), Some(of_b)) = (verdicts.get(sample.sample_id.as_str()), sample.correct) {
            counts[usize::from(of_a)][usize::from(of_b)] += 1;
        }
    }
    let [[neither, only_b], [only_a, both]] = counts;
    PairedTest {
        task: b.task.to_owned(),
        a: a.answerer.clone(),
        b: b.answerer.clone(),
        both,
        only_a,
        only_b,
        neither,
        p_value: mcnemar(only_a, only_b),
    }
}

#[cfg(test)]
mod tests;

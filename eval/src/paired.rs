//! Is one decoder or model right more often than another? Answered on the prompts both had: McNemar's exact test.
//!
//! Only prompts that one gets right and the other wrong say anything. If both were equally good, each of those would
//! fall to either side like a coin (McNemar 1947; exact: the two-sided binomial test at 1/2).

use std::collections::BTreeMap;

use jacobi_datasets::schema::eval_row::{AUTOREGRESSIVE, EvalSample};
use jacobi_datasets::schema::eval_statistics::{Answerer, PairedTest};

/// The probability of a split at least as uneven as `a` to `b` when each of `a + b` falls to either side like a coin.
pub(crate) fn mcnemar(a: usize, b: usize) -> f64 {
    let (n, m) = (a + b, a.min(b));
    // The largest term of the tail, C(n, m) / 2^n, halved as it grows: neither factor of it is a double for large n.
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
    // An even split counts its middle term from both sides.
    (2.0 * largest * tail).min(1.0)
}

/// The samples of one model under one decoder on one task.
struct Series<'a> {
    answerer: Answerer,
    task: &'a str,
    samples: Vec<&'a EvalSample>,
}

impl Series<'_> {
    /// Another decoder of the same model on the same task.
    fn is_rival_of(&self, other: &Self) -> bool {
        let model = |of: &Self| (of.answerer.model.clone(), of.answerer.model_role);
        self.task == other.task && model(self) == model(other)
    }

    /// Another model under the same decoder on the same task.
    fn is_peer_of(&self, other: &Self) -> bool {
        let (a, b) = (&self.answerer, &other.answerer);
        self.task == other.task && (&a.decoder, &a.decoder_settings) == (&b.decoder, &b.decoder_settings)
    }
}

/// Every pair worth a test, in the order of the samples: each decoder with the autoregressive one of its model, and each
/// model with the first one, and with the first one of its role, under the same decoder. Samples without a verdict are
/// left out.
pub fn paired_tests(samples: &[EvalSample]) -> Vec<PairedTest> {
    let series = series(samples);
    let mut tests = Vec::new();
    for (index, b) in series.iter().enumerate() {
        let earlier = || series[..index].iter();
        let baseline = |a: &&Series| a.answerer.decoder == AUTOREGRESSIVE && a.is_rival_of(b);
        tests.extend(earlier().find(baseline).map(|a| test(a, b)));
        let first = earlier().find(|a| a.is_peer_of(b));
        tests.extend(first.map(|a| test(a, b)));
        let role = b.answerer.model_role;
        let first_of_role = earlier().find(|a| a.is_peer_of(b) && a.answerer.model_role == role);
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
        // Those of one series stand together: the last one is nearly always it.
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
mod tests {
    use super::*;
    use crate::fixtures::sample;
    use jacobi_datasets::schema::eval_row::ModelRole;

    #[test]
    fn p_values_are_those_of_the_binomial_test() {
        // scipy.stats.binomtest(b, b + c, 0.5).pvalue; the last two by exact fractions.
        let rows = [
            (1, 0, 1.0),
            (3, 0, 0.25),
            (1, 1, 1.0),
            (5, 1, 0.21875),
            (10, 10, 1.0),
            (8, 21, 0.024_119_544_774_293_9),
            (0, 12, 0.000_488_281_25),
            (12, 5, 0.143_463_134_765_625),
            (150, 100, 0.001_883_300_935_076_159),
            (700, 600, 0.006_015_793_863_044_953),
            (2000, 1800, 0.001_242_786_778_263_199),
        ];
        for (b, c, expected) in rows {
            for (b, c) in [(b, c), (c, b)] {
                let p = mcnemar(b, c);
                assert!((p / expected - 1.0).abs() < 1e-9, "{b} {c}: {p}, not {expected}");
            }
        }
        assert_eq!(mcnemar(0, 0), 1.0);
    }

    #[test]
    fn decoders_are_held_against_ar_and_models_against_the_first() {
        let verdicts = |role, decoder: &str, correct: [Option<bool>; 4]| {
            let one = |(index, correct)| {
                let mut sample = sample(decoder, 8, 4, 1.0);
                (sample.model_role, sample.correct) = (role, correct);
                sample.sample_id = format!("q{index}");
                sample
            };
            correct.into_iter().enumerate().map(one).collect::<Vec<_>>()
        };
        let (yes, no) = (Some(true), Some(false));
        let samples = [
            verdicts(ModelRole::Base, "ar", [yes, yes, no, no]),
            verdicts(ModelRole::Base, "jacobi", [yes, yes, no, None]),
            verdicts(ModelRole::Trained, "ar", [yes, no, yes, yes]),
        ]
        .concat();
        let found: Vec<String> = paired_tests(&samples)
            .iter()
            .map(|t| {
                let name = |of: &Answerer| format!("{} {}", of.model_role.as_str(), of.decoder_label());
                let counts = [t.both, t.only_a, t.only_b, t.neither];
                format!("{} | {} | {counts:?} {}", name(&t.a), name(&t.b), t.p_value)
            })
            .collect();
        assert_eq!(
            found,
            ["base ar | base jacobi | [2, 0, 0, 1] 1", "base ar | trained ar | [1, 1, 2, 0] 1"]
        );
        assert!(paired_tests(&[sample("ar", 8, 4, 1.0), sample("jacobi", 8, 4, 1.0)]).is_empty());
    }
}

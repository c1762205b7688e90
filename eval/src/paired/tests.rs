//! p-values and pairs.

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
fn decoders_are_compared_with_ar_and_models_with_the_first() {
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
    assert_eq!(found, ["base ar | base jacobi | [2, 0, 0, 1] 1", "base ar | trained ar | [1, 1, 2, 0] 1"]);
    assert!(paired_tests(&[sample("ar", 8, 4, 1.0), sample("jacobi", 8, 4, 1.0)]).is_empty());
}

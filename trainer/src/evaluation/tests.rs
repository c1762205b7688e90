//! Repetitions, and the choice of the best checkpoint.

use super::*;

#[test]
fn repetitions_are_the_runs_seen_before() {
    let rows: [(&[&[u32]], f64, f64); 4] = [
        (&[&[1, 2, 3, 4, 5]], 0.0, 2.0),
        (&[&[7; 8]], 4.0, 5.0),
        (&[&[1, 2, 3, 4], &[1, 2, 3, 4]], 0.0, 2.0),
        (&[&[], &[1, 2]], 0.0, 0.0),
    ];
    for (responses, repeated, all) in rows {
        assert_eq!(repetitions(responses), (repeated, all), "{responses:?}");
    }
}

#[test]
fn the_best_is_the_fastest_of_those_that_kept_their_answers() {
    let at = |step, tpf, loss_ar, degenerate| Evaluation {
        step,
        tpf,
        loss_ar,
        degenerate,
        exact_match_ar: 1.0,
        repetition: 0.0,
    };
    let mut evaluations = Evaluations::default();
    let rows = [
        (at(0, 1.5, 0.20, false), None),
        (at(1, 1.2, 0.20, false), Some(1)),
        (at(2, 2.0, 0.24, false), Some(2)),
        (at(3, 3.0, 0.26, false), Some(2)), // harmed
        (at(4, 9.0, 0.10, true), Some(2)),  // repeats itself
        (at(5, 1.9, 0.10, false), Some(2)), // not as far
        (at(6, 2.0, 0.25, false), Some(6)),
    ];
    for (evaluation, best) in rows {
        evaluations.add(evaluation, 0.05 + 1e-12);
        assert_eq!(evaluations.best.map(|best| best.step), best, "after {}", evaluation.step);
        assert_eq!(evaluations.last_step(), Some(evaluation.step));
    }
    assert_eq!(evaluations.baseline.unwrap().step, 0);
}

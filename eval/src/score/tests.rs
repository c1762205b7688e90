//! Figures worked out by hand.

use super::*;
use crate::fixtures::sample;

#[test]
fn micro_and_macro_by_hand() {
    // Decoded tokens 20 and 10; ar at 10 tokens/s each.
    let ar = [sample("ar", 21, 20, 2.0), sample("ar", 11, 10, 1.0)];
    let mut jacobi = [sample("jacobi", 21, 5, 0.5), sample("jacobi", 11, 10, 1.5)];
    // The second leaves ar at its fourth token: 1 divergence in 21 + 4 tokens compared.
    jacobi[1].first_divergence = Some(3);
    jacobi[1].matches_ar = Some(false);
    jacobi[1].finish_reason = FinishReason::Length;
    jacobi[0].acceptance = vec![0, 1, 2];
    jacobi[0].accepted_from = [("own".to_owned(), 10), ("tree".to_owned(), 5)].into();
    jacobi[0].limited_by = [("draft".to_owned(), 3), ("end".to_owned(), 2)].into();
    jacobi[1].limited_by = [("draft".to_owned(), 9), ("end".to_owned(), 1)].into();
    let width = |rows, forwards, seconds| EvalWidth { rows, forwards, seconds };
    jacobi[0].widths = vec![width(1, 2, 0.125), width(8, 3, 0.375)];
    let row = super::row(&jacobi, &ar, "float32", 1).unwrap();
    assert_eq!(row.tpf, Some(30.0 / 15.0));
    assert_eq!(row.tpf_macro, Some((4.0 + 1.0) / 2.0));
    assert_eq!(row.tps, Some(15.0));
    assert_eq!(row.tps_macro, Some((40.0 + 10.0 / 1.5) / 2.0));
    assert_eq!(row.speedup_over_ar, Some(1.5));
    assert_eq!(row.exact_match_ar, Some(0.5));
    assert_eq!(row.divergences_per_1k_tokens, Some(40.0));
    assert_eq!((row.tokens, row.forwards, row.samples, row.stopped_by_length), (30, 15, 2, 1));
    assert_eq!((row.decode_seconds, row.prefill_seconds), (2.0, 1.0));
    assert_eq!((row.ended, row.mean_response_tokens), (Some(0.5), Some(16.0)));
    assert_eq!(row.ended_interval, wilson(1, 2));
    assert_eq!(row.acceptance, [0, 11, 2]);
    assert_eq!(row.accepted_from, [("own".to_owned(), 10), ("tree".to_owned(), 5)].into());
    assert_eq!(row.limited_by, [("draft".to_owned(), 12), ("end".to_owned(), 3)].into());
    assert_eq!(row.widths, [width(1, 12, 1.625), width(8, 3, 0.375)]);
    assert_eq!((row.accuracy, row.accuracy_interval), (None, None));
    // Draws are {0, 0}, {0, 1}, {1, 1}: tpf 4, 2, 1; tps 40, 15, 10 / 1.5.
    let interval = row.tpf_interval.unwrap();
    assert_eq!((interval.low, interval.high), (1.0, 4.0));
    let interval = row.tps_interval.unwrap();
    assert_eq!((interval.low, interval.high), (10.0 / 1.5, 40.0));
    // 21 + 11 tokens in 1 + 2 seconds; 2 prompt tokens in 1 second.
    assert_eq!((row.tps_end_to_end, row.prefill_tps), (Some(32.0 / 3.0), Some(2.0)));
    assert_eq!((row.first_divergence_median, row.memory_floor), (Some(3.0), None));
}

#[test]
fn a_prompt_that_one_could_not_answer_is_wrong_and_has_no_speed() {
    let judged = |mut sample: EvalSample, correct| {
        sample.correct = Some(correct);
        sample
    };
    let ar = [judged(sample("ar", 21, 20, 2.0), true), judged(sample("ar", 11, 10, 1.0), true)];
    let mut jacobi = [judged(sample("jacobi", 21, 5, 0.5), true), judged(sample("jacobi", 1, 0, 9.0), false)];
    (jacobi[1].error, jacobi[1].matches_ar) = (Some("out of memory".to_owned()), None);
    let mut ar = ar;
    ar[1].finish_reason = FinishReason::Length;
    // Cut at the limit is a figure of all samples of a decoder, whatever became of the others.
    assert_eq!(super::row(&ar, &jacobi, "float32", 1).unwrap().stopped_by_length, 1);
    let row = super::row(&jacobi, &ar, "float32", 1).unwrap();
    assert_eq!((row.samples, row.failed, row.accuracy), (2, 1, Some(0.5)));
    // A sample without a response is neither ended nor cut.
    assert_eq!(
        (row.ended, row.ended_interval, row.mean_response_tokens),
        (Some(1.0), wilson(1, 1), Some(21.0))
    );
    assert_eq!((row.tpf, row.speedup_over_ar, row.exact_match_ar), (Some(4.0), Some(4.0), Some(1.0)));
    assert_eq!((row.decode_seconds, row.per_prompt.tps.unwrap().low), (0.5, None));
}

#[test]
fn each_sitting_has_its_own_memory_floor() {
    let floor = |rate: f64| MemoryFloor {
        weight_bytes: 100,
        copy_bytes_per_second: 100.0 * rate,
        tokens_per_second: rate,
    };
    let mut ar = [sample("ar", 21, 20, 2.0), sample("ar", 11, 10, 1.0)];
    (ar[0].memory_floor, ar[1].memory_floor, ar[1].sitting) = (Some(floor(20.0)), Some(floor(5.0)), 2);
    let row = super::row(&ar, &ar, "float32", 1).unwrap();
    // 20 tokens at 20 per second and 10 at 5: 30 in 3 seconds, which is what they took.
    assert_eq!((row.sittings, row.memory_floor, row.over_floor()), (2, Some(floor(10.0)), Some(1.0)));
}

#[test]
fn degenerate_responses_are_told_from_repetitive_ones() {
    let looped = |run: &[u32], times: usize| [&[90, 91, 92][..], &run.repeat(times)].concat();
    let rows = [
        (looped(&[1, 2, 3, 4, 5, 6, 7, 8], 4), true),
        (looped(&[1, 2, 3, 4, 5, 6, 7, 8], 3), false),
        (looped(&[0], 32), true),
        (looped(&[0], 31), false),
        // A short run more often than a long one does not hide it.
        ([looped(&[0], 20), looped(&(1..=40).collect::<Vec<_>>(), 4)].concat(), true),
        (looped(&(1..=65).collect::<Vec<_>>(), 5), false),
        (vec![], false),
    ];
    for (ids, expected) in rows {
        let mut one = sample("jacobi", 8, 4, 1.0);
        one.response_ids = ids;
        assert_eq!(is_degenerate(&one), expected, "{:?}", one.response_ids);
        let row = super::row(&[one.clone(), sample("jacobi", 8, 4, 1.0)], &[one.clone(), one], "", 1);
        assert_eq!(row.unwrap().degenerate, Some(if expected { 0.5 } else { 0.0 }));
    }
}

#[test]
fn gaps_are_those_of_the_samples_that_diverge() {
    let check = |gaps: &[Option<f64>], median, max| {
        let with_gap = |gap: &Option<f64>| {
            let mut record = sample("jacobi", 21, 5, 0.5);
            record.divergence_gap = *gap;
            record
        };
        let records: Vec<EvalSample> = gaps.iter().map(with_gap).collect();
        let row = super::row(&records, &records, "bfloat16", 1).unwrap();
        assert_eq!((row.divergence_gap_median, row.divergence_gap_max), (median, max), "{gaps:?}");
    };
    check(&[None], None, None);
    check(&[None, Some(0.5)], Some(0.5), Some(0.5));
    check(&[Some(2.0), Some(0.0), Some(0.25)], Some(0.25), Some(2.0));
    check(&[Some(2.0), Some(0.5), None, Some(0.0), Some(0.25)], Some(0.375), Some(2.0));
}

#[test]
fn the_baseline_is_not_compared_with_itself() {
    let ar = [sample("ar", 21, 20, 2.0)];
    let row = super::row(&ar, &ar, "float32", 1).unwrap();
    assert_eq!((row.tpf, row.speedup_over_ar), (Some(1.0), Some(1.0)));
    assert_eq!((row.exact_match_ar, row.divergences_per_1k_tokens, row.speedup_interval), (None, None, None));
}

#[test]
fn a_response_of_one_token_has_no_speed() {
    let one = [sample("jacobi", 1, 0, 0.0)];
    let row = super::row(&one, &one, "float32", 1).unwrap();
    assert_eq!((row.tpf, row.tps, row.speedup_over_ar, row.tpf_macro), (None, None, None, None));
    assert_eq!(row.exact_match_ar, Some(1.0));
    assert!(super::row(&[], &[], "float32", 1).is_none());
}

//! The headline with and without a trained model.

use jacobi_datasets::schema::eval_row::Interval;

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
            "98.4 % | exact match with ar | 64 samples, token for token; logit gap at divergences 0.031, at most 0.031",
        ]
    );
}

#[test]
fn an_adapter_is_compared_with_its_base() {
    let mut rows = rows();
    rows[2..].iter_mut().for_each(|row| row.model_role = ModelRole::Adapter);
    assert!(lines(&rows)[0].ends_with("| 1.08 without the adapter, 2.51 times that"), "{:?}", lines(&rows));
}

#[test]
fn ends_are_compared_with_those_of_the_base_model() {
    let mut rows = rows();
    for (row, share) in rows.iter_mut().zip([1.0, 1.0, 0.75, 0.5]) {
        row.ended = Some(share);
        row.ended_interval = Some(Interval { low: share - 0.125, high: share });
        row.mean_response_tokens = Some(100.0 - share);
    }
    assert_eq!(
        lines(&rows)[4],
        "50.0 % | of responses end by themselves | 95 % interval 37.5 % to 50.0 %; 100 % (87.5 % to 100 %) base model under ar; \
         mean length 99.5 tokens after 99.0"
    );
    assert_eq!(
        lines(&rows[..2])[4],
        "100 % | of responses end by themselves | 95 % interval 87.5 % to 100 %; mean length 99.0 tokens"
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
    assert!(lines[0].starts_with("2.71 |") && lines[4].starts_with("5.42 |") && lines[6].contains("math500"));
}

#[test]
fn a_headline_compares_with_the_base_model_of_the_same_evaluation() {
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

#[test]
fn the_tuned_decoder_leads_even_if_another_was_faster() {
    let mut rows = rows();
    let mut tuned = EvalRow { tuned: true, tpf: Some(2.0), tps: Some(90.0), ..rows[3].clone() };
    tuned.decoder_settings.insert("block_size".to_owned(), 4.into());
    rows.push(tuned);
    assert!(
        lines(&rows)[0].starts_with("2.00 | tokens per forward pass (jacobi n=4, tuned)"),
        "{:?}",
        lines(&rows)
    );
    let remark = |rows: &[EvalRow]| Compared::by_task(rows)[0].remark();
    let expected = "Faster here than the tuned decoder: jacobi n=16, 2.32x over ar.";
    assert_eq!(remark(&rows), Some(expected.to_owned()));
    rows[4].tps = Some(99.0);
    assert_eq!(remark(&rows), None);
}

#[test]
fn that_no_decoder_beat_ar_is_said() {
    let mut rows = rows();
    let remark = |rows: &[EvalRow]| Compared::by_task(rows)[0].remark();
    rows[3].speedup_over_ar = Some(0.9);
    let expected = "No decoder beat ar: the fastest of the others, jacobi n=16, has 0.90x its tokens/s.";
    assert_eq!(remark(&rows), Some(expected.to_owned()));
    rows[3].speedup_over_ar = Some(1.1);
    assert_eq!(remark(&rows), None);
    rows[2].tuned = true;
    assert_eq!(remark(&rows).unwrap(), "Tuning chose ar; here jacobi n=16 has 1.10x its tokens/s.");
}

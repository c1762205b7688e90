//! Tables on the terminal and in Markdown.

use super::*;
use crate::fixtures::rows;

#[test]
fn terminal_table_is_aligned() {
    let expected = "\
model    decoder       TPF  tokens/s     speedup, 95 %  accuracy  exact match        divergence gap
───────  ───────────  ────  ────────  ────────────────  ────────  ───────────  ────────────────────
base     ar           1.00      41.2             1.00x    93.8 %            –                     –
base     jacobi n=16  1.08      40.0  0.97x, 0.00–1.00    93.8 %        100 %                     –
trained  ar           1.00      41.0             1.00x    92.2 %            –                     –
trained  jacobi n=16  2.71      95.2  2.32x, 2.00–3.00    92.2 %       98.4 %  0.031, at most 0.031
";
    assert_eq!(terminal_table(&rows()), expected);
    assert!(expected.lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn markdown_table() {
    let expected = "\
| model | decoder | TPF | tokens/s | speedup over ar | accuracy | exact match |
| :--- | :--- | ---: | ---: | ---: | ---: | ---: |
| tiny | ar | 1.00 | 41.2 | 1.00x | 93.8 % | – |
";
    assert_eq!(Table::results(&rows()[..1]).markdown(), expected);
}

#[test]
fn tokens_per_cycle_are_shown_where_a_cycle_takes_two_passes() {
    let mut rows = rows();
    assert!(!Table::results(&rows).header.contains(&"tokens per cycle".to_owned()));
    rows[1].cycles = rows[1].forwards / 2;
    let table = Table::results(&rows);
    let column = table.header.iter().position(|name| name == "tokens per cycle").unwrap();
    let expected = number(Some(rows[1].tokens as f64 / rows[1].cycles as f64));
    assert_eq!((&table.rows[0][column], &table.rows[1][column]), (&number(rows[0].tpf), &expected));
}

#[test]
fn the_table_shows_each_figure_before_and_after_training() {
    let expected = "\
| decoder | TPF | tokens/s | over ar, decoding | over ar, end to end | accuracy | exact match |
| :--- | ---: | ---: | ---: | ---: | ---: | ---: |
| ar | 1.00 → 1.00 | 41.2 → 41.0 | 1.00x → 1.00x | 1.00x → 1.00x | 93.8 % → 92.2 % | – → – |
| jacobi n=16 | 1.08 → 2.71 | 40.0 → 95.2 | 0.97x → 2.32x | 0.97x → 2.31x | 93.8 % → 92.2 % | 100 % → 98.4 % |
";
    assert_eq!(Table::before_and_after(&rows()).markdown(), expected);
    assert!(Table::before_and_after(&rows()[..2]).rows.is_empty());
    assert!(Table::before_and_after(&rows()[2..]).rows.is_empty());
}

#[test]
fn a_model_is_compared_with_the_base_of_its_evaluation() {
    let mut rows = rows();
    let other = rows.clone().into_iter().map(|row| EvalRow {
        model: "other".to_owned(),
        tpf: row.tpf.map(|tpf| tpf + 1.0),
        ..row
    });
    rows.extend(other);
    // A decoder that the base model was not measured under.
    rows[7].decoder_settings.insert("block_size".to_owned(), 8.into());
    let lines = Table::before_and_after(&rows).rows;
    let starts: Vec<String> = lines.iter().map(|line| line[..3].join(", ")).collect();
    assert_eq!(
        starts,
        [
            "trained tiny, ar, 1.00 → 1.00",
            "trained tiny, jacobi n=16, 1.08 → 2.71",
            "trained other, ar, 2.00 → 2.00",
            "trained other, jacobi n=8, – → 3.71"
        ]
    );
    // The base of the other evaluation, measured under `ar` alone, is not replaced by that of the first.
    rows.remove(5);
    let lines = Table::before_and_after(&rows).rows;
    assert_eq!(lines[3][..3].join(", "), "trained other, jacobi n=8, – → 3.71");
    rows.last_mut().unwrap().decoder_settings = rows[3].decoder_settings.clone();
    let lines = Table::before_and_after(&rows).rows;
    assert_eq!(lines[3][..3].join(", "), "trained other, jacobi n=16, – → 3.71");
}

#[test]
fn a_base_under_ar_alone_has_no_empty_lines() {
    let mut results = crate::fixtures::results();
    results.rows.remove(1);
    let lines = Table::before_and_after(&results.rows).rows;
    assert_eq!(lines.iter().map(|line| line[0].as_str()).collect::<Vec<_>>(), ["ar"]);
    let text = terminal_summary(&results);
    assert!(
        text.starts_with("2.71 tokens per forward pass (jacobi n=16): 1.00 is one token at a time"),
        "{text}"
    );
}

#[test]
fn several_tasks_have_a_column() {
    let mut rows = rows();
    rows[1].task = "math500".to_owned();
    let table = terminal_table(&rows[..2]);
    assert!(
        table.contains("\ntiny   gsm8k    ar ") && table.contains("\ntiny   math500  jacobi n=16 "),
        "{table}"
    );
}

#[test]
fn two_models_of_one_role_are_named() {
    let mut rows = rows();
    rows[1].model = "other".to_owned();
    assert_eq!(model_label(&rows[0], &rows), "base tiny");
    assert_eq!(model_label(&rows[2], &rows), "trained");
    assert_eq!(
        (model_label(&rows[0], &rows[..2]), model_label(&rows[1], &rows[..2])),
        ("tiny".into(), "other".into())
    );
    // One model alone was trained from nothing that is here.
    assert_eq!(model_label(&rows[0], &rows[..1]), "tiny");
}

#[test]
fn no_rows_is_a_header() {
    assert_eq!(terminal_table(&[]).lines().count(), 2);
}

#[test]
fn the_summary_begins_with_the_tuned_decoder_and_marks_it_in_the_table() {
    let mut results = crate::fixtures::results();
    results.rows[3].tuned = true;
    let text = terminal_summary(&results);
    let first =
        "2.71 tokens per forward pass (jacobi n=16, tuned): 1.08 before training, 2.51 times that\n2.32x ";
    assert!(text.starts_with(first) && text.contains("\ntrained  jacobi n=16, tuned  2.71"), "{text}");
    results.rows[3].speedup_over_ar = Some(0.5);
    assert!(terminal_summary(&results).starts_with("No decoder beat ar: "), "{text}");
}

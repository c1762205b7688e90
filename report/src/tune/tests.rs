//! The table and the files of tuning.

use jacobi_datasets::schema::tuned::RaceSummary;

use super::*;
use crate::fixtures::trials;

#[test]
fn the_terminal_shows_the_best_and_the_defaults() {
    let expected = "\
settings  decoder                    TPF  tokens/s  speedup over ar  rows per pass  prompts
────────  ────────────────────────  ────  ────────  ───────────────  ─────────────  ───────
best      jacobi n=8                3.00     150.0            1.50x           8.00        4
default   ar                        1.00     100.0            1.00x           1.00        4
default   multi_block n=16 tree=32  3.00      50.0            0.50x           40.0        4
";
    assert_eq!(tune_table(&trials()), expected);
}

#[test]
fn the_report_lists_the_best_decoder_and_all_trials() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("tune");
    write_tune_report(&target, &trials()).unwrap();
    let mut names: Vec<String> = fs_err::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["tune-contour.svg", "tune-latency.svg", "tune.json", "tune.md"]);
    let json = fs_err::read_to_string(target.join("tune.json")).unwrap();
    assert_eq!(serde_json::from_str::<Trials>(&json).unwrap(), trials());
    let text = fs_err::read_to_string(target.join("tune.md")).unwrap();
    for part in [
        "- Best by tokens per second: **jacobi n=8**, 150.0 tokens/s, 1.50x that of ar, TPF 3.00, over 4 prompts,",
        "one row takes 2.00 ms after 90 cached tokens; the knee is at width 16, 3.00 ms",
        "![Forward pass by width](tune-latency.svg)\n",
        "|  | jacobi n=64 | 2.00 |",
        "## Command\n\n```text\njacobi tune --config a.toml\n```\n",
        "| threads | 2 |\n",
    ] {
        assert!(text.contains(part), "missing {part:?} in:\n{text}");
    }
}

#[test]
fn a_choice_that_is_not_decided_and_a_race_that_ar_won_are_stated() {
    let mut trials = trials();
    trials.trials.swap(0, 1);
    trials.race = RaceSummary { decoders: 4, prompts: 4, out_of_time: true, ..RaceSummary::default() };
    let undecided = "Not decided: jacobi n=8 is the fastest decoder so far other than ar. The race had 4 prompts, since \
                     tune.seconds were over; 20 are needed to choose ar.";
    let table = tune_table(&trials);
    assert!(
        table.contains("\nbest      jacobi n=8 ") && table.ends_with(&format!("{undecided}\n")),
        "{table}"
    );
    trials.race.decided = true;
    trials.trials[1].speedup_over_ar = Some(0.9);
    let table = tune_table(&trials);
    let lost = "No decoder beat ar: the best of the others, jacobi n=8, had 0.90x its tokens/s.\n";
    assert!(table.contains("\nbest, a default  ar ") && table.ends_with(lost), "{table}");
    assert!(
        findings(&trials).iter().any(|sentence| sentence.starts_with("A pass over 4 rows costs 1.00 times"))
    );
}

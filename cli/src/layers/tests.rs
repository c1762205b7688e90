//! Tests of `layers.rs`.

use super::*;
use serde::Deserialize;

#[derive(Deserialize, Debug, Default, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Plan {
    seed: u64,
    name: String,
    train: Train,
    rounds: Vec<Round>,
}

#[derive(Deserialize, Debug, Default, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Round {
    train: Train,
    generate: Table,
    prompts: Table,
}

#[derive(Deserialize, Debug, Default, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Train {
    learning_rate: f64,
    batch_size: usize,
    schedule: Schedule,
}

#[derive(Deserialize, Debug, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Schedule {
    #[default]
    Linear,
    Cosine,
}

fn read(text: &str, flags: &[&str]) -> Result<Plan, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.toml");
    fs_err::write(&file, text).unwrap();
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    load::<Plan>(&file, &flags)
        .map(|table| table.try_into().unwrap())
        .map_err(|error| error.to_string().replace(&file.display().to_string(), "a.toml"))
}

#[test]
fn bad_input_is_named_with_its_place() {
    let rows: [(&str, &[&str], &str); 13] = [
        (
            "seed = 1\n[train]\nlerning_rate = 1.0\n",
            &[],
            "a.toml:3:1: unknown key `lerning_rate`; did you mean `learning_rate`?",
        ),
        (
            "[train]\nzzzzzzzz = 1.0\n",
            &[],
            "a.toml:2:1: unknown key `zzzzzzzz`; known here: learning_rate, batch_size, schedule",
        ),
        ("[tarin]\n", &[], "a.toml:1:2: unknown key `tarin`; did you mean `train`?"),
        (
            "[train]\nbatch_size = \"4\"\n",
            &[],
            "a.toml:2:14: invalid type: string \"4\", expected a whole number",
        ),
        (
            "[train]\nbatch_size = -4\n",
            &[],
            "a.toml:2:14: invalid value: integer `-4`, expected a whole number",
        ),
        (
            "[train]\nschedule = \"cosin\"\n",
            &[],
            "a.toml:2:12: unknown value `cosin`; did you mean `cosine`?",
        ),
        (
            "[[rounds]]\n[rounds.train]\nbatchsize = 1\n",
            &[],
            "a.toml:3:1: unknown key `batchsize`; did you mean `batch_size`?",
        ),
        (
            "",
            &["train.bach_size=1"],
            "--set train.bach_size=1: unknown key `bach_size`; did you mean `batch_size`?",
        ),
        ("", &["seed"], "--set seed: expected section.key=value"),
        ("", &["seed.a=1"], "--set seed.a=1: unknown"),
        (
            "",
            &["train.batch_size=many"],
            "--set train.batch_size=many: invalid type: string \"many\", expected a whole number",
        ),
        (
            "",
            &["rounds.3.train.batch_size=1"],
            "--set rounds.3.train.batch_size=1: `rounds` has 1 entries, counted from 1; there is no 3",
        ),
        ("", &["tran.batch_size=1"], "--set tran.batch_size=1: unknown key `tran`; did you mean `train`?"),
    ];
    for (text, flags, expected) in rows {
        let message = read(text, flags).unwrap_err();
        if expected.ends_with("unknown") {
            assert!(message.starts_with("--set seed.a=1: "), "{message}");
        } else {
            assert_eq!(message, expected, "{text:?} {flags:?}");
        }
    }
}

#[test]
fn malformed_toml_is_placed() {
    let message = read("seed = 1\n[train\n", &[]).unwrap_err();
    assert!(message.starts_with("a.toml:2:"), "{message}");
    let message = read("name = \"abc\nseed = 2\n", &[]).unwrap_err();
    assert!(message.starts_with("a.toml:1:"), "{message}");
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let plan =
        read("seed = 1\n[train]\nbatch_size = 4\n", &["seed=7", "name=two words", "train.schedule=cosine"]);
    let plan = plan.unwrap();
    assert_eq!((plan.seed, plan.name.as_str(), plan.train.batch_size), (7, "two words", 4));
    assert_eq!(plan.train.schedule, Schedule::Cosine);
    assert_eq!(read("", &["name=123"]).unwrap().name, "123");
    assert_eq!(read("seed = 3", &["seed="]).unwrap().seed, 0);
}

#[test]
fn rounds_take_what_they_do_not_override() {
    let text = "[train]\nbatch_size = 4\nlearning_rate = 0.1\n[[rounds]]\n[[rounds]]\n[rounds.train]\nlearning_rate = 0.5\n";
    let rates = |flags: &[&str]| -> Vec<(usize, f64)> {
        let plan = read(text, flags).unwrap();
        plan.rounds.iter().map(|round| (round.train.batch_size, round.train.learning_rate)).collect()
    };
    assert_eq!(rates(&[]), [(4, 0.1), (4, 0.5)]);
    assert_eq!(rates(&["train.learning_rate=2.0"]), [(4, 2.0), (4, 2.0)]);
    assert_eq!(rates(&["rounds.1.train.batch_size=8"]), [(8, 0.1), (4, 0.5)]);
    assert_eq!(read("", &[]).unwrap().rounds.len(), 1);
}

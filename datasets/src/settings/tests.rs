//! Settings that decide, and that differ.

use serde_json::json;

use super::*;

#[derive(Serialize)]
struct Train {
    batch_size: usize,
    max_steps: Option<usize>,
    schedule: &'static str,
    weight: Value,
    save_steps: usize,
}

impl Section for Train {
    const NAME: &'static str = "train";
    const NEUTRAL: &'static [(&'static str, &'static str)] = &[("save_steps", "says when to save")];
}

fn train() -> Train {
    Train { batch_size: 4, max_steps: None, schedule: "linear", weight: json!(0.5), save_steps: 9 }
}

fn lines(now: &RecordedSettings, recorded: &RecordedSettings) -> Vec<String> {
    let text = now.differences(recorded).to_string();
    text.split("\n  ").skip(1).map(str::to_owned).collect()
}

#[test]
fn deciding_keys_differ_by_name_and_neutral_ones_do_not() {
    let recorded = train().deciding();
    let change = Train {
        batch_size: 8,
        max_steps: Some(3),
        weight: json!({"from": 1, "to": 0.1}),
        save_steps: 1,
        ..train()
    };
    assert!(Train { save_steps: 1, ..train() }.deciding().differences(&recorded).is_empty());
    let expected = [
        "train.batch_size: was 4, is 8",
        "train.max_steps: was not set, is 3",
        "train.weight: was 0.5, is not set",
        "train.weight.from: was not set, is 1",
        "train.weight.to: was not set, is 0.1",
    ];
    assert_eq!(lines(&change.deciding(), &recorded), expected);
    assert_eq!(recorded.get("train.schedule"), Some("\"linear\""));
    assert_eq!(recorded.get("train.save_steps"), None);
}

#[test]
fn a_value_set_for_a_neutral_key_decides() {
    let mut now = train().deciding();
    now.set("train.save_steps", "digest");
    let mut recorded = train().deciding();
    recorded.set("train.save_steps", "other");
    assert_eq!(lines(&now, &recorded), ["train.save_steps: was other, is digest"]);
    now.set("train.save_steps", None::<u8>);
    assert_eq!(lines(&now, &recorded), ["train.save_steps: was other, is not set"]);
}

#[test]
fn settings_survive_a_file() {
    let settings = train().deciding();
    let text = serde_json::to_string(&settings).unwrap();
    assert!(settings.differences(&serde_json::from_str(&text).unwrap()).is_empty(), "{text}");
}

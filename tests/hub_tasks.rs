//! The built-in tasks with their questions from the hub, as it holds them: each task's file under its published name and
//! columns, one row of it.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use super::hub_server::HubServer;
use super::{BINARY, root};

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn text(value: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![value]))
}

fn texts(values: &[&str]) -> ArrayRef {
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value(values.iter().map(|value| Some(*value)));
    Arc::new(list.finish())
}

/// The files of the tasks by where the hub has them.
fn hub() -> HubServer {
    let gsm8k = parquet(vec![("question", text("Two and two?")), ("answer", text("2+2=<<2+2=4>>4\n#### 4"))]);
    let humaneval = parquet(vec![
        ("task_id", text("HumanEval/0")),
        ("prompt", text("def twice(x):\n    \"\"\" Twice x. \"\"\"\n")),
        ("canonical_solution", text("    return 2 * x\n")),
        ("test", text("def check(candidate):\n    assert candidate(4) == 8\n")),
        ("entry_point", text("twice")),
    ]);
    let mbpp = parquet(vec![
        ("task_id", Arc::new(Int32Array::from(vec![11]))),
        ("text", text("Write a function to double a number.")),
        ("code", text("def twice(x):\r\n  return 2 * x")),
        ("test_list", texts(&["assert twice(1) == 2", "assert twice(0) == 0"])),
        ("test_setup_code", text("")),
        ("challenge_test_list", texts(&[])),
    ]);
    let math = serde_json::json!({
        "problem": "Halve one.", "solution": "It is $\\boxed{\\frac12}$.", "answer": "\\frac{1}{2}",
        "subject": "Algebra", "level": 1, "unique_id": "test/algebra/0.json"
    });
    let turns =
        serde_json::json!({"prompt_id": 1, "prompt": ["Say a word.", "Another."], "category": "writing"});
    let lines = [format!("{math}\n"), format!("{turns}\n")];
    HubServer::start([
        ("datasets/openai/gsm8k/main/test-00000-of-00001.parquet", &gsm8k[..]),
        ("datasets/openai/openai_humaneval/openai_humaneval/test-00000-of-00001.parquet", &humaneval),
        ("datasets/google-research-datasets/mbpp/full/test-00000-of-00001.parquet", &mbpp),
        ("datasets/HuggingFaceH4/MATH-500/test.jsonl", lines[0].as_bytes()),
        ("datasets/HuggingFaceH4/mt_bench_prompts/raw/question.jsonl", lines[1].as_bytes()),
    ])
}

fn jacobi(hub: &HubServer, dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command
        .current_dir(dir)
        .args(arguments)
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HOME", dir.join("home"));
    command.env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE").output().unwrap()
}

#[test]
fn the_questions_of_built_in_tasks_come_from_the_hub_and_judge_their_reference_right() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let tasks = ["gsm8k", "math500", "humaneval", "mbpp"];
    let arguments = [&["tasks", "check", "--allow-unsafe-execution"][..], &tasks].concat();
    let output = jacobi(&hub, dir.path(), &arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for task in tasks {
        assert!(said.contains(&format!("{task}: 1 of 1 right")), "{said}");
    }
}

#[test]
fn questions_from_the_hub_are_asked_in_the_wording_of_the_task() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let model = root().join("datasets/default/model").display().to_string();
    let tasks =
        ["--tasks", "gsm8k,math500,mt_bench", "--max-new-tokens", "2", "--decoders", "ar", "-o", "report"];
    let arguments = [&["eval", "--model", &model][..], &tasks].concat();
    let output = jacobi(&hub, dir.path(), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let samples = fs_err::read_to_string(dir.path().join("report/samples.jsonl")).unwrap();
    let samples: Vec<Value> = samples.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let prompts: Vec<&str> = samples.iter().filter_map(|sample| sample["prompt"].as_str()).collect();
    assert_eq!(
        prompts,
        [
            "Q: Two and two?\nA: Let's think step by step.",
            "Problem: Halve one.\nMark your solution with \\boxed\nAnswer:",
            "Say a word."
        ]
    );
    assert_eq!(
        (&samples[0]["expected"], &samples[1]["sample_id"]),
        (&"4".into(), &"test/algebra/0.json".into())
    );
    // Files in the cache are not requested again.
    let before = hub.asked().len();
    assert!(jacobi(&hub, dir.path(), &[&arguments[..], &["--overwrite"]].concat()).status.success());
    assert_eq!(hub.asked().len(), before);
}

#[test]
fn a_plan_without_questions_says_how_to_give_them() {
    let dir = tempfile::tempdir().unwrap();
    let data = root().join("datasets/default");
    let recipe = format!(
        "[model]\npath = \"{0}/model\"\n[prompts]\npath = \"{0}/prompts-train.jsonl\"\n\
         [[eval.tasks]]\nname = \"gsm8k\"\npath = \"q.jsonl\"\n[[eval.tasks]]\nname = \"math500\"\n",
        data.display()
    );
    fs_err::write(dir.path().join("r.toml"), recipe).unwrap();
    fs_err::write(dir.path().join("q.jsonl"), "{\"question\": \"One?\", \"answer\": \"#### 1\"}\n").unwrap();
    let mut command = Command::new(BINARY);
    command.current_dir(dir.path()).args(["run", "-c", "r.toml", "--dry-run"]).env("HF_HUB_OFFLINE", "1");
    let output = command.env("HF_HOME", dir.path().join("home")).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    for part in ["math500", "--set eval.tasks.2.path=FILE", "--set eval.tasks=[]", "HF_HUB_OFFLINE is set"] {
        assert!(output.status.code() == Some(1) && message.contains(part), "{part:?} is missing: {message}");
    }
}

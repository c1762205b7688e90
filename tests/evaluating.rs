//! `jacobi eval` on several tasks, and their verdicts.

use serde_json::Value;

use super::{jacobi, root};

/// A directory with a task of its own, `sums.toml`, its questions, and the model that ships here as `model`.
fn fixture() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs_err::write(directory.path().join(name), text).unwrap();
    let sums = "name = \"sums\"\nversion = 3\nfollows = \"mine\"\nextractor = \"number\"\nscorer = \"number\"\n\
                max_new_tokens = 6\n[prompts]\npath = \"sums.jsonl\"\nid_column = \"id\"\n\
                template = \"What is {{ a }} + {{ b }}?\"\nanswer_template = \"{{ a + b }}\"\n";
    write("sums.toml", sums);
    write("sums.jsonl", "{\"id\": \"x\", \"a\": 1, \"b\": 2}\n{\"id\": \"y\", \"a\": 3, \"b\": 4}\n");
    write("turns.jsonl", "{\"turns\": [\"Hello\", \"And?\"]}\n{\"turns\": [\"Bye\"]}\n");
    std::os::unix::fs::symlink(root().join("datasets/default/model"), directory.path().join("model"))
        .unwrap();
    directory
}

#[test]
fn several_tasks_in_one_run_name_themselves_and_their_version() {
    let directory = fixture();
    let dir = directory.path();
    let arguments = ["eval", "--model", "model", "--decoders", "jacobi", "-o", "report"];
    let tasks = ["--tasks", "sums.toml,spec_bench=turns.jsonl"];
    let output = jacobi(dir, &[&arguments[..], &tasks].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value =
        serde_json::from_str(&fs_err::read_to_string(dir.join("report/results.json")).unwrap()).unwrap();
    let rows: Vec<_> = results["rows"].as_array().unwrap().iter().collect();
    let shown: Vec<String> = rows
        .iter()
        .map(|row| format!("{} {} {}", row["task"], row["task_version"], row["decoder"]))
        .collect();
    let names = [
        "\"sums\" 3 \"ar\"",
        "\"sums\" 3 \"jacobi\"",
        "\"spec_bench\" 1 \"ar\"",
        "\"spec_bench\" 1 \"jacobi\"",
    ];
    assert_eq!(shown, names);
    assert!(rows[0]["accuracy"].is_number() && rows[2]["accuracy"].is_null());
    let samples = fs_err::read_to_string(dir.join("report/samples.jsonl")).unwrap();
    let first: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
    assert_eq!((&first["prompt"], &first["expected"]), (&"What is 1 + 2?".into(), &"3".into()));
    assert!(first["response_tokens"].as_u64().unwrap() <= 6);
}

#[test]
fn bad_evaluations_are_refused_before_anything_is_loaded() {
    let directory = fixture();
    let rows: [(&[&str], &str); 6] = [
        (&["eval"], "give --model DIR"),
        (&["eval", "--model", "model"], "give --tasks"),
        (&["eval", "--model", "model", "--tasks", "gsm9k"], "gsm8k, math500"),
        (&["eval", "--model", "model", "--tasks", "spec_bench"], "--tasks spec_bench=FILE"),
        (&["eval", "--model", "model", "--tasks", "sums.toml,sums.toml"], "listed twice"),
        (&["eval", "--model", "model", "--tasks", "nowhere.toml"], "nowhere.toml"),
    ];
    for (arguments, part) in rows {
        let output = jacobi(directory.path(), arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
    // Also a task whose questions cannot be read.
    fs_err::write(directory.path().join("q.jsonl"), "{\"q\": \"1?\"}\n").unwrap();
    for (questions, part) in [("nowhere.jsonl", "does not exist"), ("q.jsonl", "no column `question`")] {
        let output =
            jacobi(directory.path(), &["eval", "--model", "model", "--tasks", &format!("gsm8k={questions}")]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        for part in ["questions of task \"gsm8k\"", questions, part] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    let arguments = [
        "eval",
        "--model",
        "model",
        "--tasks",
        "sums.toml",
        "--limit",
        "1",
        "--max-new-tokens",
        "4",
        "--dry-run",
    ];
    let output = jacobi(directory.path(), &arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("sums (1 prompts, at most 4 new tokens)"), "{text}");
}

#[test]
fn an_evaluation_resumes_and_does_not_mix_with_another() {
    let directory = fixture();
    let dir = directory.path();
    let arguments =
        ["eval", "--model", "model", "--decoders", "jacobi", "--tasks", "sums.toml", "-o", "report"];
    let eval = |more: &[&str]| {
        let output = jacobi(dir, &[&arguments[..], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let results = || -> Value {
        serde_json::from_str(&fs_err::read_to_string(dir.join("report/results.json")).unwrap()).unwrap()
    };
    let figures = |results: &Value| -> Vec<Value> {
        let row = |row: &Value| {
            [&row["samples"], &row["tokens"], &row["forwards"], &row["accuracy"]].map(Value::clone)
        };
        results["rows"].as_array().unwrap().iter().flat_map(row).collect()
    };
    assert_eq!(eval(&[]).0, Some(0));
    let whole = results();
    assert!(whole["results"]["jacobi_sums"]["exact_match,none"].is_number(), "{whole}");
    // Killed while it wrote the last line of the second prompt.
    let path = dir.join("report/samples.jsonl");
    let samples = fs_err::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = samples.split_inclusive('\n').collect();
    lines.sort_by_key(|line| line.contains("\"sample_id\":\"y\""));
    let text = lines.concat();
    fs_err::write(&path, &text[..text.len() - 30]).unwrap();
    fs_err::remove_file(dir.join("report/results.json")).unwrap();
    assert_eq!(eval(&[]).0, Some(0));
    let resumed = results();
    assert_eq!((figures(&resumed), &resumed["rows"][0]["sittings"]), (figures(&whole), &2.into()));
    // Finished: nothing is measured.
    let (code, message) = eval(&[]);
    assert!(code == Some(0) && message.contains("measured before"), "{message}");
    assert_eq!(results(), resumed);
    let (code, message) = eval(&["--max-new-tokens", "5"]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("max_new_tokens: was") && message.contains("--overwrite"), "{message}");
    assert_eq!(eval(&["--max-new-tokens", "5", "--overwrite"]).0, Some(0));
    assert_eq!(results()["rows"][0]["sittings"], 1);
    // Another wording under the same version.
    let task = fs_err::read_to_string(dir.join("sums.toml")).unwrap();
    fs_err::write(dir.join("sums.toml"), task.replace("What is", "How much is")).unwrap();
    let (code, message) = eval(&["--max-new-tokens", "5"]);
    assert!(code == Some(2) && message.contains("eval.questions.sums.task: was"), "{message}");
    // Results that another version wrote.
    let text = fs_err::read_to_string(dir.join("report/results.json")).unwrap();
    fs_err::write(dir.join("report/results.json"), text.replace("jacobi-eval/1", "jacobi-eval/0")).unwrap();
    let output = jacobi(dir, &["report", "report"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("its schema is \"jacobi-eval/0\""), "{message}");
}

#[test]
fn an_unusable_question_is_named_and_stops_nothing() {
    let directory = fixture();
    let dir = directory.path();
    let task = fs_err::read_to_string(dir.join("sums.toml")).unwrap();
    let task = task.replace("What is {{ a }} + {{ b }}?", "{{ q }}").replace("{{ a + b }}", "{{ a }}");
    fs_err::write(dir.join("sums.toml"), task).unwrap();
    let long = "1 + ".repeat(5000);
    let questions = format!(
        "{{\"id\": \"long\", \"q\": \"{long}\", \"a\": 1}}\n{{\"id\": \"y\", \"q\": \"3 + 4?\", \"a\": 7}}\n"
    );
    fs_err::write(dir.join("sums.jsonl"), questions).unwrap();
    let output = jacobi(dir, &["eval", "--model", "model", "--tasks", "sums.toml", "-o", "report"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(message.contains("2 samples failed") && message.contains("long under ar"), "{message}");
    let report = fs_err::read_to_string(dir.join("report/report.md")).unwrap();
    assert!(report.contains("1 of model ar on sums"), "{report}");
    // The file also has malformed rows, and one row twice.
    let questions =
        "{\"id\": \"x\", \"q\": \"1?\", \"a\": 1}\n{oops\n{\"id\": \"x\", \"q\": \"2?\", \"a\": 2}\n";
    fs_err::write(dir.join("sums.jsonl"), questions).unwrap();
    let arguments = ["eval", "--model", "model", "--tasks", "sums.toml", "--overwrite", "-o", "report"];
    let output = jacobi(dir, &arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains("1 of 3 rows of task \"sums\" could not be read; the first, line 2"),
        "{message}"
    );
    let read = |name: &str| fs_err::read_to_string(dir.join("report").join(name)).unwrap();
    let sentence = "could not be used: 1 of 3 rows of task \"sums\"";
    assert!(read("report.md").contains(sentence), "{}", read("report.md"));
    assert!(read("samples.jsonl").contains("\"sample_id\":\"x#2\""));
}

#[test]
fn evaluations_with_the_same_settings_are_compared() {
    let directory = fixture();
    let dir = directory.path();
    let eval = |report: &str, tokens: &str| {
        let tasks = ["--tasks", "sums.toml", "--max-new-tokens", tokens, "-o", report];
        assert!(jacobi(dir, &[&["eval", "--model", "model"][..], &tasks].concat()).status.success());
    };
    eval("a/report", "6");
    eval("b", "6");
    eval("c", "5");
    let output = jacobi(dir, &["report", "a", "b", "-o", "both"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("\na      ar ") && table.contains("\nb      ar "), "{table}");
    let page = fs_err::read_to_string(dir.join("both/report.html")).unwrap();
    assert!(page.contains("<h1>a, b on sums</h1>"));

    let output = jacobi(dir, &["report", "a", "c"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("max_new_tokens") && message.contains("--anyway"), "{message}");
    assert!(jacobi(dir, &["report", "a", "c", "--anyway"]).status.success());
    assert!(fs_err::read_to_string(dir.join("comparison/report.md")).unwrap().contains("compared despite"));

    let output = jacobi(dir, &["report", "nowhere"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && message.contains("run `jacobi eval` first"), "{message}");
}

#[test]
fn reference_solutions_pass_their_own_tests_through_our_runner() {
    let shipped = |file: &str| root().join("datasets/tasks").join(file).display().to_string();
    let humaneval = format!("humaneval={}", shipped("humaneval.jsonl"));
    let mbpp = format!("mbpp={}", shipped("mbpp-sample.jsonl"));
    let directory = fixture();
    let output = jacobi(directory.path(), &["tasks", "check", "--allow-unsafe-execution", &humaneval, &mbpp]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("humaneval: 164 of 164 right") && text.contains("mbpp: 50 of 50 right"), "{text}");
    let output = jacobi(directory.path(), &["tasks", "list"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("math500 2\n  follows evalchemy MATH500"), "{text}");
}

#[test]
fn a_code_task_is_judged_and_the_report_names_the_isolation() {
    let directory = fixture();
    let dir = directory.path();
    let code = "name = \"code\"\nversion = 1\nfollows = \"mine\"\nextractor = \"whole\"\nscorer = \"python\"\n\
                max_new_tokens = 4\n[prompts]\npath = \"code.jsonl\"\nanswer_column = \"tests\"\nresponse_column = \"right\"\n";
    fs_err::write(dir.join("code.toml"), code).unwrap();
    // Every response passes the first task and none passes the second.
    let rows = [
        serde_json::json!({"prompt": "a", "tests": "x = r'''@answer@'''", "right": "y"}),
        serde_json::json!({"prompt": "b", "tests": "x = r'''@answer@'''\nassert x == 'y'", "right": "y"}),
    ];
    fs_err::write(dir.join("code.jsonl"), format!("{}\n{}\n", rows[0], rows[1])).unwrap();
    let output = jacobi(dir, &["tasks", "check", "--allow-unsafe-execution", "code.toml"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 of 2 right"), "{output:?}");
    let arguments =
        ["eval", "--model", "model", "--tasks", "code.toml", "--allow-unsafe-execution", "-o", "report"];
    let output = jacobi(dir, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| fs_err::read_to_string(dir.join("report").join(name)).unwrap();
    let results: Value = serde_json::from_str(&read("results.json")).unwrap();
    assert!(results["environment"]["generated_programs_isolated_by"].is_string());
    assert_eq!(results["rows"][0]["accuracy"], 0.5);
    let samples: Vec<Value> =
        read("samples.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&samples[0]["correct"], &samples[0]["failure"]), (&true.into(), &Value::Null));
    assert_eq!((&samples[1]["correct"], &samples[1]["failure"]), (&false.into(), &"AssertionError".into()));
    // Without an interpreter nothing is decoded.
    let config = "[model]\npath = \"model\"\n[eval.sandbox]\npython = \"/nowhere/python3\"\n";
    fs_err::write(dir.join("r.toml"), config).unwrap();
    let output = jacobi(dir, &["eval", "-c", "r.toml", "--tasks", "code.toml"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && message.contains("/nowhere/python3"), "{message}");
}

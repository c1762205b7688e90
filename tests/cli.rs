//! The command line: help texts, recipes, and the messages for bad input.
//!
//! `JACOBI_UPDATE_HELP=1 cargo test --test cli` regenerates the help texts.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "adapter_verbs.rs"]
mod adapter_verbs;
#[path = "case_model.rs"]
mod case_model;
#[path = "cases.rs"]
mod cases;
#[path = "decoding.rs"]
mod decoding;
#[path = "evaluating.rs"]
mod evaluating;
#[path = "generating.rs"]
mod generating;
#[path = "hub_push.rs"]
mod hub_push;
#[path = "hub_server.rs"]
mod hub_server;
#[path = "hub_tasks.rs"]
mod hub_tasks;
#[path = "random_adapter.rs"]
mod random_adapter;
#[path = "recipe_keys.rs"]
mod recipe_keys;
#[path = "resuming.rs"]
mod resuming;

use std::path::Path;
use std::process::{Command, Output};

use jacobi_cli::recipe::Recipe;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// The binary under test, built by cargo for this test target.
const BINARY: &str = env!("CARGO_BIN_EXE_jacobi");

/// Runs `jacobi` in `directory`, without a terminal.
fn jacobi(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY).current_dir(directory).args(arguments).output().unwrap()
}

/// The output of `--help` on 100 columns, by file name: `run.txt`, `config-show.txt`.
fn help_texts() -> Vec<(String, String)> {
    let mut verbs = vec![(Vec::new(), jacobi_cli::command())];
    let mut texts = Vec::new();
    while let Some((path, command)) = verbs.pop() {
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            verbs.push(([path.as_slice(), &[verb.get_name().to_owned()]].concat(), verb.clone()));
        }
        let output = Command::new(BINARY).args(&path).arg("--help").env("COLUMNS", "100").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let name = if path.is_empty() { "jacobi".to_owned() } else { path.join("-") };
        let lines = text.lines().map(|line| format!("{}\n", line.trim_end()));
        texts.push((format!("{name}.txt"), lines.collect()));
    }
    texts
}

#[test]
fn help_texts_are_the_published_ones() {
    let folder = root().join("tests/cli");
    let texts = help_texts();
    for (name, text) in &texts {
        let path = folder.join(name);
        if std::env::var_os("JACOBI_UPDATE_HELP").is_some() {
            fs_err::write(&path, text).unwrap();
        }
        let published = fs_err::read_to_string(&path).unwrap_or_default();
        assert_eq!(*text, published, "{name}: if meant, run with JACOBI_UPDATE_HELP=1");
    }
    for entry in fs_err::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(texts.iter().any(|(known, _)| *known == name), "tests/cli/{name} is the help of no verb");
    }
}

#[test]
fn every_recipe_in_configs_is_valid_and_resolves_to_itself() {
    let mut count = 0;
    for entry in fs_err::read_dir(root().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let recipe = Recipe::load(&path, &[]).unwrap_or_else(|error| panic!("{error:#}"));
        let directory = tempfile::tempdir().unwrap();
        let resolved = directory.path().join("config.toml");
        fs_err::write(&resolved, recipe.to_toml()).unwrap();
        assert_eq!(Recipe::load(&resolved, &[]).unwrap().to_toml(), recipe.to_toml(), "{}", path.display());
        count += 1;
    }
    assert!(count >= 3, "the recipes are where this test looks");
}

/// A directory with recipes and data, good and bad, for the rows below.
fn fixture() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let model = root().join("datasets/default/model");
    let prompts = root().join("datasets/default/prompts-test.jsonl");
    let (model, prompts) = (model.display(), prompts.display());
    let recipe = |model: &str, prompts: &str, output: &str| {
        format!(
            "output_dir = \"{output}\"\n[model]\npath = \"{model}\"\n[prompts]\npath = \"{prompts}\"\nlimit = 3\n\
             [eval]\ntask = \"gsm8k\"\n[eval.prompts]\npath = \"{prompts}\"\nanswer_column = \"answer\"\nlimit = 2\n"
        )
    };
    let (model, prompts) = (model.to_string(), prompts.to_string());
    let files = [
        ("good.toml", recipe(&model, &prompts, "run")),
        ("unwritable.toml", recipe(&model, &prompts, "good.toml/run")),
        ("no-model.toml", recipe("nowhere", &prompts, "run")),
        ("no-prompts.toml", recipe(&model, "nowhere.jsonl", "run")),
        ("empty-prompts.toml", recipe(&model, "empty.jsonl", "run")),
        ("foreign-model.toml", recipe("foreign", &prompts, "run")),
        ("empty.jsonl", String::new()),
        ("empty.toml", String::new()),
        ("typo.toml", "seed = 1\n[train]\nlerning_rate = 1e-3\n".into()),
        ("section.toml", "[tarin]\nepochs = 1\n".into()),
        ("type.toml", "[train]\nepochs = \"two\"\n".into()),
        ("choice.toml", "[train]\nlr_schedule = \"cosin\"\n".into()),
        ("zero.toml", "[generate]\nblock_size = 0\n".into()),
        ("malformed.toml", "seed = 1\n[train\n".into()),
        ("rounds.toml", "[[rounds]]\n[[rounds]]\n[rounds.train]\nbatchsize = 2\n".into()),
        ("shard.parquet", "PAR1 is how it starts".into()),
    ];
    for (name, text) in files {
        fs_err::write(directory.path().join(name), text).unwrap();
    }
    fs_err::create_dir(directory.path().join("foreign")).unwrap();
    let config = "{\"architectures\": [\"MambaForCausalLM\"], \"model_type\": \"mamba\"}";
    fs_err::write(directory.path().join("foreign/config.json"), config).unwrap();
    fs_err::create_dir(directory.path().join("empty")).unwrap();
    directory
}

/// Arguments, exit code, parts of the one message on standard error.
type BadInput = (&'static [&'static str], i32, &'static [&'static str]);

const BAD_INPUT: &[BadInput] = &[
    (&["config", "validate", "-c", "typo.toml"], 2, &["typo.toml:3:1", "`lerning_rate`", "`learning_rate`?"]),
    (&["run", "--config", "typo.toml"], 2, &["typo.toml:3:1", "did you mean `learning_rate`?"]),
    (&["config", "validate", "-c", "section.toml"], 2, &["section.toml:1:2", "`tarin`", "`train`?"]),
    (&["config", "validate", "-c", "type.toml"], 2, &["type.toml:2:10", "\"two\"", "a whole number"]),
    (&["config", "validate", "-c", "choice.toml"], 2, &["choice.toml:2:15", "`cosin`", "`cosine`?"]),
    (&["config", "validate", "-c", "zero.toml"], 2, &["block_size", "at least 1"]),
    (&["config", "validate", "-c", "malformed.toml"], 2, &["malformed.toml:2:"]),
    (&["config", "validate", "-c", "rounds.toml"], 2, &["rounds.toml:4:1", "`batchsize`", "`batch_size`?"]),
    (&["config", "validate", "-c", "empty.toml"], 2, &["model.path is not set"]),
    (
        &["config", "validate", "-c", "good.toml", "--set", "eval.prompts.answer_column="],
        2,
        &["answer_column"],
    ),
    (&["config", "validate", "-c", "nowhere.toml"], 2, &["--config", "nowhere.toml"]),
    (&["run", "-c", "good.toml", "--set", "train.epoch=2"], 2, &["--set train.epoch=2", "`epochs`?"]),
    (&["run", "-c", "good.toml", "--set", "train.epochs=two"], 2, &["--set train.epochs=two", "\"two\""]),
    (&["run", "-c", "good.toml", "--set", "train.epochs"], 2, &["--set train.epochs", "section.key=value"]),
    (&["run", "-c", "good.toml", "--set", "eval.task=gsm9k"], 2, &["gsm9k", "gsm8k"]),
    (
        &["run", "-c", "good.toml", "--set", "model.path="],
        2,
        &["model.path is not set", "--set model.path=DIR"],
    ),
    (&["run", "-c", "good.toml", "--set", "model.init=random"], 2, &["model.init", "jacobi train"]),
    (
        &["config", "validate", "-c", "good.toml", "--set", "model.device=gpu"],
        2,
        &["--set model.device=gpu", "`gpu` is not a device", "cuda:N"],
    ),
    (&["generate", "-c", "good.toml", "--set", "model.device=cuda:99"], 1, &["\"cuda:99\" is not available"]),
    (&["train", "-c", "good.toml", "--set", "model.device=cuda:99"], 1, &["\"cuda:99\" is not available"]),
    (&["eval", "-c", "good.toml", "--device", "cuda:99"], 1, &["\"cuda:99\" is not available"]),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--device", "tpu"],
        2,
        &["--device", "`tpu` is not a device"],
    ),
    (&["generate", "-c", "good.toml", "--round", "2"], 2, &["--round 2", "1 rounds"]),
    (&["export"], 2, &["--checkpoint DIR", "--config"]),
    (&["decode", "--model", "nowhere", "--prompt", "a", "--block-size", "0"], 2, &["--block-size"]),
    (&["decode", "--model", "nowhere"], 2, &["--prompt", "--chat"]),
    (&["decode", "--model", "nowhere", "--prompt", "a", "--chat"], 2, &["--prompt", "--chat"]),
    (&["decode", "--model", "nowhere", "--chat", "--html", "a.html"], 2, &["--html", "--chat"]),
    (&["decode", "--model", "nowhere", "--prompt", "a", "--json", "--show-trajectory"], 2, &["--json"]),
    (&["decode", "--model", "nowhere", "--prompt", "a", "--temperature", "-1"], 2, &["-1", "0 or above"]),
    (&["decode", "--model", "nowhere", "--prompt", "a", "--top-p", "1.5"], 2, &["1.5", "at most 1"]),
    (&["decode", "--model", "nowhere", "--prompt", "a", "--repetition-penalty", "0"], 2, &["above 0"]),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--strict", "--top-k", "9"],
        2,
        &["--strict", "sampling"],
    ),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--temperature", "0", "--repetition-penalty", "2"],
        2,
        &["--temperature 0 is greedy", "--repetition-penalty"],
    ),
    (&["decode", "--model", "nowhere", "--prompt", "a", "--compare", "ar,ar"], 2, &["--compare", "ar twice"]),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--compare", "ar,jacobi", "--pool-size", "3"],
        2,
        &["no pool_size"],
    ),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--compare", "ar", "--decoder", "ar"],
        2,
        &["--compare"],
    ),
    (&["decode", "--model", "nowhere", "--prompt", "a", "--strict", "0"], 2, &["--strict", "above 0"]),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--top-k", "-1"],
        2,
        &["--top-k", "a whole number, 0 or above"],
    ),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--seed", "-1"],
        2,
        &["--seed", "a whole number, 0 or above"],
    ),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--spawn-ratio", "-1"],
        2,
        &["--spawn-ratio", "from 0 to 1"],
    ),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--pool-size", "4"],
        2,
        &["add --decoder multi-block"],
    ),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--decoder", "ar", "--strict"],
        2,
        &["--strict", "leave it out"],
    ),
    (
        &["decode", "--model", "nowhere", "--prompt", "a", "--html", "no/such/page.html"],
        1,
        &["cannot write no/such/page.html", "make the directory no/such"],
    ),
    (&["frobnicate"], 2, &["frobnicate"]),
    (&["tune"], 2, &["--model DIR", "--config"]),
    (&["tune", "--model", "nowhere"], 2, &["--prompts FILE", "--config"]),
    (&["tune", "-c", "good.toml"], 1, &["run has no exported model", "jacobi export", "--model DIR"]),
    (&["tune", "-c", "good.toml", "--model", "nowhere"], 1, &["nowhere", "ORG/NAME of the hub"]),
    (&["hub", "push", "foreign", "nonsense"], 2, &["nonsense is not a repository name", "ORG/NAME"]),
    (
        &["hub", "push", "foreign", "o/n"],
        1,
        &["foreign is not an exported model", "it lacks README.md", "jacobi export"],
    ),
    (&["hub", "push", "nowhere", "o/n", "--upload"], 1, &["nowhere"]),
    (&["run", "-c", "good.toml", "--set", "tune.seconds=0"], 2, &["[tune]: seconds = 0", "at least 1"]),
    (
        &["run", "-c", "good.toml", "--set", "model.device=cuda:99", "--set", "output_dir=x"],
        1,
        &["\"cuda:99\" is not available"],
    ),
    (&["run", "-c", "no-model.toml"], 1, &["nowhere", "ORG/NAME of the hub"]),
    (&["run", "-c", "foreign-model.toml"], 1, &["config.json", "Mamba", "supported"]),
    (&["run", "-c", "no-prompts.toml"], 1, &["nowhere.jsonl", "prompts.path"]),
    (
        &["generate", "-c", "good.toml", "--set", "prompts.path=foreign"],
        1,
        &["prompts.path foreign is a directory", "for instance config.json"],
    ),
    (&["generate", "-c", "good.toml", "--rank", "2", "--world-size", "2"], 2, &["rank 2 of 2"]),
    (&["generate", "-c", "good.toml", "--rank", "2"], 2, &["--world-size"]),
    (
        &["generate", "-c", "good.toml", "--merge", "-o", "empty"],
        1,
        &["cannot merge empty", "rank-00000-of-"],
    ),
    (&["run", "-c", "empty-prompts.toml"], 1, &["empty.jsonl", "no prompts"]),
    (&["run", "-c", "unwritable.toml"], 1, &["cannot write into good.toml/run", "output_dir"]),
    (&["train", "-c", "good.toml"], 1, &["round-1/trajectories", "jacobi generate"]),
    (&["export", "-c", "good.toml"], 1, &["round-1", "jacobi train"]),
    (&["decode", "--model", "nowhere", "--prompt", "a"], 1, &["nowhere", "ORG/NAME of the hub"]),
    (&["import", "nowhere.json", "-m", "foreign", "-o", "imported"], 1, &["foreign has no tokenizer.json"]),
    (&["import", "-m", "foreign", "-o", "imported"], 2, &["FILE"]),
    (&["inspect", "nowhere"], 1, &["nowhere", "does not exist"]),
    (&["inspect", "empty"], 1, &["empty", "manifest.json", "config.toml"]),
    (&["inspect", "shard.parquet"], 1, &["shard.parquet", "Parquet", "delete it", "jacobi generate"]),
    (&["inspect", "foreign/config.json"], 1, &["config.json is a .json file", "perhaps foreign"]),
    (&["inspect", "empty", "--schedule", "cosine"], 2, &["--schedule", "linear, random"]),
    (&["inspect", "empty", "--schedule", "linear", "--max-noise-ratio", "2"], 2, &["--max-noise-ratio 2"]),
];

#[test]
fn bad_input_ends_with_one_message_that_names_it_and_the_way_out() {
    let directory = fixture();
    for (arguments, code, parts) in BAD_INPUT {
        let output = jacobi(directory.path(), arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {message}");
        for part in *parts {
            assert!(message.contains(part), "{arguments:?} does not say {part:?}: {message}");
        }
        assert!(!message.contains("panicked"), "{arguments:?}: {message}");
        assert!(output.stdout.is_empty(), "{arguments:?} prints a result");
        let errors = message.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{arguments:?}: {message}");
    }
}

#[test]
fn a_dry_run_of_what_run_refuses_ends_as_the_run_does() {
    let directory = fixture();
    for (arguments, code, parts) in BAD_INPUT.iter().filter(|(arguments, ..)| arguments[0] == "run") {
        let output = jacobi(directory.path(), &[arguments, &["--dry-run"][..]].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {message}");
        for part in *parts {
            assert!(message.contains(part), "{arguments:?} does not say {part:?}: {message}");
        }
    }
    assert!(["run", "x"].iter().all(|made| !directory.path().join(made).exists()));
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let directory = fixture();
    let output = jacobi(directory.path(), &["run", "-c", "good.toml", "--dry-run"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "round-1/generate",
        "3 prompts",
        "round-1/train",
        "1 steps",
        "export",
        "tune",
        "eval",
        "batch_size = 4",
    ] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert!(!directory.path().join("run").exists());
}

#[test]
fn decode_and_eval_use_the_tuned_decoder() {
    let directory = fixture();
    let (model, tuned) = (directory.path().join("model"), directory.path().join("model/jacobi.json"));
    fs_err::create_dir(&model).unwrap();
    for entry in fs_err::read_dir(root().join("datasets/default/model")).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let run = |arguments: &[&str]| {
        let output = jacobi(directory.path(), arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let tune = ["tune", "-c", "good.toml", "-m", "model", "--max-new-tokens", "12", "--candidates", "5"];
    let (code, text, _) = run(&[&tune[..], &["--dry-run"]].concat());
    assert!(
        code == Some(0) && text.contains("2 prompts") && text.contains("jacobi.json into model"),
        "{text}"
    );
    assert!(!tuned.exists() && !model.join("tune").exists());
    let (code, text, messages) = run(&[&tune[..], &["--objective", "tpf"]].concat());
    assert_eq!(code, Some(0), "{messages}");
    for part in ["best", "ar ", "jacobi n=16", "multi_block n=16 K=2 pool=4 tree=32"] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert!(text.contains("Not decided: ") && text.contains("The race had 2 prompts"), "{text}");
    assert!(messages.contains("knee at") && messages.contains("model/jacobi.json"), "{messages}");
    for file in ["tune.md", "tune.json", "tune-latency.svg", "tune-contour.svg"] {
        assert!(model.join("tune").join(file).is_file(), "{file}");
    }

    let found: serde_json::Value = serde_json::from_slice(&fs_err::read(&tuned).unwrap()).unwrap();
    assert_eq!((&found["schema"], &found["objective"]), (&"jacobi-tune/1".into(), &"tpf".into()));
    // Unusual settings, so that the output shows which verb uses them.
    let mut mine = found.clone();
    mine["decoder"] = serde_json::json!({"name": "jacobi", "block_size": 5});
    fs_err::write(&tuned, mine.to_string()).unwrap();
    let decode = ["decode", "-m", "model", "-p", "What is 2 + 2?", "--max-new-tokens", "4"];
    let (code, _, messages) = run(&decode);
    assert!(code == Some(0) && messages.contains("jacobi of model/jacobi.json"), "{messages}");
    for own in [&["--decoder", "jacobi"][..], &["--block-size", "4"]] {
        let (code, _, messages) = run(&[&decode[..], own].concat());
        assert!(code == Some(0) && !messages.contains("jacobi.json"), "{messages}");
    }
    let eval =
        ["eval", "-c", "good.toml", "--base", "model", "--set", "eval.max_new_tokens=4", "-o", "report"];
    let eval = [&eval[..], &["--overwrite"]].concat();
    let (code, text, messages) = run(&eval);
    assert!(
        code == Some(0) && text.contains("jacobi n=16") && text.contains("jacobi n=5, tuned "),
        "{text}{messages}"
    );
    // A decoder tuned afterwards is not measured when the evaluation is repeated; a message says so.
    fs_err::write(&tuned, mine.to_string().replace("\"block_size\":5", "\"block_size\":6")).unwrap();
    let (code, text, messages) = run(&eval[..eval.len() - 1]);
    assert!(code == Some(0) && text.contains("jacobi n=5, tuned "), "{text}{messages}");
    assert!(messages.contains("jacobi n=6 of model was not measured"), "{messages}");
    let (code, text, _) = run(&[&eval[..], &["--set", "eval.tuned=false"]].concat());
    assert!(code == Some(0) && text.contains("jacobi n=16") && !text.contains("jacobi n=5"), "{text}");

    mine["schema"] = "jacobi-tune/0".into();
    fs_err::write(&tuned, mine.to_string()).unwrap();
    for arguments in [&decode[..], &eval] {
        let (code, _, messages) = run(arguments);
        assert_eq!(code, Some(1));
        for part in ["model/jacobi.json", "jacobi-tune/0", "delete it", "`jacobi tune`"] {
            assert!(messages.contains(part), "{part:?} is missing: {messages}");
        }
    }
}

#[test]
fn results_go_to_standard_output_without_color_codes() {
    let directory = fixture();
    let rows: [(&[&str], &str); 5] = [
        (&["--version"], "jacobi "),
        (&["env"], "libtorch: "),
        (&["config", "show", "-c", "good.toml", "--set", "train.epochs=7"], "epochs = 7"),
        (&["config", "validate", "-c", "good.toml"], "good.toml: valid"),
        (&["config", "schema"], "\"additionalProperties\": false"),
    ];
    for (arguments, part) in rows {
        let output = jacobi(directory.path(), arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(part), "{arguments:?}: {text}");
        assert!(!text.contains('\x1b') && output.stderr.is_empty(), "{arguments:?}");
    }
    let output = jacobi(directory.path(), &["env", "--json"]);
    let environment: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(environment["libtorch"].is_string());
}

#[test]
fn threads_follow_the_affinity_and_the_users_variable() {
    let environment = |command: &mut Command| -> Value {
        let output = command.args(["env", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let set = environment(Command::new(BINARY).env("OMP_NUM_THREADS", "3"));
    assert_eq!((&set["threads"], &set["threads_decided_by"]), (&3.into(), &"OMP_NUM_THREADS".into()));
    let pinned = environment(Command::new("taskset").args(["-c", "0", BINARY]).env_remove("OMP_NUM_THREADS"));
    assert_eq!((&pinned["cpus"], &pinned["threads"]), (&1.into(), &1.into()));
    assert!(pinned["threads_decided_by"].as_str().unwrap().starts_with("CPUs"), "{pinned}");
}

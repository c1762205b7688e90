//! Runs on the small model: rounds, refusals, signals.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "shipped.rs"]
mod shipped;
#[path = "train_verb.rs"]
mod train_verb;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use jacobi_datasets::{Trajectory, read_all};
use jacobi_trainer::latest_checkpoint;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// The binary under test, built by cargo for this test target.
const BINARY: &str = env!("CARGO_BIN_EXE_jacobi");

fn jacobi(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY).current_dir(directory).args(arguments).output().unwrap()
}

/// Runs a command that must succeed, and returns its messages.
fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let output = jacobi(directory, arguments);
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {messages}");
    messages
}

/// Runs a command that must fail with `code`, and returns its messages.
fn fail(directory: &Path, arguments: &[&str], code: i32) -> String {
    let output = jacobi(directory, arguments);
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {messages}");
    messages
}

/// A directory with `small.toml`, a recipe of two rounds on the model that ships here.
fn fixture() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let data = root().join("datasets/default");
    let recipe = format!(
        "output_dir = \"run\"\n[model]\npath = \"{0}/model\"\n\
         [prompts]\npath = \"{0}/prompts-train.jsonl\"\nid_column = \"id\"\nlimit = 8\n\
         [generate]\nmax_new_tokens = 24\n\
         [train]\nmax_steps = 4\nbatch_size = 2\nlearning_rate = 1e-3\nlr_schedule = \"constant\"\nwarmup_ratio = 0.0\n\
         eval_steps = 2\neval_samples = 2\neval_max_new_tokens = 8\nbest_ar_tolerance = 9.0\n\
         [[rounds]]\n[[rounds]]\n[rounds.prompts]\noffset = 8\n[rounds.generate]\nblock_size = 8\n[rounds.train]\nlearning_rate = 1e-4\n\
         [tune]\ncandidates = 2\n[eval]\nmax_new_tokens = 8\n[eval.prompts]\npath = \"{0}/prompts-test.jsonl\"\nlimit = 1\n",
        data.display()
    );
    fs_err::write(directory.path().join("small.toml"), recipe).unwrap();
    directory
}

fn weights(dir: &Path) -> Vec<u8> {
    fs_err::read(dir.join("model.safetensors")).unwrap()
}

/// The lines of a `metrics.jsonl`.
fn metrics(dir: &Path) -> Vec<Value> {
    let text = fs_err::read_to_string(dir.join("metrics.jsonl")).unwrap_or_default();
    text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_later_round_uses_the_previous_checkpoint_and_its_own_settings() {
    let directory = fixture();
    let dir = directory.path();
    let messages = succeed(dir, &["run", "-c", "small.toml"]);
    assert!(messages.contains("step 0: TPF") && messages.contains("step 4: TPF"), "{messages}");
    let round = |round: usize| dir.join(format!("run/round-{round}"));
    let made = |round: &Path| {
        let checkpoints = round.join("checkpoints");
        let best = checkpoints.join("best");
        if best.exists() { best } else { checkpoints.join("latest") }
    };
    let hash = |dir: &Path| blake3::hash(&weights(dir)).to_hex().to_string();
    let (first, rows) = read_all(&round(1).join("trajectories")).unwrap();
    let (second, later) = read_all(&round(2).join("trajectories")).unwrap();
    let base = root().join("datasets/default/model");
    assert_eq!((first.block_size, first.weight_hash), (16, hash(&base)));
    assert_eq!((second.block_size, second.weight_hash), (8, hash(&made(&round(1)))));
    assert_ne!(hash(&made(&round(1))), hash(&base));
    assert!(!later.is_empty());
    assert!(later.iter().all(|row| rows.iter().all(|earlier| earlier.prompt_tokens != row.prompt_tokens)));
    for (number, rate) in [(1, 1e-3), (2, 1e-4)] {
        let lines = metrics(&round(number));
        let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [0, 1, 2, 3, 4]);
        assert!(lines[1..].iter().all(|line| line["train/learning_rate"] == rate), "round {number}");
        for (step, line) in lines.iter().enumerate() {
            for metric in ["eval/tpf", "eval/exact_match_ar", "eval/loss_ar", "eval/repetition"] {
                assert_eq!(line[metric].is_number(), step % 2 == 0, "{metric} of step {step}");
            }
        }
    }
    assert_eq!(weights(&dir.join("run/export")), weights(&made(&round(2))));
    // An export's model card has its decoder and its provenance.
    assert!(dir.join("run/export/jacobi.json").is_file());
    let card = fs_err::read_to_string(dir.join("run/export/README.md")).unwrap();
    for part in ["## Provenance", "round 2: trained on", "- custom_generate\n", "model.jacobi_passes"] {
        assert!(card.contains(part), "{part}: {card}");
    }
    // The report charts the training, and so does that of a run without an evaluation.
    let report = fs_err::read_to_string(dir.join("run/report/report.md")).unwrap();
    for part in [
        "## Before and after training",
        "- Training, round-2: 4 steps, 8 samples, ",
        "training-tpf-samples.svg",
    ] {
        assert!(report.contains(part), "missing {part:?} in:\n{report}");
    }
    let inspected = String::from_utf8(jacobi(dir, &["inspect", "run"]).stdout).unwrap();
    assert!(inspected.contains("run      steps  samples"), "{inspected}");
    fs_err::rename(dir.join("run/report"), dir.join("report")).unwrap();
    succeed(dir, &["report", "run"]);
    assert!(dir.join("run/training/training-tpf-samples.svg").is_file());
    fs_err::rename(dir.join("report"), dir.join("run/report")).unwrap();
    // Training logs are charted in any directory, alone and with an evaluation.
    succeed(dir, &["report", "run/round-1", "run/round-2", "-o", "trainings"]);
    let trainings = fs_err::read_to_string(dir.join("trainings/training.md")).unwrap();
    assert!(
        trainings.contains("| round-1 | 4 | 8 |") && trainings.contains("| round-2 | 4 | 8 |"),
        "{trainings}"
    );
    succeed(dir, &["report", "run/report", "run/round-1", "-o", "beside"]);
    assert!(fs_err::read_to_string(dir.join("beside/report.md")).unwrap().contains("- round-1: 4 steps"));
    succeed(dir, &["report", "run", "-o", "again"]);
    let again = fs_err::read_to_string(dir.join("again/report.md")).unwrap();
    assert!(again.contains("training-tpf-samples.svg"), "{again}");
    changed_settings_are_refused_from_their_stage_on_and_neutral_ones_are_not(dir);
}

/// On a finished run of two rounds.
fn changed_settings_are_refused_from_their_stage_on_and_neutral_ones_are_not(dir: &Path) {
    let messages = fail(dir, &["run", "-c", "small.toml", "--set", "rounds.2.train.learning_rate=2e-4"], 2);
    assert!(
        messages.contains("from stage round-2/train on") && messages.contains("learning_rate"),
        "{messages}"
    );
    let messages = fail(dir, &["run", "-c", "small.toml", "--set", "rounds.1.generate.block_size=4"], 2);
    for part in ["from stage round-1/generate on", "generate.block_size: was 16, is 4"] {
        assert!(messages.contains(part), "{part:?} is missing: {messages}");
    }
    let neutral = [
        "train.save_steps=3",
        "train.logging_steps=2",
        "generate.batch_size=2",
        "generate.memory_budget_gb=1.0",
        "generate.pass_tokens=99",
        "generate.rows_per_group=3",
        "generate.shard_bytes=1000",
        "generate.max_consecutive_errors=9",
    ];
    let run = ["run", "-c", "small.toml"].into_iter();
    let run: Vec<&str> = run.chain(neutral.into_iter().flat_map(|setting| ["--set", setting])).collect();
    assert_eq!(succeed(dir, &run).matches("finished before, skipped").count(), 7);
}

/// The file of a run, as JSON.
fn json(dir: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs_err::read(dir.join(file)).unwrap()).unwrap()
}

/// The decoders of the rows of a report by model role, each with its block size and whether tuning chose it.
fn measured(dir: &Path, role: &str) -> Vec<(String, Option<u64>, bool)> {
    let results = json(dir, "run/report/results.json");
    let rows = results["rows"].as_array().unwrap().iter().filter(|row| row["model_role"] == role);
    let name = |row: &Value| row["decoder"].as_str().unwrap().to_owned();
    rows.map(|row| {
        (name(row), row["decoder_settings"]["block_size"].as_u64(), row["tuned"].as_bool().unwrap())
    })
    .collect()
}

#[test]
fn a_run_tunes_its_export_and_evaluates_the_tuned_decoder_first() {
    let directory = fixture();
    let dir = directory.path();
    let run = ["run", "-c", "small.toml", "--set", "rounds=[{}]", "--set", "train.max_steps=1"];
    let messages = succeed(dir, &run);
    assert!(messages.contains("stage 4 of 5: tune: 1 prompts, at most 8 new tokens each"), "{messages}");
    let tuned = json(dir, "run/export/jacobi.json");
    assert_ne!(tuned["decoder"]["name"], "ar", "one prompt decides nothing: {tuned}");
    assert_eq!((&tuned["race"]["decided"], &tuned["race"]["prompts"]), (&false.into(), &1.into()));
    for role in ["base", "trained"] {
        let rows = measured(dir, role);
        assert_eq!((rows[0].0.as_str(), rows[0].2), ("ar", false));
        let is_tuned = (&rows[1].0, rows[1].1) == (&name_of(&tuned), tuned["decoder"]["block_size"].as_u64());
        assert!(is_tuned && rows[1].2 == (role == "trained"), "{role}: {rows:?} {tuned}");
    }
    let report = fs_err::read_to_string(dir.join("run/report/report.md")).unwrap();
    let card = fs_err::read_to_string(dir.join("run/export/README.md")).unwrap();
    for part in [", tuned)", "Not decided: ", "A pass over 4 rows costs "] {
        assert!(report.contains(part) && card.contains(part), "{part:?} is missing: {report}{card}");
    }
    let count = |messages: &str| messages.matches("finished before, skipped").count();
    assert_eq!(count(&succeed(dir, &run)), 5);

    // Exported again, the model is tuned again.
    succeed(dir, &["export", "-c", "small.toml", "--set", "rounds=[{}]", "--set", "train.max_steps=1"]);
    assert_eq!(json(dir, "run/export/jacobi.json")["latency"]["knee"], 0);
    let messages = succeed(dir, &run);
    assert!(messages.contains("stage 4 of 5: tune: 1 prompts"), "{messages}");
    // Another decoder than the report has: as on a machine where passes cost something else.
    let mut other = json(dir, "run/export/jacobi.json");
    other["decoder"] = serde_json::json!({"name": "jacobi", "block_size": 5});
    fs_err::write(dir.join("run/export/jacobi.json"), other.to_string()).unwrap();
    let messages = succeed(dir, &run);
    assert!(messages.contains("finished before jacobi n=5 was tuned, so it is repeated"), "{messages}");
    assert_eq!(measured(dir, "trained")[1], ("jacobi".to_owned(), Some(5), true));
    assert_eq!(count(&succeed(dir, &run)), 5);

    let messages = fail(dir, &[&run[..], &["--set", "tune.candidates=1"]].concat(), 2);
    assert!(
        messages.contains("from stage tune on") && messages.contains("tune.candidates: was 2, is 1"),
        "{messages}"
    );
    // Without the stage nothing else changes.
    let without = [&run[..], &["--set", "tune.enabled=false"]].concat();
    assert_eq!(count(&succeed(dir, &without)), 4);
    fs_err::remove_dir_all(dir.join("run/export")).unwrap();
    let messages = succeed(dir, &without);
    assert!(!messages.contains("tune"), "{messages}");
    assert_eq!(json(dir, "run/export/jacobi.json")["latency"]["knee"], 0);
}

fn name_of(tuned: &Value) -> String {
    tuned["decoder"]["name"].as_str().unwrap().to_owned()
}

#[test]
fn a_run_without_an_evaluation_ends_with_tuning_on_its_own_prompts() {
    let directory = fixture();
    let dir = directory.path();
    let run = ["run", "-c", "small.toml", "--set", "rounds=[{}]", "--set", "train.max_steps=1"];
    let output = jacobi(dir, &[&run[..], &["--set", "eval.prompts.path="]].concat());
    let (text, messages) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{messages}");
    assert!(messages.contains("stage 4 of 4: tune: 8 prompts"), "{messages}");
    for part in ["best", "jacobi n=16", "not evaluated: neither eval.prompts.path nor [[eval.tasks]] is set"]
    {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert!(dir.join("run/export/README.md").is_file() && !dir.join("run/report").exists());
}

#[test]
fn more_prompts_keep_the_trajectories_that_are_there() {
    let directory = fixture();
    let dir = directory.path();
    succeed(dir, &["run", "-c", "small.toml", "--set", "prompts.limit=6"]);
    let trajectories = dir.join("run/round-1/trajectories");
    let first =
        |of: &str| fs_err::read(trajectories.join(format!("trajectories-00000-of-{of}.parquet"))).unwrap();
    let before = first("00001");
    succeed(dir, &["run", "-c", "small.toml", "--overwrite"]);
    assert!(first("00002") == before, "the rows that were there are made again");
    assert_eq!(read_all(&trajectories).unwrap().1.len(), 8);
}

#[test]
fn a_run_takes_responses_that_another_engine_made() {
    let directory = fixture();
    let dir = directory.path();
    succeed(dir, &["generate", "-c", "small.toml", "-o", "ours"]);
    let (_, ours) = read_all(&dir.join("ours")).unwrap();
    let file = dir.join("responses.jsonl");
    let write = |tokens: usize| {
        let line = |row: &Trajectory| {
            let tokens = &row.response_tokens[..tokens.min(row.response_tokens.len())];
            format!("{{\"id\": \"{}\", \"token_ids\": {tokens:?}}}\n", row.sample_id)
        };
        fs_err::write(&file, ours.iter().map(line).collect::<String>()).unwrap();
    };
    write(10);
    // The second round asks the model of the first, and has prompts that the file does not answer.
    let given = ["--set", "rounds.1.generate.responses=responses.jsonl"];
    let run = [&["run", "-c", "small.toml"][..], &given].concat();
    succeed(dir, &run);
    let lengths = |round: usize| {
        let (metadata, rows) = read_all(&dir.join(format!("run/round-{round}/trajectories"))).unwrap();
        let lengths: Vec<usize> = rows.iter().map(|row| row.response_tokens.len()).collect();
        (metadata.decoding.contains_key("responses"), lengths)
    };
    let (responses, first) = lengths(1);
    assert!(responses && first.iter().all(|length| *length <= 10), "{first:?}");
    assert!(!lengths(2).0);
    // The same command has nothing left to do; a changed file is another run.
    let digest = |path: &str| fs_err::read(dir.join(path)).unwrap();
    let before = digest("run/round-1/trajectories/manifest.json");
    succeed(dir, &run);
    assert!(digest("run/round-1/trajectories/manifest.json") == before);
    // Responses of another model are not accepted silently.
    let foreign = ours.iter().map(|row| {
        let tokens = vec![row.response_tokens[0] + 1; 10];
        format!("{{\"id\": \"{}\", \"token_ids\": {tokens:?}}}\n", row.sample_id)
    });
    fs_err::write(dir.join("foreign.jsonl"), foreign.collect::<String>()).unwrap();
    let arguments = ["generate", "-c", "small.toml", "-o", "foreign", "--responses", "foreign.jsonl"];
    let messages = succeed(dir, &arguments);
    assert!(messages.contains("blocks of the given responses differ from the model's output"), "{messages}");
    write(8);
    let messages = fail(dir, &run, 2);
    assert!(messages.contains("generate.responses: was"), "{messages}");
    fs_err::remove_file(&file).unwrap();
    let messages = fail(dir, &run, 1);
    assert!(messages.contains("responses.jsonl does not exist: set generate.responses"), "{messages}");
}

/// As the message about a damaged shard says: deleted, its rows are made again.
#[test]
fn a_run_makes_the_rows_of_a_deleted_shard_again() {
    let directory = fixture();
    let dir = directory.path();
    let run = ["run", "-c", "small.toml"];
    succeed(dir, &run);
    let trajectories = dir.join("run/round-2/trajectories");
    let (_, before) = read_all(&trajectories).unwrap();
    let shard = trajectories.join("trajectories-00000-of-00001.parquet");
    fs_err::remove_file(&shard).unwrap();
    let message = read_all(&trajectories).unwrap_err().to_string();
    assert!(message.contains("does not exist: `jacobi generate` makes its rows again"), "{message}");
    succeed(dir, &run);
    assert!(shard.is_file());
    assert!(read_all(&trajectories).unwrap().1 == before, "other rows than before");
}

/// `jacobi train` into `output`, for many steps.
fn long_training(output: &str, steps: usize) -> Vec<String> {
    let steps = format!("train.max_steps={steps}");
    let arguments =
        ["train", "-c", "small.toml", "--trajectories", "run/round-1/trajectories", "--set", &steps];
    arguments.into_iter().chain(["--output", output]).map(str::to_owned).collect()
}

/// Starts a process that trains into `dir/output`, and waits until it has taken a few steps.
fn start_training(dir: &Path, output: &str, arguments: &[String]) -> Child {
    let mut child = Command::new(BINARY)
        .current_dir(dir)
        .args(arguments)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while metrics(&dir.join(output)).len() < 4 {
        assert!(child.try_wait().unwrap().is_none(), "it trains until it is told to stop");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn sigterm_saves_and_exits_with_143_and_the_same_command_resumes() {
    let directory = fixture();
    let dir = directory.path();
    succeed(dir, &["generate", "-c", "small.toml"]);
    let train = |output: &str| {
        let arguments = long_training(output, 60);
        succeed(dir, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let child = start_training(dir, "stopped", &long_training("stopped", 60));
    send("-TERM", &child);
    let output = child.wait_with_output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(143), "{messages}");
    assert!(messages.contains("SIGTERM") && messages.contains("the same command resumes it"), "{messages}");
    let step = |dir: &str| latest_checkpoint(&directory.path().join(dir)).unwrap();
    assert!(!step("stopped").ends_with("step-000060"), "it had not ended");
    train("stopped");
    train("whole");
    assert_eq!(weights(&step("stopped")), weights(&step("whole")));
    assert!(step("whole").ends_with("step-000060"));
}

#[test]
fn a_second_ctrl_c_ends_training_at_once() {
    const ATTEMPTS: usize = 6;
    let directory = fixture();
    let dir = directory.path();
    succeed(dir, &["generate", "-c", "small.toml", "--set", "prompts.limit=60"]);
    // One row for all: the first Ctrl-C waits for the end of a long pass, unless it comes just before it.
    let settings = ["train.batch_size=58", "train.epochs=100000", "train.tokens_per_row=1000000"];
    let ended_at_once = (0..ATTEMPTS).any(|attempt| {
        let output = format!("stopped-{attempt}");
        let mut arguments = long_training(&output, 100_000);
        arguments.extend(settings.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
        arguments.extend(["--set".to_owned(), "train.eval_steps=100000".to_owned()]);
        let child = start_training(dir, &output, &arguments);
        send("-INT", &child);
        // Two pending signals of one kind would be delivered as one.
        std::thread::sleep(Duration::from_millis(10));
        // The process may have ended.
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).output();
        let ended = child.wait_with_output().unwrap();
        let messages = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{messages}");
        // The earlier checkpoint is complete.
        succeed(dir, &["inspect", &format!("{output}/checkpoints/latest")]);
        !messages.contains("the same command resumes it")
    });
    assert!(ended_at_once, "{ATTEMPTS} times it saved and ended in the moment between two signals");
}

#[test]
fn a_damaged_model_is_found_before_anything_is_measured() {
    let directory = fixture();
    let damaged = directory.path().join("damaged");
    fs_err::create_dir(&damaged).unwrap();
    for entry in fs_err::read_dir(root().join("datasets/default/model")).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), damaged.join(entry.file_name())).unwrap();
    }
    let whole = weights(&damaged);
    fs_err::write(damaged.join("model.safetensors"), &whole[..whole.len() / 2]).unwrap();
    let messages = fail(directory.path(), &["eval", "-c", "small.toml", "--trained", "damaged"], 1);
    assert!(messages.contains("damaged/model.safetensors"), "{messages}");
    assert!(!messages.lines().any(|line| line.starts_with("eval: ")), "nothing was measured: {messages}");
    let model = root().join("datasets/default/model");
    let export = ["export", "--checkpoint", model.to_str().unwrap(), "-o", "/proc/x"];
    let messages = fail(directory.path(), &export, 1);
    assert!(messages.contains("cannot write into /proc") && messages.contains("--output"), "{messages}");
}

/// The file itself is tested against transformers by scripts/check-custom-generate.sh.
#[test]
fn an_export_has_custom_generate_unless_it_is_not_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let (dir, model) = (directory.path(), root().join("datasets/default/model"));
    let arguments = ["export", "--checkpoint", model.to_str().unwrap(), "--output"];
    succeed(dir, &[&arguments[..], &["with"]].concat());
    succeed(dir, &[&arguments[..], &["without", "--custom-generate", "false"]].concat());
    assert!(!dir.join("without/custom_generate").exists());
    let file = dir.join("with/custom_generate/generate.py");
    let source = root().join("python/custom_generate/generate.py");
    assert_eq!(fs_err::read_to_string(&file).unwrap(), fs_err::read_to_string(source).unwrap());
    let mut python = Command::new("python3");
    python.args(["-m", "py_compile"]).arg(&file).env("PYTHONPYCACHEPREFIX", dir.join("cache"));
    assert!(python.status().unwrap().success());
    for export in ["with", "without"] {
        let text = fs_err::read_to_string(dir.join(export).join("tokenizer_config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["model_input_names"], serde_json::json!(["input_ids", "attention_mask"]));
    }
}

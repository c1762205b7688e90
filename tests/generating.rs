//! `jacobi generate` as a process: killed at any moment, shared among ranks, refused for a reason.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use jacobi_cli::recipe::Recipe;
use jacobi_datasets::{Manifest, Message, Trajectory, read_all, read_prompts};

use super::{BINARY, root};

/// A recipe over the first prompts that ship with the project.
fn recipe(dir: &Path, prompts: usize) {
    let model = root().join("datasets/default/model");
    let file = root().join("datasets/default/prompts-train.jsonl");
    let text = format!(
        "output_dir = \"run\"\n[model]\npath = \"{}\"\ndtype = \"float32\"\n[prompts]\npath = \"{}\"\nid_column = \"id\"\n\
         limit = {prompts}\n[generate]\nmax_new_tokens = 40\nrows_per_group = 4\nshard_bytes = 6000\nbatch_size = 4\n",
        model.display(),
        file.display()
    );
    fs_err::write(dir.join("r.toml"), text).unwrap();
}

fn generate(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.current_dir(dir).args(["generate", "-c", "r.toml"]).args(arguments);
    for variable in ["RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"] {
        command.env_remove(variable);
    }
    command
}

fn finish(mut command: Command) -> Output {
    command.output().unwrap()
}

fn rows(dir: &Path) -> Vec<Trajectory> {
    read_all(dir).unwrap().1
}

fn wait_for(child: &mut Child, ready: impl Fn() -> bool) -> bool {
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if ready() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn killed_at_any_moment_it_ends_with_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = 60;
    recipe(dir.path(), prompts);
    assert!(finish(generate(dir.path(), &["-o", "whole"])).status.success());
    let target = dir.path().join("killed");
    let written = || Manifest::load(&target).ok().flatten().map_or(0, |manifest| manifest.written);
    let mut kills = 0;
    // Right after a row group was recorded, and a little later each time: while rows are made, joined, renamed.
    for attempt in 0..8 {
        let before = written();
        let mut child = generate(dir.path(), &["-o", "killed"]).stderr(Stdio::null()).spawn().unwrap();
        let alive = wait_for(&mut child, || written() > before);
        std::thread::sleep(Duration::from_millis(attempt * 7));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        kills += usize::from(alive && !status.success());
        assert!(written() >= before, "booked rows stay");
    }
    assert!(kills >= 3, "{kills} kills in time");
    assert!(finish(generate(dir.path(), &["-o", "killed"])).status.success());
    assert_eq!(rows(&target), rows(&dir.path().join("whole")));
    let manifest = Manifest::load(&target).unwrap().unwrap();
    assert_eq!((manifest.complete, manifest.input), (true, prompts));
    let strays = fs_err::read_dir(&target).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        name.starts_with("part-") || name.starts_with("shard-") || name.ends_with(".tmp")
    });
    assert_eq!(strays.count(), 0);
}

#[test]
fn a_directory_that_another_process_writes_into_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 2);
    let place = dir.path().join("run/round-1/trajectories");
    fs_err::create_dir_all(&place).unwrap();
    // As `-o` of that process names it, or the whole run.
    for locked in [place.as_path(), &dir.path().join("run")] {
        let lock = fs_err::File::create(locked.join(".lock")).unwrap();
        lock.file().lock().unwrap();
        let output = finish(generate(dir.path(), &[]));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains("is in use by process"), "{message}");
    }
    assert!(finish(generate(dir.path(), &[])).status.success());
}

#[test]
fn ranks_of_an_environment_merge_to_the_rows_of_one() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 12);
    assert!(finish(generate(dir.path(), &["-o", "one"])).status.success());
    let mut torchrun = generate(dir.path(), &["-o", "two"]);
    torchrun.env("RANK", "0").env("WORLD_SIZE", "2");
    let mut slurm = generate(dir.path(), &["-o", "two"]);
    slurm.env("SLURM_ARRAY_TASK_ID", "1").env("SLURM_ARRAY_TASK_COUNT", "2");
    let quietly = |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let children = [torchrun, slurm].map(quietly);
    assert!(children.into_iter().all(|mut child| child.wait().unwrap().success()));
    let output = finish(generate(dir.path(), &["-o", "two", "--merge"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("12 trajectories of 2 ranks"), "{text}");
    assert_eq!(rows(&dir.path().join("two")), rows(&dir.path().join("one")));

    let mut half = generate(dir.path(), &["-o", "half"]);
    half.env("RANK", "0");
    let output = finish(half);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("RANK is set, WORLD_SIZE is not"), "{message}");
}

#[test]
fn changed_settings_and_failed_writes_suggest_a_remedy_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 6);
    assert!(finish(generate(dir.path(), &["-o", "t"])).status.success());
    let before = rows(&dir.path().join("t"));
    let changed = ["-o", "t", "--set", "generate.block_size=8"];
    let output = finish(generate(dir.path(), &changed));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    for part in ["generate.block_size: was 16, is 8", "another directory", "--overwrite"] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
    assert_eq!(rows(&dir.path().join("t")), before);

    // A limit on file sizes fails writes as a full disk does, and needs no disk to be filled.
    let script =
        "trap '' XFSZ; ulimit -f 1; exec \"$0\" generate -c r.toml -o small --set generate.rows_per_group=2";
    let output = Command::new("bash").current_dir(dir.path()).args(["-c", script, BINARY]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot write") && message.contains("small/part-0000"), "{message}");
    assert!(finish(generate(dir.path(), &["-o", "small"])).status.success());
    assert_eq!(rows(&dir.path().join("small")), before);
}

#[test]
fn a_dry_run_estimates_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 20);
    let output = finish(generate(dir.path(), &["--dry-run", "--calibrate", "2"]));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["20 of 20", "prompt tokens", "estimated", "response tokens", "on disk (from 2 prompts)"] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert!(!dir.path().join("run").exists());
}

#[test]
fn environment_variables_select_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 2);
    let home = dir.path().join("home");
    let message = |setting: &str, name: &str, value: &str| {
        let mut command = generate(dir.path(), &["-o", "t", "--set", setting]);
        command.env("HF_HOME", &home).env(name, value).env_remove("HF_TOKEN");
        let output = finish(command);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let offline = message("prompts.path=hf://datasets/o/n/a.jsonl", "HF_HUB_OFFLINE", "1");
    for part in ["HF_HUB_OFFLINE is set", "a.jsonl of o/n at main", home.join("hub").to_str().unwrap()] {
        assert!(offline.contains(part), "{part:?} is missing: {offline}");
    }
    let model = message("model.path=o/n@v1", "HF_HUB_OFFLINE", "1");
    for part in ["no directory o/n@v1", "config.json of o/n at v1"] {
        assert!(model.contains(part), "{part:?} is missing: {model}");
    }
    let nobody = message("prompts.path=hf://datasets/o/n/a.jsonl", "HF_ENDPOINT", "http://127.0.0.1:9");
    assert!(nobody.contains("from http://127.0.0.1:9") && nobody.contains("HF_TOKEN"), "{nobody}");
    let form = message("prompts.path=hf://n/a.jsonl", "HF_HUB_OFFLINE", "1");
    assert!(form.contains("hf://datasets/ORG/NAME"), "{form}");
}

#[test]
fn responses_named_by_the_prompts_are_not_silently_replaced() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 2);
    for setting in ["prompts.response_column=answer", "prompts.response_template={{ answer }}"] {
        let output = finish(generate(dir.path(), &["-o", "t", "--set", setting]));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("round 1") && said.contains("generate.responses"), "{said}");
    }
    assert!(!dir.path().join("t").exists());
}

#[test]
fn generated_files_can_be_inspected() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 6);
    assert!(finish(generate(dir.path(), &["-o", "t"])).status.success());
    let inspect = |arguments: &[&str]| {
        let output =
            Command::new(BINARY).current_dir(dir.path()).arg("inspect").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = inspect(&["t", "--schedule", "linear", "--window-size", "2"]);
    for part in ["6 = 6 written", "per sample", "TPF", "that the schedule chooses", "sample 0"] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    let text = inspect(&["t", "--sample", "5", "--block", "0", "--html", "b.html"]);
    assert!(text.contains("block 0") && text.contains("clean"), "{text}");
    let page = fs_err::read_to_string(dir.path().join("b.html")).unwrap();
    assert!(page.contains("<table") && page.contains("clean"), "{page}");
}

#[test]
fn a_run_resumes_once_unusable_prompts_are_repaired() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 2);
    fs_err::write(dir.path().join("p.jsonl"), "{broken\n").unwrap();
    let run = |more: &[&str]| {
        let settings = ["prompts.path=p.jsonl", "prompts.id_column=", "eval.prompts.path=p.jsonl"];
        let mut command = Command::new(BINARY);
        command.current_dir(dir.path()).args(["run", "-c", "r.toml"]).args(more);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let output = finish(command);
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, text) = run(&[]);
    assert!(code == Some(1) && text.contains("none of 1 prompts"), "{text}");
    fs_err::write(dir.path().join("p.jsonl"), "{\"prompt\": \"Anna has 2 apples.\"}\n").unwrap();
    let (code, text) = run(&["--dry-run"]);
    assert!(code == Some(0) && !text.contains("other settings") && text.contains("to resume"), "{text}");
}

#[test]
fn a_dry_run_after_a_change_shows_the_void_stages_and_ends_as_the_run_would() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 2);
    let eval = "eval.prompts.path=p.jsonl";
    fs_err::write(dir.path().join("p.jsonl"), "{\"prompt\": \"Anna has 2 apples.\"}\n").unwrap();
    let run = |more: &[&str]| {
        let mut command = Command::new(BINARY);
        command.current_dir(dir.path()).args(["run", "-c", "r.toml", "--set", eval]).args(more);
        let output = finish(command);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, _, message) = run(&["--set", "train.max_steps=1", "--set", "eval.max_new_tokens=4"]);
    assert_eq!(code, Some(0), "{message}");
    let changed = ["--set", "train.max_steps=2", "--set", "eval.max_new_tokens=4"];
    let (code, _, refusal) = run(&changed);
    assert!(code == Some(2) && refusal.contains("train.max_steps: was 1, is 2"), "{code:?}: {refusal}");
    let (code, plan, message) = run(&[&changed[..], &["--dry-run"]].concat());
    assert_eq!((code, &message), (Some(2), &refusal));
    let (code, repeated, message) = run(&[&changed[..], &["--dry-run", "--overwrite"]].concat());
    assert!(code == Some(0) && repeated.contains("train.max_steps: was 1, is 2"), "{message}");
    for text in [plan, repeated] {
        let state = |stage: &str| text.lines().find(|line| line.contains(stage)).unwrap().to_owned();
        assert!(state("1. round-1/generate").contains("finished"), "{text}");
        assert!(state("2. round-1/train").contains("void"), "{text}");
    }
}

/// Rows with the columns of the published sets, read as the recipes say.
#[test]
fn recipes_of_published_sets_read_their_columns() {
    let code = |id: &str, score: &str| {
        format!(
            "{{\"id\": \"{id}\", \"input\": \"Write f.\", \"output\": \"def f\", \"domain\": \"generic\", \
             \"generation_algorithm\": \"self-instruct\", \"llm_judgement\": \"{{}}\", \"unit_tests\": \"[]\", \
             \"tests_execution_status\": \"[]\", \"average_test_score\": \"{score}\"}}"
        )
    };
    let thought = |source: &str| {
        format!(
            "{{\"conversations\": [{{\"from\": \"user\", \"value\": \"2 + 2?\"}}, {{\"from\": \"assistant\", \"value\": \
             \"4\"}}], \"question\": null, \"source\": \"{source}\", \"id\": 1}}"
        )
    };
    let codes = [code("a0", "0.9"), code("a1", "1.0")].join("\n");
    let thoughts = [thought("codefeedback"), thought("automath")].join("\n");
    for (name, lines, id, text) in [
        ("qwen2.5-coder-7b", &codes, Some("a1"), "Write f."),
        ("qwen2.5-coder-7b-adapter", &codes, Some("a1"), "Write f."),
        ("qwen2.5-math-7b", &thoughts, None, "2 + 2?"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows.jsonl");
        fs_err::write(&file, lines).unwrap();
        let config = root().join(format!("configs/{name}.toml"));
        let recipe = Recipe::load(&config, &[format!("prompts.path={}", file.display())]).unwrap();
        let prompts = read_prompts(&recipe.prompts).unwrap();
        let [Ok(prompt)] = prompts.as_slice() else { panic!("{name}: {prompts:?}") };
        assert!(id.is_none_or(|id| id == prompt.id), "{name}");
        assert_eq!(prompt.messages, [Message::new("user", text)], "{name}");
    }
}

//! Training on several ranks: processes of the binary, over Gloo, on the small model that ships here. Two ranks learn the
//! same as one, and a rank that dies, hangs or fails ends the other.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "shared_runs.rs"]
mod shared_runs;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use jacobi_trainer::latest_checkpoint;
use safetensors::SafeTensors;
use serde_json::Value;

/// The binary under test, built by cargo for this test target.
const BINARY: &str = env!("CARGO_BIN_EXE_jacobi");

/// In fp32: losses of any step, and weights after the last.
const LOSS_TOLERANCE: f64 = 1e-5;
const WEIGHT_TOLERANCE: f32 = 1e-4;

/// Settings of an adapter with states of all sources, so that some ranks have passes of the drafter to make and others have not.
const ADAPTER: [&str; 5] = [
    "train.adapter.rank=4",
    "train.adapter.states={ trajectory = 1, random = 1, on_policy = 1 }",
    "train.noise_context=\"clean\"",
    "train.ar_weight=0",
    "train.eval_steps=",
];

/// `--set` before each of `settings`.
fn with_set<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["--set", setting]).collect()
}

/// A directory with trajectories and `ranks.toml`: 20 steps of 8 samples.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("datasets/default");
        let recipe = format!(
            "output_dir = \"run\"\n[model]\npath = \"{0}/model\"\ndtype = \"float32\"\n\
             [prompts]\npath = \"{0}/prompts-train.jsonl\"\nid_column = \"id\"\nlimit = 36\n\
             [generate]\nmax_new_tokens = 24\n\
             [train]\nmax_steps = 20\nbatch_size = 8\nlearning_rate = 1e-4\nlr_schedule = \"constant\"\n\
             warmup_ratio = 0.0\ntokens_per_row = 200\nsave_steps = 6\ndist_timeout = 60\n\
             eval_steps = 10\neval_samples = 3\neval_max_new_tokens = 8\nbest_ar_tolerance = 9.0\n\
             [tune]\ncandidates = 2\n[eval]\nmax_new_tokens = 8\n\
             [eval.prompts]\npath = \"{0}/prompts-test.jsonl\"\nlimit = 1\n",
            data.display()
        );
        fs_err::write(directory.path().join("ranks.toml"), recipe).unwrap();
        let bench = Self { directory };
        let made = bench.command(&["generate", "-c", "ranks.toml"]).output().unwrap();
        assert!(made.status.success(), "{}", messages(&made));
        bench
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `jacobi` with one thread, so that two ranks have a core each, and with nothing of a launcher around it.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.current_dir(self.path()).args(arguments).env("OMP_NUM_THREADS", "1");
        for name in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn train(&self, output: &str, arguments: &[&str]) -> Command {
        let shards = ["--trajectories", "run/round-1/trajectories", "--output", output];
        self.command(&[&["train", "-c", "ranks.toml"], &shards[..], arguments].concat())
    }

    fn succeed(&self, output: &str, arguments: &[&str]) {
        let done = self.train(output, arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", messages(&done));
    }

    /// Two ranks started by hand, with the variables of torchrun.
    fn two_ranks(&self, output: &str, arguments: &[&str]) -> [Child; 2] {
        two_ranks(|_| self.train(output, arguments))
    }

    fn lines(&self, output: &str) -> Vec<Value> {
        let text = fs_err::read_to_string(self.path().join(output).join("metrics.jsonl")).unwrap_or_default();
        text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
    }

    fn checkpoint(&self, output: &str) -> PathBuf {
        latest_checkpoint(&self.path().join(output)).unwrap()
    }

    /// Of the model, or of the adapter that was trained.
    fn weights(&self, output: &str) -> Vec<u8> {
        let files = ["model.safetensors", "adapter_model.safetensors"];
        let paths = files.map(|file| self.checkpoint(output).join(file));
        fs_err::read(paths.into_iter().find(|path| path.is_file()).unwrap()).unwrap()
    }

    /// Waits until the run in `output` has logged `steps` steps.
    fn wait_for(&self, output: &str, steps: usize, ranks: &mut [Child; 2]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.lines(output).len() < steps {
            assert!(Instant::now() < deadline, "no step {steps} within a minute");
            for rank in ranks.iter_mut() {
                assert!(rank.try_wait().unwrap().is_none(), "they train until they are disturbed");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The run in `found` learned the same as the run in `expected`.
    fn assert_equal(&self, found: &str, expected: &str) {
        let (a, b) = (self.lines(found), self.lines(expected));
        assert_eq!(a.len(), b.len(), "{found}");
        for (a, b) in a.iter().zip(&b) {
            for metric in ["train/loss", "train/loss_ar", "train/loss_pc", "eval/tpf", "eval/loss_ar"] {
                let off = (a[metric].as_f64().unwrap_or(0.0) - b[metric].as_f64().unwrap_or(0.0)).abs();
                assert!(off <= LOSS_TOLERANCE, "{found}, step {}: {metric} is off by {off}", a["step"]);
            }
        }
        self.assert_weights(found, expected);
    }

    fn assert_weights(&self, found: &str, expected: &str) {
        let (a, b) = (self.weights(found), self.weights(expected));
        let (a, b) = (SafeTensors::deserialize(&a).unwrap(), SafeTensors::deserialize(&b).unwrap());
        assert_eq!(a.names().len(), b.names().len());
        for (name, view) in a.iter() {
            let other = b.tensor(name).unwrap();
            let floats = |bytes: &[u8]| -> Vec<f32> {
                bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
            };
            let pairs = floats(view.data()).into_iter().zip(floats(other.data()));
            let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= WEIGHT_TOLERANCE, "{found}: {name} is off by {off}");
        }
    }
}

/// Two ranks started by hand, with the variables of torchrun around the command of each.
fn two_ranks(command: impl Fn(usize) -> Command) -> [Child; 2] {
    // A free port; another process could take it before we do, which is very unlikely.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    [0, 1].map(|rank: usize| {
        let (mut command, number) = (command(rank), rank.to_string());
        command.env("RANK", &number).env("LOCAL_RANK", &number).env("WORLD_SIZE", "2");
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port).spawn().unwrap()
    })
}

fn messages(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How `child` ends, within `limit`.
fn end(mut child: Child, limit: Duration) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > limit {
            child.kill().unwrap();
            panic!("it runs on after {limit:?}: {}", messages(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn two_ranks_equal_one_rank_under_every_sharding() {
    let bench = Bench::new();
    bench.succeed("one", &[]);
    assert_eq!(bench.lines("one").len(), 21, "the start and 20 steps");
    for sharding in ["none", "optimizer", "gradients", "parameters"] {
        let set = format!("train.sharding=\"{sharding}\"");
        bench.succeed(sharding, &["--nproc", "2", "--set", &set]);
        bench.assert_equal(sharding, "one");
        for rank in 0..2 {
            let line = &bench.lines(sharding)[20];
            for figure in ["tokens_per_second", "communication_seconds", "memory_bytes"] {
                assert!(line[format!("rank/{rank}/{figure}")].as_f64().unwrap() > 0.0, "{figure}: {line}");
            }
            let file = bench.checkpoint(sharding).join(format!("trainer/optimizer-rank-{rank}.safetensors"));
            assert!(file.metadata().unwrap().len() > 1000, "each rank writes its share");
        }
    }
    // One sample in a pass, or as many as there are: accumulation changes nothing, on one rank or two.
    bench.succeed("eight passes", &["--set", "train.tokens_per_row=1"]);
    bench.assert_equal("eight passes", "one");
    bench.succeed("one pass", &["--nproc=2", "--set", "train.tokens_per_row=100000"]);
    bench.assert_equal("one pass", "one");
}

#[test]
fn an_adapter_on_two_ranks_equals_one_on_one_rank_under_every_sharding() {
    let bench = Bench::new();
    let settings = [&ADAPTER[..], &["train.learning_rate=1e-3"]].concat();
    let settings = with_set(&settings);
    bench.succeed("one", &settings);
    for sharding in ["none", "optimizer", "gradients", "parameters"] {
        let set = format!("train.sharding=\"{sharding}\"");
        bench.succeed(sharding, &[&settings[..], &["--nproc", "2", "--set", &set]].concat());
        bench.assert_equal(sharding, "one");
    }
    bench.succeed(
        "eight passes",
        &[&settings[..], &["--nproc=2", "--set", "train.tokens_per_row=1"]].concat(),
    );
    bench.assert_equal("eight passes", "one");
}

/// A restart resumes from the last checkpoint, whatever the number of ranks that wrote it.
#[test]
fn a_killed_rank_ends_the_other_and_any_number_of_ranks_goes_on_to_the_undisturbed_weights() {
    let bench = Bench::new();
    let sharded = ["--set", "train.sharding=\"gradients\""];
    bench.succeed("whole", &[&sharded[..], &["--nproc", "2"]].concat());
    for (output, arguments) in [("two", &["--nproc", "2"][..]), ("one", &[])] {
        let mut ranks = bench.two_ranks(output, &sharded);
        bench.wait_for(output, 9, &mut ranks);
        let [first, mut second] = ranks;
        second.kill().unwrap();
        let ended = end(first, Duration::from_secs(60));
        assert_eq!((ended.status.code(), second.wait().unwrap().code()), (Some(1), None));
        assert!(messages(&ended).contains("rank 1 of 2 is gone"), "{}", messages(&ended));
        let newest = bench.checkpoint(output);
        assert!(!newest.ends_with("step-000020"), "{} is not the end", newest.display());
        bench.succeed(output, &[&sharded[..], arguments].concat());
        assert!(bench.checkpoint(output).ends_with("step-000020"));
    }
    assert_eq!(bench.weights("two"), bench.weights("whole"), "bit for bit");
    bench.assert_equal("one", "whole");
}

#[test]
fn a_rank_that_hangs_or_finds_nan_ends_all_and_is_named() {
    let bench = Bench::new();
    let mut ranks = bench.two_ranks("hangs", &["--set", "train.dist_timeout=3"]);
    bench.wait_for("hangs", 4, &mut ranks);
    let [first, mut second] = ranks;
    signal(&second, "-STOP");
    // The timeout, and some time to find the silent rank.
    let ended = end(first, Duration::from_secs(20));
    second.kill().unwrap();
    second.wait().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(messages(&ended).contains("rank 1 of 2 is gone"), "{}", messages(&ended));

    let ranks = bench.two_ranks("nan", &["--set", "train.learning_rate=1e30"]);
    for (rank, ended) in ranks.map(|rank| end(rank, Duration::from_secs(60))).iter().enumerate() {
        let text = messages(ended);
        assert_eq!(ended.status.code(), Some(1), "{text}");
        let named = [format!("rank {rank} of 2 fails"), "gave up".to_owned()];
        assert!(text.contains("not finite") && named.iter().any(|name| text.contains(name)), "{text}");
    }
}

/// The ranks that `launcher` has started, in their order.
fn children(launcher: &Child) -> Vec<String> {
    let path = format!("/proc/{0}/task/{0}/children", launcher.id());
    let text = fs_err::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_launcher_says_which_rank_ended_and_passes_a_signal_on() {
    let bench = Bench::new();
    let begin = |output: &str| {
        let launcher = bench.train(output, &["--nproc", "2"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while bench.lines(output).len() < 4 {
            assert!(Instant::now() < deadline, "{output}: no step 4 within a minute");
            std::thread::sleep(Duration::from_millis(2));
        }
        launcher
    };
    let launcher = begin("killed");
    let ranks = children(&launcher);
    assert_eq!(ranks.len(), 2);
    assert!(Command::new("kill").args(["-KILL", &ranks[1]]).status().unwrap().success());
    let ended = end(launcher, Duration::from_secs(60));
    assert_eq!(ended.status.code(), Some(1));
    let text = messages(&ended);
    assert!(text.contains("rank 1 of 2 was ended by signal 9") && text.contains("resumes"), "{text}");

    let launcher = begin("stopped");
    signal(&launcher, "-TERM");
    let ended = end(launcher, Duration::from_secs(60));
    assert_eq!(ended.status.code(), Some(143), "{}", messages(&ended));
    let newest = bench.checkpoint("stopped");
    assert!(!newest.ends_with("step-000020"), "it stopped before the end");
    bench.succeed("stopped", &["--nproc", "2"]);
    bench.succeed("whole", &["--nproc", "2"]);
    assert_eq!(bench.weights("stopped"), bench.weights("whole"));
}

#[test]
fn an_incomplete_environment_is_refused_by_name() {
    let bench = Bench::new();
    let refused = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = bench.train("none", arguments);
        let ended = command.envs(variables.iter().copied()).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{}", messages(&ended));
        messages(&ended)
    };
    let text = refused(&[("RANK", "0"), ("WORLD_SIZE", "2")], &[]);
    assert!(
        text.contains("RANK, WORLD_SIZE are set, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not"),
        "{text}"
    );
    let text = refused(&[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")], &[]);
    assert!(text.contains("MASTER_ADDR is not set") && text.contains("launch.sbatch"), "{text}");
    let whole = [
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "1"),
    ];
    assert!(refused(&whole, &["--nproc", "2"]).contains("--nproc"));
    assert!(!bench.path().join("none").exists());
}

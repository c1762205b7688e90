//! `jacobi run` on several ranks: the results of one rank, whatever is killed meanwhile.

use std::io::{BufRead, BufReader};

use jacobi_datasets::{Trajectory, read_all};

use super::*;

/// Stages of the recipe, by their names in the ledger.
const STAGES: [&str; 5] = ["round-1/generate", "round-1/train", "export", "tune", "eval"];

/// The law for weights after 20 steps.
const TOLERANCE: f32 = 1e-5;

impl Bench {
    /// `jacobi run` into `output`.
    fn run(&self, output: &str, arguments: &[&str]) -> Command {
        let output = format!("output_dir=\"{output}\"");
        self.command(&[&["run", "-c", "ranks.toml", "--set", &output], arguments].concat())
    }

    fn run_to_end(&self, output: &str, arguments: &[&str]) -> String {
        let done = self.run(output, arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", messages(&done));
        messages(&done)
    }

    fn rows(&self, output: &str) -> Vec<Trajectory> {
        read_all(&self.path().join(output).join("round-1/trajectories")).unwrap().1
    }

    /// Whether some of `count` ranks have begun their shares of the trajectories.
    fn has_shares(&self, output: &str, count: usize) -> bool {
        let entries = fs_err::read_dir(self.path().join(output).join("round-1/trajectories"));
        let is_share = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(&format!("-of-{count:05}"));
        entries.into_iter().flatten().flatten().any(|entry| is_share(&entry.file_name()))
    }

    fn exported(&self, output: &str) -> Vec<u8> {
        let export = self.path().join(output).join("export");
        let files = ["model.safetensors", "adapter_model.safetensors"].map(|file| export.join(file));
        fs_err::read(files.into_iter().find(|path| path.is_file()).unwrap()).unwrap()
    }

    /// The run in `found` has the rows of the run in `expected`, and its weights within the tolerance.
    fn assert_same_run(&self, found: &str, expected: &str) {
        assert!(self.rows(found) == self.rows(expected), "{found}: other rows");
        let off = largest_difference(&self.exported(found), &self.exported(expected));
        assert!(off <= TOLERANCE, "{found}: weights are off by {off}");
        for file in ["export/jacobi.json", "report/report.md", "export/README.md"] {
            let (a, b) = (self.path().join(found).join(file), self.path().join(expected).join(file));
            assert_eq!(a.is_file(), b.is_file(), "{found}: {file}");
        }
    }

    /// Starts two ranks by `nproc`, waits until the first one has announced `stage`, and for `delay`, and kills `rank`. Returns
    /// all messages.
    fn kill_in(&self, output: &str, stage: &str, rank: usize, delay: Duration) -> String {
        let mut launcher = self.run(output, &["--nproc", "2"]).spawn().unwrap();
        let mut lines = BufReader::new(launcher.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut told = String::new();
        loop {
            let line = lines.next().unwrap_or_else(|| panic!("{stage} does not begin: {told}"));
            told += &format!("{line}\n");
            if line.contains(&format!(": {stage}: ")) && !line.contains("finished before") {
                break;
            }
        }
        std::thread::sleep(delay);
        assert!(Command::new("kill").args(["-KILL", &children(&launcher)[rank]]).status().unwrap().success());
        told.extend(lines.map(|line| line + "\n"));
        let ended = end(launcher, Duration::from_secs(60));
        assert_eq!(ended.status.code(), Some(1), "{stage}: {told}");
        assert!(told.contains(&format!("rank {rank} of 2 was ended by signal 9")), "{stage}: {told}");
        told
    }
}

fn largest_difference(a: &[u8], b: &[u8]) -> f32 {
    let (a, b) = (SafeTensors::deserialize(a).unwrap(), SafeTensors::deserialize(b).unwrap());
    assert_eq!(a.names().len(), b.names().len());
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    };
    let of_tensor = |name: &str| {
        let pairs =
            floats(a.tensor(name).unwrap().data()).into_iter().zip(floats(b.tensor(name).unwrap().data()));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    a.names().into_iter().map(of_tensor).fold(0.0, f32::max)
}

#[test]
fn a_run_on_two_and_four_ranks_gives_the_rows_and_weights_of_one() {
    let bench = Bench::new();
    let told = bench.run_to_end("one", &[]);
    assert_eq!(told.matches("stage ").count(), STAGES.len(), "{told}");
    for (output, count, sharding) in [("two", "2", "parameters"), ("four", "4", "gradients")] {
        let set = format!("train.sharding=\"{sharding}\"");
        let told = bench.run_to_end(output, &["--nproc", count, "--set", &set]);
        assert_eq!(told.matches("stage ").count(), STAGES.len(), "the first rank speaks: {told}");
        bench.assert_same_run(output, "one");
        let again = bench.run_to_end(output, &["--nproc", "2", "--set", &set]);
        assert_eq!(again.matches("finished before, skipped").count(), STAGES.len(), "{again}");
    }
}

#[test]
fn a_run_that_trains_an_adapter_on_two_ranks_gives_the_adapter_of_one() {
    let bench = Bench::new();
    let settings = with_set(&ADAPTER);
    bench.run_to_end("one", &settings);
    bench.run_to_end("two", &[&settings[..], &["--nproc", "2"]].concat());
    bench.assert_same_run("two", "one");
}

#[test]
fn a_run_whose_ranks_are_killed_in_every_stage_ends_as_if_undisturbed() {
    let bench = Bench::new();
    bench.run_to_end("whole", &["--nproc", "2"]);
    let [generate, train, export, tune, eval] = STAGES;
    let kills = [(generate, 0, 300), (generate, 1, 100), (train, 1, 500), (train, 0, 500), (export, 0, 0)];
    let later = [(tune, 0, 50), (tune, 1, 0), (eval, 0, 50), (eval, 1, 0)];
    for (stage, rank, delay) in kills.into_iter().chain(later) {
        bench.kill_in("killed", stage, rank, Duration::from_millis(delay));
    }
    bench.run_to_end("killed", &["--nproc", "2"]);
    bench.assert_same_run("killed", "whole");
    assert_eq!(bench.exported("killed"), bench.exported("whole"), "bit for bit");
}

/// The shares of the ranks stay as they are, whoever completes them.
#[test]
fn any_number_of_ranks_completes_what_another_number_has_begun() {
    let bench = Bench::new();
    bench.run_to_end("whole", &[]);
    for (output, arguments) in [("one", &[][..]), ("four", &["--nproc", "4"])] {
        bench.kill_in(output, "round-1/generate", 1, Duration::from_millis(200));
        let is_begun = bench.has_shares(output, 2);
        let told = bench.run_to_end(output, arguments);
        // On a fast machine the kill comes after the stage, on a slow one before its shares.
        let is_left = is_begun && !told.contains("round-1/generate: finished before, skipped");
        assert_eq!(output == "four" && is_left, told.contains("begun on 2 ranks, so 2 of 4 wait"), "{told}");
        bench.assert_same_run(output, "whole");
    }
    let changed = bench.run("one", &["--set", "generate.block_size=4"]).output().unwrap();
    assert!(messages(&changed).contains("from stage round-1/generate on"), "{}", messages(&changed));
}

#[test]
fn ranks_started_by_hand_share_a_run_and_a_request_to_stop_and_refuse_another_recipe() {
    let bench = Bench::new();
    let limit = Duration::from_secs(120);
    let [first, second] = two_ranks(|rank| bench.run("other", &["--set", &format!("seed={rank}")]));
    let ended = [end(first, limit), end(second, limit)];
    let text = ended.iter().map(messages).collect::<String>();
    assert!(text.contains("recipe differs from that of rank 0"), "{text}");
    assert_eq!(ended[1].status.code(), Some(2));

    // One rank is asked to stop while the other one generates too.
    let ranks = two_ranks(|_| bench.run("stopped", &["--set", "prompts.limit=200"]));
    let deadline = Instant::now() + limit;
    while !bench.path().join("stopped/round-1/trajectories/rank-00001-of-00002").exists() {
        assert!(Instant::now() < deadline, "it does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&ranks[1], "-TERM");
    for ended in ranks.map(|rank| end(rank, limit)) {
        assert_eq!(ended.status.code(), Some(143), "{}", messages(&ended));
    }
    let ranks = two_ranks(|_| bench.run("stopped", &["--set", "prompts.limit=200"]));
    for ended in ranks.map(|rank| end(rank, limit)) {
        assert!(ended.status.success(), "{}", messages(&ended));
    }
    assert_eq!(bench.rows("stopped").len(), 200);
}

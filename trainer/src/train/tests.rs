//! Runs that are stopped, killed and asked for things, on a tiny model.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};

use jacobi_datasets::{FinishReason, Rng, Trajectory};
use jacobi_model::{Dtype, MAX_SHARD_BYTES, Transformer, load, save_model};

use super::*;
use crate::{
    CutResponses, Evaluation, Init,
    data::{CutRows, TrainData},
};

mod adapters;

/// A model directory, rows to train on, and room for runs.
struct Bench {
    dir: tempfile::TempDir,
    config: TrainConfig,
}

impl Bench {
    fn new(config: TrainConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Self { dir, config };
        let (model, source) = (bench.model(), Path::new("../datasets/default/model"));
        fs_err::create_dir(&model).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs_err::copy(source.join(file), model.join(file)).unwrap();
        }
        let text = fs_err::read_to_string(source.join("config.json")).unwrap();
        let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        for (field, value) in [("hidden_size", 16), ("intermediate_size", 16), ("num_hidden_layers", 1)] {
            json.insert(field.into(), value.into());
        }
        json.insert("initializer_range".into(), 0.3.into());
        fs_err::write(model.join("config.json"), serde_json::to_string(&json).unwrap()).unwrap();
        let weights = Transformer::random(&model, Dtype::Float32, 1).unwrap();
        save_model(&model, &json, weights.parameters(), weights.kind(), MAX_SHARD_BYTES).unwrap();
        bench
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn job<'a>(&'a self, model: &'a Path, output: &'a Path) -> TrainJob<'a> {
        TrainJob {
            model_dir: model,
            adapter: None,
            init: Init::Weights,
            dtype: Dtype::Float32,
            device: jacobi_model::Device::Cpu,
            data: TrainData::Samples { rows: rows(8), origin: "rows".into() },
            output,
            config: &self.config,
            seed: 3,
            overwrite: false,
            ranks: Ranks::alone(),
        }
    }

    /// Trains into the directory `name` on `disk`; `after` sees every step and may ask to stop.
    fn train(
        &self,
        name: &str,
        disk: &dyn Disk,
        stop: &AtomicBool,
        after: &mut dyn FnMut(&TrainProgress),
    ) -> Result<TrainOutcome, TrainError> {
        let (model, output) = (self.model(), self.output(name));
        train_on(disk, self.job(&model, &output), stop, after)
    }

    fn finish(&self, name: &str) -> TrainOutcome {
        let outcome = self.train(name, &RealDisk, &AtomicBool::new(false), &mut |_| {}).unwrap();
        assert!(outcome.finished);
        outcome
    }

    fn output(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Hashes of the weights and optimizer behind `latest`, its state, and the target of `best`.
    fn results(&self, name: &str) -> (Vec<u64>, TrainerState, Option<PathBuf>) {
        let latest = crate::latest_checkpoint(&self.output(name)).unwrap();
        let read = |file: &str| fs_err::read(latest.join(file)).unwrap();
        let hash = |file: &str| {
            let (mut hasher, bytes) = (DefaultHasher::new(), read(file));
            // Without the header: entries of an adapter's metadata are in any order.
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            bytes[8 + header..].hash(&mut hasher);
            hasher.finish()
        };
        let weights = ["model.safetensors", "adapter_model.safetensors"];
        let weights = weights.into_iter().find(|file| latest.join(file).is_file()).unwrap();
        let hashes = [weights, "trainer/optimizer-rank-0.safetensors"].map(hash).into();
        let state = serde_json::from_slice(&read("trainer/trainer_state.json")).unwrap();
        (hashes, state, fs_err::read_link(self.output(name).join("checkpoints/best")).ok())
    }

    /// Steps whose lines are in metrics.jsonl.
    fn logged(&self, name: &str) -> Vec<u64> {
        let text = fs_err::read_to_string(self.output(name).join("metrics.jsonl")).unwrap();
        let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64();
        text.lines().map(|line| step(line).unwrap()).collect()
    }
}

fn rows(count: usize) -> Vec<Trajectory> {
    let row = |at: usize| {
        let mut rng = Rng::new(&[at as u64]);
        let mut token = || 3 + (rng.next_u64() % 800) as u32;
        Trajectory {
            sample_id: format!("row-{at}"),
            prompt_tokens: (0..4).map(|_| token()).collect(),
            response_tokens: (0..8).map(|_| token()).collect(),
            states: vec![],
            finish_reason: FinishReason::Length,
        }
    };
    (0..count).map(row).collect()
}

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 2,
        batch_size: 3,
        learning_rate: 1e-2,
        save_steps: 1,
        save_total_limit: 1,
        eval_steps: Some(2),
        eval_samples: 2,
        eval_max_new_tokens: 4,
        best_ar_tolerance: 100.0,
        ..TrainConfig::default()
    }
}

/// A disk that does `left` operations, half of the next one and then none, like a process that is killed.
struct FailingDisk {
    left: Cell<usize>,
}

/// How much of an operation is done.
enum Done {
    Whole,
    Half,
    Nothing,
}

impl FailingDisk {
    fn next(&self) -> Done {
        match self.left.get() {
            usize::MAX => Done::Nothing,
            0 => {
                self.left.set(usize::MAX);
                Done::Half
            }
            left => {
                self.left.set(left - 1);
                Done::Whole
            }
        }
    }

    fn perform(&self, whole: &dyn Fn() -> Result<(), TrainError>, half: &dyn Fn()) -> Result<(), TrainError> {
        match self.next() {
            Done::Whole => return whole(),
            Done::Half => half(),
            Done::Nothing => {}
        }
        Err(std::io::Error::other("killed").into())
    }
}

impl Disk for FailingDisk {
    fn create_dir(&self, dir: &Path) -> Result<(), TrainError> {
        self.perform(&|| RealDisk.create_dir(dir), &|| {})
    }

    fn write(&self, path: &Path, write: &dyn Fn(&Path) -> Result<(), TrainError>) -> Result<(), TrainError> {
        let half = || {
            write(path).unwrap();
            let whole = fs_err::read(path).unwrap();
            fs_err::write(path, &whole[..whole.len() / 2]).unwrap();
        };
        self.perform(&|| RealDisk.write(path, write), &half)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), TrainError> {
        self.perform(&|| RealDisk.rename(from, to), &|| {})
    }

    fn link(&self, target: &Path, link: &Path) -> Result<(), TrainError> {
        self.perform(&|| RealDisk.link(target, link), &|| {})
    }

    fn remove_dir(&self, dir: &Path) -> Result<(), TrainError> {
        let half = || {
            for entry in fs_err::read_dir(dir).unwrap().step_by(2) {
                let path = entry.unwrap().path();
                let removed =
                    if path.is_dir() { fs_err::remove_dir_all(path) } else { fs_err::remove_file(path) };
                removed.unwrap();
            }
        };
        self.perform(&|| RealDisk.remove_dir(dir), &half)
    }
}

#[test]
fn killed_at_any_write_of_any_save_a_run_ends_as_if_undisturbed() {
    let bench = Bench::new(config());
    bench.finish("whole");
    let expected = bench.results("whole");
    assert!(expected.2.is_some(), "there is a best checkpoint to lose");
    let mut kills = 0;
    loop {
        let name = format!("killed-{kills}");
        let disk = FailingDisk { left: Cell::new(kills) };
        let killed = bench.train(&name, &disk, &AtomicBool::new(false), &mut |_| {});
        if killed.is_ok() {
            break;
        }
        // What a reader of the links finds in between is whole.
        if let Some(dir) = result_checkpoint(&bench.output(&name)) {
            load(&dir, Dtype::Auto).unwrap();
        }
        bench.finish(&name);
        assert_eq!(bench.results(&name), expected, "killed in operation {kills}");
        assert_eq!(bench.logged(&name), [0, 1, 2, 3, 4], "killed in operation {kills}");
        for entry in fs_err::read_dir(bench.output(&name).join("checkpoints")).unwrap() {
            let entry = entry.unwrap().file_name().into_string().unwrap();
            assert!(!entry.contains("partial"), "killed in operation {kills}, {entry} is left");
        }
        kills += 1;
    }
    assert!(kills > 40, "{kills} operations: every step is saved");
}

/// Tools take every safetensors file at the top of a checkpoint for weights.
#[test]
fn state_lies_in_a_folder_of_its_own_and_beside_the_weights_of_older_checkpoints() {
    let bench = Bench::new(config());
    bench.finish("whole");
    let stop = AtomicBool::new(false);
    let mut stop_at = |now: &TrainProgress| stop.store(now.step == 3, Ordering::Relaxed);
    assert!(!bench.train("older", &RealDisk, &stop, &mut stop_at).unwrap().finished);
    let dir = crate::latest_checkpoint(&bench.output("older")).unwrap();
    let names = |dir: &Path| {
        let names =
            fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<std::collections::BTreeSet<String>>()
    };
    let top = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "trainer"];
    assert_eq!(names(&dir), top.map(str::to_owned).into());
    let state = ["optimizer-rank-0.safetensors", "trainer_state.json"];
    assert_eq!(names(&dir.join("trainer")), state.map(str::to_owned).into());
    for file in state {
        fs_err::rename(dir.join("trainer").join(file), dir.join(file)).unwrap();
    }
    fs_err::remove_dir(dir.join("trainer")).unwrap();
    assert!(TrainerState::is_in(&dir) && !TrainerState::is_in(&bench.model()));
    bench.finish("older");
    assert_eq!(bench.results("older"), bench.results("whole"));
}

#[test]
fn stopped_at_any_moment_even_within_a_step_a_run_ends_as_if_undisturbed() {
    let bench =
        Bench::new(TrainConfig { epochs: 8, batch_size: 4, tokens_per_row: 12, save_steps: 100, ..config() });
    bench.finish("whole");
    let mut lives = 0;
    loop {
        lives += 1;
        let stop = AtomicBool::new(false);
        let finished = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(20 + 7 * (lives % 5)));
                stop.store(true, Ordering::Relaxed);
            });
            bench.train("stopped", &RealDisk, &stop, &mut |_| {}).unwrap().finished
        });
        if finished {
            break;
        }
        assert!(lives < 300, "a life takes a step now and then");
    }
    assert!(lives > 1, "it was stopped at least once");
    assert_eq!(bench.results("stopped"), bench.results("whole"));
}

#[test]
fn the_first_step_the_trigger_file_and_a_best_are_saved() {
    let never = TrainConfig { save_steps: 100, save_total_limit: 9, eval_steps: None, ..config() };
    let bench = Bench::new(never);
    let trigger = bench.output("asked").join(SAVE_NOW);
    let mut saved = Vec::new();
    let checkpoints = bench.output("asked").join("checkpoints");
    let mut look = |now: &TrainProgress| {
        saved.push((1..=4).filter(|step| checkpoints.join(format!("step-{step:06}")).is_dir()).count());
        if now.step == 3 {
            fs_err::write(&trigger, "").unwrap();
        }
    };
    bench.train("asked", &RealDisk, &AtomicBool::new(false), &mut look).unwrap();
    assert_eq!(saved, [0, 1, 1, 2, 2, 2], "before the save of steps 1 to 6");
    assert!(checkpoints.join("step-000003").is_dir() && !trigger.exists());
    assert!(!checkpoints.join("best").exists(), "nothing was evaluated");

    let bench = Bench::new(TrainConfig { save_steps: 100, ..config() });
    let outcome = bench.finish("best");
    let best = bench.results("best").1.evaluations.best.unwrap();
    assert!(outcome.checkpoint.ends_with(format!("step-{:06}", best.step)), "{best:?}");
    let link = fs_err::read_link(bench.output("best").join("checkpoints/best")).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("step-{:06}", best.step));
}

#[test]
fn an_evaluation_decodes_with_the_weights_of_its_step_and_rows_it_never_trains_on() {
    let bench = Bench::new(config());
    let mut seen: Vec<Evaluation> = Vec::new();
    let mut note = |now: &TrainProgress| seen.extend(now.evaluation);
    bench.train("run", &RealDisk, &AtomicBool::new(false), &mut note).unwrap();
    assert_eq!(seen.iter().map(|e| e.step).collect::<Vec<_>>(), [0, 2, 2, 4]);
    assert!(seen.iter().all(|e| e.exact_match_ar == 1.0 && e.tpf >= 1.0), "{seen:?}");
    assert!(seen[0].loss_ar != seen[3].loss_ar, "the weights moved: {seen:?}");

    let base = load(&bench.model(), Dtype::Float32).unwrap().transformer;
    let shape = base.architecture();
    let data = TrainData::Samples { rows: rows(8), origin: String::new() };
    let mut dataset = Dataset::open(data, &bench.config, 3, shape).unwrap();
    let held_out = held_out(&mut dataset, &bench.model(), &bench.config, 3).unwrap().unwrap();
    let stop = AtomicBool::new(false);
    for (dir, expected) in [(bench.model(), seen[0]), (bench.output("run/checkpoints/latest"), seen[3])] {
        let model = load(&dir, Dtype::Float32).unwrap().transformer;
        let found = held_out.evaluate(&model, &Ranks::alone(), expected.step, &stop).unwrap();
        assert_eq!(found, Some(expected), "{}", dir.display());
    }
    let visited: Vec<String> = (0..dataset.len())
        .flat_map(|step| dataset.step(step, 1, &bench.config).unwrap())
        .map(|sample| sample.sample_id)
        .collect();
    assert_eq!((visited.len(), held_out.rows.len()), (6, 2));
    assert!(held_out.rows.iter().all(|row| !visited.contains(&row.sample_id)));
    let all = TrainConfig { eval_samples: 8, ..config() };
    let data = TrainData::Samples { rows: rows(8), origin: "rows".into() };
    let error = Dataset::open(data, &all, 3, shape).err().unwrap().to_string();
    assert!(error.contains("train.eval_samples = 8"), "{error}");
    let mut foreign = rows(2);
    foreign[1].response_tokens[0] = shape.vocab_size as u32;
    let data = TrainData::Samples { rows: foreign, origin: "rows".into() };
    let error = Dataset::open(data, &all, 3, shape).err().unwrap().to_string();
    assert!(error.contains("in rows has the token id") && error.contains("another tokenizer"), "{error}");
}

impl Bench {
    /// Trains on `rows` under `config` into the directory `name`; hashes of the weights and the optimizer.
    fn weights(&self, name: &str, rows: Vec<Trajectory>, config: &TrainConfig) -> Vec<u64> {
        let (model, output) = (self.model(), self.output(name));
        let data = TrainData::Samples { rows, origin: "rows".into() };
        let job = TrainJob { data, config, ..self.job(&model, &output) };
        assert!(train(job, &AtomicBool::new(false), &mut |_| {}).unwrap().finished);
        self.results(name).0
    }
}

/// The rows that are held out for them aside, evaluations leave training alone.
#[test]
fn evaluations_change_no_weight() {
    let bench = Bench::new(config());
    let shape = jacobi_model::Architecture::from_dir(&bench.model()).unwrap();
    let data = TrainData::Samples { rows: rows(8), origin: String::new() };
    let held_out = Dataset::open(data, &bench.config, 3, &shape).unwrap().held_out;
    let trained_on = || rows(8).into_iter().filter(|row| !held_out.contains(row)).collect::<Vec<_>>();
    assert_eq!((held_out.len(), trained_on().len()), (2, 6));
    let evaluated = |eval_steps| TrainConfig { eval_steps, ..config() };
    let without = bench.weights("without", trained_on(), &evaluated(None));
    for steps in [1, 2, 1000] {
        let found = bench.weights(&format!("every {steps}"), rows(8), &evaluated(Some(steps)));
        assert_eq!(found, without, "an evaluation every {steps} steps");
    }
    assert_ne!(without, bench.weights("more rows", rows(8), &evaluated(None)), "rows decide the weights");
}

#[test]
fn cut_responses_are_left_out_unless_they_are_more_than_half() {
    let bench = Bench::new(TrainConfig { eval_steps: None, ..config() });
    let ended = |count: usize| {
        let end = |(at, row): (usize, Trajectory)| Trajectory {
            finish_reason: if at < count { FinishReason::Eos } else { FinishReason::Length },
            ..row
        };
        rows(8).into_iter().enumerate().map(end).collect::<Vec<_>>()
    };
    let shape = jacobi_model::Architecture::from_dir(&bench.model()).unwrap();
    let open = |count, config: &TrainConfig| {
        let data = TrainData::Samples { rows: ended(count), origin: String::new() };
        Dataset::open(data, config, 3, &shape).unwrap()
    };
    let keep = TrainConfig { cut_responses: CutResponses::Keep, ..bench.config.clone() };
    for (count, kept, cut) in
        [(8, 8, None), (5, 5, Some(3)), (4, 4, Some(4)), (3, 8, Some(5)), (0, 8, Some(8))]
    {
        let dataset = open(count, &bench.config);
        let expected = cut.map(|count| CutRows { count, of: 8 });
        assert_eq!((dataset.len(), dataset.cut), (kept, expected), "{count} of 8 ended");
        assert_eq!((open(count, &keep).len(), open(count, &keep).cut), (8, None));
    }
    let said = |count| open(count, &bench.config).cut.unwrap().to_string();
    assert!(said(5).starts_with("3 of 8 responses") && said(5).contains("left out"), "{}", said(5));
    assert!(said(3).starts_with("5 of 8 responses") && said(3).contains("max_new_tokens"), "{}", said(3));
    // Held-out rows are chosen among those that are kept.
    let held_out = open(5, &config()).held_out;
    assert!(held_out.len() == 2 && held_out.iter().all(|row| row.finish_reason == FinishReason::Eos));
    let dropped = bench.weights("drop", ended(5), &bench.config);
    assert_eq!(dropped, bench.weights("without", ended(5)[..5].to_vec(), &bench.config));
    assert_ne!(dropped, bench.weights("keep", ended(5), &keep));
}

#[test]
fn another_run_is_refused_by_what_differs_and_removed_when_asked() {
    let mut bench = Bench::new(config());
    bench.finish("run");
    // What decides nothing about the weights may change.
    bench.config = TrainConfig { save_steps: 7, logging_steps: 3, best_ar_tolerance: 0.0, ..config() };
    bench.finish("run");
    bench.config = TrainConfig { learning_rate: 2e-2, epochs: 3, ..config() };
    let error = bench.train("run", &RealDisk, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
    let TrainError::Mismatch { differences, .. } = &error else { panic!("{error}") };
    let keys: Vec<&str> = differences.0.iter().map(|difference| difference.key.as_str()).collect();
    assert_eq!(keys, ["train.epochs", "train.learning_rate"]);
    let (model, output) = (bench.model(), bench.output("run"));
    let job = TrainJob { overwrite: true, ..bench.job(&model, &output) };
    train(job, &AtomicBool::new(false), &mut |_| {}).unwrap();
    bench.finish("fresh");
    assert_eq!(bench.results("run"), bench.results("fresh"));
    assert_eq!(bench.logged("run"), bench.logged("fresh"));
    assert_eq!(fs_err::read_dir(output.join("tensorboard")).unwrap().count(), 1);
}

#[test]
fn what_is_not_finite_is_written_down_before_anything_is_changed() {
    let huge = TrainConfig { learning_rate: 1e30, warmup_ratio: 0.0, eval_steps: None, ..config() };
    let bench = Bench::new(huge);
    let error = bench.train("run", &RealDisk, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
    let TrainError::NonFinite { step, samples, batch, .. } = &error else { panic!("{error}") };
    let written: serde_json::Value = serde_json::from_slice(&fs_err::read(batch).unwrap()).unwrap();
    assert_eq!(written["step"], *step);
    let ids: Vec<&str> = written["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["sample_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, *samples);
    let first = &written["samples"][0];
    assert_eq!(first["tokens"].as_array().unwrap().len(), first["positions"].as_array().unwrap().len());
    let text = error.to_string();
    assert!(text.contains(batch.to_str().unwrap()) && text.contains("learning_rate"), "{text}");
    let newest = crate::latest_checkpoint(&bench.output("run")).unwrap();
    assert!(newest.ends_with(format!("step-{:06}", step - 1)), "{}", newest.display());
}

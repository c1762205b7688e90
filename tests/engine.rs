//! The settings of the generation engine: which of them change rows and which must not.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use jacobi_datasets::{
    NoiseScheduleConfig, PackConfig, PromptsConfig, ScheduleKind, Trajectory, TrajectoryMetadata, pack,
    read_all,
};
use jacobi_trajectory_gen::{BatchSize, GenerateConfig, StatesKept, generate};

use crate::support::{job, prompt_file, random_words, scratch, tiny_model};

/// A model, its prompts, and room for outputs.
struct Bench {
    dir: tempfile::TempDir,
    prompts: PromptsConfig,
    config: GenerateConfig,
    train: PackConfig,
}

impl Bench {
    fn new(prompts: usize) -> Self {
        let dir = scratch();
        tiny_model(&dir.path().join("model"), 1);
        let config = GenerateConfig { block_size: 8, max_new_tokens: 20, ..random_words() };
        Self { prompts: prompt_file(dir.path(), prompts), config, train: PackConfig::default(), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The rows of a run and the metadata of its shards.
fn made(
    bench: &Bench,
    name: &str,
    change: impl Fn(&mut GenerateConfig),
) -> (TrajectoryMetadata, Vec<Trajectory>) {
    let mut config = bench.config.clone();
    change(&mut config);
    let (model, output) = (bench.path("model"), bench.path(name));
    let mut job = job(&model, &bench.prompts, &output, &config);
    job.train = bench.train.clone();
    generate(&job, &AtomicBool::new(false), &mut |_| ()).unwrap();
    let (metadata, mut rows) = read_all(&output).unwrap();
    rows.sort_by(|a, b| a.sample_id.cmp(&b.sample_id));
    (metadata, rows)
}

#[test]
fn batch_settings_change_no_row() {
    let bench = Bench::new(5);
    let (_, rows) = made(&bench, "auto", |_| ());
    for (name, batch, pass_tokens) in [("one", 1, 1), ("two", 2, 37), ("many", 9, 4000)] {
        let found = made(&bench, name, |config| {
            (config.batch_size, config.pass_tokens) = (BatchSize::Samples(batch), Some(pass_tokens));
        });
        assert_eq!(found.1, rows, "{name}");
    }
    assert_eq!(made(&bench, "budget", |config| config.memory_budget_gb = Some(1e-6)).1, rows);
}

#[test]
fn scheduled_states_serve_their_schedule_and_no_other() {
    let mut bench = Bench::new(4);
    bench.train.noise = NoiseScheduleConfig { schedule: ScheduleKind::Reverse, t_min: 0.2, t_max: 0.8 };
    let train = bench.train.clone();
    let (_, all) = made(&bench, "all", |_| ());
    let (metadata, scheduled) = made(&bench, "scheduled", |config| config.states = StatesKept::Scheduled);
    let count = |rows: &[Trajectory]| rows.iter().map(|row| row.states.len()).sum::<usize>();
    assert!(count(&scheduled) < count(&all));
    for (all, scheduled) in all.iter().zip(&scheduled) {
        assert_eq!(pack(all, 8, &train, 3).unwrap(), pack(scheduled, 8, &train, 3).unwrap());
    }
    let path = bench.path("scheduled");
    train.check_schedule(&path, &metadata).unwrap();
    let other = PackConfig { window_size: 4, ..train };
    let error = other.check_schedule(&path, &metadata).unwrap_err().to_string();
    assert!(error.contains("window 16") && error.contains("window 4"), "{error}");
    // The states of a schedule that is drawn again in every epoch cannot be known in advance.
    let mut config = bench.config.clone();
    config.states = StatesKept::Scheduled;
    let (model, output) = (bench.path("model"), bench.path("random"));
    let mut job = job(&model, &bench.prompts, &output, &config);
    job.train.noise.schedule = ScheduleKind::Random;
    let error = generate(&job, &AtomicBool::new(false), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("noise_schedule"), "{error}");
}

#[test]
fn without_states_the_responses_are_the_same() {
    let bench = Bench::new(4);
    let (_, all) = made(&bench, "all", |_| ());
    let (_, none) = made(&bench, "none", |config| config.states = StatesKept::None);
    assert!(all.iter().all(|row| !row.states.is_empty()));
    let bare = |row: Trajectory| Trajectory { states: vec![], ..row };
    assert_eq!(none, all.into_iter().map(bare).collect::<Vec<_>>());
}

#[test]
fn sampled_responses_are_drawn_as_their_settings_say() {
    let bench = Bench::new(4);
    let (_, greedy) = made(&bench, "greedy", |_| ());
    let (metadata, drawn) = made(&bench, "drawn", |config| config.temperature = 1.5);
    assert_ne!(drawn, greedy);
    assert_eq!(metadata.decoding["temperature"], "1.5");
    assert_ne!(made(&bench, "few", |config| (config.temperature, config.top_k) = (1.5, 3)).1, drawn);
    assert_ne!(made(&bench, "likely", |config| (config.temperature, config.top_p) = (1.5, 0.5)).1, drawn);
    // One token to draw from is the most probable one.
    let one = made(&bench, "one", |config| (config.temperature, config.top_k) = (1.5, 1)).1;
    let tokens = |rows: &[Trajectory]| rows.iter().map(|row| row.response_tokens.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&one), tokens(&greedy));
}

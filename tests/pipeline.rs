//! Recorded states, and training on them, on a tiny random model: interruption, resume, equivalences.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use jacobi_datasets::{
    NoiseContext, NoiseTokens, ScheduleKind, StateShares, StateSource, States, Trajectory, read_all,
};
use jacobi_model::{AttentionMask, Dtype, Target, load, token_tensor};
use jacobi_trainer::{
    ActivationCheckpointing, AdapterRows, AdapterSettings, Curve, Init, LrSchedule, MomentsDtype,
    PcNormalization, PcPositionWeight, PcTerms, Ramp, Ranks, ScalarSchedule, TeacherModel, TrainConfig,
    TrainData, TrainError, TrainJob, TrainProgress,
};
use jacobi_trajectory_gen::{GenerateConfig, generate};
use tch::Tensor;

use crate::support::{job, max_difference, prompt_file, random_words, scratch, tiny_model};

/// The generation settings of the first seven tests and of the training tests.
fn generate_config() -> GenerateConfig {
    GenerateConfig { block_size: 8, max_new_tokens: 30, rows_per_group: 3, ..random_words() }
}

/// Generates for 8 prompts, stopping after `stop_after` reports.
fn run_generate(model: &Path, output: &Path, stop_after: usize) -> bool {
    let prompts = prompt_file(output.parent().unwrap(), 8);
    let config = generate_config();
    let stop = AtomicBool::new(false);
    let mut seen = 0;
    let outcome = generate(&job(model, &prompts, output, &config), &stop, &mut |_| {
        seen += 1;
        stop.store(seen == stop_after, Ordering::Relaxed);
    });
    outcome.unwrap().interrupted
}

fn trajectories(model: &Path, dir: &Path) -> Vec<Trajectory> {
    run_generate(model, dir, usize::MAX);
    read_all(dir).unwrap().1
}

#[test]
fn every_block_is_recorded_from_its_start_to_its_fixed_point() {
    let dir = scratch();
    let model = dir.path().join("model");
    tiny_model(&model, 1);
    let rows = trajectories(&model, &dir.path().join("t"));
    assert_eq!(rows.len(), 8);
    for row in &rows {
        for (block, clean) in row.response_tokens.chunks(8).enumerate() {
            let states: Vec<_> = row.states.iter().filter(|s| s.block as usize == block).collect();
            let last = states.last().unwrap();
            assert_eq!((last.converged as usize, last.tail.len()), (clean.len(), 0));
            assert!(
                states
                    .windows(2)
                    .all(|w| w[0].converged <= w[1].converged && w[0].iteration < w[1].iteration)
            );
            assert!(states.iter().all(|s| s.converged >= 1), "the first token of a block is known");
            assert!(
                states.iter().all(|s| s.tail.first() != clean.get(s.converged as usize) || s.tail.is_empty())
            );
        }
    }
}

/// The row of a noisy block under the training mask equals the decoder's forward pass over the same draft, so training
/// and decoding agree.
#[test]
fn the_training_mask_equals_the_decoders_forward() {
    let dir = scratch();
    let model_dir = dir.path().join("model");
    tiny_model(&model_dir, 3);
    let rows = trajectories(&model_dir, &dir.path().join("t"));
    let row = rows.iter().find(|r| r.response_tokens.len() > 16).unwrap();
    let config = jacobi_datasets::PackConfig {
        window_size: 4,
        noise_context: NoiseContext::Clean,
        noise: jacobi_datasets::NoiseScheduleConfig {
            schedule: ScheduleKind::Constant,
            t_min: 0.6,
            t_max: 0.6,
        },
        ..jacobi_datasets::PackConfig::default()
    };
    let packed = jacobi_datasets::pack(row, 8, &config, 0).unwrap();
    let model = load(&model_dir, Dtype::Float32).unwrap().transformer;
    let layout = packed.layout;
    let length = layout.len() as i64;
    let positions: Vec<i64> = (0..layout.len()).map(|t| layout.position(t) as i64).collect();
    let table = model.rope_table(256);
    let seen = Tensor::from_slice(&layout.dense_mask()).view([1, length, length]);
    let tokens = token_tensor(&packed.tokens).unsqueeze(0);
    let rope = table.at(&Tensor::from_slice(&positions).unsqueeze(0));
    let trained =
        tch::no_grad(|| model.hidden(&tokens, &rope, &AttentionMask::from_bool(&seen, model.kind())));
    for block in 0..layout.num_blocks() {
        let (start, size) = (layout.noisy_start(block), layout.block_len(block));
        let mut fed = packed.tokens[..layout.clean_start(block)].to_vec();
        fed.extend(&packed.tokens[start..start + size]);
        let t = fed.len() as i64;
        let decoded = tch::no_grad(|| {
            model.hidden(&token_tensor(&fed).unsqueeze(0), &table.range(0, t), &AttentionMask::Causal)
        });
        let ours = trained.narrow(1, start as i64, size as i64);
        let theirs = decoded.narrow(1, t - size as i64, size as i64);
        let difference = max_difference(&ours, &theirs);
        assert!(difference < 1e-4, "block {block}: {difference}");
    }
}

fn train_config() -> TrainConfig {
    TrainConfig {
        epochs: 3,
        batch_size: 3,
        learning_rate: 1e-3,
        window_size: 2,
        save_steps: 2,
        save_total_limit: 2,
        max_length: 400,
        ..TrainConfig::default()
    }
}

/// A model, its trajectories, and room for runs.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = scratch();
        tiny_model(&dir.path().join("model"), 1);
        trajectories(&dir.path().join("model"), &dir.path().join("t"));
        Self { dir }
    }

    fn train(
        &self,
        name: &str,
        config: &TrainConfig,
        stop_after: usize,
    ) -> Result<Vec<TrainProgress>, TrainError> {
        self.train_in(Dtype::Float32, name, config, stop_after)
    }

    fn train_in(
        &self,
        dtype: Dtype,
        name: &str,
        config: &TrainConfig,
        stop_after: usize,
    ) -> Result<Vec<TrainProgress>, TrainError> {
        let stop = AtomicBool::new(false);
        let mut log = vec![];
        let job = TrainJob {
            model_dir: &self.dir.path().join("model"),
            adapter: None,
            init: Init::Weights,
            dtype,
            device: jacobi_model::Device::Cpu,
            data: TrainData::Trajectories(self.dir.path().join("t")),
            output: &self.dir.path().join(name),
            config,
            seed: 11,
            overwrite: false,
            ranks: Ranks::alone(),
        };
        let outcome = jacobi_trainer::train(job, &stop, &mut |p| {
            log.push(p.clone());
            stop.store(log.len() == stop_after, Ordering::Relaxed);
        })?;
        assert_eq!(outcome.finished, log.last().is_none_or(|p| p.step == p.total_steps));
        Ok(log)
    }

    fn weights(&self, name: &str) -> Vec<u8> {
        self.latest(name, "model.safetensors")
    }

    /// A file of the newest checkpoint.
    fn latest(&self, name: &str, file: &str) -> Vec<u8> {
        let latest: PathBuf = jacobi_trainer::latest_checkpoint(&self.dir.path().join(name)).unwrap();
        fs_err::read(latest.join(file)).unwrap()
    }
}

#[test]
fn resumed_training_gives_the_weights_of_an_undisturbed_run_bit_for_bit() {
    let bench = Bench::new();
    let config = train_config();
    let whole = bench.train("whole", &config, usize::MAX).unwrap();
    assert_eq!(whole.len(), 9, "8 samples in threes, three epochs");
    // Stopped by a signal after 4 and after 1 more step; then killed, which loses what follows the last save.
    bench.train("parts", &config, 4).unwrap();
    bench.train("parts", &config, 1).unwrap();
    let rest = bench.train("parts", &config, usize::MAX).unwrap();
    assert_eq!(rest.first().unwrap().step, 6);
    assert_eq!(bench.weights("parts"), bench.weights("whole"));
    let checkpoints = bench.dir.path().join("parts/checkpoints");
    fs_err::remove_dir_all(checkpoints.join("step-000009")).unwrap();
    fs_err::create_dir_all(checkpoints.join("partial-000009")).unwrap();
    bench.train("parts", &config, usize::MAX).unwrap();
    assert_eq!(bench.weights("parts"), bench.weights("whole"));
    // One line of metrics per step, whatever happened in between; two checkpoints are kept.
    let metrics = fs_err::read_to_string(bench.dir.path().join("parts/metrics.jsonl")).unwrap();
    let steps: Vec<u64> = metrics
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=9).collect::<Vec<_>>());
    assert_eq!(fs_err::read_dir(checkpoints).unwrap().count(), 3, "two steps and `latest`");
    // A finished run is not run again.
    assert!(bench.train("parts", &config, usize::MAX).unwrap().is_empty());
    let changed = TrainConfig { learning_rate: 2e-3, ..config };
    let error = bench.train("parts", &changed, usize::MAX).unwrap_err().to_string();
    let expected = "train.learning_rate: was 0.001, is 0.002\n";
    assert!(error.contains(expected) && error.contains("step-000009"), "{error}");
    assert_eq!(error.matches(": was ").count(), 1, "nothing else differs: {error}");
}

/// A run continues with the same rounded values that its checkpoint has.
#[test]
fn resumed_training_in_bf16_with_bf16_moments_is_bit_for_bit_the_same() {
    let bench = Bench::new();
    let config = TrainConfig { moments_dtype: MomentsDtype::Bfloat16, ..train_config() };
    for dtype in [Dtype::Bfloat16, Dtype::Float32] {
        let name = |part: &str| format!("{part}-{dtype:?}");
        bench.train_in(dtype, &name("whole"), &config, usize::MAX).unwrap();
        bench.train_in(dtype, &name("parts"), &config, 4).unwrap();
        bench.train_in(dtype, &name("parts"), &config, usize::MAX).unwrap();
        for file in ["model.safetensors", "trainer/optimizer-rank-0.safetensors"] {
            let [whole, parts] = ["whole", "parts"].map(|part| bench.latest(&name(part), file));
            assert!(whole == parts, "{file} of a run in {dtype:?}");
        }
    }
}

#[test]
fn training_lowers_both_losses() {
    let bench = Bench::new();
    let log = bench
        .train("long", &TrainConfig { epochs: 20, learning_rate: 3e-3, ..train_config() }, usize::MAX)
        .unwrap();
    let mean = |part: &[TrainProgress], of: fn(&TrainProgress) -> f64| {
        part.iter().map(of).sum::<f64>() / part.len() as f64
    };
    for of in [|p: &TrainProgress| p.loss_ar, |p: &TrainProgress| p.loss_pc] {
        let (first, last) = (mean(&log[..6], of), mean(&log[log.len() - 6..], of));
        assert!(last < 0.9 * first, "{first} to {last}");
    }
}

#[test]
fn rows_and_checkpointing_change_nothing_but_speed_and_memory() {
    let bench = Bench::new();
    let base = TrainConfig { batch_size: 4, ..train_config() };
    let expected = bench.train("base", &base, 99).unwrap();
    let full = ActivationCheckpointing::Full;
    for (name, config) in [
        ("alone", TrainConfig { tokens_per_row: 1, ..base.clone() }),
        ("pairs", TrainConfig { tokens_per_row: 150, ..base.clone() }),
        ("again", TrainConfig { activation_checkpointing: full, ..base.clone() }),
    ] {
        let found = bench.train(name, &config, 99).unwrap();
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(&expected) {
            let off = (a.loss - b.loss).abs();
            assert!(off < 1e-4 * b.loss.abs(), "{name}, step {}: {} {}", a.step, a.loss, b.loss);
        }
    }
}

/// Every setting has an effect on the run.
#[test]
fn every_setting_changes_the_run() {
    let bench = Bench::new();
    let base = TrainConfig { epochs: 1, warmup_ratio: 0.5, ..train_config() };
    let schedule = |from, to| ScalarSchedule::Ramp(Ramp { from, to, curve: Curve::Linear });
    let changes: Vec<(&str, TrainConfig)> = vec![
        ("epochs", TrainConfig { epochs: 2, ..base.clone() }),
        ("max_steps", TrainConfig { max_steps: Some(2), ..base.clone() }),
        ("batch_size", TrainConfig { batch_size: 2, ..base.clone() }),
        ("learning_rate", TrainConfig { learning_rate: 2e-3, ..base.clone() }),
        ("lr_schedule", TrainConfig { lr_schedule: LrSchedule::Constant, warmup_ratio: 0.0, ..base.clone() }),
        ("warmup_ratio", TrainConfig { warmup_ratio: 1.0, ..base.clone() }),
        ("warmup_steps", TrainConfig { warmup_steps: Some(3), ..base.clone() }),
        ("weight_decay", TrainConfig { weight_decay: 10.0, ..base.clone() }),
        ("adam_beta1", TrainConfig { adam_beta1: 0.5, ..base.clone() }),
        ("adam_beta2", TrainConfig { adam_beta2: 0.5, ..base.clone() }),
        ("adam_eps", TrainConfig { adam_eps: 0.1, ..base.clone() }),
        ("max_grad_norm", TrainConfig { max_grad_norm: 1e-9, ..base.clone() }),
        ("moments_dtype", TrainConfig { moments_dtype: MomentsDtype::Bfloat16, ..base.clone() }),
        ("ar_weight", TrainConfig { ar_weight: 0.0.into(), ..base.clone() }),
        ("ar_prompt_tokens", TrainConfig { ar_prompt_tokens: true, ..base.clone() }),
        ("ar_weight's schedule", TrainConfig { ar_weight: schedule(1.0, 0.5), ..base.clone() }),
        ("pc_weight", TrainConfig { pc_weight: 0.0, ..base.clone() }),
        ("pc_terms", TrainConfig { pc_terms: PcTerms { tv: 1.0, ..PcTerms::default() }, ..base.clone() }),
        ("temperature", TrainConfig { temperature: 2.0.into(), ..base.clone() }),
        ("temperature's schedule", TrainConfig { temperature: schedule(1.0, 2.0), ..base.clone() }),
        ("teacher", TrainConfig { teacher: TeacherModel::Base, ..base.clone() }),
        ("pc_normalization", TrainConfig { pc_normalization: PcNormalization::Reference, ..base.clone() }),
        ("pc_position_weight", TrainConfig { pc_position_weight: PcPositionWeight::Decay, ..base.clone() }),
        ("D-PACE", TrainConfig { pc_position_weight: PcPositionWeight::Acceptance, ..base.clone() }),
        ("window_size", TrainConfig { window_size: 4, ..base.clone() }),
        ("noise_schedule", TrainConfig { noise_schedule: ScheduleKind::Reverse, ..base.clone() }),
        ("min_noise_ratio", TrainConfig { min_noise_ratio: 0.9, ..base.clone() }),
        ("max_noise_ratio", TrainConfig { max_noise_ratio: 0.3, ..base.clone() }),
    ];
    let losses = |log: &[TrainProgress]| log.iter().map(|p| p.loss).collect::<Vec<_>>();
    let expected = losses(&bench.train("base", &base, usize::MAX).unwrap());
    for (name, config) in changes {
        let found = losses(&bench.train(name, &config, usize::MAX).unwrap());
        assert_ne!(found, expected, "{name} changes nothing");
    }
    let decay =
        |pc_decay| TrainConfig { pc_position_weight: PcPositionWeight::Decay, pc_decay, ..base.clone() };
    let [half, tenth] =
        [0.5, 0.1].map(|d| losses(&bench.train(&format!("{d}"), &decay(d), usize::MAX).unwrap()));
    assert_ne!(half, tenth, "pc_decay changes nothing");
    // The first block of a window of two has no noise under the linear schedule, and then nothing to see of it.
    let context = |noise_context| TrainConfig { noise_context, window_size: 4, ..base.clone() };
    let [window, clean] = [NoiseContext::Window, NoiseContext::Clean]
        .map(|c| losses(&bench.train(&format!("{c:?}"), &context(c), usize::MAX).unwrap()));
    assert_ne!(window, clean, "noise_context changes nothing");
    let wsd = |decay_ratio| TrainConfig {
        lr_schedule: LrSchedule::Wsd,
        warmup_ratio: 0.0,
        decay_ratio,
        ..base.clone()
    };
    let [short, long] =
        [0.3, 1.0].map(|d| losses(&bench.train(&format!("wsd {d}"), &wsd(d), usize::MAX).unwrap()));
    assert_ne!(short, long, "decay_ratio changes nothing");
    for (name, config) in [
        ("max_length", TrainConfig { max_length: 3, ..base.clone() }),
        ("batch_size", TrainConfig { batch_size: 0, ..base.clone() }),
        ("learning_rate", TrainConfig { learning_rate: f64::NAN, ..base.clone() }),
        ("max_noise_ratio", TrainConfig { max_noise_ratio: 1.5, ..base.clone() }),
    ] {
        let error = bench.train("bad", &config, 1).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}

#[test]
fn every_setting_of_an_adapter_changes_the_run() {
    let bench = Bench::new();
    let plain = AdapterSettings { rank: 4, states: States::One(StateSource::Random), ..Default::default() };
    let with = |adapter: &AdapterSettings| TrainConfig {
        epochs: 1,
        warmup_ratio: 0.0,
        window_size: 1,
        ar_weight: 0.0.into(),
        adapter: Some(adapter.clone()),
        ..train_config()
    };
    let losses = |name: &str, config: &TrainConfig| {
        let log = bench.train(name, config, usize::MAX).unwrap();
        log.iter().map(|progress| progress.loss).collect::<Vec<_>>()
    };
    let expected = losses("base", &with(&plain));
    let states = |states: StateSource| AdapterSettings { states: States::One(states), ..plain.clone() };
    let mixture = States::Mixture(StateShares { random: 1.0, on_policy: 1.0, ..Default::default() });
    let changes = [
        ("rank", AdapterSettings { rank: 2, ..plain.clone() }),
        ("alpha", AdapterSettings { alpha: Some(1.0), ..plain.clone() }),
        ("targets", AdapterSettings { targets: vec![Target::QProj], ..plain.clone() }),
        ("rows", AdapterSettings { rows: AdapterRows::All, ..plain.clone() }),
        ("states", states(StateSource::Trajectory)),
        ("on-policy states", states(StateSource::OnPolicy)),
        ("a mixture", AdapterSettings { states: mixture, ..plain.clone() }),
        ("noise_tokens", AdapterSettings { noise_tokens: NoiseTokens::Vocabulary, ..plain.clone() }),
        ("block_size", AdapterSettings { block_size: Some(5), ..plain.clone() }),
    ];
    for (name, adapter) in &changes {
        assert_ne!(losses(name, &with(adapter)), expected, "{name} changes nothing");
    }
    assert_eq!(losses("again", &with(&plain)), expected);
}

#[test]
fn a_diverging_run_stops_before_the_weights_are_touched() {
    let bench = Bench::new();
    let config = TrainConfig { learning_rate: 1e30, warmup_ratio: 0.0, save_steps: 1, ..train_config() };
    let error = bench.train("diverging", &config, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("not finite") && error.contains("sample-"), "{error}");
}

//! Training of adapters against plain autograd over a dense mask.

use std::sync::atomic::AtomicBool;

use jacobi_datasets::{
    NoiseTokens, PackConfig, PackedSample, Rng, StateShares, StateSource, States, read_all,
};
use jacobi_decoder::{JacobiConfig, Settings, StopRules, Strategy, generate};
use jacobi_model::{
    AdaptedRows, Adapter, AttentionMask, DecodingModel, Dtype, StoredAdapter, Target, Transformer, load,
    token_tensor,
};
use jacobi_trainer::{
    ActivationCheckpointing, AdapterRows, AdapterSettings, Init, LossConfig, PcPositionWeight, PcTerms,
    Ranks, Stepper, TeacherModel, TrainConfig, TrainData, TrainJob, train,
};
use jacobi_trajectory_gen::{GenerateConfig, StatesKept};
use tch::{Kind, Tensor};

use crate::{
    oracle,
    support::{golden, job, max_difference, prompt_file, random_words, root, scratch},
    training::{Bench, LOSS, assert_equal, learnt, plain_of, samples_of},
};

const DRAFT_LOSS: LossConfig = LossConfig { ar_weight: 0.0, ..LOSS };

/// A stepper of `model` whose adapter is not 0, the same each time.
fn stepper(model: Transformer, config: &TrainConfig) -> Stepper<'_> {
    let stepper = Stepper::new(model, None, config, 256);
    // Not from libtorch's generator, which tests that run at the same time share.
    let mut rng = Rng::new(&[11]);
    for (name, parameter) in stepper.adapter.as_ref().unwrap().parameters() {
        if name.contains("lora_B") {
            let values: Vec<f32> = (0..parameter.numel()).map(|_| rng.next_f64() as f32 - 0.5).collect();
            let values = Tensor::from_slice(&values).view(parameter.size().as_slice());
            tch::no_grad(|| parameter.shallow_clone().copy_(&values));
        }
    }
    stepper
}

fn config(adapter: AdapterSettings, tokens_per_row: usize) -> TrainConfig {
    TrainConfig { adapter: Some(adapter), tokens_per_row, ..TrainConfig::default() }
}

fn settings(states: StateSource, rows: AdapterRows) -> AdapterSettings {
    AdapterSettings { rank: 3, alpha: Some(5.0), states: States::One(states), rows, ..Default::default() }
}

/// As the trainer packs samples for `adapter`.
fn samples(adapter: &AdapterSettings) -> Vec<PackedSample> {
    samples_of(&PackConfig { vocabulary: 60, ..config(adapter.clone(), 90).pack() })
}

/// The first row of a sample that uses the adapter.
fn first_adapted(sample: &PackedSample, rows: AdapterRows) -> usize {
    match rows {
        AdapterRows::Draft => sample.layout.prompt_len + sample.layout.response_len,
        AdapterRows::All => 0,
    }
}

/// The most likely token behind each of `tokens` for the drafter, one token sequence and no cache.
fn draft(model: &Transformer, adapted: AdaptedRows, tokens: &[u32]) -> Vec<u32> {
    let rope = model.rope_table(256).range(0, tokens.len() as i64);
    let tokens = token_tensor(tokens).unsqueeze(0);
    let causal = AttentionMask::Causal;
    let hidden = tch::no_grad(|| model.hidden_adapted(&tokens, &rope, &causal, Some(adapted), &mut |_| {}));
    let best = model.logits(&hidden).squeeze_dim(0).argmax(-1, false);
    Vec::<i64>::try_from(best).unwrap().into_iter().map(|token| token as u32).collect()
}

/// Fills the on-policy blocks of `sample`, one window after the other.
fn with_drafts(model: &Transformer, adapter: &Adapter, rows: AdapterRows, sample: &mut PackedSample) {
    for mut window in std::mem::take(&mut sample.earlier) {
        let text = sample.tokens[window.text.clone()].to_vec();
        let first = if rows == AdapterRows::Draft { text.len() } else { 0 };
        for _ in 0..window.passes {
            let tokens = [&text[..], &window.tokens].concat();
            let all = draft(model, AdaptedRows { adapter, first }, &tokens);
            let predictions = &all[text.len()..];
            sample.tokens[window.noisy.clone()].copy_from_slice(window.block_tokens(predictions));
            window.advance(predictions);
        }
    }
}

fn assert_learns(adapter: &AdapterSettings, teacher: TeacherModel, loss: &LossConfig, what: &str) {
    let bench = Bench::new();
    let model = bench.model(Dtype::Float32);
    let mut expected_samples = samples(adapter);
    let base = TrainConfig { teacher, ..config(adapter.clone(), 90) };
    let copy = stepper(bench.model(Dtype::Float32), &base);
    let copy = copy.adapter.as_ref().unwrap().to(model.architecture(), Kind::Float, model.device());
    expected_samples.iter_mut().for_each(|sample| with_drafts(&model, &copy, adapter.rows, sample));
    let frozen = adapter.rows == AdapterRows::Draft || teacher == TeacherModel::Base;
    let expected = plain_of(copy.parameters(), &expected_samples, loss, |sample, counts| {
        let adapted = AdaptedRows { adapter: &copy, first: first_adapted(sample, adapter.rows) };
        let sample = std::slice::from_ref(sample);
        oracle::dual_loss((&model, Some(adapted)), frozen.then_some(&model), sample, loss, counts)
    });
    let largest = |name: &str| {
        let of = expected.gradients.iter().filter(|(other, _)| other.contains(name));
        of.map(|(_, gradient)| gradient.abs().max().double_value(&[])).fold(0.0, f64::max)
    };
    assert!(expected.pc > 0.0 && largest("lora_A") > 1e-3 && largest("lora_B") > 1e-3, "{what}");
    for (checkpointing, tokens_per_row) in
        [(ActivationCheckpointing::None, 90), (ActivationCheckpointing::Full, 1000)]
    {
        let config = TrainConfig { activation_checkpointing: checkpointing, tokens_per_row, ..base.clone() };
        let found = learnt(&stepper(bench.model(Dtype::Float32), &config), &samples(adapter), loss);
        assert_equal(&found, &expected, 1e-4, &format!("{what}, {checkpointing:?}"));
    }
}

#[test]
fn a_drafter_learns_as_under_autograd_over_a_dense_mask() {
    use AdapterRows::Draft;
    let clean_blocks = |source| AdapterSettings { block_size: Some(5), ..settings(source, Draft) };
    let cases = [
        ("trajectory", settings(StateSource::Trajectory, Draft)),
        ("random", clean_blocks(StateSource::Random)),
        (
            "vocabulary",
            AdapterSettings { noise_tokens: NoiseTokens::Vocabulary, ..clean_blocks(StateSource::Random) },
        ),
        ("on-policy", clean_blocks(StateSource::OnPolicy)),
        (
            "some targets",
            AdapterSettings {
                targets: vec![Target::VProj, Target::QProj, Target::DownProj],
                ..clean_blocks(StateSource::OnPolicy)
            },
        ),
    ];
    for (what, adapter) in cases {
        assert_learns(&adapter, TeacherModel::Own, &DRAFT_LOSS, what);
    }
    let terms = LossConfig {
        pc_terms: PcTerms { kl_div: 0.5, tv: 1.0, nla: 0.7 },
        pc_position_weight: PcPositionWeight::Decay,
        ..DRAFT_LOSS
    };
    assert_learns(&clean_blocks(StateSource::Random), TeacherModel::Own, &terms, "all terms");
}

#[test]
fn an_adapter_of_all_rows_learns_as_under_autograd_over_a_dense_mask() {
    for source in [StateSource::Trajectory, StateSource::Random, StateSource::OnPolicy] {
        let made = source != StateSource::Trajectory;
        let adapter = AdapterSettings { block_size: made.then_some(4), ..settings(source, AdapterRows::All) };
        for teacher in [TeacherModel::Own, TeacherModel::Base] {
            assert_learns(&adapter, teacher, &LOSS, &format!("{source:?}, {teacher:?}"));
        }
    }
}

#[test]
fn a_merged_adapter_computes_as_beside_its_base() {
    for family in ["tiny_llama", "tiny_qwen2", "tiny_qwen3"] {
        let load = || load(&golden(&format!("models/{family}")), Dtype::Float32).unwrap().transformer;
        let config = config(settings(StateSource::Trajectory, AdapterRows::All), 90);
        let stepper = stepper(load(), &config);
        let (model, adapter) = (&stepper.model, stepper.adapter.as_ref().unwrap());
        let merged = load();
        for ((_, own), (_, other)) in merged.parameters().iter().zip(adapter.merged(model.parameters())) {
            tch::no_grad(|| own.shallow_clone().copy_(&other));
        }
        let tokens = token_tensor(&[5, 9, 3, 7, 1]).unsqueeze(0);
        let rope = model.rope_table(5).range(0, 5);
        let logits = |model: &Transformer, adapted| {
            let causal = AttentionMask::Causal;
            let hidden = tch::no_grad(|| model.hidden_adapted(&tokens, &rope, &causal, adapted, &mut |_| {}));
            tch::no_grad(|| model.logits(&hidden))
        };
        let beside = logits(model, Some(AdaptedRows { adapter, first: 0 }));
        assert!(max_difference(&logits(&merged, None), &beside) < 1e-4, "{family}");
        assert!(max_difference(&logits(model, None), &beside) > 1e-2, "{family}: the adapter does something");
    }
}

/// Drafting with an adapter of a sample that it learned by heart.
#[test]
fn a_drafter_of_a_memorised_sample_saves_passes_and_changes_no_token() {
    const BLOCK: usize = 8;
    let dir = scratch();
    let (base, shards) = (root().join("datasets/default/model"), dir.path().join("responses"));
    let generation =
        GenerateConfig { block_size: BLOCK, max_new_tokens: 48, states: StatesKept::None, ..random_words() };
    let go = AtomicBool::new(false);
    let prompts = prompt_file(dir.path(), 1);
    jacobi_trajectory_gen::generate(&job(&base, &prompts, &shards, &generation), &go, &mut |_| {}).unwrap();
    let row = read_all(&shards).unwrap().1.remove(0);
    assert!(row.states.is_empty() && row.response_tokens.len() > 10);
    let states = States::Mixture(StateShares { random: 1.0, on_policy: 2.0, ..Default::default() });
    let config = TrainConfig {
        epochs: 100,
        batch_size: 1,
        learning_rate: 5e-3,
        window_size: 1,
        ar_weight: 0.0.into(),
        pc_position_weight: PcPositionWeight::Decay,
        save_steps: 1000,
        adapter: Some(AdapterSettings { rank: 16, states, ..Default::default() }),
        ..TrainConfig::default()
    };
    let training = TrainJob {
        model_dir: &base,
        adapter: None,
        init: Init::Weights,
        dtype: Dtype::Float32,
        device: jacobi_model::Device::Cpu,
        data: TrainData::Trajectories(shards),
        output: &dir.path().join("run"),
        config: &config,
        seed: 0,
        overwrite: false,
        ranks: Ranks::alone(),
    };
    let mut losses = vec![];
    let checkpoint = train(training, &go, &mut |now| losses.push(now.loss)).unwrap().checkpoint;
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..10]), mean(&losses[90..]));
    assert!(last < 0.3 * first, "the loss falls: {first} to {last}");

    let loaded = load(&base, Dtype::Float32).unwrap();
    let model = &loaded.transformer;
    let device = model.device();
    let trained = StoredAdapter::read(&checkpoint).unwrap();
    let trained = trained.attach(model.architecture(), &loaded.weight_hash().unwrap(), device).unwrap();
    let fresh = Adapter::new(model.architecture(), trained.config().clone(), 0, device);
    let stop = StopRules { max_new_tokens: 48, eos_token_ids: vec![2] };
    let tpf = |adapter: &Adapter| {
        let strategy = Strategy::Jacobi(JacobiConfig { block_size: BLOCK, seed: 3 });
        let drafting = DecodingModel::new(model).with_adapter(adapter);
        let settings = Settings::greedy(strategy, stop.clone());
        let generation = generate(&drafting, &row.prompt_tokens, &settings, &mut |_| {});
        assert_eq!(generation.tokens, row.response_tokens, "the text is the base's");
        generation.stats.tpf().unwrap()
    };
    let (before, after) = (tpf(&fresh), tpf(&trained));
    assert!(after > 1.5 * before && after > 2.0, "TPF {before} to {after}");
}

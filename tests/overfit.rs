//! The gate of the whole method: a sample learned by heart, exported and decoded, takes hardly a pass per block, and its
//! text is the model's own.

use std::sync::atomic::AtomicBool;

use jacobi_datasets::{ScheduleKind, read_all};
use jacobi_decoder::{
    Filler, Growth, JacobiConfig, MultiBlockConfig, Settings, StopRules, Strategy, generate,
};
use jacobi_model::{Dtype, MAX_SHARD_BYTES, load, save_model};
use jacobi_trainer::{Init, Ranks, TrainConfig, TrainData, TrainJob, train};
use jacobi_trajectory_gen::{Choice, GenerateConfig};

use crate::support::{job, prompt_file, random_words, scratch, tiny_model};

const BLOCK: usize = 8;
const NEW_TOKENS: usize = 64;
/// Random starts of the one sample that are learned. A model that knows few of them learns those, not the text.
const STARTS: usize = 64;

#[test]
fn a_memorised_sample_takes_about_one_pass_per_block() {
    let dir = scratch();
    let (base, shards, export) =
        (dir.path().join("model"), dir.path().join("trajectories"), dir.path().join("export"));
    tiny_model(&base, 1);
    let prompts = prompt_file(dir.path(), 1);
    let line = |i: usize| format!("{{\"id\": \"start-{i}\", \"prompt\": \"Anna has 3 apples.\"}}\n");
    fs_err::write(&prompts.path, (0..STARTS).map(line).collect::<String>()).unwrap();
    let generation = GenerateConfig {
        block_size: BLOCK,
        max_new_tokens: NEW_TOKENS,
        duplicate_prompts: Choice::Keep,
        ..random_words()
    };
    let go = AtomicBool::new(false);
    jacobi_trajectory_gen::generate(&job(&base, &prompts, &shards, &generation), &go, &mut |_| {}).unwrap();
    let rows = read_all(&shards).unwrap().1;
    let row = &rows[0];
    assert!(rows.len() == STARTS && row.response_tokens.len() == NEW_TOKENS);
    let config = TrainConfig {
        epochs: 50,
        batch_size: 8,
        learning_rate: 3e-3,
        window_size: 1,
        noise_schedule: ScheduleKind::Random,
        min_noise_ratio: 0.5,
        save_steps: 1000,
        ..TrainConfig::default()
    };
    let training = TrainJob {
        model_dir: &base,
        adapter: None,
        init: Init::Weights,
        dtype: Dtype::Float32,
        device: jacobi_model::Device::Cpu,
        data: TrainData::Trajectories(shards.clone()),
        output: &dir.path().join("run"),
        config: &config,
        seed: 0,
        overwrite: false,
        ranks: Ranks::alone(),
    };
    let checkpoint = train(training, &go, &mut |_| {}).unwrap().checkpoint;
    let trained = load(&checkpoint, Dtype::Float32).unwrap().transformer;
    let json = &trained.architecture().config_json;
    save_model(&export, json, trained.parameters(), trained.kind(), MAX_SHARD_BYTES).unwrap();
    let model = load(&export, Dtype::Float32).unwrap().transformer;

    let stop = StopRules { max_new_tokens: NEW_TOKENS, eos_token_ids: vec![2] };
    let n = BLOCK as f64;
    for seed in 0..3 {
        let ahead = MultiBlockConfig {
            block_size: BLOCK,
            growth: Growth::Blocks { max_blocks: 2, spawn_ratio: 0.0 },
            filler: Filler::Random,
            pool_size: 0,
            seed,
            ..MultiBlockConfig::default()
        };
        // One block at a time, every block needs a pass to be right and one to be found right: n / 2 at best.
        let alone = JacobiConfig { block_size: BLOCK, seed };
        for (strategy, least) in [(Strategy::MultiBlock(ahead), 0.8 * n), (Strategy::Jacobi(alone), 0.4 * n)]
        {
            let settings = Settings::greedy(strategy, stop.clone());
            let generation = generate(&model, &row.prompt_tokens, &settings, &mut |_| {});
            let tpf = generation.stats.tpf().unwrap();
            assert!(tpf >= least, "seed {seed}, {:?}: TPF {tpf} of {n}", settings.strategy);
            assert_eq!(generation.tokens, row.response_tokens, "seed {seed}");
        }
    }
}

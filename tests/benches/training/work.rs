//! What the training benchmark trains on: samples of 512 packed tokens, alike in shape, with tokens drawn by number.

use jacobi_datasets::{FinishReason, PackConfig, PackedSample, Rng, State, Trajectory, pack};
use serde_json::{Value, json};

const PROMPT: usize = 112;
const RESPONSE: usize = 200;
const BLOCK: usize = 16;
const WINDOW: usize = 16;

/// Tokens of a sample: prompt, clean and noisy stream.
pub const SAMPLE_TOKENS: usize = PROMPT + 2 * RESPONSE;

/// `count` samples over `vocabulary` ids; every block has every state from one right token to all of them.
pub fn samples(count: usize, vocabulary: u32) -> anyhow::Result<Vec<PackedSample>> {
    packed(count, vocabulary, PackConfig { window_size: WINDOW, ..PackConfig::default() })
}

/// The same, packed as `config` says.
pub fn packed(count: usize, vocabulary: u32, config: PackConfig) -> anyhow::Result<Vec<PackedSample>> {
    (0..count).map(|index| Ok(pack(&trajectory(index, vocabulary), BLOCK, &config, 0)?)).collect()
}

/// As scripts/bench_train_pytorch.py reads them.
pub fn as_json(samples: &[PackedSample]) -> Value {
    let of = |sample: &PackedSample| {
        let layout = &sample.layout;
        let positions: Vec<usize> = (0..sample.tokens.len()).map(|t| layout.position(t)).collect();
        let seen: Vec<_> =
            (0..sample.tokens.len()).map(|q| layout.visible(q).map(|run| [run.start, run.end])).collect();
        json!({
            "tokens": sample.tokens,
            "positions": positions,
            "seen": seen,
            "ar": sample.ar.iter().map(|target| (target.row, target.token)).collect::<Vec<_>>(),
            "pc": sample.pc.iter().map(|pair| (pair.student, pair.teacher)).collect::<Vec<_>>(),
        })
    };
    json!({ "sample_tokens": SAMPLE_TOKENS, "samples": samples.iter().map(of).collect::<Vec<_>>() })
}

fn trajectory(index: usize, vocabulary: u32) -> Trajectory {
    let mut rng = Rng::new(&[index as u64]);
    let mut ids = |count: usize| -> Vec<u32> {
        (0..count).map(|_| (rng.next_u64() % u64::from(vocabulary)) as u32).collect()
    };
    let (prompt_tokens, response_tokens) = (ids(PROMPT), ids(RESPONSE));
    let blocks = response_tokens.chunks(BLOCK).map(|clean| (clean.len(), ids(clean.len())));
    let states = blocks.enumerate().flat_map(|(block, (len, noise))| {
        (1..=len).map(move |converged| State {
            block: block as u32,
            iteration: converged as u32 - 1,
            converged: converged as u32,
            tail: noise[converged..].to_vec(),
        })
    });
    Trajectory {
        sample_id: format!("sample-{index}"),
        states: states.collect(),
        prompt_tokens,
        response_tokens,
        finish_reason: FinishReason::Length,
    }
}

//! Making trajectories: many responses and their blocks side by side, beside one response and one block at a time.

use std::{ops::ControlFlow, time::Instant};

use jacobi_decoder::{
    Answer, BatchEvent, JacobiConfig, Recorder, Request, Room, Settings, States, StopRules, Strategy,
    Trajectories, generate, generate_batch,
};
use jacobi_model::{DecodingModel, LanguageModel};
use jacobi_torch_ext::gpu_memory;

use super::{
    Bench,
    shapes::Shape,
    sheet::{Bound, Sheet},
};

const BLOCK_SIZE: usize = 16;
/// Rows of a pass to aim at.
const ROWS: usize = 4096;

pub fn measure(bench: &Bench, sheet: &mut Sheet, shape: &Shape) -> anyhow::Result<()> {
    let model = DecodingModel::new(bench.model(&shape.config)?);
    let scale = bench.scale;
    let prompts: Vec<Vec<u32>> = (0..scale.slots).map(|at| prompt(&model, at, scale.prompt)).collect();
    let stop = StopRules { max_new_tokens: scale.response, eos_token_ids: vec![] };
    let alone = Settings::greedy(Strategy::Autoregressive, stop.clone());
    let tokens = (scale.slots * scale.response) as f64;
    let name = format!("{}: generation, responses alone", shape.name);
    let answered = tokens / batch(&model, &prompts, &alone, None, scale.prompt + scale.response);
    sheet.figure(&name, "tokens/s", answered);
    bench.beside(sheet, &name, "tokens/s", answered);
    let trajectories = Trajectories { block_size: BLOCK_SIZE, seed: 0, states: States::All };
    let both = tokens / batch(&model, &prompts, &alone, Some(&trajectories), scale.prompt + scale.response);
    sheet.figure(format!("{}: generation, all states", shape.name), "tokens/s", both);
    if let Some(memory) = gpu_memory(bench.device) {
        sheet.figure(format!("{}: generation, memory", shape.name), "GB", memory.peak as f64 / 1e9);
    }
    let strategy = Strategy::Jacobi(JacobiConfig { block_size: BLOCK_SIZE, seed: 0 });
    let sequential = Settings::greedy(strategy, stop);
    let one = |prompt: &[u32]| {
        let mut recorder = Recorder::default();
        let started = Instant::now();
        let generation = generate(&model, prompt, &sequential, &mut |pass| recorder.record(pass));
        (generation.tokens.len() as f64, started.elapsed().as_secs_f64())
    };
    // Its passes are recorded with the first.
    one(&prompts[0]);
    let (tokens, seconds) = one(&prompts[1]);
    let loop_rate =
        sheet.figure(format!("{}: generation, sequential loop", shape.name), "tokens/s", tokens / seconds);
    sheet.bar(
        format!("{}: generation / sequential loop", shape.name),
        both / loop_rate,
        Bound::AtLeast(20.0),
    );
    Ok(())
}

fn prompt(model: &dyn LanguageModel, at: usize, length: usize) -> Vec<u32> {
    (0..length).map(|i| ((at * 131 + i * 17) % model.vocab_size()) as u32).collect()
}

/// Seconds that all requests take together.
fn batch(
    model: &dyn LanguageModel,
    prompts: &[Vec<u32>],
    settings: &Settings,
    trajectories: Option<&Trajectories>,
    longest: usize,
) -> f64 {
    let room =
        Room { slots: prompts.len(), capacity: longest + settings.strategy.max_rows() + 1, rows: ROWS };
    let request = |prompt: &Vec<u32>| Request {
        trajectories: trajectories.cloned(),
        ..Request::new(prompt.clone(), settings.clone())
    };
    let started = Instant::now();
    let mut done = 0;
    generate_batch(model, &mut prompts.iter().map(request).enumerate(), room, &mut |event| {
        done += usize::from(matches!(event, BatchEvent::Done(_, Answer::Response(_))));
        ControlFlow::Continue(())
    });
    assert_eq!(done, prompts.len(), "every request has its response");
    started.elapsed().as_secs_f64()
}

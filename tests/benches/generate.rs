//! The generation benchmark, on a real model: responses with finished trajectories per second, made as the reference
//! makes them (one sample, one block at a time) and as we do, against the model's matrix products alone.
//! `scripts/bench-generate.sh` sets it up and runs it.

mod arguments;
mod options;
mod sampling;
mod sheet;

use std::{ops::ControlFlow, time::Instant};

use anyhow::{Context, ensure};
use jacobi_datasets::{NoiseScheduleConfig, PromptsConfig, State, Tokenizer, read_prompts};
use jacobi_decoder::{
    Answer, BatchEvent, JacobiConfig, Recorder, Request, Response, Room, Settings, States, StopRules,
    Strategy, Trajectories, generate, generate_batch,
};
use jacobi_model::{Dtype, LanguageModel, Transformer, dtype_name, environment, load};
use jacobi_torch_ext::{linear, linear_argmax};
use tch::{Device, Kind, Tensor};

use arguments::Arguments;
use options::Options;
use sheet::{Bound, Sheet};

const USAGE: &str = "cargo bench --workspace --bench generate -- --model DIR --prompts JSONL [--block-sizes 16,64] \
                     [--tokens 64] [--rounds 5] [--threads 2] [--output bench-results/generate.json]";

const QUESTIONS: usize = 64;
const BLOCK_SIZES: [usize; 2] = [16, 64];
/// Every so many of the questions are for the sequential loop, and for phase B alone: their speeds do not depend on how
/// many there are.
const FEW: usize = 8;
const SEED: u64 = 1;
/// What `generate.memory_budget_gb` and `generate.pass_tokens` are by default.
const MEMORY_BUDGET: f64 = 4e9;
const PASS_ROWS: usize = 512;

/// A model and what it is asked.
struct Subject {
    model: Transformer,
    prompts: Vec<Vec<u32>>,
    settings: Settings,
    room: Room,
}

/// What a way of making trajectories gave.
struct Run {
    seconds: f64,
    responses: Vec<Response>,
    /// Rows of each forward pass.
    passes: Vec<usize>,
}

impl Run {
    fn tokens(&self) -> usize {
        self.responses.iter().map(|response| response.generation.tokens.len()).sum()
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens() as f64 / self.seconds
    }

    fn rows(&self) -> usize {
        self.passes.iter().sum()
    }
}

fn main() -> anyhow::Result<()> {
    let mut given = Arguments::read("generate", USAGE)?;
    let block_sizes = block_sizes(given.text("--block-sizes"))?;
    let options = Options::take(given, "--prompts")?;
    jacobi_torch_ext::set_threads(options.threads);
    let subject = Subject::load(&options)?;
    let products = Products::of(&subject.model);
    let mut sheet = Sheet::default();
    sheet.figure("samples side by side", "samples", subject.room.slots as f64);
    sheet.figure("phase A alone", "tokens/s", subject.side_by_side(None).tokens_per_second());
    for block_size in block_sizes {
        measure(&mut sheet, &subject, &products, (block_size, options.rounds));
    }
    let peak = peak_memory().unwrap_or(f64::NAN);
    let cache = subject.model.cache_bytes_per_token() * subject.room.capacity * subject.room.slots;
    sheet.figure("caches, all slots full", "GB", cache as f64 / 1e9);
    sheet.bar("caches, all slots full, GB", cache as f64 / 1e9, Bound::AtMost(MEMORY_BUDGET / 1e9));
    sheet.figure("peak memory of the process, bench included", "GB", peak / 1e9);
    sampling::measure(&mut sheet, options.rounds);
    sheet.print()?;
    let mut environment = environment();
    environment["model"] = options.model.display().to_string().into();
    environment["dtype"] = dtype_name(subject.model.kind()).into();
    environment["questions"] = subject.prompts.len().into();
    environment["response_tokens"] = options.tokens.into();
    sheet.write(&options.output, &options.command, &environment)
}

/// Those to be measured: all, unless some were named.
fn block_sizes(named: Option<String>) -> anyhow::Result<Vec<usize>> {
    let Some(named) = named else { return Ok(BLOCK_SIZES.to_vec()) };
    let known = |size: &str| BLOCK_SIZES.into_iter().find(|known| known.to_string() == size);
    let sizes =
        named.split(',').map(|size| known(size).with_context(|| format!("--block-sizes {size}: 16 or 64")));
    sizes.collect()
}

impl Subject {
    fn load(options: &Options) -> anyhow::Result<Self> {
        let model = load(&options.model, Dtype::Bfloat16)?.transformer;
        let tokenizer = Tokenizer::load(&options.model)?;
        let questions =
            options.input.as_ref().context("--prompts is missing: questions, in a column of that name")?;
        let config = PromptsConfig {
            path: questions.clone(),
            prompt_column: "question".to_owned(),
            limit: Some(QUESTIONS),
            ..PromptsConfig::default()
        };
        let mut prompts = Vec::new();
        for prompt in read_prompts(&config)?.into_iter().flatten() {
            prompts.push(tokenizer.encode_chat(&prompt)?);
        }
        ensure!(!prompts.is_empty(), "{} holds no question", questions.display());
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let capacity = longest + options.tokens + 1;
        let slots = (MEMORY_BUDGET as usize / (model.cache_bytes_per_token() * capacity)).min(prompts.len());
        let stop =
            StopRules { max_new_tokens: options.tokens, eos_token_ids: tokenizer.eos_token_ids().to_vec() };
        let settings = Settings::greedy(Strategy::Autoregressive, stop);
        Ok(Self { model, prompts, settings, room: Room { slots, capacity, rows: PASS_ROWS } })
    }

    /// Some of the questions: which, and their prompts.
    fn few(&self) -> Vec<(usize, &Vec<u32>)> {
        self.prompts.iter().enumerate().step_by(FEW).collect()
    }

    /// One sample, one block at a time, the whole remaining draft in every pass.
    fn sequential(&self, block_size: usize) -> (Run, Vec<Vec<State>>) {
        let started = Instant::now();
        let mut run = Run { seconds: 0.0, responses: Vec::new(), passes: Vec::new() };
        let mut states = Vec::new();
        for (at, prompt) in self.few() {
            let jacobi = JacobiConfig { block_size, seed: SEED + at as u64 };
            let settings = Settings { strategy: Strategy::Jacobi(jacobi), ..self.settings.clone() };
            let mut recorder = Recorder::default();
            let generation = generate(&self.model, prompt, &settings, &mut |pass| {
                run.passes.push(pass.draft.rows().len());
                recorder.record(pass);
            });
            states.push(recorder.states(&generation.tokens, block_size));
            run.responses.push(Response { generation, states: Vec::new(), disagreeing_blocks: 0 });
        }
        run.seconds = started.elapsed().as_secs_f64();
        (run, states)
    }

    fn batch(&self, requests: Vec<Request>) -> Run {
        let mut responses: Vec<Option<Response>> = requests.iter().map(|_| None).collect();
        let mut passes = Vec::new();
        let started = Instant::now();
        generate_batch(&self.model, &mut requests.into_iter().enumerate(), self.room, &mut |event| {
            match event {
                BatchEvent::Forward(rows) => passes.push(rows),
                BatchEvent::Done(at, Answer::Response(response)) => responses[at] = Some(response),
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let seconds = started.elapsed().as_secs_f64();
        Run { seconds, responses: responses.into_iter().flatten().collect(), passes }
    }

    /// All questions.
    fn side_by_side(&self, trajectories: Option<(usize, States)>) -> Run {
        let requests = self.prompts.iter().enumerate().map(|(at, prompt)| Request {
            trajectories: trajectories.map(|(block_size, states)| made(at, block_size, states)),
            ..Request::new(prompt.clone(), self.settings.clone())
        });
        self.batch(requests.collect())
    }

    /// Phase B alone: the responses of `run` are given.
    fn given(&self, run: &Run, block_size: usize) -> Run {
        let requests = self.few().into_iter().map(|(at, prompt)| Request {
            given: Some(run.responses[at].generation.tokens.clone()),
            trajectories: Some(made(at, block_size, States::All)),
            ..Request::new(prompt.clone(), self.settings.clone())
        });
        self.batch(requests.collect())
    }
}

fn made(at: usize, block_size: usize, states: States) -> Trajectories {
    Trajectories { block_size, seed: SEED + at as u64, states }
}

/// The ways take turns, so that drift of the machine falls on all.
fn measure(sheet: &mut Sheet, subject: &Subject, products: &Products, (block_size, rounds): (usize, usize)) {
    let name = format!("n={block_size}");
    // One window per response, so that the schedule is met from end to end.
    let window = subject.settings.stop.max_new_tokens.div_ceil(block_size);
    let scheduled = States::Scheduled { noise: NoiseScheduleConfig::default(), window };
    let ways = [("all states", States::All, 2.1), ("scheduled", scheduled, 3.1)];
    let (mut base, mut speeds, mut alone, mut floor) = (vec![], [vec![], vec![]], vec![], vec![]);
    for round in 0..rounds {
        let (sequential, expected) = subject.sequential(block_size);
        base.push(sequential.tokens_per_second());
        let runs = ways.map(|(_, states, _)| subject.side_by_side(Some((block_size, states))));
        for (speeds, run) in speeds.iter_mut().zip(&runs) {
            speeds.push(run.tokens_per_second());
        }
        let given = subject.given(&runs[0], block_size);
        alone.push(given.seconds);
        floor.push(products.floor(&given.passes));
        if round > 0 {
            continue;
        }
        rates(sheet, &format!("{name}: sequential loop"), products, &sequential);
        for ((what, ..), run) in ways.iter().zip(&runs) {
            rates(sheet, &format!("{name}: A + B, {what}"), products, run);
        }
        rates(sheet, &format!("{name}: phase B alone"), products, &given);
        let mut few = subject.few().into_iter().zip(&expected);
        let equal = few.all(|((at, _), states)| runs[0].responses[at].states == *states);
        sheet.figure(
            format!("{name}: states are the sequential loop's"),
            "1 = yes",
            f64::from(u8::from(equal)),
        );
    }
    let base = sheet.samples(format!("{name}: sequential loop"), "tokens/s", &base);
    for ((what, _, bound), speeds) in ways.iter().zip(&speeds) {
        let speed = sheet.samples(format!("{name}: A + B, {what}"), "tokens/s", speeds);
        sheet.bar(format!("{name}: {what} / sequential"), speed / base, Bound::AtLeast(*bound));
    }
    let alone = sheet.samples(format!("{name}: phase B alone"), "s", &alone);
    let floor = sheet.samples(format!("{name}: its matrix products alone"), "s", &floor);
    sheet.bar(format!("{name}: products / phase B, %"), 100.0 * floor / alone, Bound::AtLeast(60.0));
}

/// How fast the products of a run went, and how many they were. Counted as if all logits were computed.
fn rates(sheet: &mut Sheet, name: &str, products: &Products, run: &Run) {
    let rows = run.rows() as f64;
    sheet.figure(name, "GFLOP/s with all logits", rows * products.flops / run.seconds / 1e9);
    sheet.figure(format!("{name}, rows of a pass"), "rows", rows / run.passes.len() as f64);
    sheet.figure(format!("{name}, rows per token"), "rows", rows / run.tokens() as f64);
}

/// The model's matrix products, with its own weights.
struct Products {
    /// In the order in which a pass multiplies with them; the head is the last.
    weights: Vec<Tensor>,
    /// Of a row.
    flops: f64,
}

impl Products {
    fn of(model: &Transformer) -> Self {
        let named = |end: &str| {
            let found = model.parameters().iter().filter(|(name, _)| name.ends_with(end));
            found.map(|(_, tensor)| tensor.shallow_clone()).collect::<Vec<_>>()
        };
        let stacked = |parts: &[&str]| {
            let parts: Vec<Vec<Tensor>> =
                parts.iter().map(|part| named(&format!("{part}_proj.weight"))).collect();
            (0..parts[0].len())
                .map(|layer| Tensor::cat(&parts.iter().map(|part| &part[layer]).collect::<Vec<_>>(), 0))
                .collect::<Vec<_>>()
        };
        let kinds =
            [stacked(&["q", "k", "v"]), stacked(&["o"]), stacked(&["gate", "up"]), stacked(&["down"])];
        let layers =
            (0..kinds[0].len()).flat_map(|layer| kinds.iter().map(move |kind| kind[layer].shallow_clone()));
        let mut weights: Vec<Tensor> = layers.collect();
        let head = named("lm_head.weight").pop().or_else(|| named("embed_tokens.weight").pop());
        weights.push(head.expect("a model has an embedding"));
        let flops = weights.iter().map(|weight| 2.0 * weight.numel() as f64).sum();
        Self { weights, flops }
    }

    /// Seconds that the products of passes over so many rows take, and nothing else.
    fn floor(&self, passes: &[usize]) -> f64 {
        let inputs: Vec<i64> = self.weights.iter().map(|weight| weight.size()[1]).collect();
        let options = (Kind::Float, Device::Cpu);
        let most = passes.iter().copied().max().unwrap_or(1) as i64;
        let kind = self.weights[0].kind();
        let widest = Tensor::randn([most, inputs.iter().copied().max().unwrap_or(1)], options).to_kind(kind);
        let (head, layers) = self.weights.split_last().expect("there is a head");
        let mut seconds = 0.0;
        for rows in passes {
            let of_width = |width: i64| widest.narrow(0, 0, *rows as i64).narrow(1, 0, width).contiguous();
            let ready: Vec<Tensor> = inputs[..4].iter().map(|width| of_width(*width)).collect();
            let started = Instant::now();
            for (at, weight) in layers.iter().enumerate() {
                drop(linear(&ready[at % 4], weight, None));
            }
            linear_argmax(&ready[0], head);
            seconds += started.elapsed().as_secs_f64();
        }
        seconds
    }
}

/// The greatest resident size of this process so far, in bytes.
fn peak_memory() -> Option<f64> {
    let text = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

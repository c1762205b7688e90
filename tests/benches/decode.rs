//! The decoding benchmark, on a real model: speed against the memory floor, forward passes by width, what the host
//! and the decoders' bookkeeping add, what strictness costs, and transformers and llama.cpp beside it.
//! `scripts/bench-decode.sh` sets it up and runs it.

mod alternatives;
mod arguments;
mod metered;
mod options;
mod sheet;

use std::time::{Duration, Instant};

use jacobi_decoder::{
    Decoding, Filler, Generation, Growth, JacobiConfig, MultiBlockConfig, Settings, StopRules, Strategy,
    generate,
};
use jacobi_model::{
    Adapter, AdapterConfig, DecodingModel, Dtype, LanguageModel, Place, Rows, Target, Transformer, Work,
    dtype_name, environment, load,
};
use jacobi_torch_ext::{set_threads, vector_instructions};
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use alternatives::{Speed, Task};
use arguments::Arguments;
use metered::Metered;
use options::Options;
use sheet::{Bound, Sheet, median};

const USAGE: &str = "cargo bench --workspace --bench decode -- --model DIR [--transformers JSON] [--llama-cpp JSON] \
                     [--tokens 64] [--rounds 5] [--threads 2] [--output bench-results/decode.json]";

/// The prompt: a question in SmolLM2's chat format, 54 ids.
const PROMPTS: &str = "tests/golden/smollm2_greedy.json";
const PROMPT_CASE: usize = 6;

/// Elements of the fp32 buffers that are copied and summed, far beyond any cache, and how often per round.
const BUFFER: i64 = 100_000_000;
const PASSES_OVER_BUFFER: usize = 3;

/// Widths of a forward pass, and how many tokens are cached before.
const WIDTHS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
const CACHED: usize = 100;

/// Tokens of the draft of a draft adapter, its rank, and how often each pass is timed per round.
const DRAFTS: [usize; 2] = [8, 16];
const ADAPTER_RANK: usize = 64;
const PASSES_PER_ROUND: usize = 4;

/// Passes over which bookkeeping is counted, and room enough for what they accept.
const BOOKKEPT_PASSES: usize = 16;
const BOOKKEPT_TOKENS: usize = 1024;

/// Ids of the model whose kernels cost next to nothing.
const HOLLOW_VOCABULARY: u32 = 256;

const STRICT_GAP: f32 = 0.5;

/// A model in one dtype, and its prompt.
struct Subject {
    model: Transformer,
    prompt: Vec<u32>,
}

impl Subject {
    fn load(options: &Options, dtype: Dtype) -> anyhow::Result<Self> {
        let model = load(&options.model, dtype)?.transformer;
        let prompt = read_prompt(model.vocab_size() as u32)?;
        Ok(Self { model, prompt })
    }

    fn dtype(&self) -> &'static str {
        dtype_name(self.model.kind())
    }

    fn weight_bytes(&self) -> f64 {
        self.model.parameters().iter().map(|(_, t)| (t.numel() * t.kind().elt_size_in_bytes()) as f64).sum()
    }

    fn decode(&self, strategy: &Strategy, strict_gap: Option<f32>, tokens: usize) -> Generation {
        generate(&self.model, &self.prompt, &settings(strategy, strict_gap, tokens), &mut |_| {})
    }
}

fn main() -> anyhow::Result<()> {
    let mut given = Arguments::read("decode", USAGE)?;
    let llama_cpp = given.path("--llama-cpp");
    let options = Options::take(given, "--transformers")?;
    set_threads(options.threads);
    let mut sheet = Sheet::default();
    let (mut speeds, mut drafted) = (Vec::new(), Vec::new());
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let subject = Subject::load(&options, dtype)?;
        speeds.push(autoregressive(&mut sheet, &options, &subject, dtype)?);
        widths(&mut sheet, &options, &subject);
        adapted_rows(&mut sheet, &options, &subject);
        if dtype == Dtype::Bfloat16 {
            bookkeeping(&mut sheet, &options, &subject);
            drafted = strictness(&mut sheet, &options, &subject);
        }
    }
    let mut environment = environment();
    environment["cpu"] = cpu().into();
    environment["architecture"] = std::env::consts::ARCH.into();
    environment["model"] = options.model.display().to_string().into();
    environment["tokens"] = options.tokens.into();
    environment["rounds"] = options.rounds.into();
    let task = Task { prompt_ids: prompt_ids()?, tokens: options.tokens };
    if let Some(path) = &options.input {
        environment["transformers"] = alternatives::transformers(&mut sheet, path, &task, &speeds)?;
    }
    // Both in bf16; the last decoder with drafts is the one that looks them up.
    if let (Some(path), Some(plain), Some(lookup)) = (&llama_cpp, speeds.last(), drafted.last()) {
        environment["llama_cpp"] = alternatives::llama_cpp(&mut sheet, path, &task, [plain, lookup])?;
    }
    sheet.print()?;
    sheet.write(&options.output, &options.command, &environment)
}

/// Bandwidth, the floor it sets, and one token at a time against it; and the same with a model of as many kernels that
/// have nothing to do, which leaves what the host adds. All take turns, so that drift of the machine falls on all.
fn autoregressive(
    sheet: &mut Sheet,
    options: &Options,
    subject: &Subject,
    dtype: Dtype,
) -> anyhow::Result<Speed> {
    let hollow = hollow(options, subject, dtype)?;
    let bytes = subject.weight_bytes();
    let ones = Tensor::ones([BUFFER], (Kind::Float, Device::Cpu));
    let mut other = ones.zeros_like();
    let buffer_bytes = (PASSES_OVER_BUFFER * BUFFER as usize * Kind::Float.elt_size_in_bytes()) as f64;
    let (mut copy, mut read, mut token, mut host) = (vec![], vec![], vec![], vec![]);
    let ar = Strategy::Autoregressive;
    let mut tokens = Vec::new();
    for _ in warmed_up(options.rounds, || drop((subject.decode(&ar, None, 8), hollow.decode(&ar, None, 8)))) {
        // Only here libtorch's own operations have several threads.
        tch::set_num_threads(i32::try_from(options.threads)?);
        let seconds = timed(|| (0..PASSES_OVER_BUFFER).for_each(|_| other.copy_(&ones)));
        copy.push(2.0 * buffer_bytes / seconds / 1e9);
        let seconds = timed(|| (0..PASSES_OVER_BUFFER).for_each(|_| drop(ones.sum(Kind::Float))));
        read.push(buffer_bytes / seconds / 1e9);
        tch::set_num_threads(1);
        // OpenMP's threads spin before they sleep.
        std::thread::sleep(Duration::from_millis(100));
        let generation = subject.decode(&ar, None, options.tokens);
        token.push(1e3 * generation.stats.decode_seconds / generation.stats.forwards as f64);
        tokens = generation.tokens;
        let stats = hollow.decode(&ar, None, options.tokens).stats;
        host.push(1e3 * stats.decode_seconds / stats.forwards as f64);
    }
    let name = subject.dtype();
    sheet.samples(format!("{name}: copy bandwidth, read and written"), "GB/s", &copy);
    sheet.samples(format!("{name}: read bandwidth (sum)"), "GB/s", &read);
    sheet.figure(format!("{name}: weights"), "MB", bytes / 1e6);
    let floor: Vec<f64> = copy.iter().map(|copy| bytes / copy / 1e6).collect();
    sheet.samples(format!("{name}: floor, weights / copy bandwidth"), "ms", &floor);
    sheet.samples(format!("{name}: AR per token"), "ms", &token);
    let per_second: Vec<f64> = token.iter().map(|ms| 1e3 / ms).collect();
    let per_second = sheet.samples(format!("{name}: AR"), "tokens/s", &per_second);
    let ratio = sheet.samples(format!("{name}: AR / floor"), "x", &ratios(&token, &floor));
    match (vector_instructions(), dtype) {
        ("AVX-512", Dtype::Float32) => sheet.bar(format!("{name}: AR / floor"), ratio, Bound::AtMost(1.35)),
        ("AVX-512", Dtype::Bfloat16) => {}
        _ => sheet.bar(format!("{name}: AR / floor"), ratio, Bound::AtMost(1.5)),
    }
    sheet.samples(format!("{name}: AR forward of a model without work"), "ms", &host);
    let share: Vec<f64> = ratios(&host, &token).iter().map(|share| 100.0 * share).collect();
    let share = sheet.samples(format!("{name}: host overhead per forward"), "%", &share);
    sheet.bar(format!("{name}: host overhead per forward, %"), share, Bound::AtMost(5.0));
    Ok(Speed { dtype: name, decoder: "AR", per_second, tokens })
}

/// As many layers as the subject has, of the smallest size: the host issues as many kernels, and none has work to do.
fn hollow(options: &Options, subject: &Subject, dtype: Dtype) -> anyhow::Result<Subject> {
    let text = fs_err::read_to_string(options.model.join("config.json"))?;
    let mut config: Map<String, Value> = serde_json::from_str(&text)?;
    let heads = [("num_attention_heads", 1), ("num_key_value_heads", 1), ("head_dim", 8)];
    let sizes = [("hidden_size", 64), ("intermediate_size", 64), ("vocab_size", HOLLOW_VOCABULARY)];
    for (field, value) in heads.into_iter().chain(sizes) {
        config.insert(field.into(), value.into());
    }
    let folder = tempfile::tempdir()?;
    fs_err::write(folder.path().join("config.json"), serde_json::to_string(&config)?)?;
    let model = Transformer::random(folder.path(), dtype, 0)?;
    Ok(Subject { model, prompt: subject.prompt.iter().map(|id| id % HOLLOW_VOCABULARY).collect() })
}

/// Forward passes of several widths behind the same cached tokens, the answer read.
fn widths(sheet: &mut Sheet, options: &Options, subject: &Subject) {
    let text: Vec<u32> = subject.prompt.iter().cycle().take(CACHED).copied().collect();
    let widest = WIDTHS[WIDTHS.len() - 1];
    let mut session = subject.model.session(1, CACHED + widest);
    session.forward(&[Work {
        slot: 0,
        place: Place::End,
        rows: &Rows::chain(&text),
        first_output: CACHED - 1,
    }]);
    session.keep(0, &(0..CACHED).collect::<Vec<_>>());
    let drafts: Vec<u32> = text.iter().cycle().take(widest).copied().collect();
    let mut pass = |width: usize| {
        let rows = Rows::chain(&drafts[..width]);
        1e3 * timed(|| {
            drop(
                session
                    .forward(&[Work { slot: 0, place: Place::End, rows: &rows, first_output: 0 }])
                    .greedy(),
            )
        })
    };
    let mut samples = WIDTHS.map(|_| Vec::new());
    for _ in warmed_up(options.rounds, || WIDTHS.map(&mut pass)) {
        for (samples, width) in samples.iter_mut().zip(WIDTHS) {
            samples.push(pass(width));
        }
    }
    for (samples, width) in samples.iter().zip(WIDTHS) {
        sheet.samples(format!("{}: forward of {width} rows", subject.dtype()), "ms", samples);
    }
}

/// The pass of a draft adapter over a draft of several tokens, and a pass of the model alone over as many rows. They take
/// turns.
fn adapted_rows(sheet: &mut Sheet, options: &Options, subject: &Subject) {
    let shape = subject.model.architecture();
    let config = AdapterConfig { rank: ADAPTER_RANK, alpha: 2.0, targets: Target::ALL.to_vec() };
    let adapter = Adapter::new(shape, config, 0, Device::Cpu).to(shape, subject.model.kind(), Device::Cpu);
    let model = DecodingModel::new(&subject.model).with_adapter(&adapter);
    let text: Vec<u32> = subject.prompt.iter().cycle().take(CACHED).copied().collect();
    let mut session = model.session(1, CACHED + 2 * DRAFTS[DRAFTS.len() - 1]);
    session.forward(&[Work {
        slot: 0,
        place: Place::End,
        rows: &Rows::chain(&text),
        first_output: CACHED - 1,
    }]);
    session.keep(0, &(0..CACHED).collect::<Vec<_>>());
    let mut pass = |work: &[(Place, &Rows)]| {
        let work = work.iter().map(|&(place, rows)| Work { slot: 0, place, rows, first_output: 0 });
        let work: Vec<Work> = work.collect();
        1e3 * timed(|| drop(session.forward(&work).greedy()))
    };
    for draft in DRAFTS {
        let all = Rows::chain(&text[..2 * draft - 1]);
        let (own, adapted) = (Rows::chain(&text[..draft]), Rows::chain(&text[1..draft]));
        let drafting = [(Place::End, &own), (Place::Adapted(CACHED + 1), &adapted)];
        let (mut plain, mut with_adapter) = (vec![], vec![]);
        for _ in
            warmed_up(options.rounds * PASSES_PER_ROUND, || [pass(&[(Place::End, &all)]), pass(&drafting)])
        {
            plain.push(pass(&[(Place::End, &all)]));
            with_adapter.push(pass(&drafting));
        }
        let name =
            format!("{}: {} rows, {} of them with an adapter", subject.dtype(), 2 * draft - 1, draft - 1);
        let ratio = sheet.samples(name.clone(), "ms", &with_adapter) / median(&plain);
        sheet.bar(format!("{name} / without"), ratio, Bound::AtMost(1.15));
    }
}

/// What a decoder does besides asking the model, and how long it asks for the best tokens, in ms per forward.
struct Books {
    own: f64,
    top: f64,
    /// Mean number fed.
    rows: f64,
}

/// Of the first passes of a response.
fn bookkept(subject: &Subject, config: &MultiBlockConfig) -> Books {
    let settings = settings(&Strategy::MultiBlock(config.clone()), None, BOOKKEPT_TOKENS);
    let model = Metered::new(&subject.model);
    let mut decoding = Decoding::new(&model, &subject.prompt, &settings);
    let (before, top_before) = (model.meter().seconds(), model.meter().top_seconds());
    decoding.by_ref().take(BOOKKEPT_PASSES).for_each(drop);
    let stats = decoding.stats();
    let inside = model.meter().seconds() - before;
    let per_forward = |seconds: f64| 1e3 * seconds / stats.forwards as f64;
    let rows: usize = stats.widths.iter().map(|(rows, width)| rows * width.forwards).sum();
    Books {
        own: per_forward(stats.decode_seconds - inside),
        top: per_forward(model.meter().top_seconds() - top_before),
        rows: rows as f64 / stats.forwards as f64,
    }
}

fn bookkeeping(sheet: &mut Sheet, options: &Options, subject: &Subject) {
    let config = |block_size, tree_budget| MultiBlockConfig { block_size, tree_budget, ..Default::default() };
    let (mut wide, mut plain, mut tree, mut with_top) = (vec![], vec![], vec![], vec![]);
    let (mut wide_rows, mut tree_rows) = (0.0, 0.0);
    for _ in 0..options.rounds {
        let books = bookkept(subject, &config(64, 0));
        wide.push(books.own);
        wide_rows = books.rows;
        let without = bookkept(subject, &config(16, 0));
        let with = bookkept(subject, &config(16, 64));
        tree_rows = with.rows;
        plain.push(without.own);
        tree.push(with.own - without.own);
        with_top.push(with.own - without.own + with.top);
    }
    let value = sheet.samples("bookkeeping per forward, n=64 K=2 pool 4", "ms", &wide);
    sheet.bar("bookkeeping per forward, n=64 K=2 pool 4, ms", value, Bound::AtMost(0.3));
    sheet.figure("rows of such a forward, mean", "rows", wide_rows);
    sheet.samples("bookkeeping per forward, n=16 K=2 pool 4", "ms", &plain);
    let value = sheet.samples("tree of 64 rows on top of that", "ms", &tree);
    sheet.bar("tree of 64 rows, without its top tokens, ms", value, Bound::AtMost(0.5));
    sheet.samples("tree of 64 rows, with the model's top tokens", "ms", &with_top);
    sheet.figure("rows of such a forward with its tree, mean", "rows", tree_rows);
}

/// What deciding near-ties by passes over one row costs, and whether it gives the autoregressive tokens. Returns how fast
/// the decoders are without.
fn strictness(sheet: &mut Sheet, options: &Options, subject: &Subject) -> Vec<Speed> {
    // Drafts are the three tokens that followed an earlier occurrence of the last ones: our form of prompt lookup.
    let lookup = MultiBlockConfig {
        block_size: 4,
        growth: Growth::Sliding,
        filler: Filler::Ngram,
        pool_size: 0,
        ..Default::default()
    };
    let strategies = [
        ("jacobi n=16", Strategy::Jacobi(JacobiConfig { block_size: 16, seed: 0 })),
        ("multi_block", Strategy::MultiBlock(MultiBlockConfig::default())),
        ("sliding n=4, n-gram filler", Strategy::MultiBlock(lookup)),
    ];
    let ar = subject.decode(&Strategy::Autoregressive, None, options.tokens).tokens;
    let name = subject.dtype();
    let mut found = Vec::new();
    for (decoder, strategy) in &strategies {
        let (mut speeds, mut equal) = ([vec![], vec![]], [true, true]);
        let mut tokens = Vec::new();
        for _ in 0..options.rounds {
            for (at, gap) in [None, Some(STRICT_GAP)].into_iter().enumerate() {
                let generation = subject.decode(strategy, gap, options.tokens);
                speeds[at].extend(generation.stats.tps());
                equal[at] &= generation.tokens == ar;
                if gap.is_none() {
                    tokens = generation.tokens;
                }
            }
        }
        let medians = [("", 0), (", strict 0.5", 1)].map(|(strict, at)| {
            let median = sheet.samples(format!("{name}: {decoder}{strict}"), "tokens/s", &speeds[at]);
            let equal = f64::from(u8::from(equal[at]));
            sheet.figure(format!("{name}: {decoder}{strict}: equals AR"), "1 = yes", equal);
            median
        });
        let cost = ratios(&speeds[1], &speeds[0]);
        sheet.samples(format!("{name}: {decoder}: strict / not strict"), "x", &cost);
        found.push(Speed { dtype: name, decoder, per_second: medians[0], tokens });
    }
    found
}

/// Greedy, `tokens` of them after the prefill's, whatever they are.
fn settings(strategy: &Strategy, strict_gap: Option<f32>, tokens: usize) -> Settings {
    let stop = StopRules { max_new_tokens: 1 + tokens, eos_token_ids: vec![] };
    Settings { strict_gap, ..Settings::greedy(strategy.clone(), stop) }
}

fn prompt_ids() -> anyhow::Result<Value> {
    let path = arguments::root().join(PROMPTS);
    let golden: Value = serde_json::from_str(&fs_err::read_to_string(path)?)?;
    Ok(golden["cases"][PROMPT_CASE]["prompt_ids"].clone())
}

/// The prompt's ids, folded into a smaller vocabulary where the model's is one.
fn read_prompt(vocabulary: u32) -> anyhow::Result<Vec<u32>> {
    let ids: Vec<u32> = serde_json::from_value(prompt_ids()?)?;
    Ok(ids.iter().map(|id| id % vocabulary).collect())
}

/// The rounds, after one that does not count.
fn warmed_up<T>(rounds: usize, warm_up: impl FnOnce() -> T) -> std::ops::Range<usize> {
    warm_up();
    0..rounds
}

/// Seconds that `work` takes.
fn timed(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// Round by round, so that what slows a whole round down cancels.
fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a / b).collect()
}

fn cpu() -> Option<String> {
    let text = fs_err::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

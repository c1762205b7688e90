//! The order of trials, and what a limit of time leaves of a search.

use jacobi_model::{Predictions, Session, Work};

use super::*;

#[test]
fn trials_are_sorted_by_prompts_then_score() {
    let entrants = candidates::defaults(0, &StopRules { max_new_tokens: 9, eos_token_ids: vec![] });
    let decoded = |tokens, decode_seconds| DecodeStats {
        tokens,
        forwards: 10,
        decode_seconds,
        ..DecodeStats::default()
    };
    let stats = [
        vec![decoded(10, 1.0), decoded(10, 3.0)],
        vec![decoded(30, 2.0), decoded(30, 2.0)],
        vec![decoded(50, 1.0)],
        vec![decoded(60, 8.0), decoded(60, 8.0)],
    ];
    let order = |objective| {
        let trials = trials(&entrants, &stats, &entrants[..2], objective);
        trials.iter().map(|t| (t.label(), t.is_default, t.speedup_over_ar)).collect::<Vec<_>>()
    };
    let jacobi = ("jacobi n=16".to_owned(), true, Some(3.0));
    let tree = ("multi_block n=16 K=2 pool=4 tree=32 r=0.85".to_owned(), false, Some(1.5));
    let ar = ("ar".to_owned(), true, Some(1.0));
    // Five times the baseline's first prompt, and yet it was not seen on the second.
    let left = ("multi_block n=16 K=2 pool=4 r=0.85".to_owned(), false, Some(5.0));
    let by_speed = [jacobi.clone(), tree.clone(), ar.clone(), left.clone()];
    assert_eq!(order(Objective::Tps), by_speed);
    assert_eq!(order(Objective::Tpf), [tree, jacobi, ar, left]);
}

/// The token after a row is a function of the row's token and position, so a draft is right only after right drafts,
/// and a pass accepts one token. Every row costs time: `ar` is the fastest decoder.
struct RowsCost;

struct RowsCostSession {
    len: usize,
}

impl LanguageModel for RowsCost {
    fn vocab_size(&self) -> usize {
        2000
    }

    fn context_length(&self) -> usize {
        1000
    }

    fn cache_bytes_per_token(&self) -> usize {
        1
    }

    fn session<'a>(&'a self, _slots: usize, _capacity: usize) -> Box<dyn Session + 'a> {
        Box::new(RowsCostSession { len: 0 })
    }
}

impl Session for RowsCostSession {
    fn cached(&self, _slot: usize) -> usize {
        self.len
    }

    fn truncate(&mut self, _slot: usize, len: usize) {
        self.len = len;
    }

    fn keep(&mut self, _slot: usize, rows: &[usize]) {
        self.len += rows.len();
    }

    fn forward(&mut self, work: &[Work]) -> Box<dyn Predictions> {
        let [Work { rows, first_output, .. }] = work else { panic!("one sequence") };
        std::thread::sleep(Duration::from_micros(200) * rows.len() as u32);
        let next =
            |row: usize| 1000 + (rows.tokens()[row] * 31 + (self.len + rows.depth(row)) as u32 * 7) % 887;
        Box::new(Given((*first_output..rows.len()).map(next).collect()))
    }
}

struct Given(Vec<u32>);

impl Predictions for Given {
    fn greedy(&self) -> Vec<u32> {
        self.0.clone()
    }

    fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>> {
        let alternatives = |&row: &usize| (0..k as u32).map(|at| (self.0[row] + at, -(at as f32))).collect();
        rows.iter().map(alternatives).collect()
    }

    fn logits(&self, _row: usize) -> Vec<f32> {
        unreachable!("greedy decoding without a strict gap reads no logits")
    }
}

/// A search without combinations over this many prompts, that started this long ago.
fn search(prompts: usize, config: &TuneConfig, ago: Duration) -> Found {
    let config = TuneConfig { candidates: 0, ..config.clone() };
    let job = TuneJob {
        adapter: None,
        model: Path::new("unused"),
        dtype: Dtype::Float32,
        device: Device::Cpu,
        prompts: &PromptsConfig::default(),
        max_new_tokens: 4,
        config: &config,
        seed: 0,
    };
    let prompts: Vec<Vec<u32>> = (0..prompts).map(|at| vec![at as u32 + 1; 3]).collect();
    let search = Search {
        model: &RowsCost,
        prompts: &prompts,
        stop_rules: StopRules { max_new_tokens: 4, eos_token_ids: vec![] },
        job: &job,
        stop: &AtomicBool::new(false),
        started: Instant::now() - ago,
    };
    search.run(&mut |_| {}).unwrap()
}

#[test]
fn ar_wins_only_a_race_over_enough_prompts() {
    for (prompts, decided) in [(DECIDING_PROMPTS - 1, false), (DECIDING_PROMPTS, true)] {
        let found = search(prompts, &TuneConfig::default(), Duration::ZERO);
        assert_eq!((found.trials[0].name(), found.race.decided), ("ar", decided));
        assert_eq!((found.race.prompts, found.race.decoders, found.race.out_of_time), (prompts, 4, false));
        assert!(found.latency.cost(4).unwrap() > 2.0, "four rows cost about four times one");
    }
}

#[test]
fn a_search_without_time_knows_the_baseline_and_one_decoder() {
    let config = TuneConfig { seconds: 1, ..TuneConfig::default() };
    let found = search(40, &config, Duration::from_secs(9));
    let mut names: Vec<&str> = found.trials.iter().map(Trial::name).collect();
    names.sort_unstable();
    assert_eq!(names, ["ar", "jacobi"]);
    assert!(found.race.out_of_time && !found.race.decided && found.race.prompts == 1);
    assert!(found.race.seconds >= 9.0);
}

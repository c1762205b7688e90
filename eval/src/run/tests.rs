//! The loop on a scripted model whose figures can be computed by hand.

use std::cell::RefCell;

use jacobi_datasets::schema::eval_row::EvalRow;
use jacobi_datasets::{FinishReason, Message, Prompt};
use jacobi_decoder::{DecoderConfig, DecoderName};
use jacobi_model::{Predictions, Session, Work};

use super::*;
use crate::questions;
use crate::tasks;

/// The token after position `at` is `1001 + at` whatever precedes it, so filler (earlier tokens) is never right
/// and every draft is right after one pass. `flips`: passes over several rows give another token at this
/// position, whose logit is 0.25 below the right one's, as in near-ties in bf16. `slips`: every pass whose
/// first row is not this position does so. `panics_at`: a pass over (cached tokens, rows) panics.
struct Counting {
    context: usize,
    flips: Option<usize>,
    slips: Option<usize>,
    panics_at: Option<(usize, usize)>,
    widths: RefCell<Vec<usize>>,
}

struct CountingSession<'a> {
    model: &'a Counting,
    len: usize,
}

impl LanguageModel for Counting {
    fn vocab_size(&self) -> usize {
        2000
    }

    fn context_length(&self) -> usize {
        self.context
    }

    fn cache_bytes_per_token(&self) -> usize {
        1
    }

    fn session<'a>(&'a self, _slots: usize, _capacity: usize) -> Box<dyn Session + 'a> {
        Box::new(CountingSession { model: self, len: 0 })
    }
}

impl Session for CountingSession<'_> {
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
        self.model.widths.borrow_mut().push(rows.len());
        assert!(self.model.panics_at != Some((self.len, rows.len())), "no memory for {} rows", rows.len());
        let next = |row: usize| {
            let at = self.len + row;
            let flipped = rows.len() > 1 && self.model.flips == Some(at);
            let slipped = row > 0 && self.model.slips == Some(at);
            if flipped || slipped { 7 } else { 1001 + at as u32 }
        };
        let right = (*first_output..rows.len()).map(|row| 1001 + (self.len + row) as u32).collect();
        Box::new(Counted { given: (*first_output..rows.len()).map(next).collect(), right })
    }
}

struct Counted {
    given: Vec<u32>,
    right: Vec<u32>,
}

impl Predictions for Counted {
    fn greedy(&self) -> Vec<u32> {
        self.given.clone()
    }

    /// Two tokens are thought more likely than the right one where another is given.
    fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>> {
        assert!(k > 2);
        rows.iter().map(|&row| vec![(self.given[row], -0.5), (8, -1.0), (self.right[row], -2.0)]).collect()
    }

    fn logits(&self, row: usize) -> Vec<f32> {
        let mut logits = vec![0.0; 2000];
        (logits[7], logits[self.given[row] as usize]) = (1.25, 1.5);
        logits
    }
}

fn decode(ids: &[u32]) -> String {
    ids.iter().map(|id| format!("{id} ")).collect()
}

fn question(id: &str, expected: Option<&str>) -> Question {
    let messages = vec![Message::new("user", format!("text of {id}"))];
    let prompt = Prompt { id: id.to_owned(), messages, tools: None, answer: None, response: None };
    Question { prompt, expected: expected.map(str::to_owned) }
}

/// Prompt `a` has 3 tokens and reaches the EOS 1008 as its sixth token; `b` has 12 and reaches the limit of 9.
fn with_bench<T>(model: &Counting, check: impl FnOnce(&Bench) -> T) -> T {
    let jacobi = DecoderConfig { name: DecoderName::Jacobi, block_size: Some(4), ..DecoderConfig::default() };
    let config = EvalConfig { decoders: vec![jacobi], ..EvalConfig::default() };
    let stop = StopRules { max_new_tokens: 9, eos_token_ids: vec![1008] };
    let eval_model =
        EvalModel { name: "m".to_owned(), role: ModelRole::Trained, dir: "d".into(), adapter: None };
    check(&Bench {
        model: &eval_model,
        language_model: model,
        decode: &decode,
        task: &tasks::find("gsm8k").unwrap(),
        judge: &Judge::open(std::iter::empty(), &crate::SandboxConfig::default()).unwrap(),
        questions: &[question("a", Some("1008")), question("b", Some("7"))],
        prompts: vec![Ok(vec![1; 3]), Ok(vec![2; 12])],
        floor: Some(MemoryFloor { weight_bytes: 1, copy_bytes_per_second: 100.0, tokens_per_second: 100.0 }),
        contenders: &config.contenders(5, &stop).unwrap(),
    })
}

/// Measures from the beginning.
fn measure(
    bench: &Bench,
    warmup: usize,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&EvalProgress),
) -> Measured {
    let dir = tempfile::tempdir().unwrap();
    measure_into(&dir.path().join("samples.jsonl"), bench, warmup, stop, progress)
}

/// Measures what is not in the file of samples.
fn measure_into(
    samples: &Path,
    bench: &Bench,
    warmup: usize,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&EvalProgress),
) -> Measured {
    bench.measure(warmup, &mut Journal::open(samples).unwrap(), stop, progress).unwrap()
}

fn counting() -> Counting {
    Counting { context: 100, flips: None, slips: None, panics_at: None, widths: RefCell::default() }
}

fn rows(measured: &Measured) -> Vec<EvalRow> {
    let row = |samples: &Vec<EvalSample>| score::row(samples, &measured.samples[0], "float32", 5);
    measured.samples.iter().filter_map(row).collect()
}

#[test]
fn figures_by_hand() {
    let model = counting();
    let go = AtomicBool::new(false);
    let mut seen = Vec::new();
    let measured = with_bench(&model, |bench| {
        measure(bench, 0, &go, &mut |p| seen.push(format!("{} {}/{}", p.decoder, p.done, p.total)))
    });
    // The order alternates.
    assert_eq!(seen, ["ar 1/4", "jacobi 2/4", "jacobi 3/4", "ar 4/4"]);
    let [ar, jacobi] = &rows(&measured)[..] else { panic!("two rows") };
    assert_eq!((ar.decoder.as_str(), jacobi.decoder_label().as_str()), ("ar", "jacobi n=4"));
    // a: prefill 1, then 5. b: prefill 1, then 8.
    assert_eq!((ar.tokens, ar.forwards, ar.tpf), (13, 13, Some(1.0)));
    // A block of 4 takes 2 passes that accept 1 and 3. a: 2 passes, then 1 more meets EOS. b: 2 blocks, 4 passes.
    assert_eq!((jacobi.tokens, jacobi.forwards, jacobi.tpf), (13, 7, Some(13.0 / 7.0)));
    assert_eq!(jacobi.tpf_macro, Some((5.0 / 3.0 + 2.0) / 2.0));
    assert_eq!(jacobi.acceptance, [0, 4, 0, 3]);
    // Two drafts of each accepted block of 3; the last block of a is cut by EOS, but its draft was accepted.
    assert_eq!(jacobi.accepted_from, [("own".to_owned(), 6)].into());
    for row in [ar, jacobi] {
        assert_eq!(row.widths.iter().map(|width| width.forwards).sum::<usize>(), row.forwards);
        let seconds = row.widths.iter().map(|width| width.seconds).sum::<f64>();
        assert!((seconds - row.decode_seconds).abs() < 1e-9, "{seconds}, not {}", row.decode_seconds);
    }
    assert_eq!(ar.widths.iter().map(|width| width.rows).collect::<Vec<_>>(), [1]);
    assert_eq!((jacobi.exact_match_ar, jacobi.divergences_per_1k_tokens), (Some(1.0), Some(0.0)));
    assert_eq!((jacobi.accuracy, ar.accuracy), (Some(0.5), Some(0.5)));
    assert_eq!((jacobi.samples, jacobi.stopped_by_length), (2, 1));
    let sample = &measured.samples[1][0];
    assert_eq!((sample.prompt.as_str(), sample.prompt_tokens, sample.response_tokens), ("text of a", 3, 6));
    assert_eq!(
        (sample.finish_reason, sample.correct, sample.matches_ar),
        (FinishReason::Eos, Some(true), Some(true))
    );
    assert_eq!(sample.pieces, ["1003 ", "1004 ", "1005 1006 1007 ", "1008 "]);
}

#[test]
fn warm_up_runs_and_does_not_count() {
    let go = AtomicBool::new(false);
    let (cold, warm) = (counting(), counting());
    let measure =
        |model: &Counting, warmup| with_bench(model, |bench| rows(&measure(bench, warmup, &go, &mut |_| ())));
    let (without, with) = (measure(&cold, 0), measure(&warm, 3));
    assert_eq!(without[1].forwards, with[1].forwards);
    // Three prompts, a b a: with prefill ar needs 6 + 9 + 6 forwards and jacobi 4 + 5 + 4.
    assert_eq!(warm.widths.borrow().len() - cold.widths.borrow().len(), 34);
}

#[test]
fn a_flipped_near_tie_is_reported() {
    // Position 4 is the third token of a; only forwards of more than one token flip it, and it is in b's prompt.
    let model = Counting { flips: Some(4), ..counting() };
    let go = AtomicBool::new(false);
    let measured = with_bench(&model, |bench| {
        let mut measured = measure(bench, 0, &go, &mut |_| ());
        let before = model.widths.borrow().len();
        bench.add_divergence_gaps(&mut measured, &go);
        // As autoregressive decoding came there: the prompt, then token by token.
        assert_eq!(model.widths.borrow()[before..], [3, 1, 1]);
        measured
    });
    let sample = &measured.samples[1][0];
    assert_eq!((sample.matches_ar, sample.first_divergence), (Some(false), Some(2)));
    assert_eq!((sample.divergence_gap, measured.samples[0][0].divergence_gap), (Some(0.25), None));
    let row = &rows(&measured)[1];
    assert_eq!((row.divergence_gap_median, row.divergence_gap_max), (Some(0.25), Some(0.25)));
    assert_eq!(row.exact_match_ar, Some(0.5));
    // One divergence in the 3 tokens of a up to it and the 9 of b.
    assert_eq!(row.divergences_per_1k_tokens, Some(1000.0 / 12.0));
}

#[test]
fn ranks_of_right_tokens_are_measured_on_the_first_prompts() {
    // Position 4 is the third token of a, and in b's prompt.
    let model = Counting { slips: Some(4), ..counting() };
    let go = AtomicBool::new(false);
    let ranks = |count| {
        with_bench(&model, |bench| {
            let mut measured = measure(bench, 0, &go, &mut |_| ());
            bench.rank_rejections(count, &mut measured, &go);
            measured.ranks
        })
    };
    let [ar, jacobi] = &ranks(8)[..] else { panic!("two decoders") };
    assert!(ar.is_empty());
    assert_eq!((jacobi.len(), jacobi[2], jacobi.iter().sum::<usize>()), (33, 1, 1));
    assert_eq!(ranks(0), [[0; 0]; 2]);
}

#[test]
fn stop_keeps_the_prompts_that_every_decoder_finished() {
    let model = counting();
    let stop = AtomicBool::new(false);
    let measured = with_bench(&model, |bench| {
        measure(bench, 0, &stop, &mut |p| stop.store(p.done == 3, Ordering::Relaxed))
    });
    assert!(measured.interrupted);
    assert_eq!(measured.samples.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    let at_once = AtomicBool::new(true);
    let measured = with_bench(&model, |bench| measure(bench, 1, &at_once, &mut |_| ()));
    assert!(measured.interrupted && rows(&measured).is_empty());
}

#[test]
fn a_second_sitting_measures_the_missing_samples() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.jsonl");
    let (model, stop) = (counting(), AtomicBool::new(false));
    let broken_off = with_bench(&model, |bench| {
        measure_into(&path, bench, 0, &stop, &mut |p| stop.store(p.done == 3, Ordering::Relaxed))
    });
    assert!(broken_off.interrupted);
    // Of b one decoder was through: both are measured again, after a warm-up of their own.
    let (again, go) = (counting(), AtomicBool::new(false));
    let mut seen = Vec::new();
    let resumed = with_bench(&again, |bench| {
        measure_into(&path, bench, 1, &go, &mut |p| {
            seen.push(format!("{} {}/{}", p.decoder, p.done, p.total))
        })
    });
    assert_eq!(seen, ["jacobi 3/4", "ar 4/4"]);
    assert_eq!(again.widths.borrow().len(), (6 + 4) + (9 + 5));
    let sittings: Vec<Vec<usize>> =
        resumed.samples.iter().map(|samples| samples.iter().map(|s| s.sitting).collect()).collect();
    assert_eq!(sittings, [[1, 2], [1, 2]]);
    let whole = with_bench(&counting(), |bench| measure(bench, 0, &go, &mut |_| ()));
    for (resumed, whole) in rows(&resumed).iter().zip(&rows(&whole)) {
        let figures = |row: &EvalRow| (row.tokens, row.forwards, row.accuracy, row.acceptance.clone());
        assert_eq!((figures(resumed), resumed.sittings, whole.sittings), (figures(whole), 2, 1));
    }
    // With everything there, no pass is run.
    let third = counting();
    with_bench(&third, |bench| measure_into(&path, bench, 1, &go, &mut |_| panic!("nothing to measure")));
    assert!(third.widths.borrow().is_empty());
}

#[test]
fn an_error_of_one_sample_is_counted_and_named_and_stops_nothing() {
    // The first pass of jacobi over b panics.
    let model = Counting { panics_at: Some((12, 4)), ..counting() };
    let go = AtomicBool::new(false);
    let measured = with_bench(&model, |bench| measure(bench, 1, &go, &mut |_| ()));
    let [ar, jacobi] = &rows(&measured)[..] else { panic!("two rows") };
    assert_eq!((ar.failed, jacobi.failed, jacobi.samples), (0, 1, 2));
    assert_eq!(measured.samples[1][1].error.as_deref(), Some("no memory for 4 rows"));
    // a alone: 5 tokens in 3 passes. b is wrong, and would have been.
    assert_eq!((jacobi.tokens, jacobi.forwards, jacobi.accuracy), (5, 3, Some(0.5)));

    let unasked = |bench: &Bench| {
        let prompts = vec![Ok(vec![1; 3]), Err("no room".to_owned())];
        measure(&Bench { prompts, ..*bench }, 3, &go, &mut |_| ())
    };
    let measured = with_bench(&counting(), unasked);
    let [ar, jacobi] = &rows(&measured)[..] else { panic!("two rows") };
    assert_eq!((ar.failed, jacobi.failed, ar.accuracy, ar.tokens), (1, 1, Some(0.5), 5));
    assert_eq!(measured.samples[0][1].error.as_deref(), Some("no room"));
}

#[test]
fn a_response_that_cannot_be_judged_is_an_error_of_its_sample() {
    let go = AtomicBool::new(false);
    // The last token of a.
    let broken =
        |ids: &[u32]| if ids.ends_with(&[1008]) { panic!("no text of {ids:?}") } else { decode(ids) };
    let measured = with_bench(&counting(), |bench| {
        measure(&Bench { decode: &broken, prompts: bench.prompts.clone(), ..*bench }, 0, &go, &mut |_| ())
    });
    let [ar, jacobi] = &rows(&measured)[..] else { panic!("two rows") };
    assert_eq!((ar.failed, jacobi.failed, jacobi.accuracy, jacobi.tokens), (1, 1, Some(0.0), 8));
    let error = measured.samples[1][0].error.as_deref().unwrap();
    assert!(error.contains("no text of [1003"), "{error}");
}

#[test]
fn an_analysis_that_fails_leaves_out_its_figure_and_says_so() {
    let model = Counting { flips: Some(4), ..counting() };
    let go = AtomicBool::new(false);
    let mut measured = with_bench(&model, |bench| measure(bench, 0, &go, &mut |_| ()));
    // The prefill of a.
    let broken = Counting { panics_at: Some((0, 3)), ..counting() };
    with_bench(&broken, |bench| {
        bench.add_divergence_gaps(&mut measured, &go);
        bench.rank_rejections(8, &mut measured, &go);
    });
    assert_eq!((measured.samples[1][0].divergence_gap, measured.ranks[1].len()), (None, 0));
    assert_eq!(
        measured.warnings,
        [
            "1 logit gaps of m are left out; the first, a: no memory for 3 rows",
            "no ranks of m under jacobi: no memory for 3 rows"
        ]
    );
    assert!(!measured.interrupted && rows(&measured)[1].exact_match_ar == Some(0.5));
}

#[test]
fn a_prompt_without_room_is_named() {
    let go = AtomicBool::new(false);
    let run = |context| {
        let model = Counting { context, ..counting() };
        with_bench(&model, |bench| {
            let prompts: Vec<Vec<u32>> = bench.prompts.iter().flatten().cloned().collect();
            questions::check_room(bench.questions, &prompts, &bench.model.name, context)?;
            Ok::<_, EvalError>(rows(&measure(bench, 0, &go, &mut |_| ()))[1].clone())
        })
    };
    let message = run(12).unwrap_err().to_string();
    assert!(message.contains("prompt b has 12 tokens") && message.contains("context of 12"), "{message}");
    // Room for one token: the prefill gives it and nothing is decoded.
    assert_eq!(run(13).unwrap().forwards, 3);
}

#[test]
fn pieces_never_split_a_character() {
    let model = counting();
    let whole = "aéb";
    let bytes = |ids: &[u32]| {
        String::from_utf8_lossy(&ids.iter().map(|&id| id as u8).collect::<Vec<_>>()).into_owned()
    };
    let ids: Vec<u32> = whole.bytes().map(u32::from).collect();
    let pieces = with_bench(&model, |bench| {
        let bench = Bench { decode: &bytes, prompts: bench.prompts.clone(), ..*bench };
        bench.pieces(&ids, whole, &vec![1, 1, 5])
    });
    assert_eq!(pieces, ["a", "", "é", "b"]);
}

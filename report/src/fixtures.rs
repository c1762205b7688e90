//! Rows and samples that the tests of this crate share.

use std::collections::BTreeMap;

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, EvalWidth, Interval, ModelRole, Results};
use jacobi_datasets::schema::eval_statistics::{Answerer, Median, MemoryFloor, PairedTest, PerPrompt};
use jacobi_datasets::schema::trajectory::FinishReason;
use jacobi_datasets::schema::tuned::{TRIALS_SCHEMA, Trials};
use serde_json::{Map, Value, json};

use crate::metrics::{EvaluationPoint, TrainingCurve, TrainingPoint};

fn settings(decoder: &str) -> Map<String, Value> {
    let mut settings = Map::new();
    if decoder != "ar" {
        settings.insert("block_size".to_owned(), json!(16));
    }
    settings
}

fn limits(forwards: usize) -> BTreeMap<String, usize> {
    let limits = [("draft", forwards - 164), ("window", 100), ("end", 64)];
    limits.map(|(limit, passes)| (limit.to_owned(), passes)).into()
}

fn row(role: ModelRole, decoder: &str, [tpf, tps, speedup, accuracy]: [f64; 4]) -> EvalRow {
    let jacobi = decoder != "ar";
    let (forwards, decode_seconds) = ((6400.0 / tpf) as usize, (6400.0 / tps).round());
    let width =
        |rows, seconds: f64| EvalWidth { rows, forwards: forwards / 2, seconds: seconds * decode_seconds };
    let (mut accepted_from, mut limited_by) = (BTreeMap::new(), BTreeMap::new());
    if jacobi {
        accepted_from.insert("own".to_owned(), 6400 - forwards);
        limited_by = limits(forwards);
    }
    EvalRow {
        model: "tiny".to_owned(),
        model_role: role,
        task: "gsm8k".to_owned(),
        task_version: Some(1),
        decoder: decoder.to_owned(),
        decoder_settings: settings(decoder),
        samples: 64,
        dtype: "float32".to_owned(),
        tpf: Some(tpf),
        tps: Some(tps),
        speedup_over_ar: Some(speedup),
        accuracy: Some(accuracy),
        exact_match_ar: jacobi.then_some(1.0),
        divergences_per_1k_tokens: jacobi.then_some(0.0),
        divergence_gap_median: None,
        divergence_gap_max: None,
        tpf_macro: Some(tpf),
        tps_macro: Some(tps),
        tpf_interval: Some(Interval { low: tpf.floor(), high: tpf.ceil() }),
        speedup_interval: jacobi.then_some(Interval { low: speedup.floor(), high: speedup.ceil() }),
        accuracy_interval: Some(Interval { low: 0.75, high: 0.96875 }),
        tokens: 6400,
        forwards,
        cycles: forwards,
        decode_seconds,
        prefill_seconds: 3.5,
        stopped_by_length: 2,
        acceptance: if tpf > 2.0 { vec![0, 900, 600, 420, 200, 120, 60, 30, 20] } else { vec![0, 5900, 240] },
        accepted_from,
        limited_by,
        widths: match jacobi {
            true => vec![width(4, 0.25), width(16, 0.5)],
            false => vec![EvalWidth { rows: 1, forwards, seconds: decode_seconds }],
        },
        rejection_ranks: Vec::new(),
        tps_interval: Some(Interval { low: (tps * 0.9).floor(), high: (tps * 1.1).ceil() }),
        tps_end_to_end: Some((tps * 0.875).round()),
        prefill_tps: Some(120.0),
        per_prompt: PerPrompt {
            prefill_seconds: Some(Median { median: 0.05, low: Some(0.04), high: Some(0.06) }),
            decode_seconds: Some(Median { median: if tpf > 2.0 { 1.0 } else { 2.5 }, low: None, high: None }),
            end_to_end_seconds: None,
            tpf: Some(Median { median: tpf, low: Some(tpf.floor()), high: Some(tpf.ceil()) }),
            tps: Some(Median { median: tps, low: Some(tps.floor()), high: Some(tps.ceil()) }),
            speedup_over_ar: Some(Median { median: speedup, low: Some(0.5), high: Some(3.5) }),
        },
        first_divergence_median: None,
        degenerate: Some(if tpf > 2.0 { 1.0 / 64.0 } else { 0.0 }),
        memory_floor: (!jacobi).then_some(MemoryFloor {
            weight_bytes: 269_000_000,
            copy_bytes_per_second: 12.5e9,
            tokens_per_second: 46.5,
        }),
        ended: None,
        ended_interval: None,
        mean_response_tokens: None,
        failed: 0,
        sittings: 1,
        tuned: false,
    }
}

/// Base and trained, each under `ar` and `jacobi`.
pub(crate) fn rows() -> Vec<EvalRow> {
    let mut rows = vec![
        row(ModelRole::Base, "ar", [1.0, 41.2, 1.0, 0.9375]),
        row(ModelRole::Base, "jacobi", [1.08, 40.0, 0.97, 0.9375]),
        row(ModelRole::Trained, "ar", [1.0, 41.0, 1.0, 0.921875]),
        row(ModelRole::Trained, "jacobi", [2.71, 95.2, 2.32, 0.921875]),
    ];
    let mut ranks = vec![0; 33];
    (ranks[1], ranks[2], ranks[5], ranks[20], ranks[32]) = (40, 20, 10, 10, 20);
    rows[3].rejection_ranks = ranks;
    rows[3].exact_match_ar = Some(63.0 / 64.0);
    rows[3].divergences_per_1k_tokens = Some(0.16);
    rows[3].first_divergence_median = Some(42.0);
    (rows[3].divergence_gap_median, rows[3].divergence_gap_max) = (Some(0.03125), Some(0.03125));
    rows
}

/// Results over [`rows`].
pub(crate) fn results() -> Results {
    let environment = json!({"jacobi": "0.1.0", "device": "cpu <2 cores>", "threads": 2});
    let environment = environment.as_object().cloned().expect("an object");
    let results = Results::new("jacobi run --config configs/quickstart.toml".to_owned(), environment, rows());
    Results { paired_tests: paired_tests(), ..results }
}

fn paired_tests() -> Vec<PairedTest> {
    let side = |role, decoder: &str| Answerer {
        model: "tiny".to_owned(),
        model_role: role,
        decoder: decoder.to_owned(),
        decoder_settings: settings(decoder),
    };
    let test = |a, b, [both, only_a, only_b, neither]: [usize; 4], p_value| PairedTest {
        task: "gsm8k".to_owned(),
        a,
        b,
        both,
        only_a,
        only_b,
        neither,
        p_value,
    };
    let (base, trained) = (ModelRole::Base, ModelRole::Trained);
    vec![
        test(side(base, "ar"), side(base, "jacobi"), [40, 20, 2, 2], 0.000_121),
        test(side(base, "jacobi"), side(trained, "jacobi"), [55, 5, 4, 0], 1.0),
    ]
}

/// The text `pieces` of one sample under one decoder.
pub(crate) fn sample(role: ModelRole, decoder: &str, id: &str, pieces: &[&str]) -> EvalSample {
    EvalSample {
        model: "tiny".to_owned(),
        model_role: role,
        task: "gsm8k".to_owned(),
        decoder: decoder.to_owned(),
        decoder_settings: settings(decoder),
        sample_id: id.to_owned(),
        prompt: "What is <b>2</b> + 2?".to_owned(),
        prompt_tokens: 12,
        response_tokens: 8,
        response_ids: vec![1; 8],
        text: pieces.concat(),
        pieces: if decoder == "ar" { vec![] } else { pieces.iter().map(|p| (*p).to_owned()).collect() },
        finish_reason: FinishReason::Eos,
        correct: Some(true),
        answer: Some("4".to_owned()),
        expected: Some("4".to_owned()),
        failure: None,
        forwards: if decoder == "ar" { 8 } else { pieces.len() },
        cycles: if decoder == "ar" { 8 } else { pieces.len() },
        decode_seconds: 0.25,
        prefill_seconds: 0.125,
        matches_ar: (decoder != "ar").then_some(true),
        first_divergence: None,
        divergence_gap: None,
        acceptance: Vec::new(),
        accepted_from: BTreeMap::new(),
        limited_by: BTreeMap::new(),
        widths: Vec::new(),
        memory_floor: None,
        sitting: 1,
        error: None,
    }
}

/// One prompt under the base model's `ar` and the trained model's `jacobi`.
pub(crate) fn samples() -> Vec<EvalSample> {
    vec![
        sample(ModelRole::Base, "ar", "q1", &["Two & two", " make 4.", " #### 4"]),
        sample(ModelRole::Trained, "jacobi", "q1", &["Two & two", " make 4.", " #### 4"]),
    ]
}

/// A training run of `steps` steps of 8 samples, evaluated before and after.
pub(crate) fn curve(label: &str, steps: u64) -> TrainingCurve {
    let point = |step: u64| TrainingPoint {
        step,
        loss: Some(3.0 / step as f64),
        loss_ar: Some(1.0 / step as f64),
        loss_pc: Some(2.0 / step as f64),
        tokens_per_second: None,
    };
    let evaluation = |step: u64| EvaluationPoint {
        step,
        tpf: 1.0 + step as f64 / steps as f64,
        exact_match_ar: Some(1.0),
        loss_ar: None,
    };
    TrainingCurve {
        label: label.to_owned(),
        samples_per_step: 8,
        points: (1..=steps).map(point).collect(),
        evaluations: [0, steps].map(evaluation).to_vec(),
        seconds: Some(10_800.0),
    }
}

/// Two candidates and two defaults; `jacobi` with 8 is best.
pub(crate) fn trials() -> Trials {
    let trial = |decoder: Value, is_default: bool, prompts: usize, [tpf, speedup, rows]: [f64; 3]| {
        json!({
            "decoder": decoder, "is_default": is_default, "prompts": prompts, "tokens": (tpf * 100.0) as usize,
            "forwards": 100, "rows": (rows * 100.0) as usize, "decode_seconds": tpf / speedup, "tpf": tpf,
            "tps": 100.0 * speedup, "speedup_over_ar": speedup
        })
    };
    let tree = json!({"name": "multi_block", "block_size": 16, "tree_budget": 32});
    let widths = [2.0, 2.0, 2.0, 2.5, 3.0, 6.0];
    let width = |(at, ms): (usize, &f64)| json!({"rows": 1 << at, "seconds": ms / 1000.0});
    let trials = json!({
        "schema": TRIALS_SCHEMA, "objective": "tps", "dtype": "float32",
        "trials": [
            trial(json!({"name": "jacobi", "block_size": 8}), false, 4, [3.0, 1.5, 8.0]),
            trial(json!({"name": "ar"}), true, 4, [1.0, 1.0, 1.0]),
            trial(tree, true, 4, [3.0, 0.5, 40.0]),
            trial(json!({"name": "jacobi", "block_size": 64}), false, 1, [2.0, 0.75, 64.0]),
        ],
        "latency": {"cached": 90, "knee": 16, "widths": widths.iter().enumerate().map(width).collect::<Vec<_>>()},
        "command": "jacobi tune --config a.toml", "environment": {"threads": 2}
    });
    serde_json::from_value(trials).expect("trials")
}

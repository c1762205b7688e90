//! Memory by category, and against measured peaks.

use std::path::Path;

use super::*;
use crate::AdapterSettings;

fn shape() -> Architecture {
    let json = r#"{"architectures":["Qwen2ForCausalLM"],"vocab_size":1000,"hidden_size":64,"intermediate_size":96,
        "num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"tie_word_embeddings":false,
        "max_position_embeddings":64}"#;
    Architecture::from_json(&serde_json::from_str(json).unwrap(), Path::new("config.json")).unwrap()
}

#[test]
fn every_category_is_what_it_says() {
    let (shape, row) = (shape(), RowLoad { tokens: 100, noisy: 40, logits: 50, prefixes: 0 });
    let config = TrainConfig::default();
    let count = shape.parameter_count() as f64;
    let base = footprint(&shape, (Kind::BFloat16, Device::Cpu), &config, &row);
    assert_eq!(
        (base.parameters, base.gradients, base.masters, base.moments),
        (2.0 * count, 4.0 * count, 4.0 * count, 8.0 * count)
    );
    let single = footprint(&shape, (Kind::Float, Device::Cpu), &config, &row);
    assert_eq!((single.parameters, single.masters), (4.0 * count, 0.0));
    let change = |config: TrainConfig| footprint(&shape, (Kind::BFloat16, Device::Cpu), &config, &row);
    let frugal = change(TrainConfig { moments_dtype: MomentsDtype::Bfloat16, ..config.clone() });
    assert_eq!(frugal.moments, 4.0 * count);
    let taught = change(TrainConfig { teacher: TeacherModel::Base, ..config.clone() });
    assert_eq!(taught.parameters, 4.0 * count);
    let adapter = AdapterSettings { rank: 2, ..AdapterSettings::default() };
    let drafts = change(TrainConfig { adapter: Some(adapter.clone()), ..config.clone() });
    let (hidden, inner) = (64.0, 96.0);
    // q, k, v, o with widths 64, 32, 32, 64; gate, up, down.
    let trained = 3.0 * 2.0 * (2.0 * 128.0 + 2.0 * 96.0 + 3.0 * (hidden + inner));
    assert_eq!(drafts.parameters, 2.0 * (count + trained));
    let each = (drafts.gradients, drafts.masters, drafts.moments);
    assert_eq!(each, (4.0 * trained, 4.0 * trained, 8.0 * trained));
    assert!(drafts.activations < base.activations);
    let all = AdapterSettings { rows: AdapterRows::All, ..adapter };
    let all = change(TrainConfig { adapter: Some(all), ..config.clone() });
    assert_eq!(all.activations, base.activations);
    let changed = 3.0 * (2.0 * 64.0 * 64.0 + 2.0 * 64.0 * 32.0 + 3.0 * hidden * inner);
    assert_eq!(all.parameters, 2.0 * (count + trained + changed));
    // Of a long text with a short noisy stream, the pass over the text needs most.
    let long = RowLoad { tokens: 10_000, noisy: 10, logits: 10, prefixes: 0 };
    let text_cache = 9_990.0 * (2.0 * (2.0 * 64.0 + 2.0 * 32.0 + hidden + 2.0 * inner) + 4.0 * 4.0);
    let drafts = footprint(
        &shape,
        (Kind::BFloat16, Device::Cpu),
        &TrainConfig {
            adapter: Some(AdapterSettings { rank: 2, ..AdapterSettings::default() }),
            ..TrainConfig::default()
        },
        &long,
    );
    assert!(drafts.activations > text_cache);
    let full = ActivationCheckpointing::Full;
    let again = change(TrainConfig { activation_checkpointing: full, ..config.clone() });
    assert!(again.activations < base.activations);
}

fn stored(name: &str) -> Architecture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/model-configs/{name}.json"));
    let json = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
    Architecture::from_json(&json, &path).unwrap()
}

fn drafting() -> TrainConfig {
    TrainConfig { adapter: Some(AdapterSettings::default()), ..TrainConfig::default() }
}

/// Peaks of `cargo bench --bench train -- --child ..` with SmolLM2-135M-Instruct in bf16 on two cores with AMX, 2026-11-30:
/// one row of 512 or 2,048 packed tokens.
#[test]
fn an_estimate_is_near_the_measured_peak() {
    let shape = stored("smollm2-135m-instruct");
    let full = TrainConfig::default();
    let recomputing =
        TrainConfig { activation_checkpointing: ActivationCheckpointing::Full, ..TrainConfig::default() };
    let rows = [
        ("full", &full, [481, 169], 2883e6),
        ("full", &full, [1924, 676], 3718e6),
        ("recomputing", &recomputing, [481, 169], 2709e6),
        ("recomputing", &recomputing, [1924, 676], 3015e6),
        ("adapter", &drafting(), [511, 199], 1001e6),
        ("adapter", &drafting(), [2044, 796], 1416e6),
    ];
    for (name, config, [tokens, noisy], measured) in rows {
        let row = RowLoad { tokens, noisy, logits: tokens, prefixes: 0 };
        let ratio = footprint(&shape, (Kind::BFloat16, Device::Cpu), config, &row).total() / measured;
        assert!((0.9..1.15).contains(&ratio), "{name}, {tokens} tokens: {ratio}");
    }
}

/// The recipe of the 7B adapter, `configs/qwen2.5-coder-7b-adapter.toml`.
#[test]
fn a_7b_drafter_fits_a_gpu_of_24_gb() {
    let shape = stored("qwen2.5-coder-7b-instruct");
    let config = TrainConfig { activation_checkpointing: ActivationCheckpointing::Full, ..drafting() };
    let row = RowLoad { tokens: 8192, noisy: 3584, logits: 7168, prefixes: 448 * 4096 };
    let found = footprint(&shape, (Kind::BFloat16, Device::Cuda(0)), &config, &row);
    let total = found.total();
    assert!((19e9..23e9).contains(&total), "{found:?}: {total}");
}

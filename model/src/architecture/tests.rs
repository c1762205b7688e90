//! config.json: families, fields that are refused, the context.

use super::*;

fn config(change: &[(&str, Value)]) -> Map<String, Value> {
    let base = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":97,"hidden_size":32,"intermediate_size":64,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-5,
        "max_position_embeddings":64,"rope_theta":10000.0,"hidden_act":"silu","tie_word_embeddings":false}"#;
    let mut json: Map<String, Value> = serde_json::from_str(base).unwrap();
    for (key, value) in change {
        json.insert((*key).to_owned(), value.clone());
    }
    json
}

#[test]
fn a_field_that_would_change_the_model_is_refused_by_name() {
    let rows: &[(&str, Value, &str)] = &[
        ("hidden_act", "gelu".into(), "hidden_act"),
        ("mlp_bias", true.into(), "mlp_bias"),
        ("use_sliding_window", true.into(), "use_sliding_window"),
        ("num_experts", 8.into(), "num_experts"),
        ("vocab_size", (-1).into(), "vocab_size"),
        ("num_key_value_heads", 3.into(), "num_key_value_heads"),
        ("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 4.0}), "yarn"),
        ("rope_scaling", serde_json::json!({"rope_type": "linear"}), "factor"),
        ("architectures", serde_json::json!(["MambaForCausalLM"]), "MambaForCausalLM"),
    ];
    for (field, value, named) in rows {
        let json = config(&[(field, value.clone())]);
        let error = Architecture::from_json(&json, Path::new("m/config.json")).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("m/config.json"), "{field}: {error}");
    }
}

#[test]
fn dynamic_rope_is_unscaled_within_the_context() {
    let read = |change: &[(&str, Value)]| Architecture::from_json(&config(change), Path::new("c")).unwrap();
    let dynamic = read(&[("rope_scaling", serde_json::json!({"rope_type": "dynamic", "factor": 2.0}))]);
    assert_eq!((&dynamic.rope, dynamic.context_length()), (&read(&[]).rope, 64));
}

#[test]
fn families_differ_by_their_flags() {
    let llama = Architecture::from_json(&config(&[]), Path::new("c")).unwrap();
    assert!(!llama.qkv_bias && llama.head_dim == 8 && llama.group_size() == 2);
    let qwen = config(&[("architectures", serde_json::json!(["Qwen2ForCausalLM"]))]);
    let qwen = Architecture::from_json(&qwen, Path::new("c")).unwrap();
    assert!(qwen.qkv_bias && !qwen.output_bias && !qwen.qk_norm);
    let qwen3 = config(&[("architectures", serde_json::json!(["Qwen3ForCausalLM"]))]);
    let qwen3 = Architecture::from_json(&qwen3, Path::new("c")).unwrap();
    assert!(qwen3.qk_norm && !qwen3.qkv_bias && qwen3.head_dim == 128);
}

#[test]
fn a_sliding_window_bounds_the_context() {
    let rows: &[(&[(&str, Value)], i64)] = &[
        (&[("sliding_window", Value::Null)], 8192),
        (&[("sliding_window", 16.into())], 16),
        (&[("sliding_window", 16_384.into())], 8192),
        (&[], 4096),
    ];
    for (change, expected) in rows {
        let family = [("model_type", "mistral".into()), ("max_position_embeddings", 8192.into())];
        let mut json = config(&[&family, *change].concat());
        json.remove("architectures");
        let mistral = Architecture::from_json(&json, Path::new("c")).unwrap();
        assert_eq!((mistral.family, mistral.context_length()), (Family::Mistral, *expected), "{change:?}");
    }
    let error = Architecture::from_json(
        &config(&[
            ("architectures", serde_json::json!(["MistralForCausalLM"])),
            ("sliding_window", 0.into()),
        ]),
        Path::new("c"),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("sliding_window"), "{error}");
}

//! config.json: families, fields that are refused, the context.

use serde_json::json;

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
        ("hidden_act", "relu".into(), "hidden_act"),
        ("use_qk_norm", true.into(), "use_qk_norm"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "layer_types"),
        ("partial_rotary_factor", 0.5.into(), "partial_rotary_factor"),
        ("rope_parameters", json!({"partial_rotary_factor": 0.5}), "rope_parameters.partial_rotary_factor"),
        ("rope_parameters", json!({"full_attention": {"rope_theta": 5}}), "rope_parameters.full_attention"),
        ("rope_scaling", "linear".into(), "rope_scaling"),
        ("rope_scaling", json!({"type": "longrope"}), "longrope"),
        ("rope_scaling", json!({"type": "yarn"}), "rope_scaling.factor"),
        ("rope_scaling", json!({"type": "yarn", "factor": 0}), "rope_scaling.factor"),
        (
            "quantization_config",
            json!({"quant_method": "awq"}),
            "`quantization_config` belongs to a quantised model",
        ),
        ("auto_map", json!({"AutoModelForCausalLM": "modeling_x.Model"}), "auto_map"),
        ("model_type", "qwen2".into(), "model_type"),
        ("pruned_heads", json!({"1": [0]}), "pruned_heads"),
        ("logit_scale", 0.5.into(), "logit_scale"),
        ("num_experts", 8.into(), "`num_experts` belongs to a mixture-of-experts model"),
        ("vocab_size", (-1).into(), "vocab_size"),
        ("vocab_size", (1_i64 << 31).into(), "vocab_size"),
        ("num_key_value_heads", 3.into(), "num_key_value_heads"),
        ("rope_scaling", json!({"rope_type": "linear"}), "factor"),
        ("architectures", json!(["MambaForCausalLM"]), "MambaForCausalLM"),
    ];
    for (field, value, named) in rows {
        let json = config(&[(field, value.clone())]);
        let error = Architecture::from_json(&json, Path::new("m/config.json")).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("m/config.json"), "{field}: {error}");
    }
}

#[test]
fn the_largest_sizes_do_not_overflow_the_number_of_parameters() {
    let largest = (1_i64 << 31) - 1;
    let sizes =
        ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
    let mut change = sizes.map(|field| (field, Value::from(largest))).to_vec();
    change.extend([("num_key_value_heads", largest.into()), ("head_dim", (largest - 1).into())]);
    let architecture = Architecture::from_json(&config(&change), Path::new("config.json")).unwrap();
    assert_eq!(architecture.parameter_count(), usize::MAX);
}

/// Fields that public checkpoints have, and that leave greedy decoding alone.
#[test]
fn a_field_that_leaves_the_model_alone_is_passed_over() {
    let rows: Value = serde_json::from_str(
        r#"{
        "max_length": 4096, "do_sample": true, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.05,
        "num_beams": 4, "suppress_tokens": [1], "bad_words_ids": [[5]], "forced_eos_token_id": 2,
        "unsloth_fixed": true, "unsloth_version": "2025.10.1", "_attn_implementation": "sdpa",
        "_flash_attn_2_enabled": true, "auto_map": {}, "tokenizer_class": "LlamaTokenizer", "torchscript": false,
        "task_specific_params": {"a": {"prefix": "b"}}, "use_bfloat16": false, "neftune_noise_alpha": 5,
        "model_max_length": 2048, "max_sequence_length": 2048, "partial_rotary_factor": 1, "pretraining_tp": 2,
        "quantization_config": null, "_name_or_path": "a/b", "rope_scaling": null, "hidden_act": "swish",
        "sliding_window": 4096, "use_sliding_window": true, "layer_types": ["full_attention", "full_attention"],
        "id2label": {"0": "a"}, "pruned_heads": {}, "is_decoder": true, "add_cross_attention": false,
        "tie_encoder_decoder": false, "cross_attention_hidden_size": null, "prefix": null, "a_new_field": null,
        "original_max_position_embeddings": 8192, "torch_dtype": null, "dtype": "bfloat16", "mlp_bias": null
    }"#,
    )
    .unwrap();
    let plain = Architecture::from_json(&config(&[]), Path::new("c")).unwrap();
    for (field, value) in rows.as_object().unwrap() {
        let read = Architecture::from_json(&config(&[(field, value.clone())]), Path::new("c")).expect(field);
        assert_eq!((&read.rope, read.context_length()), (&plain.rope, 64), "{field}");
        assert_eq!(read.config_json[field], *value, "{field} is not saved again");
    }
    let all: Vec<(&str, Value)> =
        rows.as_object().unwrap().iter().map(|(f, v)| (f.as_str(), v.clone())).collect();
    assert_eq!(
        Architecture::from_json(&config(&all), Path::new("c")).unwrap().stored_dtype.unwrap(),
        "bfloat16"
    );
}

#[test]
fn a_sliding_window_of_qwen_is_refused_where_a_layer_has_it() {
    let read = |change: &[(&str, Value)]| {
        let qwen = [("architectures", json!(["Qwen2ForCausalLM"])), ("use_sliding_window", true.into())];
        Architecture::from_json(&config(&[&qwen, change].concat()), Path::new("c")).map(drop)
    };
    let allowed: &[&[(&str, Value)]] = &[
        &[("max_window_layers", 2.into())],
        &[],
        &[("max_window_layers", 1.into()), ("sliding_window", Value::Null)],
        &[("max_window_layers", 1.into()), ("layer_types", json!(["full_attention", "full_attention"]))],
    ];
    for change in allowed {
        read(change).unwrap();
    }
    for window in [json!({}), json!({"sliding_window": 32})] {
        let window = window.as_object().unwrap().iter().map(|(field, value)| (field.as_str(), value.clone()));
        let change: Vec<(&str, Value)> = window.chain([("max_window_layers", 1.into())]).collect();
        let error = read(&change).unwrap_err().to_string();
        assert!(error.contains("use_sliding_window"), "{error}");
    }
}

#[test]
fn yarn_extends_the_context() {
    let yarn = |original: Value| json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": original});
    let rows = [(json!(64), 64, 256), (json!(64), 256, 256), (json!(64), 300, 300), (Value::Null, 64, 256)];
    for (original, max, expected) in rows {
        let json = config(&[("rope_scaling", yarn(original)), ("max_position_embeddings", max.into())]);
        assert_eq!(Architecture::from_json(&json, Path::new("c")).unwrap().context_length(), expected);
    }
    // Which of two original contexts holds depends on the version of transformers.
    let other = [("rope_scaling", yarn(json!(64))), ("original_max_position_embeddings", 32.into())];
    let error = Architecture::from_json(&config(&other), Path::new("c")).unwrap_err().to_string();
    assert!(error.contains("`original_max_position_embeddings` = 32"), "{error}");
}

#[test]
fn absent_fields_have_the_defaults_of_transformers() {
    for (kind, heads, context) in [("llama", 4, 2048), ("mistral", 8, 4096)] {
        let mut json = config(&[("model_type", kind.into()), ("num_attention_heads", heads.into())]);
        for field in ["architectures", "num_key_value_heads", "max_position_embeddings"] {
            json.remove(field);
        }
        let read = Architecture::from_json(&json, Path::new("c")).unwrap();
        assert_eq!((read.num_key_value_heads, read.context_length()), (heads, context), "{kind}");
    }
}

#[test]
fn dynamic_rope_is_unscaled_within_the_context() {
    let read = |change: &[(&str, Value)]| Architecture::from_json(&config(change), Path::new("c")).unwrap();
    let dynamic = read(&[("rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0}))]);
    assert_eq!((&dynamic.rope, dynamic.context_length()), (&read(&[]).rope, 64));
}

#[test]
fn families_differ_by_their_flags() {
    let llama = Architecture::from_json(&config(&[]), Path::new("c")).unwrap();
    assert!(!llama.qkv_bias && llama.head_dim == 8 && llama.group_size() == 2);
    let qwen = config(&[("architectures", json!(["Qwen2ForCausalLM"]))]);
    let qwen = Architecture::from_json(&qwen, Path::new("c")).unwrap();
    assert!(qwen.qkv_bias && !qwen.output_bias && !qwen.qk_norm);
    let qwen3 = config(&[("architectures", json!(["Qwen3ForCausalLM"]))]);
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
        &config(&[("architectures", json!(["MistralForCausalLM"])), ("sliding_window", 0.into())]),
        Path::new("c"),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("sliding_window"), "{error}");
}

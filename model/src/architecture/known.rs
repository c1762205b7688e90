//! Which fields of config.json may be there: those that are read, those with one supported value, and those that are
//! passed over, by the reason why they do not change the greedy output of a model.
//!
//! Any other field is an error: ignoring it could change the model. A field that is null is not set.

use serde_json::Value;

use super::Family;
use crate::{ModelError, fields::Fields};

/// Fields that are passed over, with the reason.
const NEUTRAL: &[(&str, &[&str])] = &[
    (
        "names the model, its files and the programs that wrote them",
        &[
            "_commit_hash",
            "_from_model_config",
            "_name_or_path",
            "_post_init_done",
            "architectures",
            "ignore_keys_at_rope_validation",
            "is_llama_config",
            "model_type",
            "name_or_path",
            "transformers.js_config",
            "transformers_version",
        ],
    ),
    ("the dtype of the weights is read from their files", &["dtype", "torch_dtype", "use_bfloat16"]),
    (
        "chooses a kernel or a layout of the same computation",
        &[
            "_attn_implementation",
            "_attn_implementation_autoset",
            "_attn_implementation_internal",
            "_experts_implementation",
            "_experts_implementation_internal",
            "_flash_attn_2_enabled",
            "attn_implementation",
            "base_model_ep_plan",
            "base_model_fsdp_plan",
            "base_model_pp_plan",
            "base_model_tp_plan",
            "chunk_size_feed_forward",
            "device_map",
            "experts_implementation",
            "fused_mlp",
            "fused_qkv",
            "fused_rms_norm",
            "pretraining_tp",
            "use_cache",
            "use_fast_attention",
            "use_flash_attention",
            "use_flash_attention_2",
            "use_flash_attn",
            "use_memory_efficient_attention",
            "use_sdpa",
            "use_sdpa_attention",
        ],
    ),
    (
        "a length that no forward pass reads",
        &["max_seq_len", "max_seq_length", "max_sequence_length", "model_max_length", "seq_length"],
    ),
    (
        "changes contexts beyond its chunks in vLLM, and nothing in transformers",
        &["dual_chunk_attention_config"],
    ),
    (
        "decides what a call of transformers returns besides the logits",
        &[
            "_output_attentions",
            "output_attentions",
            "output_hidden_states",
            "output_router_logits",
            "return_dict",
            "tf_legacy_loss",
            "tie_last_hidden_states",
            "torchscript",
        ],
    ),
    (
        "matters in training only",
        &[
            "activation_dropout",
            "attention_dropout",
            "attention_probs_dropout_prob",
            "attn_dropout",
            "attn_dropout_prob",
            "attn_pdrop",
            "classifier_dropout",
            "dropout",
            "embd_pdrop",
            "ffn_dropout",
            "gradient_checkpointing",
            "hidden_dropout",
            "hidden_dropout_prob",
            "initializer_factor",
            "loss_type",
            "neftune_noise_alpha",
            "resid_dropout",
            "resid_pdrop",
            "router_aux_loss_coef",
            "use_gradient_checkpointing",
        ],
    ),
    (
        "belongs to the tokenizer",
        &[
            "bos_token",
            "bos_token_id",
            "cls_token_id",
            "decoder_start_token_id",
            "eos_token",
            "eos_token_id",
            "mask_token_id",
            "pad_token",
            "pad_token_id",
            "padding_side",
            "sep_token_id",
            "tokenizer_class",
            "tokenizer_model_max_length",
            "tokenizer_padding_side",
            "tokenizer_type",
            "unk_token",
            "unk_token_id",
        ],
    ),
    (
        "belongs to a classifier or an encoder, which a causal language model has not",
        &[
            "finetuning_task",
            "id2label",
            "is_decoder",
            "label2id",
            "num_labels",
            "prefix",
            "problem_type",
            "summary_activation",
            "summary_dropout_prob",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
            "task_specific_params",
            "tie_encoder_decoder",
        ],
    ),
    (
        "a setting of generation, which the options and recipes of this program decide",
        &[
            "assistant_confidence_threshold",
            "assistant_early_exit",
            "assistant_ensemble_weight",
            "assistant_lookbehind",
            "bad_words_ids",
            "begin_suppress_tokens",
            "cache_config",
            "cache_implementation",
            "compile_config",
            "constraints",
            "continuous_batching_config",
            "disable_compile",
            "diversity_penalty",
            "do_sample",
            "dola_layers",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "encoder_repetition_penalty",
            "epsilon_cutoff",
            "eta_cutoff",
            "exponential_decay_length_penalty",
            "force_words_ids",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "generation_config",
            "guidance_scale",
            "is_assistant",
            "length_penalty",
            "low_memory",
            "max_cache_len",
            "max_length",
            "max_matching_ngram_size",
            "max_new_tokens",
            "max_time",
            "min_length",
            "min_new_tokens",
            "min_p",
            "no_repeat_ngram_size",
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "output_logits",
            "output_scores",
            "penalty_alpha",
            "prefill_chunk_size",
            "prompt_lookup_num_tokens",
            "remove_invalid_values",
            "renormalize_logits",
            "repetition_penalty",
            "return_dict_in_generate",
            "return_legacy_cache",
            "sequence_bias",
            "speculation_type",
            "stop_strings",
            "suppress_tokens",
            "target_lookbehind",
            "temperature",
            "token_healing",
            "top_h",
            "top_k",
            "top_p",
            "typical_p",
            "use_mtp",
            "watermarking_config",
        ],
    ),
];

/// Names that start so are notes of a training program.
const NEUTRAL_PREFIXES: &[&str] = &["unsloth_"];

/// Fields that this module or its siblings read.
const READ: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "initializer_range",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "attention_bias",
    "tie_word_embeddings",
    "max_position_embeddings",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    "auto_map",
];

/// Fields supported with some values only, as JSON.
const FIXED: &[(&str, &[&str])] = &[
    ("hidden_act", &["\"silu\"", "\"swish\""]),
    ("mlp_bias", &["false"]),
    ("bias", &["false"]),
    ("qk_layernorm", &["false"]),
    ("use_qk_norm", &["false"]),
    ("causal", &["true"]),
    ("is_causal", &["true"]),
    ("is_encoder_decoder", &["false"]),
    ("add_cross_attention", &["false"]),
    ("pruned_heads", &["{}"]),
    ("per_layer_config", &["{}"]),
    ("num_nextn_predict_layers", &["0"]),
    ("rotary_pct", &["1"]),
    ("rope_interleaved", &["false"]),
    ("use_mrope", &["false"]),
];

/// Fields of models that are not supported, with what to do.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    (
        "belongs to a quantised model, which is not supported: give the model with unquantised weights",
        &["quantization", "quantization_config", "compression_config"],
    ),
    (
        "belongs to a mixture-of-experts model, which is not supported: give a dense model of the families Llama, \
         Qwen2, Qwen3 or Mistral",
        &[
            "decoder_sparse_step",
            "mlp_only_layers",
            "moe_intermediate_size",
            "n_routed_experts",
            "n_shared_experts",
            "norm_topk_prob",
            "num_experts",
            "num_experts_per_tok",
            "num_local_experts",
            "shared_expert_intermediate_size",
        ],
    ),
];

impl Fields<'_> {
    /// Refuses fields that are not known, and values that would change the model.
    pub(super) fn check_known(&self, family: Family) -> Result<(), ModelError> {
        for (name, value) in self.json.iter().filter(|(_, value)| !value.is_null()) {
            if let Some((_, supported)) = FIXED.iter().find(|(fixed, _)| fixed == name) {
                if !supported.iter().any(|text| is_equal(value, text)) {
                    return Err(self.unsupported(name, &format!("supported: {}", supported.join(", "))));
                }
            } else if let Some((problem, _)) = UNSUPPORTED.iter().find(|(_, names)| names.contains(&&**name))
            {
                return Err(self.error(name, problem));
            } else if !is_known(name) {
                let problem = "is not a known field, and ignoring it could change the model; remove it if it is only a note";
                return Err(self.error(name, problem));
            }
        }
        self.check_auto_map()?;
        self.check_layers(family)
    }

    /// Code that comes with a model can compute anything. Entries for other classes than the model are harmless.
    fn check_auto_map(&self) -> Result<(), ModelError> {
        let is_model = |name: &String| !name.contains("Tokenizer") && !name.contains("Processor");
        match self.get("auto_map").map(Value::as_object) {
            None => Ok(()),
            Some(Some(entries)) if !entries.keys().any(is_model) => Ok(()),
            _ => Err(self.unsupported(
                "auto_map",
                "code that comes with a model is not run; remove it if the model is an ordinary one",
            )),
        }
    }

    /// Refuses layers that see a window only. The Mistral family has its window in `sliding_window`, and Llama none.
    fn check_layers(&self, family: Family) -> Result<(), ModelError> {
        const LAYERS: &str = "layer_types";
        if let Some(layers) = self.get(LAYERS) {
            let full = |layers: &Vec<Value>| layers.iter().all(|layer| layer == "full_attention");
            if !layers.as_array().is_some_and(full) {
                return Err(self.unsupported(LAYERS, "supported: full_attention in every layer"));
            }
            return Ok(());
        }
        let has_window = matches!(family, Family::Qwen2 | Family::Qwen3)
            && self.bool("use_sliding_window", false)?
            // An absent window is one of 4096 tokens, a null one is none.
            && !self.json.get("sliding_window").is_some_and(Value::is_null);
        if has_window {
            let first = self.size("max_window_layers", Some(28))?;
            if first < self.size("num_hidden_layers", None)? {
                return Err(self.unsupported("use_sliding_window", "supported: false"));
            }
        }
        Ok(())
    }
}

fn is_known(name: &str) -> bool {
    READ.contains(&name)
        || NEUTRAL.iter().any(|(_, names)| names.contains(&name))
        || NEUTRAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Numbers are compared as such: 1 and 1.0 are equal.
fn is_equal(value: &Value, text: &str) -> bool {
    let other: Value = serde_json::from_str(text).expect("the table holds JSON");
    *value == other || value.as_f64().is_some_and(|number| other.as_f64() == Some(number))
}

//! The tokenizer of a GGUF file as the files that Hugging Face's libraries read.
//!
//! GGUF keeps tokens, merges and the *name* of a pre-tokenizer; how texts are split is known only by that name. The
//! known names are byte-level BPE ones; another algorithm or name is an error, because a guess would cost accuracy
//! silently.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

/// llama.cpp's number for a control token: added, and skipped in decoded text.
const CONTROL: u32 = 3;
/// llama.cpp's number for a token that users added: matched whole, but part of the text.
const USER_DEFINED: u32 = 4;
/// The names of pre-tokenizers that are known.
const PRE_TOKENIZERS: &[&str] = &["gpt-2", "smollm"];

/// A tokenizer as GGUF metadata states it. The index in `tokens` is the token id.
#[derive(Clone, Debug, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`; only `gpt2`, byte-level BPE, is supported.
    pub model: String,
    /// `tokenizer.ggml.pre`: `smollm` or `gpt-2`.
    pub pre: String,
    /// Every token, in the byte-level alphabet.
    pub tokens: Vec<String>,
    /// Kind of each token: 3 control, 4 user-defined, others plain.
    pub token_types: Vec<u32>,
    /// Merges, best first, the two parts separated by a space.
    pub merges: Vec<String>,
    /// The chat template (Jinja).
    pub chat_template: Option<String>,
    /// Id of the token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Id of the token that ends an answer.
    pub eos_token_id: Option<u32>,
    /// Id of the token for what has none.
    pub unknown_token_id: Option<u32>,
    /// Id of the token that fills batches.
    pub padding_token_id: Option<u32>,
    /// A space is put before the text.
    pub add_space_prefix: bool,
    /// The beginning token is put before the text.
    pub add_bos_token: bool,
    /// Longest context of the model, in tokens.
    pub context_length: usize,
}

/// The texts of the two tokenizer files.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerTexts {
    /// Content of `tokenizer.json`.
    pub tokenizer: String,
    /// Content of `tokenizer_config.json`, with the chat template.
    pub tokenizer_config: String,
}

/// A vocabulary that cannot be turned into a tokenizer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufTokenizerError {
    /// An algorithm other than byte-level BPE.
    #[error("GGUF tokenizer model {found:?} is not supported (supported: \"gpt2\", byte-level BPE)")]
    UnsupportedModel {
        /// `tokenizer.ggml.model`.
        found: String,
    },
    /// A pre-tokenizer whose rule is not known.
    #[error("GGUF pre-tokenizer {found:?} is not supported (supported: {supported})")]
    UnsupportedPreTokenizer {
        /// `tokenizer.ggml.pre`.
        found: String,
        /// The known names.
        supported: String,
    },
    /// A switch that no supported tokenizer sets.
    #[error("GGUF tokenizer field `{field}` = true is not supported")]
    UnsupportedSwitch {
        /// The metadata key.
        field: &'static str,
    },
    /// Lists that belong together and differ in length.
    #[error("the GGUF tokenizer has {tokens} tokens but {types} token types")]
    LengthMismatch {
        /// Length of `tokens`.
        tokens: usize,
        /// Length of `token_types`.
        types: usize,
    },
    /// Two ids with one text.
    #[error("the GGUF tokenizer holds the token {token:?} twice, the second time with id {id}")]
    DuplicateToken {
        /// The text.
        token: String,
        /// The second id.
        id: usize,
    },
    /// A merge that is not two known tokens making a third.
    #[error("merge {index} of the GGUF tokenizer, {merge:?}, is not two tokens that make a third")]
    BadMerge {
        /// Index in `merges`.
        index: usize,
        /// The merge.
        merge: String,
    },
    /// An id outside the vocabulary.
    #[error("GGUF tokenizer field `{field}` = {id} is outside the vocabulary of {tokens} tokens")]
    BadTokenId {
        /// The metadata key.
        field: &'static str,
        /// The id.
        id: u32,
        /// Length of `tokens`.
        tokens: usize,
    },
}

/// Builds `tokenizer.json` and `tokenizer_config.json`.
///
/// The pre-tokenizer `smollm` is Hugging Face's own for these models: every digit alone (`\p{N}`, as in llama.cpp),
/// then GPT-2's byte-level split. transformers' GGUF loader leaves the digit rule out, which shows on digits outside
/// ASCII only.
///
/// # Errors
/// Another algorithm or pre-tokenizer, by name; lists that contradict each other.
pub fn build(vocabulary: &GgufVocabulary) -> Result<TokenizerTexts, GgufTokenizerError> {
    check(vocabulary)?;
    let byte_level = |add_prefix_space: bool| json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true});
    let pre_tokenizer = match vocabulary.pre.as_str() {
        "smollm" => json!({
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(false)],
        }),
        _ => byte_level(false),
    };
    let ids: Map<String, Value> =
        vocabulary.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(vocabulary),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": ids,
            "merges": vocabulary.merges,
        },
    });
    Ok(TokenizerTexts {
        tokenizer: pretty(&tokenizer),
        tokenizer_config: pretty(&tokenizer_config(vocabulary)),
    })
}

fn added_tokens(vocabulary: &GgufVocabulary) -> Vec<Value> {
    let kinds = vocabulary.tokens.iter().zip(&vocabulary.token_types).enumerate();
    let added = kinds.filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED));
    let entry = |(id, (token, kind)): (usize, (&String, &u32))| {
        json!({
            "id": id,
            "content": token,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": *kind == CONTROL,
        })
    };
    added.map(entry).collect()
}

fn tokenizer_config(vocabulary: &GgufVocabulary) -> Value {
    let mut config = Map::new();
    config.insert("add_prefix_space".into(), false.into());
    for (field, id) in [
        ("bos_token", vocabulary.bos_token_id),
        ("eos_token", vocabulary.eos_token_id),
        ("pad_token", vocabulary.padding_token_id),
        ("unk_token", vocabulary.unknown_token_id),
    ] {
        if let Some(id) = id {
            config.insert(field.into(), vocabulary.tokens[id as usize].clone().into());
        }
    }
    if let Some(template) = &vocabulary.chat_template {
        config.insert("chat_template".into(), template.clone().into());
    }
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("model_max_length".into(), vocabulary.context_length.into());
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    Value::Object(config)
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value is always printable");
    text.push('\n');
    text
}

fn check(vocabulary: &GgufVocabulary) -> Result<(), GgufTokenizerError> {
    if vocabulary.model != "gpt2" {
        return Err(GgufTokenizerError::UnsupportedModel { found: vocabulary.model.clone() });
    }
    if !PRE_TOKENIZERS.contains(&vocabulary.pre.as_str()) {
        let supported = PRE_TOKENIZERS.join(", ");
        return Err(GgufTokenizerError::UnsupportedPreTokenizer { found: vocabulary.pre.clone(), supported });
    }
    for (field, set) in [
        ("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix),
        ("tokenizer.ggml.add_bos_token", vocabulary.add_bos_token),
    ] {
        if set {
            return Err(GgufTokenizerError::UnsupportedSwitch { field });
        }
    }
    let (tokens, types) = (vocabulary.tokens.len(), vocabulary.token_types.len());
    if tokens != types {
        return Err(GgufTokenizerError::LengthMismatch { tokens, types });
    }
    for (field, id) in [
        ("tokenizer.ggml.bos_token_id", vocabulary.bos_token_id),
        ("tokenizer.ggml.eos_token_id", vocabulary.eos_token_id),
        ("tokenizer.ggml.unknown_token_id", vocabulary.unknown_token_id),
        ("tokenizer.ggml.padding_token_id", vocabulary.padding_token_id),
    ] {
        if let Some(id) = id.filter(|id| *id as usize >= tokens) {
            return Err(GgufTokenizerError::BadTokenId { field, id, tokens });
        }
    }
    check_merges(vocabulary)
}

fn check_merges(vocabulary: &GgufVocabulary) -> Result<(), GgufTokenizerError> {
    let mut known = HashSet::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        if !known.insert(token.as_str()) {
            return Err(GgufTokenizerError::DuplicateToken { token: token.clone(), id });
        }
    }
    for (index, merge) in vocabulary.merges.iter().enumerate() {
        let whole =
            merge.split_once(' ').filter(|(left, right)| known.contains(left) && known.contains(right));
        if !whole.is_some_and(|(left, right)| known.contains(format!("{left}{right}").as_str())) {
            return Err(GgufTokenizerError::BadMerge { index, merge: merge.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Space is written Ġ in the byte-level alphabet.
    fn tiny() -> GgufVocabulary {
        let tokens = ["<|end|>", "a", "b", "Ġ", "1", "ab", "11", "Ġab", "<tool>"];
        GgufVocabulary {
            model: "gpt2".into(),
            pre: "smollm".into(),
            tokens: tokens.map(str::to_owned).to_vec(),
            token_types: vec![3, 1, 1, 1, 1, 1, 1, 1, 4],
            merges: ["a b", "1 1", "Ġ ab"].map(str::to_owned).to_vec(),
            chat_template: Some("{{ messages }}".into()),
            eos_token_id: Some(0),
            context_length: 64,
            ..GgufVocabulary::default()
        }
    }

    fn encode(vocabulary: &GgufVocabulary, text: &str) -> (Vec<u32>, String) {
        let texts = build(vocabulary).unwrap();
        let tokenizer: tokenizers::Tokenizer = texts.tokenizer.parse().unwrap();
        let ids = tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
        let decoded = tokenizer.decode(&ids, true).unwrap();
        (ids, decoded)
    }

    #[test]
    fn texts_are_split_as_the_named_pre_tokenizer_does() {
        let gpt2 = GgufVocabulary { pre: "gpt-2".into(), ..tiny() };
        let rows: &[(&GgufVocabulary, &str, &[u32], &str)] = &[
            (&tiny(), "ab ab", &[5, 7], "ab ab"),
            (&tiny(), "11", &[4, 4], "11"),
            (&gpt2, "11", &[6], "11"),
            (&tiny(), "ab<|end|>", &[5, 0], "ab"),
            (&tiny(), "a<tool>b", &[1, 8, 2], "a<tool>b"),
        ];
        for (vocabulary, text, ids, decoded) in rows {
            let found = encode(vocabulary, text);
            assert_eq!(
                (found.0.as_slice(), found.1.as_str()),
                (*ids, *decoded),
                "{text} by {}",
                vocabulary.pre
            );
        }
    }

    #[test]
    fn the_config_names_special_tokens_and_carries_the_template() {
        let config: Value = serde_json::from_str(&build(&tiny()).unwrap().tokenizer_config).unwrap();
        assert_eq!(config["eos_token"], "<|end|>");
        assert_eq!(config["chat_template"], "{{ messages }}");
        assert_eq!(config["model_max_length"], 64);
        assert!(config.get("bos_token").is_none());
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        type Change = fn(&mut GgufVocabulary);
        let rows: &[(Change, &str)] = &[
            (|v| v.model = "llama".into(), "\"llama\""),
            (|v| v.pre = "tekken".into(), "\"tekken\""),
            (|v| v.add_space_prefix = true, "add_space_prefix"),
            (|v| v.add_bos_token = true, "add_bos_token"),
            (|v| v.token_types.truncate(2), "2 token types"),
            (|v| v.eos_token_id = Some(9), "eos_token_id"),
            (|v| v.tokens[2] = "a".into(), "twice"),
            (|v| v.merges.push("a".into()), "merge 3"),
            (|v| v.merges.push("b a".into()), "merge 3"),
        ];
        for (change, named) in rows {
            let mut vocabulary = tiny();
            change(&mut vocabulary);
            let message = build(&vocabulary).unwrap_err().to_string();
            assert!(message.contains(named), "{named}: {message}");
        }
    }
}

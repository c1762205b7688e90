//! The tokenizer files of a model directory, and chat templates against transformers.

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// Words split at spaces; `<s>` and `</s>` are special.
fn tokenizer_json() -> Value {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": [special(1, "<s>"), special(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1],
            "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "user:": 3,
            "hi": 4, "there": 5, "bot:": 6}}
    })
}

fn model_dir(files: &[(&str, String)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join(TOKENIZER_JSON), tokenizer_json().to_string()).unwrap();
    for (name, text) in files {
        fs_err::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn config(value: Value) -> (&'static str, String) {
    (TOKENIZER_CONFIG, value.to_string())
}

#[test]
fn ids_have_no_additions_and_no_limits() {
    let dir = model_dir(&[config(json!({"eos_token": "</s>"}))]);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("user: hi there </s>").unwrap(), [3, 4, 5, 2]);
    assert_eq!(tokenizer.encode("").unwrap(), [] as [u32; 0]);
    assert_eq!(tokenizer.decode(&[1, 4, 5, 2]), "hi there");
    assert_eq!(tokenizer.decode_with_special(&[1, 4, 5, 2]), "<s> hi there </s>");
    assert_eq!(tokenizer.decode(&[4, 999]), "hi");
    assert_eq!(tokenizer.vocab_size(), 7);
    assert_eq!((tokenizer.id_to_token(6), tokenizer.id_to_token(7)), (Some("bot:".to_owned()), None));
    let bytes = fs_err::read(dir.path().join(TOKENIZER_JSON)).unwrap();
    assert_eq!(tokenizer.hash(), blake3::hash(&bytes).to_hex().to_string());
}

#[test]
fn ids_beyond_the_embedding_are_refused_by_name() {
    let rows = |rows: Value| ("config.json", json!({"vocab_size": rows}).to_string());
    let template = |text: &str| (CHAT_TEMPLATE, text.to_owned());
    let open = |files: &[(&str, String)]| {
        let dir = model_dir(&[files, &[config(json!({"eos_token": "</s>"}))]].concat());
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        (dir, tokenizer)
    };
    let (dir, tokenizer) = open(&[rows(6.into()), template("user: {{ messages[0].content }}")]);
    assert_eq!(tokenizer.encode("user: there").unwrap(), [3, 5]);
    tokenizer.check_template().unwrap();
    let message = tokenizer.encode("hi bot:").unwrap_err().to_string();
    let dir = dir.path().display().to_string();
    for part in ["token id 6 (bot:)", &dir, "6 rows", "resize"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(tokenizer.check_ids(&[5, 7]).unwrap_err().to_string().contains("token id 7"));
    // Without a number of rows nothing is refused.
    assert_eq!(open(&[rows(Value::Null)]).1.encode("bot:").unwrap(), [6]);
    // A token of the template, in every prompt or under a condition.
    let (_dir, tokenizer) = open(&[rows(6.into()), template("{{ messages[0].content }} bot:")]);
    assert!(tokenizer.check_template().unwrap_err().to_string().contains("token id 6"));
    let (_dir, tokenizer) = open(&[rows(6.into()), template("{% if tools %}bot:{% endif %}hi")]);
    tokenizer.check_template().unwrap();
}

#[test]
fn a_copied_config_gets_model_input_names_and_keeps_its_own() {
    let rows = [
        (
            r#"{"eos_token": "</s>", "a": "é"}"#,
            "{\n  \"eos_token\": \"</s>\",\n  \"a\": \"é\",\n  \"model_input_names\": [\n    \"input_ids\",\n    \
             \"attention_mask\"\n  ]\n}\n",
        ),
        (r#"{"model_input_names": ["input_ids"]}"#, r#"{"model_input_names": ["input_ids"]}"#),
        ("no JSON", "no JSON"),
    ];
    for (text, expected) in rows {
        let dir = model_dir(&[(TOKENIZER_CONFIG, text.to_owned()), (GENERATION_CONFIG, text.to_owned())]);
        for (name, expected) in [(TOKENIZER_CONFIG, expected), (GENERATION_CONFIG, text)] {
            fs_err::create_dir_all(dir.path().join("copy")).unwrap();
            let copy = dir.path().join("copy").join(name);
            copy_tokenizer_file(&dir.path().join(name), &copy).unwrap();
            assert_eq!(fs_err::read_to_string(copy).unwrap(), expected);
        }
    }
}

#[test]
fn eos_comes_from_the_first_file_that_names_it() {
    let named = config(json!({"eos_token": {"content": "</s>", "special": true}}));
    let model = ("config.json", json!({"eos_token_id": 5}).to_string());
    let generation = (GENERATION_CONFIG, json!({"eos_token_id": [2, 6]}).to_string());
    for (files, expected) in [
        (vec![named.clone()], vec![2]),
        (vec![named.clone(), model.clone()], vec![5]),
        (vec![named, model, generation], vec![2, 6]),
    ] {
        let dir = model_dir(&files);
        assert_eq!(Tokenizer::load(dir.path()).unwrap().eos_token_ids(), expected);
    }
    for (ids, expected) in [
        (json!([2, 99]), Ok(vec![2, 99])),
        (json!("2"), Err("is \"2\"")),
        (json!([]), Err("is []")),
        (json!(-1), Err("is -1")),
    ] {
        let dir = model_dir(&[
            config(json!({"eos_token": "</s>"})),
            (GENERATION_CONFIG, json!({"eos_token_id": ids}).to_string()),
        ]);
        match (Tokenizer::load(dir.path()), expected) {
            (Ok(tokenizer), Ok(expected)) => assert_eq!(tokenizer.eos_token_ids(), expected),
            (Err(error), Err(part)) => {
                let message = error.to_string();
                assert!(
                    message.contains("generation_config.json: eos_token_id ") && message.contains(part),
                    "{message}"
                );
            }
            (found, _) => panic!("{ids}: {found:?}"),
        }
    }
    let dir = model_dir(&[config(json!({"eos_token": "<nowhere>"}))]);
    let err = Tokenizer::load(dir.path()).unwrap_err();
    assert!(
        matches!(err, DatasetError::IncompleteModel { .. }) && err.to_string().contains("end-of-sequence"),
        "{err}"
    );
}

#[test]
fn the_template_comes_from_its_file_or_the_configuration() {
    let messages = [Message::new("user", "hi")];
    let entry = |template: Value| config(json!({"eos_token": "</s>", "chat_template": template}));
    let named = json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "named {{ eos_token }}"}]);
    let file = (CHAT_TEMPLATE, "file".to_owned());
    for (files, expected) in [
        (vec![entry(json!("plain {{ messages[0].content }}"))], "plain hi"),
        (vec![entry(named)], "named </s>"),
        (vec![entry(json!("plain")), file], "file"),
    ] {
        let dir = model_dir(&files);
        assert_eq!(Tokenizer::load(dir.path()).unwrap().render_chat(&messages, true).unwrap(), expected);
    }
}

#[test]
fn chats_are_encoded_up_to_the_answer() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}{% if add_generation_prompt %}bot:{% endif %}";
    let dir = model_dir(&[config(json!({"eos_token": "</s>", "chat_template": template}))]);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.encode_chat(&[Message::new("user", "hi there")]).unwrap(), [3, 4, 5, 6]);
}

#[test]
fn a_message_without_content_is_named_where_the_template_fails() {
    let template = "{% for m in messages %}{{ 'user: ' + m.content }}{% endfor %}";
    let dir = model_dir(&[config(json!({"eos_token": "</s>", "chat_template": template}))]);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let call = json!({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]});
    let messages = [Message::new("user", "hi"), serde_json::from_value(call).unwrap()];
    let message = tokenizer.encode_chat(&messages).unwrap_err().to_string();
    assert!(message.contains("failed: message 2 of the role `assistant` has no content"), "{message}");
}

#[test]
fn bad_directories_have_different_errors() {
    let eos = json!({"eos_token": "</s>"});
    let empty = tempfile::tempdir().unwrap();
    let err = Tokenizer::load(empty.path()).unwrap_err();
    assert!(
        matches!(err, DatasetError::IncompleteModel { .. }) && err.to_string().contains("no tokenizer.json"),
        "{err}"
    );

    let dir = model_dir(&[(TOKENIZER_JSON, "{\"version\":".to_owned())]);
    let err = Tokenizer::load(dir.path()).unwrap_err();
    assert!(
        matches!(err, DatasetError::Tokenizer { .. }) && err.to_string().contains(TOKENIZER_JSON),
        "{err}"
    );

    let dir = model_dir(&[(TOKENIZER_CONFIG, "{".to_owned())]);
    let err = Tokenizer::load(dir.path()).unwrap_err();
    assert!(matches!(err, DatasetError::Json { .. }) && err.to_string().contains(TOKENIZER_CONFIG), "{err}");

    let dir = model_dir(&[config(eos.clone())]);
    let err = Tokenizer::load(dir.path()).unwrap().encode_chat(&[]).unwrap_err();
    assert!(
        matches!(err, DatasetError::IncompleteModel { .. }) && err.to_string().contains("no chat template"),
        "{err}"
    );

    let dir = model_dir(&[config(eos.clone()), (CHAT_TEMPLATE, "{% for %}".to_owned())]);
    let err = Tokenizer::load(dir.path()).unwrap_err();
    assert!(matches!(err, DatasetError::ChatTemplate { .. }), "{err}");

    let dir = model_dir(&[config(eos), (CHAT_TEMPLATE, "{{ raise_exception('no') }}".to_owned())]);
    let err = Tokenizer::load(dir.path()).unwrap().encode_chat(&[]).unwrap_err();
    assert!(matches!(err, DatasetError::ChatTemplate { .. }), "{err}");
}

/// Written by scripts/golden/chat_templates.py from transformers' own rendering.
#[test]
fn conversations_read_as_transformers_writes_them() {
    let golden: Value =
        serde_json::from_str(include_str!("../../../tests/golden/chat_templates.json")).unwrap();
    let conversations: Vec<Vec<Message>> = serde_json::from_value(golden["conversations"].clone()).unwrap();
    for model in golden["templates"].as_array().unwrap() {
        let mut entries = model["special_tokens"].as_object().unwrap().clone();
        entries.insert("chat_template".to_owned(), model["template"].clone());
        let eos = (GENERATION_CONFIG, json!({"eos_token_id": 2}).to_string());
        let dir = model_dir(&[config(Value::Object(entries)), eos]);
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        for (messages, expected) in conversations.iter().zip(model["expected"].as_array().unwrap()) {
            for prompt in [true, false] {
                let text = tokenizer.render_chat(messages, prompt).unwrap();
                assert_eq!(
                    text,
                    expected[prompt.to_string()].as_str().unwrap(),
                    "{} {messages:?}",
                    model["name"]
                );
            }
        }
    }
}

/// The precedence is that of transformers 5.23.
#[test]
fn special_tokens_come_from_all_files_with_the_precedence_of_transformers() {
    let template = (CHAT_TEMPLATE, "{{ bos_token }}|{{ eos_token }}|{{ image_token }}".to_owned());
    let map = (
        "special_tokens_map.json",
        json!({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "hi"}),
    );
    let added = ("added_tokens.json", json!({"[new]": 7}));
    let decoder = json!({"7": {"content": "[own]", "special": true}});
    let own = json!({"eos_token": "</s>", "image_token": "[img]"});
    let with_decoder = json!({"eos_token": "</s>", "added_tokens_decoder": decoder});
    for (settings, text, tokens) in [
        (own, "<s>|hi|[img]", [Some("[new]"), Some("[img]")]),
        (with_decoder, "|</s>|", [Some("[own]"), None]),
    ] {
        let files = [&map, &added].map(|(name, value)| (*name, value.to_string()));
        let dir = model_dir(&[config(settings), template.clone(), files[0].clone(), files[1].clone()]);
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(tokenizer.render_chat(&[], false).unwrap(), text);
        assert_eq!([7, 8].map(|id| tokenizer.id_to_token(id)), tokens.map(|token| token.map(str::to_owned)));
        let plain = model_dir(&[config(json!({"eos_token": "</s>"}))]);
        assert_ne!(tokenizer.hash(), Tokenizer::load(plain.path()).unwrap().hash());
    }
    let dir = model_dir(&[config(json!({"eos_token": "</s>"})), ("added_tokens.json", "[]".to_owned())]);
    let message = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(message.contains("added_tokens.json"), "{message}");
}

#[test]
fn prompts_choose_the_template_its_variables_or_none() {
    let dir = model_dir(&[config(
        json!({"eos_token": "</s>", "chat_template": "{{ x }} {{ messages[0].content }}"}),
    )]);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let set = |prompts: &PromptsConfig| tokenizer.with_prompts(prompts);
    let hi = [Message::new("user", "hi")];
    let file = dir.path().join("own.jinja");
    fs_err::write(&file, "user: {{ messages[0].content }}\n").unwrap();
    let kwargs = [("x".to_owned(), json!("user:"))].into();
    let raw = PromptsConfig { raw: true, ..PromptsConfig::default() };
    for (prompts, ids) in [
        (PromptsConfig { chat_template_kwargs: kwargs, ..PromptsConfig::default() }, vec![3, 4]),
        (
            PromptsConfig { chat_template: Some("bot: {{ eos_token }}".into()), ..PromptsConfig::default() },
            vec![6, 2],
        ),
        (
            PromptsConfig { chat_template: Some(file.display().to_string()), ..PromptsConfig::default() },
            vec![3, 4],
        ),
        // With the BOS of the post-processor.
        (raw.clone(), vec![1, 4]),
    ] {
        assert_eq!(set(&prompts).unwrap().encode_chat(&hi).unwrap(), ids, "{prompts:?}");
    }
    assert_eq!(tokenizer.encode_raw("hi").unwrap(), [1, 4]);
    let two = [Message::new("system", "a"), hi[0].clone()];
    assert!(set(&raw).unwrap().encode_chat(&two).unwrap_err().to_string().contains("prompts.raw"));
    for (prompts, part) in [
        (PromptsConfig { system: Some("a".into()), ..raw.clone() }, "prompts.system"),
        (PromptsConfig { chat_template: Some("{{".into()), ..raw }, "prompts.chat_template"),
        (
            PromptsConfig { chat_template: Some("{{".into()), ..PromptsConfig::default() },
            "prompts.chat_template",
        ),
        (
            PromptsConfig { chat_template: Some("none.jinja".into()), ..PromptsConfig::default() },
            "none.jinja",
        ),
        (
            PromptsConfig {
                chat_template_kwargs: [("messages".to_owned(), json!(1))].into(),
                ..PromptsConfig::default()
            },
            "prompts.chat_template_kwargs.messages",
        ),
    ] {
        let message = set(&prompts).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

//! Files of responses as engines write them.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::prompts::Message;

fn model() -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("default/model")).unwrap()
}

fn prompt(id: &str, text: &str) -> Prompt {
    let messages = vec![Message::new("user", text)];
    Prompt { id: id.to_owned(), messages, tools: None, answer: None, response: None }
}

fn file(lines: &[String]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    fs_err::write(&path, lines.join("\n")).unwrap();
    (dir, path)
}

/// What the one row answers a prompt with.
fn take(row: &str) -> Result<Vec<u32>, String> {
    let tokenizer = model();
    let (_dir, path) = file(&[row.to_owned()]);
    let prompt = prompt("a", "2 + 2?");
    let tokens = tokenizer.encode_chat(&prompt.messages).unwrap();
    let responses = Responses::read(&path).map_err(|error| error.to_string())?;
    responses.matching().take(&prompt, &tokens, &tokenizer)
}

#[test]
fn every_format_is_read_up_to_its_end_of_sequence() {
    let tokenizer = model();
    let eos = tokenizer.eos_token_ids()[0];
    let plain = tokenizer.encode("It is 4.").unwrap();
    let ended = [plain.as_slice(), &[eos]].concat();
    let prompt_ids = tokenizer.encode_chat(&prompt("a", "2 + 2?").messages).unwrap();
    let rendered = tokenizer.render_chat(&prompt("a", "2 + 2?").messages, true).unwrap();
    let rendered = serde_json::to_string(&rendered).unwrap();
    let rows = [
        (format!("{{\"id\": \"a\", \"response_tokens\": {ended:?}}}"), &ended),
        (format!("{{\"id\": \"a\", \"response_tokens\": {plain:?}}}"), &plain),
        ("{\"id\": \"a\", \"response\": \"It is 4.\"}".to_owned(), &ended),
        ("{\"id\": \"a\", \"text\": \"It is 4.\", \"finish_reason\": \"length\"}".to_owned(), &plain),
        ("{\"prompt\": \"2 + 2?\", \"text\": \"It is 4.\", \"finish_reason\": \"stop\"}".to_owned(), &ended),
        (format!("{{\"prompt\": {rendered}, \"text\": \"It is 4.\"}}"), &ended),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"2 + 2?\"}], \"output\": \"It is 4.\"}".to_owned(),
            &ended,
        ),
        // vLLM: a request output; what comes behind the end is not taken.
        (
            format!(
                "{{\"request_id\": \"7\", \"prompt_token_ids\": {prompt_ids:?}, \"outputs\": [{{\"text\": \"It is 4.\", \
                 \"token_ids\": {:?}, \"finish_reason\": \"stop\"}}]}}",
                [ended.as_slice(), &[5]].concat()
            ),
            &ended,
        ),
        // vLLM and others: the batch format.
        (
            "{\"custom_id\": \"a\", \"response\": {\"status_code\": 200, \"body\": {\"choices\": [{\"message\": \
             {\"role\": \"assistant\", \"content\": \"It is 4.\"}, \"finish_reason\": \"stop\"}]}}}"
                .to_owned(),
            &ended,
        ),
        // Batches in the chat format without `body`, with parts, and in the responses format.
        (
            json!({"id": "b", "custom_id": "a", "error": null, "response": {"id": "c", "choices": [{"message":
                {"content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "4."}], "tool_calls": []}}]}})
            .to_string(),
            &ended,
        ),
        (
            json!({"custom_id": "a", "response": {"status_code": 200, "body": {"id": "r", "error": null, "status":
                "incomplete", "output": [{"type": "reasoning", "summary": []}, {"type": "message", "content":
                [{"type": "output_text", "text": "It is 4."}]}]}}})
            .to_string(),
            &plain,
        ),
        // A log of completions, and a message by itself.
        (
            json!({"messages": [{"from": "Human", "value": "2 + 2?"}], "response": {"id": "x", "choices":
                [{"text": "It is 4.", "finish_reason": "stop"}], "usage": {"prompt_tokens": 5}}})
            .to_string(),
            &ended,
        ),
        (json!({"id": "a", "response": {"role": "assistant", "content": "It is 4."}}).to_string(), &ended),
        // SGLang: the count of prompt tokens and the id of its own say nothing.
        (
            json!({"id": "a", "text": "It is 4.", "prompt_tokens": 5, "meta_info": {"id": "b", "prompt_tokens": 5}}).to_string(),
            &ended,
        ),
        (json!({"text": "It is 4.", "meta_info": {"id": "a"}}).to_string(), &ended),
        (
            format!(
                "{{\"id\": \"a\", \"text\": \"It is 4.\", \"output_ids\": {plain:?}, \"meta_info\": {{\"finish_reason\": \
                 {{\"type\": \"length\"}}}}}}"
            ),
            &plain,
        ),
    ];
    for (row, expected) in rows {
        assert_eq!(take(&row).as_ref(), Ok(expected), "{row}");
    }
}

#[test]
fn unusable_responses_name_their_reason() {
    let rows = [
        ("{\"id\": \"b\", \"response\": \"x\"}", "has no response to it"),
        ("{\"id\": \"a\", \"prompt_token_ids\": [5], \"response\": \"x\"}", "answers another prompt"),
        ("{\"id\": \"a\", \"response_tokens\": [99999999]}", "token id 99999999 is not in the vocabulary"),
        ("{\"id\": \"a\", \"response_tokens\": [], \"finish_reason\": \"length\"}", "it is empty"),
        ("{\"id\": \"a\", \"response_tokens\": [-1]}", "-1 is no token id"),
        ("{\"id\": \"a\", \"prompt_token_ids\": [\"x\"], \"text\": \"x\"}", "\"x\" is no token id"),
        (
            "{\"id\": \"a\"}",
            "has no responses: its columns are id, and a response is in one of response_tokens",
        ),
        ("{\"response\": \"x\"}", "line 1: neither an id nor a prompt"),
        ("{broken", "line 1: malformed JSON"),
    ];
    for (row, expected) in rows {
        let reason = take(row).unwrap_err();
        assert!(reason.contains(expected), "{row}: {reason}");
    }
}

#[test]
fn a_failed_request_fails_its_prompt_with_its_reason() {
    let body = |body: Value| json!({"custom_id": "a", "response": {"status_code": 200, "body": body}});
    let message = |fields: Value| body(json!({"choices": [{"finish_reason": "length", "message": fields}]}));
    for (row, expected) in [
        (
            json!({"custom_id": "a", "response": {"status_code": 400, "body": {"error": {"message": "too long"}}}, "error": {"code": "x"}}),
            "its request has failed: too long",
        ),
        (
            json!({"custom_id": "a", "response": null, "error": {"code": "expired", "message": null}}),
            "has failed: expired",
        ),
        (json!({"id": "a", "error": "out of memory"}), "has failed: out of memory"),
        (
            json!({"custom_id": "a", "response": {"status_code": 503, "body": ""}}),
            "has failed: status code 503",
        ),
        (
            body(json!({"object": "error", "message": "no such model", "code": 404})),
            "has failed: no such model",
        ),
        (
            json!({"id": "a", "text": "", "meta_info": {"finish_reason": {"type": "abort", "message": "too long"}}}),
            "has failed: too long",
        ),
        (json!({"id": "a", "outputs": [{"text": "x", "finish_reason": "abort"}]}), "has failed: abort"),
        (body(json!({"choices": []})), "in one of response_tokens, token_ids"),
        (
            body(json!({"choices": [{"message": {"content": "4"}, "finish_reason": "content_filter"}]})),
            "content_filter",
        ),
        (
            body(json!({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]})),
            "its text is empty",
        ),
        (json!({"id": "a", "outputs": [{"text": "", "finish_reason": "stop"}]}), "its text is empty"),
        (
            message(json!({"content": null, "refusal": "no"})),
            "its message has no content: only refusal, role",
        ),
        (
            message(json!({"content": null, "reasoning_content": "two and"})),
            "its message has no content, only `reasoning_content`, in which it was cut",
        ),
        (message(json!({"content": "", "reasoning": "two and"})), "no content, only `reasoning`"),
        (message(json!({"content": [{"type": "image_url"}]})), "a part of type `image_url`"),
        (
            message(json!({"content": "4", "reasoning": "r"})),
            "the chat template does not write its `reasoning`",
        ),
        (
            json!({"id": "a", "output": [{"type": "function_call", "name": "f"}]}),
            "a part of type `function_call`",
        ),
    ] {
        let reason = take(&row.to_string()).unwrap_err();
        assert!(reason.contains(expected), "{row}: {reason}");
    }
    // Empty errors are none.
    for error in [json!(null), json!(""), json!({}), json!([]), json!(false), json!(0)] {
        assert!(take(&json!({"id": "a", "text": "x", "error": error}).to_string()).is_ok(), "{error}");
    }
}

#[test]
fn reasoning_and_calls_are_written_as_the_template_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("default/model");
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs_err::copy(source.join(file), dir.path().join(file)).unwrap();
    }
    let template = "{% for m in messages %}{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}\
        {{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name }}!{% endfor %}\n{% endfor %}";
    fs_err::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let choice = |message: Value, finish: &str| json!({"id": "a", "choices": [{"message": message, "finish_reason": finish}]});
    for (row, expected, ends) in [
        (choice(json!({"content": "4", "reasoning": "sum"}), "stop"), "(sum)4", true),
        (choice(json!({"content": "4", "reasoning": "sum"}), "length"), "(sum)4", false),
        (
            choice(json!({"content": null, "tool_calls": [{"function": {"name": "sum"}}]}), "tool_calls"),
            "sum!",
            true,
        ),
    ] {
        let (_dir, path) = file(&[row.to_string()]);
        let tokens = Responses::read(&path)
            .unwrap()
            .matching()
            .take(&prompt("a", "2 + 2?"), &[5], &tokenizer)
            .unwrap();
        assert_eq!(tokenizer.decode(&tokens), expected);
        assert_eq!(tokens.last() == Some(&tokenizer.eos_token_ids()[0]), ends, "{row}");
    }
}

#[test]
fn an_id_that_is_a_number_is_the_text_that_prompts_have_for_it() {
    let tokenizer = model();
    for (number, id) in [("7", "7"), ("1e22", "1e+22"), ("18446744073709551616", "18446744073709551616")] {
        let (_dir, path) = file(&[format!("{{\"id\": {number}, \"text\": \"4\"}}")]);
        let responses = Responses::read(&path).unwrap();
        assert!(responses.matching().take(&prompt(id, "x"), &[], &tokenizer).is_ok(), "{number}");
    }
}

#[test]
fn the_id_decides_among_equal_prompts_and_a_good_response_comes_before_a_failed_one() {
    let tokenizer = model();
    let rows = [
        json!({"custom_id": "b", "prompt": "2 + 2?", "error": "x"}),
        json!({"id": "1", "custom_id": "b", "prompt": "2 + 2?", "text": "four"}),
        json!({"id": "2", "sample_id": "a", "request_id": "b", "prompt": "2 + 2?", "text": "4"}),
    ];
    let (_dir, path) = file(&rows.map(|row| row.to_string()));
    let responses = Responses::read(&path).unwrap();
    let mut matching = responses.matching();
    let mut text =
        |id: &str| matching.take(&prompt(id, "2 + 2?"), &[], &tokenizer).map(|ids| tokenizer.decode(&ids));
    assert_eq!((text("a").as_deref(), text("b").as_deref()), (Ok("4"), Ok("four")));
    assert!(text("c").unwrap_err().contains("has failed: x"));
}

#[test]
fn an_unusable_row_costs_no_other_and_is_named_where_a_response_is_missing() {
    let tokenizer = model();
    let lines = ["{\"id\": \"a\", \"text\": \"4\"}", "{\"text\": \"5\"}", "7", "{\"id\": \"b\", \"te"];
    let (_dir, path) = file(&lines.map(str::to_owned));
    let responses = Responses::read(&path).unwrap();
    let mut matching = responses.matching();
    assert!(matching.take(&prompt("a", "x"), &[], &tokenizer).is_ok());
    let reason = matching.take(&prompt("b", "x"), &[], &tokenizer).unwrap_err();
    let expected = "rows of the file that cannot be used: 3, the first: line 2: neither an id nor a prompt";
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn a_file_without_any_usable_response_is_refused() {
    let refused = |lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let (_dir, path) = file(&lines);
        Responses::read(&path).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refused(&[]).contains("r.jsonl holds no responses: it is empty"));
    let other = r#"{"prompt": "a", "generated": "b"}"#;
    assert!(refused(&[other, "7"]).contains("r.jsonl has no responses: its columns are prompt, generated,"));
    let failed = r#"{"id": "a", "error": "x"}"#;
    assert!(refused(&["7", failed, other]).contains("line 2: its request has failed: x; no row"));
    assert_eq!(refused(&[other, r#"{"id": "a", "text": "b"}"#]), "");
}

#[test]
fn ids_beyond_the_embedding_fail_a_response_unless_they_follow_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("default/model").join(file);
        if source.is_file() {
            fs_err::copy(source, dir.path().join(file)).unwrap();
        }
    }
    let full = model();
    let (eos, last) = (full.eos_token_ids()[0], full.vocab_size() as u32 - 1);
    fs_err::write(dir.path().join("config.json"), format!("{{\"vocab_size\": {last}}}")).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let take = |tokens: &[u32]| {
        let (_dir, path) = file(&[format!("{{\"id\": \"a\", \"response_tokens\": {tokens:?}}}")]);
        Responses::read(&path).unwrap().matching().take(&prompt("a", "2"), &[5], &tokenizer)
    };
    assert_eq!(take(&[7, eos, last]), Ok(vec![7, eos]));
    let reason = take(&[7, last, eos]).unwrap_err();
    assert!(reason.contains(&format!("token id {last} ")), "{reason}");
}

#[test]
fn equal_prompts_get_the_responses_in_their_order_each_once() {
    let tokenizer = model();
    let row = |text: &str| format!("{{\"prompt\": \"2 + 2?\", \"response\": \"{text}\"}}");
    let (_dir, path) = file(&[row("4"), row("four")]);
    let responses = Responses::read(&path).unwrap();
    let mut matching = responses.matching();
    let prompt = prompt("a", "2 + 2?");
    let texts = [0; 3].map(|_| matching.take(&prompt, &[], &tokenizer).map(|ids| tokenizer.decode(&ids)));
    assert_eq!((texts[0].as_deref(), texts[1].as_deref()), (Ok("4"), Ok("four")));
    assert!(texts[2].is_err());
}

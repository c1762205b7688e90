//! Files of responses as engines write them.

use tempfile::TempDir;

use super::*;
use crate::prompts::Message;

fn model() -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("default/model")).unwrap()
}

fn prompt(id: &str, text: &str) -> Prompt {
    let messages = vec![Message::new("user", text)];
    Prompt { id: id.to_owned(), messages, answer: None, response: None }
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
        // SGLang.
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
        ("{\"id\": \"a\", \"response_tokens\": [-1]}", "line 1: -1 is no token id"),
        ("{\"id\": \"a\"}", "line 1: neither token ids nor text"),
        ("{\"response\": \"x\"}", "line 1: neither an id nor a prompt"),
        ("{broken", "line 1: malformed JSON"),
    ];
    for (row, expected) in rows {
        let reason = take(row).unwrap_err();
        assert!(reason.contains(expected), "{row}: {reason}");
    }
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

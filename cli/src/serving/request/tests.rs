//! Tests of `request.rs`.

use super::*;

fn read(body: &str, is_chat: bool) -> Result<ApiRequest, String> {
    ApiRequest::read(body.as_bytes(), is_chat, 7).map_err(|error| error.to_string())
}

#[test]
fn requests_are_read_with_openais_defaults() {
    let asked = read(
        r#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}"#,
        true,
    );
    let asked = asked.unwrap();
    assert_eq!(asked.prompts, [Prompt::Chat(vec![Message::new("user", "a")], Map::new())]);
    assert_eq!((asked.choices, asked.stream, asked.max_tokens), (1, None, None));
    let Sampling::Random(random) = asked.sampling else { panic!("OpenAI's default is to sample") };
    assert_eq!(random, RandomSampling { seed: 7, ..RandomSampling::default() });
    let asked = read(
        r#"{"prompt": [[1, 2], [3]], "temperature": 0, "stop": "x", "seed": -1, "user": "u", "tools": []}"#,
        false,
    );
    let asked = asked.unwrap();
    assert_eq!(asked.prompts, [Prompt::Ids(vec![1, 2]), Prompt::Ids(vec![3])]);
    assert_eq!(
        (asked.max_tokens, asked.stops, asked.sampling),
        (Some(16), vec!["x".to_owned()], Sampling::Greedy)
    );
    // Greedy under a penalty: the only token of the first one.
    let asked = read(r#"{"prompt": "a", "temperature": 0, "repetition_penalty": 1.5}"#, false).unwrap();
    let Sampling::Random(random) = asked.sampling else { panic!("a penalty is needed") };
    assert_eq!((random.top_k, random.temperature, random.repetition_penalty), (1, 1.0, 1.5));
}

#[test]
fn unsupported_fields_are_refused_by_name() {
    let chat = |more: &str| format!(r#"{{"messages": [{{"role": "user", "content": "a"}}]{more}}}"#);
    let rows = [
        ("[".to_owned(), "not a request"),
        ("{}".to_owned(), "has messages"),
        (chat(r#", "prompt": "b""#), "has messages, and no prompt"),
        (r#"{"messages": []}"#.to_owned(), "messages is empty"),
        (r#"{"messages": [{"role": "user", "content": "a", "tool_calls": []}]}"#.to_owned(), "tool_calls"),
        (r#"{"messages": [{"role": "user", "content": "a", "name": "b"}]}"#.to_owned(), "messages[0].name"),
        (r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#.to_owned(), "image_url"),
        (chat(r#", "temperature": 3"#), "temperature is 3; it must lie between 0 and 2"),
        (chat(r#", "top_p": 0"#), "top_p is 0"),
        (chat(r#", "n": 17"#), "n is 17"),
        (chat(r#", "n": 0"#), "n is 0"),
        (chat(r#", "max_tokens": 0"#), "max_tokens is 0"),
        (
            chat(r#", "max_tokens": -1"#),
            "not a request: invalid value: integer `-1`, expected a whole number at",
        ),
        (chat(r#", "top_p": "x""#), "expected a number at"),
        (chat(r#", "stop": 1"#), "stop is text, or a list of texts"),
        (
            r#"{"messages": [{"role": "user", "content": null}]}"#.to_owned(),
            "content of a message is text, or a list",
        ),
        (chat(r#", "stop": [""]"#), "texts of 1 to 256 bytes"),
        (chat(r#", "presence_penalty": 0.5"#), "presence_penalty is not supported"),
        (chat(r#", "tools": [{}]"#), "tools is not supported"),
        (chat(r#", "chat_template_kwargs": {"tools": []}"#), "chat_template_kwargs.tools is not supported"),
        (chat(r#", "temprature": 0"#), "temprature is an unknown field"),
        (chat(r#", "jacobi": {"decoder": "fast"}"#), "jacobi.decoder is \"fast\""),
    ];
    for (body, expected) in rows {
        let message = read(&body, true).unwrap_err();
        assert!(message.contains(expected), "{body}: {message}");
    }
    for (body, expected) in [
        (r#"{"prompt": ["a", "b", "c"], "n": 6}"#, "1 to 16 answers"),
        (r#"{"messages": []}"#, "has a prompt"),
        (r#"{"prompt": "a", "chat_template_kwargs": {"a": 1}}"#, "is for chat requests"),
    ] {
        let message = read(body, false).unwrap_err();
        assert!(message.contains(expected), "{body}: {message}");
    }
    assert!(
        read(
            &chat(r#", "presence_penalty": 0.0, "logprobs": false, "response_format": {"type": "text"}"#),
            true
        )
        .is_ok()
    );
}

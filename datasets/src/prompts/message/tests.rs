//! Turns in every form, good and bad; their text in templates against transformers.

use serde_json::json;

use super::*;
use crate::prompts::row::hash;
use crate::tokenizer::{Chat, Tokenizer};

fn read(turn: Value) -> Result<Value, String> {
    Message::read(&turn, &RoleMap::new()).map(|message| serde_json::to_value(message).unwrap())
}

#[test]
fn turns_of_every_form_keep_their_fields_except_nulls() {
    let call = json!([{"function": {"name": "f", "arguments": {"a": null}}}]);
    for (turn, expected) in [
        (json!({"content": "hi", "role": "user"}), json!({"content": "hi", "role": "user"})),
        (
            json!({"from": "human", "value": "hi", "weight": 0.5}),
            json!({"role": "user", "content": "hi", "weight": 0.5}),
        ),
        (
            json!({"speaker": "Bot", "text": "hi", "train": false}),
            json!({"role": "assistant", "content": "hi", "train": false}),
        ),
        (
            json!({"role": null, "from": "gpt", "content": null, "value": "hi"}),
            json!({"role": "assistant", "content": "hi"}),
        ),
        // The first names win; others are fields like all others.
        (
            json!({"role": "user", "from": "x", "content": "hi", "text": "y"}),
            json!({"role": "user", "from": "x", "content": "hi", "text": "y"}),
        ),
        (
            json!({"role": "assistant", "content": null, "tool_calls": call, "value": 0.5}),
            json!({"role": "assistant", "tool_calls": call, "value": 0.5}),
        ),
        (json!({"role": "assistant", "reasoning": "r"}), json!({"role": "assistant", "reasoning": "r"})),
        (
            json!({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}),
            json!({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}),
        ),
        (
            json!({"role": "tool", "tool_call_id": "c", "content": null}),
            json!({"role": "tool", "tool_call_id": "c"}),
        ),
        (
            json!({"role": "user", "content": ["a", {"text": "b"}, {"type": "input_text", "text": "c", "image": null}]}),
            json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b", "type": "text"},
                {"type": "text", "text": "c"}]}),
        ),
        (
            json!({"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}", "weight": 1}),
            json!({"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f",
                "arguments": {"a": 1}}}], "weight": 1}),
        ),
        (
            json!({"role": "Tool-Call", "content": "[{\"name\": \"f\", \"arguments\": \"{}\"}]"}),
            json!({"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f",
                "arguments": "{}"}}]}),
        ),
    ] {
        // As text, since the order of the fields counts.
        assert_eq!(read(turn.clone()).map(|read| read.to_string()), Ok(expected.to_string()), "{turn}");
    }
}

#[test]
fn unusable_turns_name_their_field() {
    for (turn, expected) in [
        (json!("hi"), "is text, not an object"),
        (json!({}), "has no role: it has no fields"),
        (json!({"content": "hi", "n": 1, "x": null}), "has no role: only content, n"),
        (json!({"role": 1, "content": "hi"}), "has a `role` that is not text"),
        (json!({"role": "model", "parts": [{"text": "hi"}]}), "has no content: only role, parts"),
        (
            json!({"role": "assistant", "content": null, "tool_calls": []}),
            "has no content: only role, tool_calls",
        ),
        (json!({"role": "user", "content": 4}), "has a `content` that is a number, not text"),
        (json!({"role": "user", "content": {"type": "text"}}), "has a `content` that is an object, not text"),
        (
            json!({"from": "human", "value": [{"type": "text", "text": "a"}, {"type": "image", "image": "x.png"}]}),
            "has a `value` with a part of type `image`: only text can be read",
        ),
        (
            json!({"role": "user", "content": [{"type": "image_url", "text": "a"}]}),
            "has a `content` with a part of type `image_url`: only text can be read",
        ),
        (
            json!({"role": "user", "content": [{"type": "text", "text": null}]}),
            "has a `content` with a part of type `text` that has no text",
        ),
        (json!({"role": "user", "content": [4]}), "has a `content` with a part that is not text"),
        (
            json!({"from": "function_call", "value": "f(1)"}),
            "is a `function_call` whose `value` is not the JSON of a name and arguments: it is text, but not JSON",
        ),
        (
            json!({"from": "function_call", "value": "{\"name\": \"f\"}"}),
            "is a `function_call` whose `value` is not the JSON of a name and arguments",
        ),
        (
            json!({"role": "tool_call", "content": []}),
            "is a `tool_call` whose `content` is not the JSON of a name and arguments",
        ),
    ] {
        let reason = read(turn.clone()).unwrap_err();
        assert!(reason.contains(expected), "{turn}: {reason}");
    }
}

#[test]
fn roles_are_known_by_many_names_and_by_those_of_the_map() {
    let map: RoleMap = [
        ("Bing".to_owned(), Role::Assistant),
        ("critic".to_owned(), Role::User),
        ("gpt".to_owned(), Role::Tool),
    ]
    .into();
    for (name, plain, mapped) in [
        ("HUMAN", "user", "user"),
        ("user ", "user", "user"),
        ("prompter", "user", "user"),
        ("Model", "assistant", "assistant"),
        ("ChatGPT", "assistant", "assistant"),
        ("gpt", "assistant", "tool"),
        ("System", "system", "system"),
        ("developer", "developer", "developer"),
        ("function", "function", "function"),
        ("function-response", "tool", "tool"),
        ("observation", "tool", "tool"),
        ("bing", "bing", "assistant"),
        ("Critic", "Critic", "user"),
        ("laguna_s", "laguna_s", "laguna_s"),
    ] {
        for (roles, expected) in [(&RoleMap::new(), plain), (&map, mapped)] {
            let message = Message::read(&json!({"from": name, "value": "x"}), roles).unwrap();
            assert_eq!(message.role(), expected, "{name}");
        }
    }
}

#[test]
fn a_closing_turn_of_unknown_role_is_no_prompt() {
    let turns =
        |roles: &[&str]| -> Vec<Message> { roles.iter().map(|role| Message::new(*role, *role)).collect() };
    for (roles, left, answer) in [
        (&["user", "assistant"][..], 1, Ok(Some("assistant"))),
        (&["user", "assistant", "tool"][..], 3, Ok(None)),
        (&["user", "bing", "user"][..], 3, Ok(None)),
        (&[][..], 0, Ok(None)),
        (&["user", "bing"][..], 2, Err("`m`, message 2: the closing turn has the unknown role `bing`")),
    ] {
        let mut messages = turns(roles);
        match (take_answer("m", &mut messages), answer) {
            (Ok(taken), Ok(answer)) => assert_eq!(taken.as_ref().map(Message::role), answer, "{roles:?}"),
            (Err(reason), Err(part)) => {
                assert!(reason.contains(part) && reason.contains("prompts.role_map"), "{reason}");
            }
            (taken, _) => panic!("{roles:?}: {taken:?}"),
        }
        assert_eq!(messages.len(), left, "{roles:?}");
    }
}

#[test]
fn successive_function_calls_are_one_turn_and_a_closing_one_is_the_response() {
    let call = |name: &str| json!({"from": "function_call", "value": json!({"name": name, "arguments": {}}).to_string()});
    let other =
        json!({"from": "function_call", "value": "{\"name\": \"h\", \"arguments\": {}}", "weight": 0});
    let turns = json!([{"from": "human", "value": "u"}, call("f"), call("g"), other, {"from": "observation", "value": "o"}, call("f")]);
    let mut messages = read_all("m", &turns, &RoleMap::new()).unwrap();
    let names = |message: &Message| -> Vec<String> {
        let calls = message.0.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
        calls.map(|call| call["function"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        take_answer("m", &mut messages).unwrap().map(|answer| names(&answer)),
        Some(vec!["f".to_owned()])
    );
    let found: Vec<_> =
        messages.iter().map(|message| (message.role().to_owned(), names(message).join(" "))).collect();
    let expected = [("user", ""), ("assistant", "f g"), ("assistant", "h"), ("tool", "")];
    assert_eq!(found, expected.map(|(role, names)| (role.to_owned(), names.to_owned())));
    // Whoever gives the role a meaning has the text as it is.
    let map: RoleMap = [("function_call".to_owned(), Role::Assistant)].into();
    assert_eq!(Message::read(&call("f"), &map).unwrap().text(), r#"{"name":"f","arguments":{}}"#);
}

#[test]
fn text_is_read_and_replaced_in_either_form() {
    let mut text = Message::new("user", "ab");
    let turn =
        json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
    let mut parts = Message::read(&turn, &RoleMap::new()).unwrap();
    for message in [&mut text, &mut parts] {
        assert_eq!(message.text(), "ab");
        message.set_text("c".to_owned());
        assert_eq!(message.text(), "c");
    }
    assert_eq!(text, Message::new("user", "c"));
    assert!(parts.has_parts());
}

#[test]
fn different_conversations_have_different_digests() {
    let read = |turn: Value| Message::read(&turn, &RoleMap::new()).unwrap();
    let user = || read(json!({"role": "user", "content": "a"}));
    let tool = [json!({"name": "f"})];
    let chats: [(Vec<Message>, Option<&[Value]>); 9] = [
        (vec![user()], None),
        (vec![user()], Some(&[])),
        (vec![user()], Some(&tool)),
        (vec![user(), user()], None),
        (vec![read(json!({"role": "user", "content": "a", "name": "n"}))], None),
        (vec![read(json!({"role": "user", "content": [{"type": "text", "text": "a"}]}))], None),
        (vec![read(json!({"role": "assistant", "content": "", "tool_calls": [1]}))], None),
        (vec![read(json!({"role": "assistant", "tool_calls": [1]}))], None),
        (vec![read(json!({"role": "assistant", "tool_calls": [2]}))], None),
    ];
    for (index, (messages, tools)) in chats.iter().enumerate() {
        for (other, more) in &chats[..index] {
            assert_ne!(hash(messages, *tools), hash(other, *more), "{messages:?} {other:?}");
        }
    }
    // The ids of rows without an id column: as ever.
    assert_eq!(hash(&[Message::new("user", "a")], None).to_hex()[..16], *"d167ce7a1abca1f1");
}

/// Written by scripts/golden/conversations.py from transformers' own rendering.
#[test]
fn conversations_with_tools_and_reasoning_read_as_transformers_writes_them() {
    let golden: Value =
        serde_json::from_str(include_str!("../../../../tests/golden/conversations.json")).unwrap();
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("default/model");
    let mut compared = 0;
    for model in golden["templates"].as_array().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["tokenizer.json", "generation_config.json"] {
            fs_err::copy(source.join(file), dir.path().join(file)).unwrap();
        }
        fs_err::write(dir.path().join("chat_template.jinja"), model["template"].as_str().unwrap()).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let rows = golden["rows"].as_array().unwrap().iter();
        for (row, expected) in rows.zip(model["expected"].as_array().unwrap()) {
            let Some(expected) = expected.as_str() else { continue };
            let messages = read_all("messages", &row["messages"], &RoleMap::new()).unwrap();
            let tools = row["tools"].as_array().map(Vec::as_slice);
            let text = tokenizer.render_chat(Chat { messages: &messages, tools }, true).unwrap();
            assert_eq!(text, expected, "{} {row}", model["name"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 28);
}

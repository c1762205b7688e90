//! Rows with conversations: messages, tools, system messages and responses from their columns.

use serde_json::json;

use super::*;
use crate::prompts::Role;

/// The prompt of a row under settings of `[prompts]` as JSON.
fn prompt(row: Value, settings: Value) -> Result<Prompt, String> {
    let config: PromptsConfig = serde_json::from_value(settings).unwrap();
    let templates = Templates::of(&config).unwrap();
    let Value::Object(columns) = row else { panic!("{row}") };
    to_prompt(&config, &templates, &Row { file: None, at: Place::Line(7), columns })
        .map_err(|bad| bad.to_string())
}

fn turns(prompt: &Prompt) -> String {
    let turns = prompt.messages.iter().map(|message| format!("[{}]{}", message.role(), message.text()));
    turns.collect::<String>()
}

#[test]
fn conversations_are_lists_or_their_json_text() {
    let list = json!([{"from": "human", "value": "hi"}, {"from": "bing", "value": "hello"}]);
    let settings = json!({"messages_column": "m", "role_map": {"bing": "assistant"}});
    let of_python = list.to_string().replacen('{', "{\"weight\": NaN, ", 1);
    for messages in [list.clone(), list.to_string().into(), of_python.into()] {
        let prompt = prompt(json!({"m": messages}), settings.clone()).unwrap();
        assert_eq!(turns(&prompt), "[user]hi");
        assert_eq!(prompt.response, Some(Message::new("assistant", "hello")));
    }
    for (row, expected) in [
        (json!({"m": list}), "line 7: `m`, message 2: the closing turn has the unknown role `bing`"),
        (json!({"m": "hi"}), "line 7: `m` is text, but not JSON"),
        (json!({"m": "{}"}), "line 7: `m` is an object, not a list of messages"),
        (
            json!({"m": [{"role": "user", "content": "hi"}, {"role": "user"}]}),
            "line 7: `m`, message 2: it has no content",
        ),
        (json!({"m": [{"role": "user", "content": ""}]}), "the prompt is empty"),
    ] {
        let reason = prompt(row.clone(), json!({"messages_column": "m"})).unwrap_err();
        assert!(reason.contains(expected), "{row}: {reason}");
    }
}

#[test]
fn a_closing_tool_call_is_the_response_with_its_call() {
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]});
    let row = json!({"m": [{"role": "user", "content": "hi"}, call]});
    let prompt = prompt(row, json!({"messages_column": "m"})).unwrap();
    assert_eq!(turns(&prompt), "[user]hi");
    assert_eq!(prompt.response.unwrap().first_of(&["tool_calls"]), Some("tool_calls"));
}

#[test]
fn tools_come_from_their_column() {
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let row = |tools: Value| json!({"m": [{"role": "user", "content": "hi"}], "prompt": "hi", "tools": tools, "fs": [tool]});
    let tools = |tools: Value, settings: Value| {
        prompt(row(tools), settings).map(|prompt| prompt.tools.map(Value::from))
    };
    let default = || json!({"messages_column": "m"});
    for given in [json!([tool]), json!([tool]).to_string().into(), json!([tool.to_string()])] {
        assert_eq!(tools(given, default()), Ok(Some(json!([tool]))));
    }
    assert_eq!(tools(json!([]), default()), Ok(Some(json!([]))));
    for none in [json!(null), json!(""), json!("null")] {
        assert_eq!(tools(none, default()), Ok(None));
    }
    assert_eq!(
        tools(json!(3), json!({"messages_column": "m", "tools_column": "fs"})),
        Ok(Some(json!([tool])))
    );
    assert_eq!(tools(json!(3), json!({"messages_column": "m", "tools_column": ""})), Ok(None));
    assert_eq!(tools(json!(3), json!({})), Ok(None));
    assert_eq!(tools(json!([tool]), json!({"tools_column": "tools"})), Ok(Some(json!([tool]))));
    for (wrong, expected) in [
        (json!(3), "`tools` has a number, not a list of JSON Schemas"),
        (json!({}), "`tools` has an object, not a list of JSON Schemas"),
        (json!([3]), "prompts.tools_column"),
        (json!("f, g"), "`tools` is text, but not JSON"),
    ] {
        let reason = tools(wrong, default()).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_system_message_comes_from_the_conversation_its_column_or_the_recipe() {
    let user = json!({"role": "user", "content": "hi"});
    let text = |first: Option<&str>, column: Value, settings: Value| {
        let first = first.map(|role| json!({"role": role, "content": "first"}));
        let messages: Vec<Value> = first.into_iter().chain([user.clone()]).collect();
        let mut config = json!({"messages_column": "m", "system": "recipe"});
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        prompt(json!({"m": messages, "system": column, "s": "other"}), config).map(|prompt| turns(&prompt))
    };
    for (first, column, settings, expected) in [
        (Some("system"), json!(null), json!({}), "[system]first[user]hi"),
        (Some("system"), json!("first"), json!({}), "[system]first[user]hi"),
        (Some("developer"), json!("column"), json!({"system_column": ""}), "[developer]first[user]hi"),
        (None, json!("column"), json!({}), "[system]column[user]hi"),
        (None, json!("column"), json!({"system_column": "s"}), "[system]other[user]hi"),
        (None, json!("column"), json!({"system_column": ""}), "[system]recipe[user]hi"),
        (None, json!(null), json!({}), "[system]recipe[user]hi"),
        (None, json!(""), json!({"system": null}), "[user]hi"),
    ] {
        assert_eq!(text(first, column, settings).as_deref(), Ok(expected));
    }
    for (first, column, expected) in [
        (None, json!(3), "`system` is a number, not text"),
        (Some("system"), json!("column"), "`system` is not the system message of the conversation"),
    ] {
        let reason = text(first, column, json!({})).unwrap_err();
        assert!(reason.contains(expected) && reason.contains("prompts.system_column"), "{reason}");
    }
}

#[test]
fn a_response_column_holds_text_or_one_message() {
    let response = |column: Value| {
        let settings = json!({"response_column": "r"});
        prompt(json!({"prompt": "hi", "r": column}), settings).map(|prompt| prompt.response.unwrap())
    };
    let message = json!({"role": "assistant", "content": "a", "reasoning_content": "b"});
    assert_eq!(response(json!("a")), Ok(Message::new("assistant", "a")));
    assert_eq!(
        response(json!([message])).map(Message::into_fields),
        Ok(message.as_object().unwrap().clone())
    );
    for wrong in [json!([]), json!([message, message]), json!([{"role": "user", "content": "a"}])] {
        let reason = response(wrong).unwrap_err();
        assert!(reason.contains("`r` is a list, but not of one message"), "{reason}");
    }
}

#[test]
fn roles_of_the_map_are_checked_with_the_recipe() {
    let config: PromptsConfig = serde_json::from_value(json!({"role_map": {"bing": "assistant"}})).unwrap();
    assert_eq!(config.role_map.get("bing"), Some(&Role::Assistant));
    assert!(serde_json::from_value::<PromptsConfig>(json!({"role_map": {"bing": "assistent"}})).is_err());
}

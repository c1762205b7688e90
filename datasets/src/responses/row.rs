//! One row of a file of responses, in any of its formats.

use super::*;

const IDS: &[&str] = &["custom_id", "sample_id", "id", "request_id"];
const PROMPT_TOKENS: &[&str] = &["prompt_token_ids", "prompt_tokens", "input_ids"];
const TOKENS: &[&str] = &["response_tokens", "token_ids", "output_ids", "output_token_ids"];
const TEXTS: &[&str] = &["response", "text", "output", "generated_text", "completion"];
/// Finish reasons of a request that has failed, or whose response was withheld.
const FAILED: [&str; 3] = ["abort", "error", "content_filter"];
/// The reason of a row without any of the keys of a response.
pub(super) const NO_RESPONSE: &str = "neither token ids nor text of a response";

/// The keys by which a response is found, for messages.
pub(super) fn names_of_responses() -> String {
    let names = TOKENS.iter().chain(&["message"]).chain(TEXTS).chain(&["outputs", "choices"]);
    names.copied().collect::<Vec<_>>().join(", ")
}

type Object = Map<String, Value>;

/// The response of a row and the keys that match it to its prompt.
///
/// # Errors
/// A row that names no prompt.
pub(super) fn read(row: &Object) -> Result<(Entry, Vec<Key>), String> {
    let objects = objects_of(row);
    let find = |keys: &[&str]| find_in(&objects, keys);
    let reason = find(&["finish_reason"]);
    let is_cut = || find(&["status"]).is_some_and(|status| status == "incomplete");
    let finish = reason.and_then(word).or_else(|| is_cut().then_some("length")).map(str::to_owned);
    let mut content = match failure(row, reason) {
        Some(failure) => Err(failure),
        None => content(&objects, finish.as_deref()),
    };
    let mut keys = Vec::new();
    // A number is a count.
    if let Some(tokens) = values_of(&objects, PROMPT_TOKENS).find(|tokens| tokens.is_array()) {
        match ids(tokens) {
            Ok(tokens) => keys.push(Key::PromptTokens(tokens)),
            Err(reason) => content = Err(format!("the tokens of its prompt: {reason}")),
        }
    }
    keys.extend(find(&["messages"]).and_then(hash_of_messages).map(Key::Messages));
    let has_prompt = !keys.is_empty();
    keys.extend(find(&["prompt"]).and_then(Value::as_str).map(|text| Key::PromptText(text.to_owned())));
    let id = find_in(&[row], IDS).or_else(|| find(IDS)).and_then(text_of);
    keys.extend(id.clone().map(Key::Id));
    if keys.is_empty() {
        return Err("neither an id nor a prompt to match it by".to_owned());
    }
    Ok((Entry { content, finish, id, has_prompt }, keys))
}

/// The objects of a row that can hold the keys, innermost first.
fn objects_of(row: &Object) -> Vec<&Object> {
    let response = within(row, "response");
    let body = response.and_then(|response| within(response, "body"));
    let mut objects = Vec::new();
    for outer in [body, response, Some(row)].into_iter().flatten() {
        for list in ["outputs", "choices"] {
            objects.extend(outer.get(list).and_then(|list| list.get(0)).and_then(Value::as_object));
        }
        objects.extend(within(outer, "meta_info"));
    }
    objects.extend([body, response, Some(row)].into_iter().flatten());
    objects
}

fn within<'a>(object: &'a Object, key: &str) -> Option<&'a Object> {
    object.get(key).and_then(Value::as_object)
}

/// The first non-null value of any of `keys`, object by object.
fn find_in<'a>(objects: &[&'a Object], keys: &[&str]) -> Option<&'a Value> {
    values_of(objects, keys).find(|value| !value.is_null())
}

/// The values of `keys`, object by object.
fn values_of<'a>(objects: &[&'a Object], keys: &[&str]) -> impl Iterator<Item = &'a Value> {
    objects.iter().flat_map(|object| keys.iter().filter_map(|key| object.get(*key)))
}

/// Why the request of a row has failed, if it has.
fn failure(row: &Object, finish: Option<&Value>) -> Option<String> {
    let response = row.get("response").unwrap_or(&Value::Null);
    let body = &response["body"];
    let message = |error: &Value| {
        let found = [&error["message"], &error["code"], error].into_iter().find_map(text_of);
        found.unwrap_or_else(|| error.to_string())
    };
    let errors = [&body["error"], &response["error"], row.get("error").unwrap_or(&Value::Null)];
    let is_error = |error: &&Value| match error {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(code) => code.as_f64() != Some(0.0),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) => true,
    };
    let status = response["status_code"].as_u64().filter(|status| !(200..300).contains(status));
    let aborted = finish.and_then(word).filter(|word| FAILED.contains(word));
    let reason = if let Some(error) = errors.into_iter().find(is_error) {
        message(error)
    } else if body["object"] == "error" {
        message(body)
    } else if let Some(status) = status {
        format!("status code {status}")
    } else {
        let said = finish.and_then(|reason| reason["message"].as_str());
        said.or(aborted).filter(|_| aborted.is_some())?.to_owned()
    };
    Some(format!("its request has failed: {reason}"))
}

fn content(objects: &[&Object], finish: Option<&str>) -> Result<Content, String> {
    if let Some(tokens) = find_in(objects, TOKENS) {
        return ids(tokens).map(Content::Tokens);
    }
    let whole = find_in(objects, &["response", "completion"]).filter(|value| !value["content"].is_null());
    if let Some(message) = find_in(objects, &["message"]).filter(|message| message.is_object()).or(whole) {
        return answer(message, finish).map(Content::Message);
    }
    let text = values_of(objects, TEXTS).find(|value| value.is_string() || value.is_array());
    let text = text.ok_or(NO_RESPONSE)?;
    let text = text.as_array().map_or_else(|| text.clone(), |items| items.iter().flat_map(parts).collect());
    answer(&serde_json::json!({ "content": text }), finish).map(Content::Message)
}

/// The parts of an item of OpenAI's responses format; any other value is a part itself.
fn parts(item: &Value) -> Vec<Value> {
    let is_empty = |key: &str| item[key].as_array().is_none_or(Vec::is_empty);
    match item["type"].as_str() {
        Some("message") => item["content"].as_array().cloned().unwrap_or_default(),
        Some("reasoning") if is_empty("content") && is_empty("summary") => Vec::new(),
        _ => vec![item.clone()],
    }
}

/// The message of an answer.
fn answer(message: &Value, finish: Option<&str>) -> Result<Message, String> {
    let mut message = message.clone();
    if let Some(fields) = message.as_object_mut() {
        fields.insert("role".to_owned(), "assistant".into());
    }
    let message =
        Message::read(&message, &RoleMap::new()).map_err(|reason| format!("its message {reason}"))?;
    if !message.text().is_empty() || message.first_of(&["tool_calls", "function_call"]).is_some() {
        return Ok(message);
    }
    Err(match message.first_of(&["reasoning_content", "reasoning", "thinking"]) {
        Some(name) => format!(
            "its message has no content, only `{name}`{}",
            if finish == Some("length") { ", in which it was cut" } else { "" }
        ),
        None => {
            "its text is empty (a response that is only an end-of-sequence token needs token ids)".to_owned()
        }
    })
}

/// A finish reason as a word.
fn word(reason: &Value) -> Option<&str> {
    reason.as_str().or_else(|| reason["type"].as_str())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number_text(number)),
        _ => None,
    }
}

fn ids(value: &Value) -> Result<Vec<u32>, String> {
    let list = value.as_array().ok_or("token ids are not a list")?;
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    list.iter().map(|value| id(value).ok_or_else(|| format!("{value} is no token id"))).collect()
}

//! Given answers as chat templates write them.

use serde_json::{Value, json};

use super::*;
use crate::prompts::RoleMap;

/// Reasoning, text and calls between the marks of a turn.
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}\
    {{ m.content or '' }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}</call>{% endfor %}</{{ m.role }}>{% endfor %}\
    {% if add_generation_prompt %}<assistant>{% endif %}";

fn answer(template: &str, fields: Value) -> Result<String, String> {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("default/model");
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs_err::copy(source.join(file), dir.path().join(file)).unwrap();
    }
    fs_err::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let mut message = json!({"role": "assistant"});
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let message = Message::read(&message, &RoleMap::new()).unwrap();
    Tokenizer::load(dir.path()).unwrap().answer_text(&[Message::new("user", "hi")], &message)
}

#[test]
fn an_answer_is_its_content_or_what_the_template_writes_for_more() {
    let calls = json!([{"function": {"name": "f"}}]);
    let until_eos = TEMPLATE.replace("</{{ m.role }}>", "{{ eos_token }}{{ m.content | length }}");
    for (template, fields, expected) in [
        (TEMPLATE, json!({"content": " 4 "}), " 4 "),
        ("{{ raise_exception('unused') }}", json!({"content": "4", "tool_calls": [], "reasoning": ""}), "4"),
        (TEMPLATE, json!({"content": "4", "reasoning_content": "r"}), "<think>r</think>4"),
        (TEMPLATE, json!({"content": "4", "reasoning": "r"}), "<think>r</think>4"),
        (TEMPLATE, json!({"content": null, "tool_calls": calls}), "<call>f</call>"),
        (
            TEMPLATE,
            json!({"content": "4", "thinking": "r", "tool_calls": calls}),
            "<think>r</think>4<call>f</call>",
        ),
        (until_eos.as_str(), json!({"content": "4", "tool_calls": calls}), "4<call>f</call>"),
    ] {
        assert_eq!(answer(template, fields.clone()).as_deref(), Ok(expected), "{fields}");
    }
}

#[test]
fn a_field_that_the_template_does_not_write_is_refused_by_name() {
    let plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let shifted = TEMPLATE.replace("<assistant>{% endif %}", "<assistant><think>{% endif %}");
    for (template, fields, expected) in [
        (plain, json!({"content": "4", "reasoning_content": "r"}), "does not write its `reasoning_content`"),
        (plain, json!({"content": "4", "reasoning": "r"}), "does not write its `reasoning`"),
        (plain, json!({"content": "", "tool_calls": [1]}), "does not write its `tool_calls`"),
        (
            TEMPLATE,
            json!({"content": "4", "reasoning": "r", "function_call": {"name": "f"}}),
            "its `function_call`",
        ),
        (
            shifted.as_str(),
            json!({"content": "4", "tool_calls": [{"function": {"name": "f"}}]}),
            "as a continuation of the prompt",
        ),
        ("{{ raise_exception('no') }}", json!({"content": "4", "reasoning": "r"}), "no"),
    ] {
        let reason = answer(template, fields.clone()).unwrap_err();
        assert!(reason.contains(expected), "{fields}: {reason}");
    }
}

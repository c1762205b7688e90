//! Content in parts under templates of both kinds.

use serde_json::json;

use super::super::chat_template::ChatTemplate;
use super::*;
use crate::prompts::RoleMap;

#[test]
fn a_template_gets_parts_if_it_reads_them_and_else_their_text() {
    let turn = |role: &str, parts: &[&str]| {
        let parts: Vec<_> = parts.iter().map(|text| json!({"type": "text", "text": text})).collect();
        Message::read(&json!({"role": role, "content": parts}), &RoleMap::new()).unwrap()
    };
    let messages = [turn("system", &["be ", "terse"]), Message::new("user", "hi"), turn("user", &["a", "b"])];
    let each = |body: &str| format!("{{% for m in messages %}}[{{{{ m.role }}}}]{body}{{% endfor %}}");
    let loops = "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}";
    for (body, expected) in [
        // Reads parts.
        (loops, "[system]<be ><terse>[user]hi[user]<a><b>"),
        (
            "{% if m.content is not string %}{% for p in m.content %}{{ p.text }},{% endfor %}{% endif %}",
            "[system]be ,terse,[user][user]a,b,",
        ),
        (
            "{{ m.content if m.content is string else m.content | map(attribute='text') | join('+') }}",
            "[system]be +terse[user]hi[user]a+b",
        ),
        // Writes the list itself, or fails on it, or passes over it.
        ("{{ m.content }}", "[system]be terse[user]hi[user]ab"),
        ("text: {{ m.content }}", "[system]text: be terse[user]text: hi[user]text: ab"),
        ("{{ m.content | tojson }}", "[system]\"be terse\"[user]\"hi\"[user]\"ab\""),
        ("{{ m.content.strip() ~ '.' }}", "[system]be terse.[user]hi.[user]ab."),
        ("{% if m.content is string %}{{ m.content }}{% endif %}", "[system]be terse[user]hi[user]ab"),
        // Shows neither.
        ("", "[system][user][user]"),
    ] {
        let template = ChatTemplate::new(&each(body), Vec::new()).unwrap();
        let chat = Chat { messages: &messages, tools: None };
        let by_template = |chat: Chat, add| template.render(chat, add, &serde_json::Map::new());
        assert_eq!(render(&by_template, chat, true).unwrap(), expected, "{body}");
    }
}

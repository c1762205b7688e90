//! Templates as transformers renders them, and their errors.

use super::*;

fn render(source: &str, messages: &[Message]) -> Result<String, Error> {
    let tokens =
        vec![("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
    ChatTemplate::new(source, tokens)?.render(messages.into(), true, &Map::new())
}

#[test]
fn templates_have_what_transformers_gives_them() {
    let messages = [Message::new("user", " a \"é\" <b> "), Message::new("assistant", "yes")];
    for (source, expected) in [
        ("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}", "<s>|</s>|"),
        ("{{ messages[0].content.strip().upper() }}", "A \"É\" <B>"),
        ("{{ messages[0]['content'] | trim }}", "a \"é\" <b>"),
        ("{{ messages[1] | tojson }}", r#"{"role": "assistant", "content": "yes"}"#),
        ("{{ messages[0].content | tojson }}", r#"" a \"é\" <b> ""#),
        ("{{ [1, true, none] | tojson }}", "[1, true, null]"),
        ("{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}"),
        ("{{ add_generation_prompt }}", "True"),
        ("{% if tools is none %}none{% endif %}", "none"),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
            "assistant",
        ),
        ("x\n  {% if true %}\ny\n  {% endif %}\nz\n", "x\ny\nz"),
        ("a {%- generation %} b {% endgeneration -%} c", "a b c"),
        ("{%generation%}b{%-endgeneration-%}", "b"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
    ] {
        assert_eq!(render(source, &messages).unwrap(), expected, "{source}");
    }
}

#[test]
fn errors_carry_the_message_of_the_template() {
    let err = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
    assert!(err.to_string().contains("roles must alternate"), "{err}");
    for malformed in ["{% if %}", "{%}", "{%", "{%}{% generation %}", "{#}", "{% raw %}{%}"] {
        assert!(render(malformed, &[]).is_err(), "{malformed}");
    }
}

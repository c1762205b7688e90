//! Prompts and answers as Jinja templates over the columns of a row.

use minijinja::value::{Serde, Value as JinjaValue};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{PromptsConfig, arrow_value};
use crate::error::DatasetError;
use crate::jinja::{self, Kind, Unread};

/// The templates of a configuration, parsed.
pub(super) struct Templates {
    /// The user's text, in place of a column.
    pub(super) prompt: Option<Template>,
    /// The reference answer, in place of a column.
    pub(super) answer: Option<Template>,
    /// A given response, in place of a column.
    pub(super) response: Option<Template>,
}

impl Templates {
    /// # Errors
    /// `Template`.
    pub(super) fn of(config: &PromptsConfig) -> Result<Self, DatasetError> {
        let parse = |setting, source: &Option<String>| {
            source.as_ref().map(|source| Template::new(setting, source)).transpose()
        };
        Ok(Self {
            prompt: parse("prompts.template", &config.template)?,
            answer: parse("prompts.answer_template", &config.answer_template)?,
            response: parse("prompts.response_template", &config.response_template)?,
        })
    }
}

/// A parsed template.
pub(super) struct Template {
    template: jinja::Template,
    /// The columns it reads, sorted; at least one.
    pub(super) columns: Vec<String>,
    /// The setting it comes from.
    pub(super) setting: &'static str,
}

impl Template {
    fn new(setting: &'static str, source: &str) -> Result<Self, DatasetError> {
        let refused = |source| DatasetError::Template { setting, source };
        let template = jinja::Template::parse(source, Kind::Row).map_err(refused)?;
        let columns = template.variables().map_err(refused)?;
        if columns.is_empty() {
            return Err(DatasetError::ConstantTemplate { setting, text: source.to_owned() });
        }
        Ok(Self { template, columns, setting })
    }

    /// The text of one row, or why it cannot be rendered.
    pub(super) fn render(&self, columns: &Map<String, Value>) -> Result<String, String> {
        let read = columns.iter().filter(|(name, _)| self.columns.contains(name));
        let variables = read.map(|(name, value)| (name.clone(), JinjaValue::from(Serde(Shown(value)))));
        self.template.render(variables.collect()).map_err(|error| format!("{}: {error}", self.setting))
    }
}

/// A value as a template gets it: what is not read is an error where it is written.
struct Shown<'a>(&'a Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(reason) = arrow_value::unread_reason(self.0) {
            return JinjaValue::from_object(Unread(reason.to_owned())).serialize(serializer);
        }
        match self.0 {
            Value::Object(fields) => {
                serializer.collect_map(fields.iter().map(|(name, value)| (name, Shown(value))))
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Shown)),
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(source: &str) -> Template {
        Template::new("prompts.template", source).unwrap()
    }

    #[test]
    fn templates_read_columns_and_keep_their_lines() {
        let row = json!({"q": "1 < 2?", "tests": ["a", "b"], "none": null, "big": 1e16, "small": 1.5e-5});
        let rows = [
            ("Q: {{ q }}\nA:\n", Ok("Q: 1 < 2?\nA:\n")),
            ("{{ tests | join('\n') }}", Ok("a\nb")),
            ("{{ tests[0] }}{% for t in tests[1:] %} {{ t.upper() }}{% endfor %}", Ok("a B")),
            ("{{ gone }}", Err("prompts.template")),
            ("{{ tests[7] ~ '' }}", Err("prompts.template")),
            ("{{ tests[7] | join }}", Err("prompts.template")),
            ("{{ tests[7] | default('x') }}{% if big %}\n{% endif %}", Ok("x\n")),
            ("{{ big }} {{ small }} {{ [big] }} {{ none }}", Ok("1e+16 1.5e-05 [1e+16] None")),
        ];
        for (source, expected) in rows {
            let text = template(source).render(row.as_object().unwrap());
            match expected {
                Ok(expected) => assert_eq!(text.as_deref(), Ok(expected), "{source}"),
                Err(part) => assert!(text.as_ref().is_err_and(|e| e.contains(part)), "{source}: {text:?}"),
            }
        }
        let wanted = template("{{ b }}{% for x in a %}{{ x }}{% endfor %}{{ range(3) }}").columns;
        assert_eq!(wanted, ["a", "b"]);
    }

    #[test]
    fn an_invalid_template_names_its_setting() {
        let config = PromptsConfig { answer_template: Some("{{ a".to_owned()), ..PromptsConfig::default() };
        let message = Templates::of(&config).err().unwrap().to_string();
        assert!(message.contains("prompts.answer_template"), "{message}");
        for constant in ["prompt", "template.jinja", "{{ 'a' }}", "{# a #}"] {
            let message = Template::new("prompts.template", constant).err().unwrap().to_string();
            assert!(message.starts_with("prompts.template names no column"), "{message}");
            assert!(message.contains(constant), "{message}");
        }
    }
}

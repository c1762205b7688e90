//! Prompts and answers as Jinja templates over the columns of a row.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as JinjaValue};
use minijinja::{Environment, UndefinedBehavior};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

use super::PromptsConfig;
use crate::error::DatasetError;

const NAME: &str = "template";

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
    environment: Environment<'static>,
    /// The setting it comes from.
    pub(super) setting: &'static str,
}

impl Template {
    fn new(setting: &'static str, source: &str) -> Result<Self, DatasetError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.expect("the standard delimiters are valid"));
        environment.set_unknown_method_callback(unknown_method_callback);
        let added = environment.add_template_owned(NAME, source.to_owned());
        added.map_err(|source| DatasetError::Template { setting, source })?;
        Ok(Self { environment, setting })
    }

    /// The columns it reads, sorted.
    pub(super) fn columns(&self) -> Vec<String> {
        let globals: Vec<&str> = self.environment.globals().map(|(name, _)| name).collect();
        let template = self.environment.get_template(NAME).expect("it was added");
        let mut names: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        names.retain(|name| !globals.contains(&name.as_str()));
        names.sort_unstable();
        names
    }

    /// The text of one row, or why it cannot be rendered.
    pub(super) fn render(&self, columns: &Map<String, Value>) -> Result<String, String> {
        let template = self.environment.get_template(NAME).expect("it was added");
        template
            .render(JinjaValue::from(Serde(columns)))
            .map_err(|error| format!("{}: {error}", self.setting))
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
        let row = json!({"q": "1 < 2?", "tests": ["a", "b"], "none": null});
        let rows = [
            ("Q: {{ q }}\nA:\n", Ok("Q: 1 < 2?\nA:\n")),
            ("{{ tests | join('\n') }}", Ok("a\nb")),
            ("{{ tests[0] }}{% for t in tests[1:] %} {{ t.upper() }}{% endfor %}", Ok("a B")),
            ("{{ gone }}", Err("prompts.template")),
            ("{{ tests[7] ~ '' }}", Err("prompts.template")),
        ];
        for (source, expected) in rows {
            let text = template(source).render(row.as_object().unwrap());
            match expected {
                Ok(expected) => assert_eq!(text.as_deref(), Ok(expected), "{source}"),
                Err(part) => assert!(text.as_ref().is_err_and(|e| e.contains(part)), "{source}: {text:?}"),
            }
        }
        let wanted = template("{{ b }}{% for x in a %}{{ x }}{% endfor %}{{ range(3) }}").columns();
        assert_eq!(wanted, ["a", "b"]);
    }

    #[test]
    fn an_invalid_template_names_its_setting() {
        let config = PromptsConfig { answer_template: Some("{{ a".to_owned()), ..PromptsConfig::default() };
        let message = Templates::of(&config).err().unwrap().to_string();
        assert!(message.contains("prompts.answer_template"), "{message}");
    }
}

//! Snippets against Jinja2 itself, refusals, dates, and templates without end.

use chrono::DateTime;
use minijinja::value::Serde;

use super::*;

/// Snippets that give another text than in Jinja2, or give text where Jinja2 fails. No chat template that we know has
/// anything like them.
const DIFFERENT: &[&str] = &[
    "<{{ namespace(a=1) is mapping }}>",
    "<{{ 007 }}>",
    "<{{ {1: 'a', true: 'b', 1.0: 'c'} }}>",
    "<{{ {[1]: 2} }}>",
    "<{{ range(3) }}>",
    "<{{ range(1, 10, 3) }}>",
    "<{{ range(10)[2:5] }}>",
    "<{{ {'a': 1}.items()[0] }}>",
    "<{{ words[1.0] }}>",
    "<{{ none < 1 }}>",
    "<{{ [1] < (2,) }}>",
    "<{{ {} < {} }}>",
    "<{{ [1] in {'a': 1} }}>",
    "<{{ '{:>8}'.format(none) }}>",
    "<{{ people | groupby('age') }}>",
    "<{{ words | groupby('x') }}>",
    "<{{ {'b': 1, 'A': 2} | dictsort(by='x') }}>",
    "<{{ {1: 'a', none: 'b', true: 'c', 1.5: 'd'} | tojson }}>",
    "<{{ range(3) | tojson }}>",
    "<{{ namespace(a=1) | tojson }}>",
    "<{{ {'b': 1, 2: 1} | tojson(sort_keys=true) }}>",
    "<{{ namespace(a=1) }}>",
    "<{{ namespace(_a=1) }}>",
    "<{{ lipsum is defined }}>",
    "<{{ 7 is number is true }}>",
    "{% set ns = namespace(n=0) %}{% for x in [1, 2, 3, 4] if ns.n < 2 %}{% set ns.n = ns.n + 1 %}{{ x }}{% endfor %}",
    "{% for x in [1] %}{{ loop }}{% endfor %}",
    "{% set y = 1 %}{% set x %}{% set y = 2 %}{{ y }}{% endset %}{{ x }}{{ y }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% macro f(a, b=2, c='x' ~ a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=1, a=2) }}{{ f() }}",
    "{% macro f() %}  a\n{% endmacro %}[{{ f() | trim }}]{{ f() | length }}{{ f }}{{ f.name }}",
    "{% filter trim %}  {% set q = 1 %}{{ q }} {% endfilter %}{{ q }}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
];
/// Share of the snippets that may be refused although Jinja2 gives a text.
const REFUSED: f64 = 0.09;

/// The golden is written by scripts/golden/jinja.py with Jinja2 as transformers sets it up.
#[test]
fn snippets_give_the_text_of_jinja2_or_are_refused() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/golden/jinja.json")).unwrap();
    let variables = || {
        let entries = golden["variables"].as_object().unwrap().iter();
        entries.map(|(name, value)| (name.clone(), Value::from(Serde(value)))).collect()
    };
    let (mut refused, mut wrong) = (0, Vec::new());
    let rows = golden["rows"].as_array().unwrap();
    for row in rows {
        let (source, expected) = (row[0].as_str().unwrap(), row[1].as_str());
        let found = Template::parse(source, Kind::Chat).and_then(|template| template.render(variables()));
        let is_right = match &found {
            Ok(text) => Some(text.as_str()) == expected,
            Err(_) => {
                refused += usize::from(expected.is_some());
                true
            }
        };
        if is_right == DIFFERENT.contains(&source) {
            wrong.push(format!("{source:?}\n  expected {expected:?}\n  found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} snippets:\n{}", wrong.len(), wrong.join("\n"));
    #[expect(clippy::cast_precision_loss, reason = "about a thousand")]
    let share = refused as f64 / rows.len() as f64;
    assert!(share < REFUSED, "{refused} of {} snippets are refused", rows.len());
}

#[test]
fn unsupported_features_are_refused_when_the_template_is_loaded() {
    for (source, part) in [
        ("a\n{{ x | urlize }}", "the filter `urlize` is not supported (line 2)"),
        ("{% if x %}{{ x | random }}{% endif %}", "the filter `random` is not supported (line 1)"),
        ("{{ x is callable }}", "the test `callable` is not supported"),
        ("{% block a %}{% endblock %}", "blocks and other templates are not supported"),
        ("{% include 'a' %}", "blocks and other templates are not supported"),
        ("\n\n{{ 'a\\q' }}{{ '\\ud83d' }}", "\\ud83d is not a character (line 3)"),
        ("{{ '\\N{NO SUCH}' }}", "\\N{NO SUCH} is not a character"),
        ("{% autoescape true %}{% endautoescape %}", "autoescape is not supported"),
        (
            "{% for x in y %}{% with a = x %}{% break %}{% endwith %}{% endfor %}",
            "break and continue out of with",
        ),
        (
            "{% for x in y %}{% set a %}{% continue %}{% endset %}{% endfor %}",
            "break and continue out of with",
        ),
        ("{{ 'a }}", "a string literal without its end (line 1)"),
    ] {
        let message = Template::parse(source, Kind::Chat).unwrap_err().to_string();
        assert!(message.contains(part), "{source}: {message}");
    }
}

#[test]
fn literals_may_touch_words_and_namespaces_have_their_own_names() {
    for (source, expected) in [
        ("{{ 'a'if true else'b' }}{{ not'x' }}", "aFalse"),
        ("{% set ns = namespace(items=[]) %}{% if ns.items %}a{% endif %}{{ ns.items + ['b'] }}", "['b']"),
        ("{{ [1, 3, 2] | sort(true) }}", "[3, 2, 1]"),
        ("{{ -7 % 3 }}{{ 7 % -3 }}", "2-2"),
    ] {
        let text = Template::parse(source, Kind::Chat).unwrap().render(BTreeMap::new());
        assert_eq!(text.unwrap(), expected, "{source}");
    }
}

#[test]
fn values_without_end_are_errors() {
    for source in [
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns | tojson }}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{{ 'a'.center(99999999999) }}",
        "{{ ['a'] | map('pprint') | list }}",
    ] {
        assert!(Template::parse(source, Kind::Chat).unwrap().render(BTreeMap::new()).is_err(), "{source}");
    }
}

#[test]
fn a_template_without_end_is_an_error() {
    let endless = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    let long = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
    for source in [endless, long] {
        assert!(Template::parse(source, Kind::Chat).unwrap().render(BTreeMap::new()).is_err(), "{source}");
    }
}

#[test]
fn dates_are_those_of_the_calendar() {
    for (seconds, format, expected) in [
        (0, "%d %b %Y", "01 Jan 1970"),
        (951_782_400, "%A %-d %B %Y, day %j", "Tuesday 29 February 2000, day 060"),
        (1_732_492_799, "%a %y-%m-%d %I:%M:%S %p %%", "Sun 24-11-24 11:59:59 PM %"),
        (4_107_542_400, "%Y-%m-%d %f|%Z%z|%H", "2100-03-01 000000||00"),
    ] {
        let time = DateTime::from_timestamp(seconds, 0).unwrap();
        assert_eq!(functions::strftime(format, time).unwrap(), expected);
    }
    assert!(functions::strftime("%Q", DateTime::default()).unwrap_err().to_string().contains("%Q"));
}

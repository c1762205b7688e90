//! Commands, arguments and braces.

use super::*;

#[test]
fn arguments_end_where_they_are_closed() {
    let rows = [
        ("{a{b}c}d", Some(("a{b}c", "d"))),
        ("{a\\}b}c", Some(("a\\}b", "c"))),
        (" 12", Some(("1", "2"))),
        ("\\pi2", Some(("\\pi", "2"))),
        ("\\%x", Some(("\\%", "x"))),
        ("é1", Some(("é", "1"))),
        ("{open", None),
        ("", None),
    ];
    for (text, expected) in rows {
        assert_eq!(argument(text), expected, "{text:?}");
    }
}

#[test]
fn a_spelling_is_no_part_of_a_longer_command() {
    let rows = [
        ("x\\in\\infty", "x∈\\infty"),
        ("\\in(0,1),\\int_0^1", "∈(0,1),\\int_0^1"),
        ("\\in \\in2\\in", "∈ ∈2∈"),
        ("none", "none"),
    ];
    for (text, expected) in rows {
        assert_eq!(respelled(text, "\\in", "∈"), expected, "{text:?}");
    }
    assert_eq!(respelled("50\\%a", "\\%", ""), "50a");
}

#[test]
fn braces_go_where_they_bind_nothing() {
    let rows = [
        ("x^{2}+{y}", "x^2+y"),
        ("2^{10}a_{12}", "2^10a_12"),
        ("{10}", "{10}"),
        ("x^{-1}", "x^{-1}"),
        ("{", "{"),
    ];
    for (text, expected) in rows {
        assert_eq!(unbraced(text), expected, "{text:?}");
    }
}

#[test]
fn commands_are_rewritten_from_the_inside() {
    let over = |[a, b]: [&str; 2]| format!("({a})/({b})");
    let rows = [
        ("\\frac{1}{\\frac23}", "(1)/((2)/(3))"),
        ("\\frac12 + \\frac", "(1)/(2) + \\frac"),
        ("\\frac{1", "\\frac{1"),
        ("\\fraction{1}{2}", "\\fraction{1}{2}"),
    ];
    for (text, expected) in rows {
        assert_eq!(rewritten(text, "\\frac", over), expected, "{text:?}");
    }
    assert_eq!(boxed("\\boxed{1} \\fbox{2} \\boxed{3").collect::<Vec<_>>(), ["2", "1"]);
}

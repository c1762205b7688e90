//! What tasks read of LaTeX: arguments in braces, boxed answers, commands and their other spellings.

/// The text up to the brace that closes the one before it.
pub(super) fn balanced(text: &str) -> Option<&str> {
    let mut depth = 1;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '{' if !escaped => depth += 1,
            '}' if !escaped => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[..at]);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

/// What follows a command as its argument, and the rest: `{..}` without its braces, else a command or one character.
pub(super) fn argument(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    if let Some(inside) = text.strip_prefix('{') {
        let argument = balanced(inside)?;
        return Some((argument, &inside[argument.len() + 1..]));
    }
    let first = text.chars().next()?;
    let name = text[first.len_utf8()..].find(|c: char| !c.is_ascii_alphabetic());
    let end = match (first, name) {
        ('\\', Some(letters)) => first.len_utf8() + letters.max(1),
        ('\\', None) => text.len(),
        _ => first.len_utf8(),
    };
    text.is_char_boundary(end).then(|| text.split_at(end))
}

/// The contents of every `\boxed{..}` and `\fbox{..}` that is closed, the last one first.
pub(super) fn boxed(text: &str) -> impl Iterator<Item = &str> {
    let mut starts: Vec<usize> = ["\\boxed", "\\fbox"]
        .into_iter()
        .flat_map(|command| text.match_indices(command).map(|(at, command)| at + command.len()))
        .collect();
    starts.sort_unstable();
    starts.into_iter().rev().filter_map(|at| argument(&text[at..])).map(|(inner, _)| inner)
}

/// Replaces each `command` and its `N` arguments by what `write` makes of them, innermost first. One that lacks an
/// argument stays.
pub(super) fn rewritten<const N: usize>(
    text: &str,
    command: &str,
    write: impl Fn([&str; N]) -> String,
) -> String {
    let mut text = text.to_owned();
    let mut end = text.len();
    while let Some(at) = text[..end].rfind(command) {
        end = at;
        let after = &text[at + command.len()..];
        // `\text` is not `\textbf`.
        if after.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let mut rest = after;
        let mut arguments = [""; N];
        let mut whole = true;
        for target in &mut arguments {
            match argument(rest) {
                Some((argument, after)) => (*target, rest) = (argument, after),
                None => whole = false,
            }
        }
        if whole {
            text = format!("{}{}{rest}", &text[..at], write(arguments));
        }
    }
    text
}

/// `text` with `plain` for each `spelling`; the command `\in` does not stand in `\infty`.
pub(super) fn respelled(text: &str, spelling: &str, plain: &str) -> String {
    let is_letter = |c: char| c.is_ascii_alphabetic();
    let mut pieces = text.split(spelling);
    let mut written = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let is_longer = spelling.ends_with(is_letter) && piece.starts_with(is_letter);
        written += if is_longer { spelling } else { plain };
        written += piece;
    }
    written
}

/// `x^{2}` as `x^2`, `a_{1}` as `a_1`, `{x}` as `x`: braces around single characters, and around whole powers and indices.
pub(super) fn unbraced(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_raised = plain.ends_with(['^', '_']);
        let is_plain = |inner: &&str| {
            inner.chars().count() == 1
                || (is_raised && !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_digit()))
        };
        match rest.strip_prefix('{').and_then(balanced).filter(is_plain) {
            Some(inner) => {
                plain.push_str(inner);
                rest = &rest[inner.len() + 2..];
            }
            None => {
                plain.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
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
}

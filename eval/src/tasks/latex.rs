//! Parsing that several tasks share: LaTeX commands and their arguments, boxed answers, and "the answer is".

/// The text up to the brace that closes an open one.
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

/// Splits `text`, which follows a command, into the command's argument and the rest. The argument is `{..}`
/// without its braces, else a command or one character.
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

/// The contents of every closed `\boxed{..}` and `\fbox{..}`, last one first.
pub(super) fn boxed(text: &str) -> impl Iterator<Item = &str> {
    let mut starts: Vec<usize> = ["\\boxed", "\\fbox"]
        .into_iter()
        .flat_map(|command| text.match_indices(command).map(|(at, command)| at + command.len()))
        .collect();
    starts.sort_unstable();
    starts.into_iter().rev().filter_map(|at| argument(&text[at..])).map(|(inner, _)| inner)
}

/// The texts after "answer is" or "answer:" of any case, each up to the end of its sentence, last one first.
pub(super) fn stated_answers(text: &str) -> impl Iterator<Item = &str> {
    let lower = text.to_ascii_lowercase();
    let mut starts: Vec<usize> = ["answer is", "answer:", "answer**:", "answer:**"]
        .into_iter()
        .flat_map(|phrase| lower.match_indices(phrase).map(move |(at, _)| at + phrase.len()))
        .collect();
    starts.sort_unstable();
    starts.into_iter().rev().map(|start| {
        let rest = text[start..].trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '*'));
        let end = [". ", ".\n", "\n"].into_iter().filter_map(|stop| rest.find(stop)).min();
        &rest[..end.unwrap_or(rest.len())]
    })
}

/// Replaces each `command` and its `N` arguments by `write(arguments)`, innermost first. A command that lacks
/// an argument stays.
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

/// Replaces each `spelling` by `plain`, but not the `\in` of `\infty`.
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

/// Removes braces around single characters, and around powers and indices of digits: `x^{2}` becomes `x^2`,
/// `{x}` becomes `x`.
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
mod tests;

//! The source of a template, made ready for minijinja: line ends, string literals, `generation` tags.

use minijinja::{Error, ErrorKind};

/// A template whose string literals are variables.
pub(super) struct Prepared {
    pub(super) text: String,
    /// The value of the variable [`literal_name`] of each index.
    pub(super) literals: Vec<String>,
    trims: bool,
}

/// Name of the variable for a string literal. No template has such names of its own.
pub(super) fn literal_name(index: usize) -> String {
    format!("_literal_{index}")
}

/// `trims`: whether a block takes the line end behind it away.
pub(super) fn prepare(source: &str, trims: bool) -> Result<Prepared, Error> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut prepared = Prepared { text: String::with_capacity(source.len()), literals: Vec::new(), trims };
    let mut rest = source.as_str();
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        prepared.text.push_str(before);
        rest = match tag.as_bytes().get(1) {
            Some(b'{') => prepared.code(tag, "}}")?,
            Some(b'%') => prepared.statement(tag)?,
            Some(b'#') => prepared.verbatim(tag, tag[2..].find("#}").map_or(tag.len(), |end| end + 4)),
            _ => prepared.verbatim(tag, 1),
        };
    }
    prepared.text.push_str(rest);
    Ok(prepared)
}

impl Prepared {
    /// Copies `length` bytes; the rest remains.
    fn verbatim<'a>(&mut self, text: &'a str, length: usize) -> &'a str {
        self.text.push_str(&text[..length]);
        &text[length..]
    }

    /// Copies `{% .. %}`; with `{% raw %}` everything to its end.
    fn statement<'a>(&mut self, tag: &'a str) -> Result<&'a str, Error> {
        let is_sign = |c: char| c.is_whitespace() || c == '-' || c == '+';
        let Some(end) = tag[2..].find("%}").map(|end| 2 + end) else {
            return Ok(self.verbatim(tag, tag.len()));
        };
        match tag[2..end].trim_matches(is_sign) {
            "raw" => {
                let is_end = |start: &usize| {
                    tag[*start + 2..]
                        .trim_start_matches(is_sign)
                        .strip_prefix("endraw")
                        .is_some_and(|rest| rest.trim_start_matches(is_sign).starts_with("%}"))
                };
                let close = tag[end..].match_indices("{%").map(|(at, _)| end + at).find(is_end);
                let after = self.verbatim(tag, end + 2);
                // minijinja takes a line end away here as after other tags, and Jinja2 leaves it.
                if self.trims && after.starts_with('\n') {
                    self.text.push('\n');
                }
                Ok(self.verbatim(after, close.map_or(after.len(), |start| start - end)))
            }
            // Marks the assistant's text for training and writes nothing; `if` has the same rules for white space.
            word @ ("generation" | "endgeneration") => {
                let instead = if word == "generation" { " if true " } else { " endif " };
                self.text.push_str(&tag[..end].replacen(word, instead, 1));
                Ok(self.verbatim(&tag[end..], 2))
            }
            _ => self.code(tag, "%}"),
        }
    }

    /// Copies to `end` with variables for string literals. An end within brackets belongs to the code.
    fn code<'a>(&mut self, tag: &'a str, end: &str) -> Result<&'a str, Error> {
        let mut rest = self.verbatim(tag, 2);
        let mut depth = 0usize;
        while let Some(next) = rest.chars().next() {
            match next {
                _ if depth == 0 && rest.starts_with(end) => return Ok(self.verbatim(rest, 2)),
                '\'' | '"' => {
                    rest = self.literal(rest)?;
                    continue;
                }
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            rest = self.verbatim(rest, next.len_utf8());
        }
        Ok(rest)
    }

    /// Reads string literals that follow each other, which are one value.
    fn literal<'a>(&mut self, mut rest: &'a str) -> Result<&'a str, Error> {
        let (mut value, mut lines) = (String::new(), 0);
        while let Some(quote @ ('\'' | '"')) = rest.chars().next() {
            let body = &rest[1..];
            let mut escaped = false;
            let closes = |c: char| {
                let closes = c == quote && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            };
            let Some(end) = body.find(closes) else {
                return Err(self.error("a string literal without its end"));
            };
            value.push_str(&unescape(&body[..end]).map_err(|message| self.error(message))?);
            let after = &body[end + 1..];
            rest = after.trim_start();
            if !rest.starts_with(['\'', '"']) {
                rest = after;
            }
            lines += body[..end].matches('\n').count();
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if self.text.ends_with(is_word) {
            self.text.push(' ');
        }
        self.text.push_str(&literal_name(self.literals.len()));
        if rest.starts_with(is_word) {
            self.text.push(' ');
        }
        // Messages name lines.
        self.text.push_str(&"\n".repeat(lines));
        self.literals.push(value);
        Ok(rest)
    }

    fn error(&self, message: impl std::fmt::Display) -> Error {
        let line = self.text.matches('\n').count() + 1;
        Error::new(ErrorKind::SyntaxError, format!("{message} (line {line})"))
    }
}

/// The value of a literal by Python's rules.
fn unescape(literal: &str) -> Result<String, String> {
    let mut text = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(start) = rest.find('\\') {
        text.push_str(&rest[..start]);
        let mut chars = rest[start + 1..].chars();
        let code = chars.next().ok_or("a string literal ends in a backslash")?;
        rest = chars.as_str();
        let number = |digits: usize, radix: u32| {
            let found = rest.get(..digits).filter(|text| text.chars().all(|c| c.is_digit(radix)));
            let number = found.and_then(|text| u32::from_str_radix(text, radix).ok());
            number
                .and_then(char::from_u32)
                .ok_or_else(|| format!("\\{code}{} is not a character", rest.get(..digits).unwrap_or(rest)))
        };
        let (character, length) = match code {
            '\n' => continue,
            'a' => ('\x07', 0),
            'b' => ('\x08', 0),
            'f' => ('\x0c', 0),
            'n' => ('\n', 0),
            'r' => ('\r', 0),
            't' => ('\t', 0),
            'v' => ('\x0b', 0),
            'x' => (number(2, 16)?, 2),
            'u' => (number(4, 16)?, 4),
            'U' => (number(8, 16)?, 8),
            'N' => {
                let name = rest.strip_prefix('{').and_then(|name| name.split_once('}')).map(|(name, _)| name);
                let named = name.and_then(unicode_names2::character);
                (
                    named.ok_or_else(|| format!("\\N{{{}}} is not a character", name.unwrap_or_default()))?,
                    name.unwrap_or_default().len() + 2,
                )
            }
            '0'..='7' => {
                let more = rest.chars().take(2).take_while(|c| c.is_digit(8)).count();
                let value = u32::from_str_radix(&format!("{code}{}", &rest[..more]), 8).ok();
                (value.and_then(char::from_u32).ok_or("an octal escape is not a character")?, more)
            }
            '\\' | '\'' | '"' => (code, 0),
            _ => {
                text.push('\\');
                (code, 0)
            }
        };
        text.push(character);
        rest = &rest[length..];
    }
    text.push_str(rest);
    Ok(text)
}

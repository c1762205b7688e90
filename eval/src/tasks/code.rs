//! Python code in responses, and the program that tests it.
//!
//! The code is searched for after the reasoning (`</think>`): the first fenced block with a definition, else
//! the first fenced block, closed or not; else the text between `[BEGIN]` and `[DONE]`; else the lines from the
//! first that looks like code.

/// Placeholder of the answer in a test program.
pub(super) const PLACEHOLDER: &str = "@answer@";

/// The code in a response. `None` if there is none.
pub(super) fn extract(response: &str) -> Option<String> {
    let text = response.replace("\r\n", "\n").replace('\u{a0}', " ");
    let text = text.rsplit("</think>").next().unwrap_or(&text);
    let fenced = blocks(text);
    let block = fenced.iter().find(|block| defines(block)).or(fenced.first());
    let code = match block {
        Some(block) => block.clone(),
        None => between_marks(text).or_else(|| unfenced(text))?,
    };
    let code = fix_indentation(&without_repl_prompts(&code));
    if code.trim().is_empty() { None } else { Some(code) }
}

/// The program that passes if `code` is right: `tests` with the code in its place. `from __future__` lines are
/// moved to the front. Its module name is not `__main__`, so that code under `if __name__ == '__main__'` does
/// not run; dataclasses need the module to be registered under its name.
pub(super) fn program(tests: &str, code: &str, passed: &str) -> String {
    let whole = tests.replace(PLACEHOLDER, code);
    let (future, rest): (Vec<&str>, Vec<&str>) =
        whole.lines().partition(|line| line.starts_with("from __future__ import"));
    let (future, rest) = (future.join("\n"), rest.join("\n"));
    format!(
        "{future}\n__name__ = 'solution'\n__import__('sys').modules[__name__] = __import__('sys').modules['__main__']\n\
         {rest}\nimport os, sys\nsys.__stdout__.flush()\nos.write(1, b'\\n{passed}\\n')\n"
    )
}

/// The contents of the fenced blocks that can be Python, in order. The last may be unclosed.
fn blocks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(char, usize, bool, Vec<&str>)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        let mark = bare.chars().next().filter(|c| matches!(c, '`' | '~'));
        let length = mark.map_or(0, |mark| bare.chars().take_while(|&c| c == mark).count());
        let info = bare[length..].trim();
        match (&mut open, mark.filter(|_| length >= 3)) {
            (Some((fence, width, python, lines)), Some(mark))
                if mark == *fence && length >= *width && info.is_empty() =>
            {
                if *python {
                    found.push(lines.join("\n"));
                }
                open = None;
            }
            (Some((.., lines)), _) => lines.push(line),
            (None, Some(mark)) => open = Some((mark, length, is_python(info), Vec::new())),
            (None, None) => {}
        }
    }
    if let Some((_, _, true, lines)) = open {
        found.push(lines.join("\n"));
    }
    found.retain(|block| !block.trim().is_empty());
    found
}

/// Whether a block's info string allows Python: `python`, `py`, `python3`, `{.python}`, or nothing.
fn is_python(info: &str) -> bool {
    let word: String = info.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    word.is_empty() || word.starts_with("py")
}

fn defines(block: &str) -> bool {
    block.lines().any(|line| {
        let line = line.trim_start().trim_start_matches(">>> ");
        ["def ", "class ", "async def "].iter().any(|word| line.starts_with(word))
            || line.contains("= lambda")
    })
}

fn between_marks(text: &str) -> Option<String> {
    let inside = text.split_once("[BEGIN]")?.1;
    Some(inside.split("[DONE]").next().unwrap_or(inside).to_owned())
}

/// Code without a fence. An indented start is the body of a function that the prompt began, up to the first
/// line that is not indented, unless it is prose before a definition. Otherwise the code goes from the first
/// definition or import to the first line of prose.
fn unfenced(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| !line.trim().is_empty())?;
    let opens = |line: &&str| {
        ["def ", "class ", "async def ", "import ", "from ", "@"].iter().any(|w| line.starts_with(w))
    };
    let start = lines.iter().position(|line| opens(line) && is_code(line));
    let is_indented = lines[first].starts_with([' ', '\t']) && !defines(lines[first]);
    if is_indented && (start.is_none() || is_code(lines[first].trim_start())) {
        let body =
            lines[first..].iter().take_while(|line| line.trim().is_empty() || line.starts_with([' ', '\t']));
        return Some(body.copied().collect::<Vec<_>>().join("\n"));
    }
    let code = lines[start?..].iter().take_while(|line| is_code(line));
    Some(code.copied().collect::<Vec<_>>().join("\n"))
}

/// Whether a line can be Python: indented, empty, a comment, or not like a sentence.
fn is_code(line: &str) -> bool {
    let line = line.trim_end();
    if line.is_empty() || line.starts_with([' ', '\t', '#', '@', ')', ']', '}', '"', '\'']) {
        return true;
    }
    let word = line.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    match word {
        "def" | "class" | "if" | "elif" | "else" | "for" | "while" | "try" | "except" | "finally"
        | "with" | "async" => line.contains(':'),
        "import" | "assert" | "return" | "del" | "global" | "pass" | "raise" | "yield" | "break"
        | "continue" => true,
        "from" => line.contains(" import "),
        _ => {
            let rest = line[word.len()..].trim_start();
            !word.is_empty()
                && rest.starts_with(['=', '(', '.', '[', '+', '-', '*', ','])
                && !line.ends_with('.')
        }
    }
}

/// The input lines of an interactive session; other code as it is.
fn without_repl_prompts(code: &str) -> String {
    if !code.trim_start().starts_with(">>> ") {
        return code.to_owned();
    }
    let typed = code.lines().map(str::trim_start).filter_map(|line| {
        let rest = line.strip_prefix(">>>").or_else(|| line.strip_prefix("..."))?;
        Some(rest.strip_prefix(' ').unwrap_or(rest))
    });
    typed.collect::<Vec<_>>().join("\n")
}

/// Corrects the indentation: none for a definition, four spaces for the body of a function that the prompt began.
fn fix_indentation(code: &str) -> String {
    let lines: Vec<&str> = code.lines().map(str::trim_end).collect();
    let filled = || lines.iter().filter(|line| !line.is_empty());
    let depth = filled().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    let first = filled().next().copied().unwrap_or_default();
    let whole = defines(code)
        && lines.iter().any(|line| line.len() - line.trim_start().len() == depth && defines(line));
    if whole && depth > 0 {
        return lines.iter().map(|line| line.get(depth..).unwrap_or_default()).collect::<Vec<_>>().join("\n");
    }
    let returns = |line: &str| line.starts_with("return ") || line == "return";
    // Only the first line lacks its indentation, which was the end of the prompt.
    let mut others = filled().skip(1).peekable();
    let is_lost = !whole && depth == 0 && !first.ends_with(':') && others.peek().is_some();
    if is_lost && others.all(|line| line.starts_with(' ')) {
        return format!("    {}", lines.join("\n").trim_start());
    }
    // A `return` outside of a function: the code is a function's body.
    let is_body = depth == 0
        && if defines(code) {
            !whole && filled().any(|line| returns(line))
        } else {
            filled().any(|line| returns(line.trim_start()))
        };
    if is_body {
        return lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n");
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests;

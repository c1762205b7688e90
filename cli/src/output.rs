//! The only module that prints. Results go to standard output, everything else to standard error; colour on terminals only.

use std::io::{self, IsTerminal, Write};

/// Prints a result on standard output, and a line end if it has none.
///
/// A closed pipe (`jacobi inspect DIR | head`) is not an error.
///
/// # Errors
/// When standard output cannot be written, for instance on a full disk.
pub fn result(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(stdout, "{text}{end}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Prints a status line on standard error. Failing to print is ignored.
pub fn status(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints a piece of a result on standard output, at once and without a line end.
///
/// # Errors
/// As [`result`].
pub fn piece(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Prints a prompt for input on standard error.
pub fn ask(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

/// Prints `error` and its causes, once, on standard error.
pub fn error(error: &anyhow::Error) {
    let mut text = format!("{} {error}", paint(Stream::Stderr, Color::Red, "error:"));
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        // Some errors already quote their source: do not print it twice.
        let message = cause.to_string();
        if !last.contains(&message) {
            text.push_str(&format!("\n  caused by: {message}"));
        }
        last = message;
    }
    status(&text);
}

/// An output stream.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The colours in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// Errors.
    Red,
    /// Tokens learned by the autoregressive loss.
    Green,
    /// Tokens learned by the consistency loss.
    Yellow,
    /// Context: no loss.
    Dim,
}

/// `text` in `color` if `stream` is a terminal and `NO_COLOR` is not set, else unchanged.
pub fn paint(stream: Stream, color: Color, text: &str) -> String {
    if colors_wanted(stream) { paint_always(color, text) } else { text.to_owned() }
}

/// Whether `stream` is a terminal.
pub fn is_terminal(stream: Stream) -> bool {
    match stream {
        Stream::Stdout => io::stdout().is_terminal(),
        Stream::Stderr => io::stderr().is_terminal(),
    }
}

/// Whether `stream` is a terminal that can redraw lines.
pub fn is_drawable(stream: Stream) -> bool {
    is_terminal(stream) && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether `stream` is a terminal and `NO_COLOR` is not set.
pub fn colors_wanted(stream: Stream) -> bool {
    is_drawable(stream) && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn paint_always(color: Color, text: &str) -> String {
    let code = match color {
        Color::Red => "31",
        Color::Green => "32",
        Color::Yellow => "33",
        Color::Dim => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_painted_off_a_terminal() {
        assert_eq!(paint_always(Color::Green, "a"), "\x1b[32ma\x1b[0m");
        if !io::stdout().is_terminal() {
            assert_eq!(paint(Stream::Stdout, Color::Green, "a"), "a");
        }
    }
}

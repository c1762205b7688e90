//! Texts side by side on a terminal, redrawn as they grow.

use console::{Term, measure_text_width, truncate_str};
use jacobi_report::visible;

use crate::output;

/// The separator of two columns.
const GAP: &str = " │ ";
/// Minimum cells of a column: narrower text is unreadable.
const MIN_WIDTH: usize = 12;

/// One text with its head.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) head: [String; 2],
    pub(super) text: String,
}

/// The columns on the screen.
#[derive(Default)]
pub(super) struct Columns {
    /// Number of lines drawn last.
    drawn: usize,
}

impl Columns {
    /// Redraws all columns in place.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn draw(&mut self, columns: &[Column]) -> std::io::Result<()> {
        let (lines, width) = Term::stdout().size();
        let frame = frame(columns, usize::from(lines).saturating_sub(2), usize::from(width));
        let back = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        self.drawn = frame.len();
        output::piece(&format!("{back}\r\x1b[J{}\n", frame.join("\n")))
    }
}

/// At most `lines` lines of `width` cells: the heads, a rule, and the last lines of each text.
fn frame(columns: &[Column], lines: usize, width: usize) -> Vec<String> {
    let gaps = GAP.chars().count() * columns.len().saturating_sub(1);
    let wide = (width.saturating_sub(gaps + 1) / columns.len().max(1)).max(MIN_WIDTH);
    let texts: Vec<Vec<String>> = columns.iter().map(|column| wrapped(&column.text, wide)).collect();
    let room = lines.saturating_sub(3).max(1);
    let height = texts.iter().map(Vec::len).max().unwrap_or(0).min(room);
    let row = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.map(|cell| fitted(cell, wide)).collect();
        truncate_str(padded.join(GAP).trim_end(), width.saturating_sub(1), "").into_owned()
    };
    let mut frame: Vec<String> =
        (0..2).map(|at| row(&mut columns.iter().map(|column| column.head[at].as_str()))).collect();
    let rule = "─".repeat(wide);
    frame.push(row(&mut columns.iter().map(|_| rule.as_str())));
    for line in 0..height {
        let last = |text: &'_ Vec<String>| text.len().saturating_sub(height) + line;
        frame.push(row(&mut texts.iter().map(|text| text.get(last(text)).map_or("", String::as_str))));
    }
    frame
}

/// `text` in lines of `width` cells.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let (mut start, mut used) = (String::new(), 0);
        for c in visible(line).chars() {
            let cells = measure_text_width(c.encode_utf8(&mut [0; 4]));
            if used + cells > width {
                // Between two words if possible.
                let at = start.rfind(' ').filter(|_| c != ' ').map_or(start.len(), |space| space + 1);
                let rest = start.split_off(at);
                lines.push(std::mem::replace(&mut start, rest));
                used = measure_text_width(&start);
                if c == ' ' {
                    continue;
                }
            }
            start.push(c);
            used += cells;
        }
        lines.push(start);
    }
    lines
}

/// `cell` cut or filled to `width` cells.
fn fitted(cell: &str, width: usize) -> String {
    let cut = truncate_str(cell, width, "…");
    let missing = width.saturating_sub(measure_text_width(&cut));
    format!("{cut}{}", " ".repeat(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_each_text_stand_side_by_side() {
        let column =
            |name: &str, text: &str| Column { head: [name.into(), "1 tokens/s".into()], text: text.into() };
        let columns =
            [column("ar", "one"), column("jacobi n=16 K=2", "first\nsecond line of it\n日本語日本語日")];
        let expected = [
            "ar           │ jacobi n=16…",
            "1 tokens/s   │ 1 tokens/s",
            "──────────── │ ────────────",
            "one          │ second line",
            "             │ of it",
            "             │ 日本語日本語",
            "             │ 日",
        ];
        assert_eq!(frame(&columns, 7, 28), expected);
        assert!(frame(&columns, 7, 10).iter().all(|line| measure_text_width(line) < 10));
        assert_eq!(frame(&[column("ar", "\x1b[2J\t")], 9, 40)[3], "·[2J→");
    }
}

//! `--show-trajectory`: shows how a response converges. With colours, the growing text followed by the current draft;
//! without, a line per pass.

use console::{Term, measure_text_width};
use jacobi_datasets::Tokenizer;
use jacobi_decoder::Pass;
use jacobi_report::{Mark, PassRow, Span, bracket_legend, color_legend, pass_line, visible};

use super::pass_reader::PassReader;
use super::{Decoded, view::View};
use crate::output;

/// Maximum lines of a draft.
const DRAFT_LINES: usize = 8;
/// Clears from the cursor to the end of the screen.
const CLEAR: &str = "\x1b[J";
/// Save the position of the cursor, and restore it.
const SAVE: &str = "\x1b7";
const RESTORE: &str = "\x1b8";

/// A line per pass, and the text at the end.
pub struct PassLines<'a> {
    reader: PassReader<'a>,
    number: usize,
}

impl<'a> PassLines<'a> {
    /// A view before the first pass.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { reader: PassReader::new(tokenizer), number: 0 }
    }

    fn print(&mut self, row: &PassRow) -> anyhow::Result<()> {
        output::result(&pass_line(self.number, row))?;
        self.number += 1;
        Ok(())
    }
}

impl View for PassLines<'_> {
    fn begin(&mut self, prompt: &[u32], first: u32) -> anyhow::Result<()> {
        output::result(&bracket_legend())?;
        let row = self.reader.prompt(prompt, first);
        self.print(&row)
    }

    fn pass(&mut self, pass: &Pass) -> anyhow::Result<()> {
        let row = self.reader.pass(pass);
        self.print(&row)
    }

    fn end(&mut self, decoded: &Decoded) -> anyhow::Result<()> {
        Ok(output::result(&format!("\n{}", decoded.text))?)
    }
}

/// The text in colours, and after it the draft, which is redrawn with each pass.
pub struct Live<'a> {
    reader: PassReader<'a>,
    /// Column where the text ends. Lines are broken here, not by the terminal: terminals differ in where the
    /// cursor is after the last column.
    column: usize,
}

impl<'a> Live<'a> {
    /// A view before the first pass.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { reader: PassReader::new(tokenizer), column: 0 }
    }

    /// The output for `row` on a terminal of `lines` lines of `columns`.
    fn frame(&mut self, row: &PassRow, lines: usize, columns: usize) -> String {
        let mut frame = CLEAR.to_owned();
        for span in &row.accepted {
            frame += &self.appended(span, columns);
        }
        let lines = DRAFT_LINES.min(lines.saturating_sub(1)).max(1);
        // Moves down and up again, which scrolls now if necessary: scrolling later would invalidate the saved position.
        frame += &"\x1bD".repeat(lines - 1);
        if lines > 1 {
            frame += &format!("\x1b[{}A", lines - 1);
        }
        let room = (lines * columns).saturating_sub(self.column + 1);
        frame + SAVE + &draft(row, room) + RESTORE
    }

    /// The output for an accepted piece of the text.
    fn appended(&mut self, span: &Span, columns: usize) -> String {
        let mut line = String::new();
        let mut painted = String::new();
        for c in span.text.chars() {
            let cells = if c == '\n' { 0 } else { width(c) };
            if c == '\n' || self.column + cells >= columns {
                painted += &(span.mark.painted(&std::mem::take(&mut line)) + "\n");
                self.column = 0;
            }
            if c != '\n' {
                line.push(c);
                self.column += cells;
            }
        }
        painted + &span.mark.painted(&line)
    }
}

impl View for Live<'_> {
    fn begin(&mut self, prompt: &[u32], first: u32) -> anyhow::Result<()> {
        output::result(&color_legend())?;
        let row = self.reader.prompt(prompt, first);
        let (lines, columns) = size();
        Ok(output::piece(&self.frame(&row, lines, columns))?)
    }

    fn pass(&mut self, pass: &Pass) -> anyhow::Result<()> {
        let row = self.reader.pass(pass);
        let (lines, columns) = size();
        Ok(output::piece(&self.frame(&row, lines, columns))?)
    }

    fn end(&mut self, _decoded: &Decoded) -> anyhow::Result<()> {
        let rest = Span { mark: Mark::Model, text: self.reader.rest() };
        let text = self.appended(&rest, size().1);
        let line_end = if self.column > 0 { "\n" } else { "" };
        Ok(output::piece(&format!("{CLEAR}{text}{line_end}"))?)
    }
}

/// The output for the draft and the rejected tokens, in at most `room` cells.
fn draft(row: &PassRow, mut room: usize) -> String {
    let mut text = String::new();
    let gap = Span { mark: Mark::Model, text: "  ".to_owned() };
    for span in row.draft.iter().chain([&gap]).chain(&row.rejected) {
        let mut shown = String::new();
        for c in visible(&span.text).chars() {
            let Some(left) = room.checked_sub(width(c)) else { return text + &span.mark.painted(&shown) };
            room = left;
            shown.push(c);
        }
        text += &span.mark.painted(&shown);
    }
    text
}

/// Lines and columns of the terminal.
fn size() -> (usize, usize) {
    let (lines, columns) = Term::stdout().size();
    (lines.into(), columns.into())
}

/// Cells of `c` in visible form.
fn width(c: char) -> usize {
    measure_text_width(&visible(c.encode_utf8(&mut [0; 4])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoding::tests::default_model;

    fn span(mark: Mark, text: &str) -> Span {
        Span { mark, text: text.to_owned() }
    }

    #[test]
    fn text_stays_and_drafts_are_drawn_over() {
        let tokenizer = Tokenizer::load(&default_model()).unwrap();
        let mut live = Live::new(&tokenizer);
        let row = PassRow {
            rows: 4,
            tokens: 2,
            accepted: vec![span(Mark::Own, "ab\ncdef日")],
            draft: vec![span(Mark::Kept, "g\n"), span(Mark::Refined, "hijklmnop")],
            rejected: vec![span(Mark::Rejected, "x")],
        };
        // Five columns: the text is broken before the last one, the draft fills what two lines have.
        let expected = "\x1b[J\x1b[32mab\x1b[0m\n\x1b[32mcdef\x1b[0m\n\x1b[32m日\x1b[0m\x1bD\x1b[1A\
                        \x1b7\x1b[2mg⏎\x1b[0m\x1b[33mhijkl\x1b[0m\x1b8";
        assert_eq!(live.frame(&row, 3, 5), expected);
        assert_eq!(live.column, 2);
        // One line is all there is: nothing scrolls.
        let frame = live.frame(&PassRow { accepted: vec![], ..row }, 1, 5);
        assert_eq!(frame, "\x1b[J\x1b7\x1b[2mg⏎\x1b[0m\x1b8");
    }
}

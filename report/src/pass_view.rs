//! A response pass by pass, as text: what each pass added and from where, the next draft, and what it rejected. In colours
//! on a terminal, in brackets elsewhere.

use crate::text::visible;

const RESET: &str = "\x1b[0m";

/// How a pass treated a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Added: the model's own next token, without a draft.
    Model,
    /// Added: right in the draft of the block in work.
    Own,
    /// Added: right in a block refined ahead.
    Pseudo,
    /// Added: right in an earlier, rejected draft.
    Recycled,
    /// Added: right in the token tree.
    Tree,
    /// Drafted and predicted by the model too; not added, since an earlier token was wrong.
    Kept,
    /// The new draft: the model's prediction where it differs from the old draft.
    Refined,
    /// Drafted and discarded.
    Rejected,
}

impl Mark {
    /// Every mark, in the order of the legend.
    pub const ALL: [Self; 8] = [
        Self::Model,
        Self::Own,
        Self::Pseudo,
        Self::Recycled,
        Self::Tree,
        Self::Kept,
        Self::Refined,
        Self::Rejected,
    ];

    /// The name in style sheets, the meaning in a legend, the terminal's colour code, and the letter in brackets, which the
    /// model's own tokens do not have.
    fn look(self) -> (&'static str, &'static str, &'static str, Option<char>) {
        match self {
            Self::Model => ("model", "model", "39", None),
            Self::Own => ("own", "own draft", "32", Some('o')),
            Self::Pseudo => ("pseudo", "pseudo block", "36", Some('p')),
            Self::Recycled => ("recycled", "recycled", "35", Some('r')),
            Self::Tree => ("tree", "tree", "94", Some('t')),
            Self::Kept => ("kept", "draft kept", "2", Some('k')),
            Self::Refined => ("refined", "refined", "33", Some('f')),
            Self::Rejected => ("rejected", "rejected", "9;31", Some('x')),
        }
    }

    /// The name in style sheets.
    pub fn as_str(self) -> &'static str {
        self.look().0
    }

    /// The meaning in a legend.
    pub(crate) fn phrase(self) -> &'static str {
        self.look().1
    }

    /// `text` in the colour of this mark, control characters and line breaks as visible signs.
    pub fn painted(self, text: &str) -> String {
        if text.is_empty() {
            String::new()
        } else {
            format!("\x1b[{}m{}{RESET}", self.look().2, visible(text))
        }
    }

    /// `text` in brackets after the letter of this mark, control characters and line breaks as visible signs. The brackets
    /// are ones that text and formulas rarely have.
    fn bracketed(self, text: &str) -> String {
        let text = visible(text);
        self.look().3.map_or(text.clone(), |letter| format!("⟨{letter}:{text}⟩"))
    }
}

/// A piece of text with one mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// How the pass treated it.
    pub mark: Mark,
    /// The text.
    pub text: String,
}

/// One forward pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassRow {
    /// Rows fed.
    pub rows: usize,
    /// Tokens added to the response.
    pub tokens: usize,
    /// The text they add.
    pub accepted: Vec<Span>,
    /// The draft that the next pass starts from: kept and refined.
    pub draft: Vec<Span>,
    /// The discarded draft tokens, a span per run.
    pub rejected: Vec<Span>,
}

/// The header of the lines of [`pass_line`]: a legend of the brackets, and the columns.
pub fn bracket_legend() -> String {
    let entries: Vec<String> = Mark::ALL.iter().map(|mark| mark.bracketed(mark.phrase())).collect();
    format!("{}\npass rows  new  text", entries.join(" "))
}

/// The legend of the colours, in one line.
pub fn color_legend() -> String {
    Mark::ALL.map(|mark| mark.painted(mark.phrase())).join("  ")
}

/// Pass `number` in one line without colours.
pub fn pass_line(number: usize, row: &PassRow) -> String {
    let bracketed = |spans: &[Span]| -> String {
        spans.iter().map(|span| span.mark.bracketed(&span.text)).collect::<String>()
    };
    let parts = [bracketed(&row.accepted), bracketed(&row.draft), bracketed(&row.rejected)];
    let text = parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("  ");
    format!("{number:>4} {:>4} {:>+4}  {text}", row.rows, row.tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(mark: Mark, text: &str) -> Span {
        Span { mark, text: text.to_owned() }
    }

    #[test]
    fn a_pass_is_one_line_whatever_its_text_holds() {
        let row = PassRow {
            rows: 5,
            tokens: 3,
            accepted: vec![span(Mark::Own, "a\n"), span(Mark::Model, "b")],
            draft: vec![span(Mark::Kept, "c"), span(Mark::Refined, "\x1b[2J")],
            rejected: vec![span(Mark::Rejected, "x")],
        };
        assert_eq!(pass_line(7, &row), "   7    5   +3  ⟨o:a⏎⟩b  ⟨k:c⟩⟨f:·[2J⟩  ⟨x:x⟩");
        assert_eq!(pass_line(0, &PassRow { rows: 1, ..PassRow::default() }), "   0    1   +0  ");
    }

    #[test]
    fn legends_explain_every_mark() {
        let (brackets, colors) = (bracket_legend(), color_legend());
        for mark in Mark::ALL {
            assert!(brackets.contains(mark.phrase()) && colors.contains(mark.phrase()), "{mark:?}");
        }
        assert!(brackets.starts_with("model ⟨o:own draft⟩ ⟨p:pseudo block⟩"), "{brackets}");
        let letters: std::collections::BTreeSet<_> = Mark::ALL.iter().map(|mark| mark.look().3).collect();
        assert_eq!(letters.len(), Mark::ALL.len());
        assert_eq!(Mark::Own.painted("a\tb"), "\x1b[32ma→b\x1b[0m");
        assert_eq!(Mark::Own.painted(""), "");
    }
}

//! A decoded response as one HTML page: figures, text marked by source, every pass. Without scripts or external resources; all text
//! is escaped.

use crate::figures::Figure;
use crate::html::{page, section, tiles};
use crate::pass_view::{Mark, PassRow, Span};
use crate::text::{escape_html, visible};

/// What the page shows.
#[derive(Clone, Debug, Default)]
pub struct DecodedPage {
    /// The model's name.
    pub model: String,
    /// The decoder with its settings.
    pub decoder: String,
    /// The prompt as it was given.
    pub prompt: String,
    /// Figures of the whole response: value and label.
    pub figures: Vec<(String, String)>,
    /// The passes, the one over the prompt first.
    pub passes: Vec<PassRow>,
}

/// The page.
pub fn decoded_page(shown: &DecodedPage) -> String {
    let title = format!("{} under {}", shown.model, shown.decoder);
    let figure = |(value, label): &(String, String)| Figure {
        value: value.clone(),
        label: label.clone(),
        note: String::new(),
    };
    let figures: Vec<Figure> = shown.figures.iter().map(figure).collect();
    let mut body = format!("<header><p>Jacobi decoding</p><h1>{}</h1></header>\n", escape_html(&title));
    body += &tiles(&figures);
    body += &legend();
    body += &section("Prompt", &format!("<pre>{}</pre>\n", escape_html(&shown.prompt)));
    let accepted = shown.passes.iter().flat_map(|row| &row.accepted);
    let response: String = accepted.map(|piece| span(piece.mark, &piece.text)).collect();
    body += &section("Response", &format!("<article><div class=\"answer\">{response}</div></article>\n"));
    body += &section("Passes", &passes(&shown.passes));
    page(&title, &body)
}

fn legend() -> String {
    let entry = |mark: Mark| span(mark, mark.phrase());
    format!("<p class=\"legend\">{}</p>\n", Mark::ALL.map(entry).join(" "))
}

fn span(mark: Mark, text: &str) -> String {
    format!("<span class=\"{}\">{}</span>", mark.as_str(), escape_html(text))
}

/// On one line.
fn inline(spans: &[Span]) -> String {
    spans.iter().map(|piece| span(piece.mark, &visible(&piece.text))).collect()
}

fn passes(rows: &[PassRow]) -> String {
    let mut text = String::from(
        "<p>Each pass: rows fed, tokens added; the text it added, the draft for the next pass, and the tokens it \
         rejected.</p>\n<div class=\"scroll\"><table class=\"passes\">\n<thead><tr><th>pass</th><th>rows</th><th>new</th>\
         <th>text</th></tr></thead>\n<tbody>\n",
    );
    for (number, row) in rows.iter().enumerate() {
        let parts = [inline(&row.accepted), inline(&row.draft), inline(&row.rejected)];
        text += &format!(
            "<tr><td class=\"figure\">{number}</td><td class=\"figure\">{}</td><td class=\"figure\">+{}</td><td>{}</td>\
             </tr>\n",
            row.rows,
            row.tokens,
            parts.join(" ")
        );
    }
    text + "</tbody>\n</table></div>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> DecodedPage {
        let span = |mark| Span { mark, text: text.to_owned() };
        DecodedPage {
            model: text.to_owned(),
            decoder: "jacobi".to_owned(),
            prompt: text.to_owned(),
            figures: vec![("2.50".to_owned(), text.to_owned())],
            passes: vec![PassRow {
                rows: 4,
                tokens: 2,
                accepted: vec![span(Mark::Own)],
                draft: vec![span(Mark::Refined)],
                rejected: vec![span(Mark::Rejected)],
            }],
        }
    }

    #[test]
    fn the_page_shows_figures_response_and_passes_and_fetches_nothing() {
        let page = decoded_page(&shown("a\nb"));
        for part in [
            "<title>a\nb under jacobi</title>",
            "<b>2.50</b>",
            "<span class=\"own\">a\nb</span>",
            "<td class=\"figure\">+2</td><td><span class=\"own\">a⏎b</span> <span class=\"refined\">",
            "<span class=\"rejected\">rejected</span>",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(part), "missing {part:?}: {page}");
        }
        for fetched in ["<script", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(fetched), "{fetched:?} fetches something");
        }
    }

    #[test]
    fn hostile_text_is_escaped() {
        let page = decoded_page(&shown("</style><script>alert(1)</script><img src=x>"));
        assert!(!page.contains("<script") && !page.contains("<img"));
        assert_eq!(page.matches("</style>").count(), 1);
    }
}

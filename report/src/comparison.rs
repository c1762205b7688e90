//! Decoders side by side on one prompt.

use crate::table::Table;
use crate::text::{NOT_MEASURED, number, times};

/// The figures of one decoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ComparisonRow {
    /// Its name with its settings.
    pub decoder: String,
    /// Tokens of the response.
    pub tokens: usize,
    /// Forward passes after the prefill.
    pub forwards: usize,
    /// Tokens per forward.
    pub tpf: Option<f64>,
    /// Tokens per second.
    pub tps: Option<f64>,
    /// Tokens per second relative to the autoregressive decoder.
    pub speedup: Option<f64>,
    /// Whether its text equals that of the autoregressive decoder.
    pub same_text: Option<bool>,
}

/// The table for a terminal: aligned, no colour, narrow enough for 80 columns, a newline at the end of each line.
pub fn comparison_table(rows: &[ComparisonRow]) -> String {
    let header = vec!["decoder", "tokens", "passes", "TPF", "tokens/s", "over ar", "same text"];
    let line = |row: &ComparisonRow| {
        vec![
            row.decoder.clone(),
            row.tokens.to_string(),
            row.forwards.to_string(),
            number(row.tpf),
            number(row.tps),
            times(row.speedup),
            row.same_text.map_or(NOT_MEASURED, |same| if same { "yes" } else { "no" }).to_owned(),
        ]
    };
    Table { left: 1, ..Table::of(&header, rows.iter().map(line).collect()) }.terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_figures_are_a_dash() {
        let ar = ComparisonRow { decoder: "ar".into(), tokens: 5, forwards: 4, ..ComparisonRow::default() };
        let jacobi = ComparisonRow {
            decoder: "jacobi n=16".into(),
            tokens: 5,
            forwards: 2,
            tpf: Some(2.0),
            tps: Some(120.0),
            speedup: Some(1.5),
            same_text: Some(true),
        };
        let expected = "\
decoder      tokens  passes   TPF  tokens/s  over ar  same text
───────────  ──────  ──────  ────  ────────  ───────  ─────────
ar                5       4     –         –        –          –
jacobi n=16       5       2  2.00     120.0    1.50x        yes
";
        assert_eq!(comparison_table(&[ar, jacobi]), expected);
    }
}

//! `--html`: writes a response with its passes as a page.

use std::path::PathBuf;

use jacobi_datasets::atomic::write_atomic;
use jacobi_decoder::Pass;
use jacobi_report::{DecodedPage, Mark, Span, decoded_page};

use super::pass_reader::PassReader;
use super::{Decoded, view::View};

/// Collects the passes and writes the page at the end.
pub struct Page<'a> {
    /// Converts the passes.
    pub reader: PassReader<'a>,
    /// The page, with its head filled in.
    pub shown: DecodedPage,
    /// The file to write.
    pub file: PathBuf,
}

impl View for Page<'_> {
    fn begin(&mut self, prompt: &[u32], first: u32) -> anyhow::Result<()> {
        self.shown.passes.push(self.reader.prompt(prompt, first));
        Ok(())
    }

    fn pass(&mut self, pass: &Pass) -> anyhow::Result<()> {
        self.shown.passes.push(self.reader.pass(pass));
        Ok(())
    }

    fn end(&mut self, decoded: &Decoded) -> anyhow::Result<()> {
        if let Some(last) = self.shown.passes.last_mut() {
            let rest = self.reader.rest();
            last.accepted.extend((!rest.is_empty()).then_some(Span { mark: Mark::Model, text: rest }));
            // No pass verifies this draft.
            last.draft.clear();
        }
        self.shown.figures = figures(decoded);
        let page = decoded_page(&self.shown);
        Ok(write_atomic(&self.file, |out| out.write_all(page.as_bytes()))?)
    }
}

/// Pairs of value and label.
fn figures(decoded: &Decoded) -> Vec<(String, String)> {
    let stats = &decoded.stats;
    let mut figures = vec![
        (decoded.response_tokens.len().to_string(), "tokens".to_owned()),
        (stats.forwards.to_string(), "forward passes after the prefill".to_owned()),
    ];
    if let (Some(tpf), Some(tps)) = (stats.tpf(), stats.tps()) {
        figures.push((format!("{tpf:.2}"), "tokens per forward pass".to_owned()));
        figures.push((format!("{tps:.1}"), "tokens per second".to_owned()));
    }
    let accepted = stats.accepted_from.iter();
    figures.extend(
        accepted.map(|(source, count)| {
            (count.to_string(), format!("draft tokens accepted, {}", source.as_str()))
        }),
    );
    figures
}

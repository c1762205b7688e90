//! The options for how a response is shown.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use jacobi_report::DecodedPage;

use crate::decoding::Engine;
use crate::decoding::page::Page;
use crate::decoding::pass_reader::PassReader;
use crate::decoding::text_stream::TextStream;
use crate::decoding::trajectory::{Live, PassLines};
use crate::decoding::view::{Streamed, Summary, View, Whole};
use crate::output::{self, Stream};

/// By default only the text is shown.
#[derive(Debug, clap::Args)]
pub struct ViewArgs {
    /// Print one JSON object: prompt_tokens, response_tokens, text, finish_reason, stats; an array of them for
    /// --compare
    #[arg(long)]
    pub json: bool,
    /// Show each pass: accepted tokens with their sources, the refined draft, rejected tokens
    #[arg(long, conflicts_with = "json")]
    show_trajectory: bool,
    /// Write the response with all its passes as a self-contained page
    #[arg(long, value_name = "FILE", requires = "prompt", conflicts_with = "chat")]
    html: Option<PathBuf>,
}

impl ViewArgs {
    /// Checks that the page can be written, before anything is decoded.
    ///
    /// # Errors
    /// If its directory does not exist.
    pub fn check(&self) -> anyhow::Result<()> {
        let Some(file) = &self.html else { return Ok(()) };
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        ensure!(dir.is_dir(), "cannot write {}: make the directory {} first", file.display(), dir.display());
        Ok(())
    }

    /// The views of a response: one on standard output, its statistics, and the page, which starts as `head`.
    pub fn views<'a>(&self, engine: &'a Engine, head: &DecodedPage) -> Vec<Box<dyn View + 'a>> {
        let tokenizer = engine.tokenizer();
        let shown: Box<dyn View> = if self.json {
            Box::new(Whole { json: true })
        } else if self.show_trajectory && output::colors_wanted(Stream::Stdout) {
            Box::new(Live::new(tokenizer))
        } else if self.show_trajectory {
            Box::new(PassLines::new(tokenizer))
        } else if output::is_terminal(Stream::Stdout) {
            Box::new(Streamed(TextStream::new(tokenizer)))
        } else {
            Box::new(Whole { json: false })
        };
        let page = |file: &PathBuf| -> Box<dyn View> {
            Box::new(Page { reader: PassReader::new(tokenizer), shown: head.clone(), file: file.clone() })
        };
        let summary = (!self.json).then(|| -> Box<dyn View> { Box::new(Summary) });
        [shown].into_iter().chain(summary).chain(self.html.as_ref().map(page)).collect()
    }
}

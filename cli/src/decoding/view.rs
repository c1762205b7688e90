//! Views of a response: output while it grows and at its end.

use jacobi_decoder::Pass;
use serde_json::Value;

use super::{Decoded, text_stream::TextStream};
use crate::output::{self, Color, Stream};

/// Shows a response from its prompt to its end. Fails if the output cannot be written.
pub trait View {
    /// The prefill gave the first token.
    ///
    /// # Errors
    /// See [`View`].
    fn begin(&mut self, _prompt: &[u32], _first: u32) -> anyhow::Result<()> {
        Ok(())
    }

    /// A pass has ended.
    ///
    /// # Errors
    /// See [`View`].
    fn pass(&mut self, _pass: &Pass) -> anyhow::Result<()> {
        Ok(())
    }

    /// The response is complete, or was interrupted.
    ///
    /// # Errors
    /// See [`View`].
    fn end(&mut self, decoded: &Decoded) -> anyhow::Result<()>;
}

/// Prints the text, or one JSON object, at the end.
pub struct Whole {
    /// Print the JSON object.
    pub json: bool,
}

impl View for Whole {
    fn end(&mut self, decoded: &Decoded) -> anyhow::Result<()> {
        let json = || Value::Object(decoded.to_json()).to_string();
        Ok(output::result(&if self.json { json() } else { decoded.text.clone() })?)
    }
}

/// Prints the statistics in one line on standard error.
pub struct Summary;

impl View for Summary {
    fn end(&mut self, decoded: &Decoded) -> anyhow::Result<()> {
        output::status(&output::paint(Stream::Stderr, Color::Dim, &decoded.summary()));
        Ok(())
    }
}

/// Prints the text as its tokens are accepted.
pub struct Streamed<'a>(pub TextStream<'a>);

impl View for Streamed<'_> {
    fn begin(&mut self, _prompt: &[u32], first: u32) -> anyhow::Result<()> {
        Ok(output::piece(&self.0.push(first))?)
    }

    fn pass(&mut self, pass: &Pass) -> anyhow::Result<()> {
        let fresh: String = pass.tokens.iter().map(|&token| self.0.push(token)).collect();
        Ok(output::piece(&fresh)?)
    }

    fn end(&mut self, decoded: &Decoded) -> anyhow::Result<()> {
        let line_end = if decoded.text.ends_with('\n') { "" } else { "\n" };
        Ok(output::piece(&(self.0.rest() + line_end))?)
    }
}

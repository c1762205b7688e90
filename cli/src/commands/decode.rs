//! `jacobi decode`: one prompt through one model under one decoder.

use std::path::PathBuf;

use crate::decoding::{Decoded, Request, decode};
use crate::output;

/// Decode one prompt
#[derive(Debug, clap::Args)]
pub struct DecodeArgs {
    /// The model, a local Hugging Face directory
    #[arg(long, short, value_name = "DIR")]
    model: PathBuf,
    /// The prompt; `-` reads it from standard input
    #[arg(long, short, value_name = "TEXT")]
    prompt: String,
    /// Take the prompt as it is, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// How to decode; both give the same greedy text in float32
    #[arg(long, value_enum, default_value_t = DecoderName::Jacobi)]
    decoder: DecoderName,
    /// Tokens refined together by the jacobi decoder
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    block_size: u32,
    /// Longest response
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// The dtype to compute in
    #[arg(long, value_enum, default_value_t = DtypeName::Auto)]
    dtype: DtypeName,
    /// Seed of the jacobi decoder's fillers; changes its speed, never its text
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Print one JSON object: prompt_tokens, response_tokens, text, finish_reason, stats
    #[arg(long)]
    json: bool,
}

/// The decoders by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum DecoderName {
    /// One token per forward pass
    Ar,
    /// A block of tokens per forward pass
    Jacobi,
}

/// The dtypes by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum DtypeName {
    /// What the model is stored in
    Auto,
    /// Exact: every decoder gives the same text
    Float32,
    /// Half the memory traffic
    Bfloat16,
}

/// Decodes and prints.
///
/// # Errors
/// A model or prompt that cannot be used.
pub fn run(args: &DecodeArgs) -> anyhow::Result<()> {
    let prompt =
        if args.prompt == "-" { std::io::read_to_string(std::io::stdin())? } else { args.prompt.clone() };
    let decoded = decode(&Request {
        model: &args.model,
        prompt: &prompt,
        raw: args.raw,
        decoder: args.decoder,
        block_size: args.block_size as usize,
        max_new_tokens: args.max_new_tokens as usize,
        dtype: args.dtype,
        seed: args.seed,
    })?;
    print(&decoded, args.json)
}

fn print(decoded: &Decoded, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(output::result(&decoded.to_json().to_string())?);
    }
    output::result(&decoded.text)?;
    output::status(&output::paint(output::Stream::Stderr, output::Color::Dim, &decoded.summary()));
    Ok(())
}

//! `jacobi decode`: one prompt through one model under one decoder.

use std::path::PathBuf;

use jacobi_eval::DecoderConfig;

use crate::decoding::{Decoded, Request, decode, tuned_or};
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
    /// How to decode; all give the same greedy text in float32 [default: what the model's jacobi.json says, else jacobi]
    #[arg(long, value_enum)]
    decoder: Option<DecoderName>,
    /// Tokens of a block, for jacobi and multi-block [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    block_size: Option<u32>,
    /// How multi-block's window grows [default: blocks]
    #[arg(long, value_enum)]
    window: Option<WindowName>,
    /// Most blocks in flight of multi-block [default: 2]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    max_blocks: Option<u32>,
    /// Share of a block that agrees with itself before multi-block starts the next [default: 0.85]
    #[arg(long, value_name = "R")]
    spawn_ratio: Option<f64>,
    /// What multi-block's fresh tokens are [default: random]
    #[arg(long, value_enum)]
    filler: Option<FillerName>,
    /// Rejected drafts that multi-block tries again per pass [default: 4]
    #[arg(long, value_name = "N")]
    pool_size: Option<usize>,
    /// Rows of multi-block's token tree [default: 0]
    #[arg(long, value_name = "ROWS")]
    tree_budget: Option<usize>,
    /// Longest response
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// The dtype to compute in
    #[arg(long, value_enum, default_value_t = DtypeName::Auto)]
    dtype: DtypeName,
    /// Seed of the fillers; changes its speed, never its text
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
    /// Several blocks, recycled drafts and token trees
    MultiBlock,
}

/// The windows by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum WindowName {
    /// A block at a time
    Blocks,
    /// As many tokens as were accepted
    Sliding,
}

/// The fillers by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum FillerName {
    /// Drawn from prompt and response
    Random,
    /// What followed the last tokens before
    Ngram,
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

impl DecodeArgs {
    fn decoder(&self) -> DecoderConfig {
        DecoderConfig {
            name: match self.decoder.unwrap_or(DecoderName::Jacobi) {
                DecoderName::Ar => jacobi_eval::DecoderName::Ar,
                DecoderName::Jacobi => jacobi_eval::DecoderName::Jacobi,
                DecoderName::MultiBlock => jacobi_eval::DecoderName::MultiBlock,
            },
            block_size: self.block_size.map(|size| size as usize),
            window: self.window.map(|window| match window {
                WindowName::Blocks => jacobi_eval::WindowName::Blocks,
                WindowName::Sliding => jacobi_eval::WindowName::Sliding,
            }),
            max_blocks: self.max_blocks.map(|blocks| blocks as usize),
            spawn_ratio: self.spawn_ratio,
            filler: self.filler.map(|filler| match filler {
                FillerName::Random => jacobi_eval::FillerName::Random,
                FillerName::Ngram => jacobi_eval::FillerName::Ngram,
            }),
            pool_size: self.pool_size,
            tree_budget: self.tree_budget,
            ..DecoderConfig::default()
        }
    }
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
        decoder: if args.decoder.is_some() { args.decoder() } else { tuned_or(args.decoder(), &args.model)? },
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

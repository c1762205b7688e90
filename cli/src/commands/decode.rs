//! `jacobi decode`: one model, and a prompt or a conversation under one decoder, or a prompt under several.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::Context;
use jacobi_decoder::{Settings, Strategy};
use jacobi_model::{Compute, DeviceChoice, Dtype};
use jacobi_report::{DecodedPage, comparison_table};

use crate::adapter::ModelDirs;
use crate::decoding::compare::{compare, label};
use crate::decoding::{Engine, chat, respond};
use crate::device::{self, GraphArgs};
use crate::exit::{ResponseInterrupted, UsageError};
use crate::output::{self, Stream};
use crate::signals::Stop;

mod decoder_args;
mod numbers;
mod sampling_args;
mod view_args;

pub use decoder_args::decoder_name;

use decoder_args::DecoderArgs;
use numbers::whole;
use sampling_args::SamplingArgs;
use view_args::ViewArgs;

/// Decode a prompt, or chat
///
/// The text appears as it is decoded. Without --prompt, on a terminal, each line typed is answered.
#[derive(Debug, clap::Args)]
pub struct DecodeArgs {
    /// The model: a local Hugging Face directory, or ORG/NAME@REVISION of the hub
    #[arg(long, short, value_name = "DIR", required_unless_present = "adapter")]
    model: Option<PathBuf>,
    /// A draft adapter for the model: a directory of PEFT, or ORG/NAME@REVISION of the hub; without --model it names its base.
    /// The text stays the base model's
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The prompt; `-` reads it from standard input
    #[arg(long, short, value_name = "TEXT")]
    prompt: Option<String>,
    /// Answer each line of standard input, in one conversation: the default without --prompt on a terminal
    #[arg(long, conflicts_with = "prompt")]
    chat: bool,
    /// Take the prompt as it is, without the model's chat template
    #[arg(long, requires = "prompt", conflicts_with = "chat")]
    raw: bool,
    #[command(flatten)]
    decoder: DecoderArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Maximum tokens of a response
    #[arg(long, default_value_t = 256, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// The dtype to compute in
    #[arg(long, value_enum, default_value_t = DtypeName::Auto)]
    dtype: DtypeName,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value_t, value_name = "DEVICE")]
    device: DeviceChoice,
    #[command(flatten)]
    graphs: GraphArgs,
    /// Seed of fillers and of sampling; changes the speed of greedy decoding, never its text
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u64>)]
    seed: u64,
    #[command(flatten)]
    view: ViewArgs,
}

/// The dtypes by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum DtypeName {
    /// bfloat16 where config.json says so, else float32
    Auto,
    /// The most accurate
    Float32,
    /// Half the memory traffic
    Bfloat16,
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::Auto => Self::Auto,
            DtypeName::Float32 => Self::Float32,
            DtypeName::Bfloat16 => Self::Bfloat16,
        }
    }
}

/// Decodes and prints.
///
/// # Errors
/// Options that exclude each other; a model or prompt that cannot be used; a signal, after the response so far
/// is printed.
pub fn run(args: &DecodeArgs) -> anyhow::Result<()> {
    args.view.check()?;
    let prompt = args.prompt()?;
    let dirs = ModelDirs::find(args.model.as_deref(), args.adapter.as_deref())?;
    let sampling = args.sampling.sampling(args.seed)?;
    let strategies = args.decoder.strategies(&dirs, args.seed)?;
    if args.sampling.strict_gap().is_some()
        && strategies.iter().all(|strategy| *strategy == Strategy::Autoregressive)
    {
        return Err(UsageError(
            "--strict has no effect on ar, whose passes have one row anyway: leave it out".into(),
        )
        .into());
    }
    let compute =
        Compute { dtype: args.dtype.into(), device: device::choose(args.device, !args.graphs.no_graphs)? };
    let engine = Engine::load_adapted(&dirs, compute)?;
    let contender = |strategy| Settings {
        sampling: sampling.clone(),
        stop: engine.stop_rules(args.max_new_tokens as usize),
        // The passes of the autoregressive decoder have one row anyway.
        strict_gap: args.sampling.strict_gap().filter(|_| strategy != Strategy::Autoregressive),
        strategy,
    };
    let contenders: Vec<Settings> = strategies.into_iter().map(contender).collect();
    match prompt {
        None => args.chat(&engine, &contenders[0]),
        Some(prompt) if args.decoder.is_comparison() => args.compare(&engine, &prompt, contenders),
        Some(prompt) => args.one(&engine, &prompt, &contenders[0]),
    }
}

impl DecodeArgs {
    /// The prompt's text; `None` for a chat.
    fn prompt(&self) -> anyhow::Result<Option<String>> {
        match self.prompt.as_deref() {
            Some("-") => {
                let text = io::read_to_string(io::stdin())
                    .context("cannot read the prompt from standard input; it must be UTF-8 text")?;
                // The line end that `echo` adds does not belong to the prompt.
                let line = text.strip_suffix('\n').unwrap_or(&text);
                Ok(Some(line.strip_suffix('\r').unwrap_or(line).to_owned()))
            }
            Some(text) => Ok(Some(text.to_owned())),
            None if self.chat || io::stdin().is_terminal() => Ok(None),
            None => {
                let message = "no prompt: give --prompt TEXT, --prompt - to read it from standard input, or \
                               --chat to answer each of its lines";
                Err(UsageError(message.into()).into())
            }
        }
    }

    fn head(&self, prompt: &str, contender: &Settings) -> DecodedPage {
        DecodedPage {
            model: self
                .adapter
                .as_ref()
                .or(self.model.as_ref())
                .map_or_else(String::new, |dir| dir.display().to_string()),
            decoder: label(contender),
            prompt: prompt.to_owned(),
            ..DecodedPage::default()
        }
    }

    fn one(&self, engine: &Engine, prompt: &str, contender: &Settings) -> anyhow::Result<()> {
        let ids = engine.encode(prompt, self.raw)?;
        let stop = Stop::quietly()?;
        let mut views = self.view.views(engine, &self.head(prompt, contender));
        respond(engine, &ids, contender, &mut views, stop.flag())?;
        Ok(stop.check().map_err(ResponseInterrupted::from)?)
    }

    fn chat(&self, engine: &Engine, contender: &Settings) -> anyhow::Result<()> {
        let head = DecodedPage::default();
        chat::chat(engine, contender, &|engine| self.view.views(engine, &head), &Stop::quietly()?)
    }

    fn compare(&self, engine: &Engine, prompt: &str, contenders: Vec<Settings>) -> anyhow::Result<()> {
        let ids = engine.encode(prompt, self.raw)?;
        let stop = Stop::quietly()?;
        let live = !self.view.json && output::is_drawable(Stream::Stdout);
        let compared = compare(engine, &ids, contenders, live, stop.flag())?;
        let text =
            if self.view.json { compared.to_json().to_string() } else { comparison_table(&compared.rows()) };
        output::result(&text)?;
        Ok(stop.check().map_err(ResponseInterrupted::from)?)
    }
}

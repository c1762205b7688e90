//! The options that name decoders and their settings.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use jacobi_datasets::schema::tuned::TUNED_FILE;
use jacobi_decoder::{DecoderConfig, DecoderName, Filler, Passes, Strategy, WindowName};

use super::numbers::{ratio, whole};
use crate::adapter::ModelDirs;
use crate::exit::UsageError;
use crate::output::{self, Color, Stream};

/// The decoder if none is given and none was tuned.
const DEFAULT: DecoderName = DecoderName::Jacobi;

/// One decoder or several to compare, and their settings.
#[derive(Debug, clap::Args)]
pub struct DecoderArgs {
    /// The decoder; all give the same greedy text [default: that of the adapter's or model's jacobi.json, else jacobi]
    #[arg(long, value_parser = decoder_name())]
    decoder: Option<DecoderName>,
    /// Decode the prompt under each of these, side by side, for instance ar,jacobi,multi-block
    #[arg(long, value_parser = decoder_name(), value_name = "DECODERS", value_delimiter = ',', requires = "prompt",
        conflicts_with_all = ["chat", "decoder", "show_trajectory", "html"])]
    compare: Vec<DecoderName>,
    /// Tokens of a block, for jacobi and multi-block [default: 16]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    block_size: Option<u32>,
    /// How multi-block's window grows [default: blocks; with --passes two: sliding]
    #[arg(long, value_parser = window_name())]
    window: Option<WindowName>,
    /// Maximum blocks in flight, for multi-block [default: 2]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    max_blocks: Option<u32>,
    /// Share of a block that a pass accepts or leaves unchanged before multi-block starts the next [default:
    /// 0.85]
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = ratio)]
    spawn_ratio: Option<f64>,
    /// The initial draft tokens of a new block of multi-block [default: random]
    #[arg(long, value_parser = filler_name())]
    filler: Option<Filler>,
    /// Rejected drafts that multi-block retries per pass [default: 4; with --passes two: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>)]
    pool_size: Option<usize>,
    /// Rows of multi-block's token tree [default: 0]
    #[arg(long, value_name = "ROWS", allow_negative_numbers = true, value_parser = whole::<usize>)]
    tree_budget: Option<usize>,
    /// Passes that multi-block takes to draft with an adapter and to verify the draft [default: one]
    #[arg(long, value_parser = passes_name(), requires = "adapter")]
    passes: Option<Passes>,
}

/// Reads the name of a decoder, with a hyphen or with an underscore as in recipes.
pub fn decoder_name() -> impl TypedValueParser<Value = DecoderName> {
    let multi_block = PossibleValue::new("multi-block").alias(DecoderName::MultiBlock.as_str());
    choice(vec![
        (PossibleValue::new("ar").help("One token per forward pass"), DecoderName::Ar),
        (PossibleValue::new("jacobi").help("A block of tokens per forward pass"), DecoderName::Jacobi),
        (multi_block.help("Several blocks, recycled drafts and token trees"), DecoderName::MultiBlock),
    ])
}

fn window_name() -> impl TypedValueParser<Value = WindowName> {
    choice(vec![
        (PossibleValue::new("blocks").help("A block at a time"), WindowName::Blocks),
        (PossibleValue::new("sliding").help("By as many tokens as were accepted"), WindowName::Sliding),
    ])
}

fn filler_name() -> impl TypedValueParser<Value = Filler> {
    choice(vec![
        (PossibleValue::new("random").help("Random tokens of prompt and response"), Filler::Random),
        (
            PossibleValue::new("ngram").help("The tokens after an earlier occurrence of the last tokens"),
            Filler::Ngram,
        ),
        (PossibleValue::new("vocabulary").help("Random tokens of the vocabulary"), Filler::Vocabulary),
    ])
}

fn passes_name() -> impl TypedValueParser<Value = Passes> {
    choice(vec![
        (PossibleValue::new("one").help("Each pass verifies a draft and makes the next one"), Passes::One),
        (
            PossibleValue::new("two").help("UNO's cycle: a pass that drafts, a pass that verifies"),
            Passes::Two,
        ),
    ])
}

fn choice<T: Copy + Send + Sync + 'static>(
    choices: Vec<(PossibleValue, T)>,
) -> impl TypedValueParser<Value = T> {
    let possible: Vec<PossibleValue> = choices.iter().map(|(name, _)| name.clone()).collect();
    PossibleValuesParser::new(possible).map(move |text| {
        let chosen = choices.iter().find(|(name, _)| name.matches(&text, false));
        chosen.expect("the parser accepts possible values only").1
    })
}

impl DecoderArgs {
    /// Whether several decoders are to be compared.
    pub fn is_comparison(&self) -> bool {
        !self.compare.is_empty()
    }

    /// The decoders asked for, in order; by default the one in the `jacobi.json` of `dirs`. In a comparison a setting
    /// goes to the decoders that have it.
    ///
    /// # Errors
    /// A decoder named twice; a setting that none of them has or can take; a `jacobi.json` that cannot be read, or beside no
    /// model.
    pub fn strategies(&self, dirs: &ModelDirs, seed: u64) -> anyhow::Result<Vec<Strategy>> {
        if let Some(tuned) = self.tuned(dirs)? {
            return Ok(vec![tuned.strategy(seed)?]);
        }
        let is_default = self.decoder.is_none() && !self.is_comparison();
        if let Some(setting) = self.given(DEFAULT).multi_block_setting().filter(|_| is_default) {
            let option = setting.replace('_', "-");
            return Err(UsageError(format!(
                "--{option} is a setting of multi-block: add --decoder multi-block"
            ))
            .into());
        }
        let single = [self.decoder.unwrap_or(DEFAULT)];
        let names = if self.is_comparison() { &self.compare[..] } else { &single };
        let twice = (1..names.len()).find(|&index| names[..index].contains(&names[index]));
        if let Some(index) = twice {
            return Err(UsageError(format!("--compare has {} twice", names[index].as_str())).into());
        }
        let strategy = |&name: &DecoderName| self.config(name, names).strategy(seed);
        Ok(names.iter().map(strategy).collect::<Result<_, _>>()?)
    }

    /// The decoder in the `jacobi.json` of `dirs`, if neither a decoder nor a setting was asked for.
    fn tuned(&self, dirs: &ModelDirs) -> anyhow::Result<Option<DecoderConfig>> {
        let bare = DecoderConfig { name: DEFAULT, ..DecoderConfig::default() };
        if self.is_comparison() || self.decoder.is_some() || self.given(DEFAULT) != bare {
            return Ok(None);
        }
        dirs.check()?;
        let dir = dirs.tuned();
        let tuned = jacobi_eval::tuned(dir)?;
        if let Some(decoder) = &tuned {
            let line = format!("decoder: {} of {}", decoder.name.as_str(), dir.join(TUNED_FILE).display());
            output::status(&output::paint(Stream::Stderr, Color::Dim, &line));
        }
        Ok(tuned)
    }

    /// The given settings of decoder `name`, without those that only the other decoders in `names` have.
    fn config(&self, name: DecoderName, names: &[DecoderName]) -> DecoderConfig {
        let mut config = self.given(name);
        if name != DecoderName::MultiBlock && names.contains(&DecoderName::MultiBlock) {
            config = DecoderConfig { name, block_size: config.block_size, ..DecoderConfig::default() };
        }
        if name == DecoderName::Ar && names.iter().any(|&other| other != DecoderName::Ar) {
            config.block_size = None;
        }
        config
    }

    /// Decoder `name` with all given settings.
    fn given(&self, name: DecoderName) -> DecoderConfig {
        DecoderConfig {
            name,
            block_size: self.block_size.map(|size| size as usize),
            window: self.window,
            max_blocks: self.max_blocks.map(|blocks| blocks as usize),
            spawn_ratio: self.spawn_ratio,
            filler: self.filler,
            pool_size: self.pool_size,
            tree_budget: self.tree_budget,
            passes: self.passes,
            strict_gap: None,
        }
    }
}

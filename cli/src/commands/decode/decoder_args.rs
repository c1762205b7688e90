//! Which decoders, with which settings.

use std::path::Path;

use jacobi_datasets::schema::tuned::TUNED_FILE;
use jacobi_decoder::Strategy;
use jacobi_eval::DecoderConfig;

use super::numbers::{ratio, whole};
use crate::exit::UsageError;
use crate::output::{self, Color, Stream};

/// What decodes when nothing is asked for and nothing was tuned.
const DEFAULT: DecoderName = DecoderName::Jacobi;

/// One decoder or several to compare, and the settings for those that have them.
#[derive(Debug, clap::Args)]
pub struct DecoderArgs {
    /// How to decode; all give the same greedy text [default: what the model's jacobi.json says, else jacobi]
    #[arg(long, value_enum)]
    decoder: Option<DecoderName>,
    /// Decode the prompt under each of these, side by side, for instance ar,jacobi,multi-block
    #[arg(long, value_enum, value_name = "DECODERS", value_delimiter = ',', requires = "prompt",
        conflicts_with_all = ["chat", "decoder", "show_trajectory", "html"])]
    compare: Vec<DecoderName>,
    /// Tokens of a block, for jacobi and multi-block [default: 16]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    block_size: Option<u32>,
    /// How multi-block's window grows [default: blocks]
    #[arg(long, value_enum)]
    window: Option<WindowName>,
    /// Most blocks in flight of multi-block [default: 2]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    max_blocks: Option<u32>,
    /// Share of a block that agrees with itself before multi-block starts the next [default: 0.85]
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = ratio)]
    spawn_ratio: Option<f64>,
    /// What multi-block's fresh tokens are [default: random]
    #[arg(long, value_enum)]
    filler: Option<FillerName>,
    /// Rejected drafts that multi-block tries again per pass [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>)]
    pool_size: Option<usize>,
    /// Rows of multi-block's token tree [default: 0]
    #[arg(long, value_name = "ROWS", allow_negative_numbers = true, value_parser = whole::<usize>)]
    tree_budget: Option<usize>,
}

/// The decoders by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DecoderName {
    /// One token per forward pass
    Ar,
    /// A block of tokens per forward pass
    Jacobi,
    /// Several blocks, recycled drafts and token trees
    #[value(alias = "multi_block")]
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

impl DecoderArgs {
    /// Whether several are to be compared.
    pub fn is_comparison(&self) -> bool {
        !self.compare.is_empty()
    }

    /// The decoders asked for, in order. In a comparison a setting goes to those that have it.
    ///
    /// # Errors
    /// A decoder named twice; a setting that none of them has or can take; a `jacobi.json` that cannot be read.
    pub fn strategies(
        &self,
        model: &Path,
        seed: u64,
    ) -> anyhow::Result<Vec<(jacobi_eval::DecoderName, Strategy)>> {
        if let Some(tuned) = self.tuned(model)? {
            return Ok(vec![(tuned.name, tuned.strategy(seed)?)]);
        }
        if let Some(option) =
            self.of_multi_block().filter(|_| self.decoder.is_none() && !self.is_comparison())
        {
            return Err(UsageError(format!(
                "{option} is a setting of multi-block: add --decoder multi-block"
            ))
            .into());
        }
        let single = [self.decoder.unwrap_or(DEFAULT)];
        let names = if self.is_comparison() { &self.compare[..] } else { &single };
        if let Some(name) =
            (1..names.len()).map(|at| names[at]).zip(1..).find(|(name, at)| names[..*at].contains(name))
        {
            return Err(UsageError(format!(
                "--compare names {} twice",
                jacobi_eval::DecoderName::from(name.0).as_str()
            ))
            .into());
        }
        let strategy = |&name: &DecoderName| {
            let strategy = self.config(name, names).strategy(seed);
            strategy
                .map(|strategy| (name.into(), strategy))
                .map_err(|error| UsageError(error.to_string()).into())
        };
        names.iter().map(strategy).collect()
    }

    /// The first option given that multi-block alone has.
    fn of_multi_block(&self) -> Option<&'static str> {
        let given = [
            ("--window", self.window.is_some()),
            ("--max-blocks", self.max_blocks.is_some()),
            ("--spawn-ratio", self.spawn_ratio.is_some()),
            ("--filler", self.filler.is_some()),
            ("--pool-size", self.pool_size.is_some()),
            ("--tree-budget", self.tree_budget.is_some()),
        ];
        given.into_iter().find_map(|(option, given)| given.then_some(option))
    }

    /// What was tuned for the model, if no decoder and no setting was asked for.
    fn tuned(&self, model: &Path) -> anyhow::Result<Option<DecoderConfig>> {
        let bare = DecoderConfig { name: DEFAULT.into(), ..DecoderConfig::default() };
        if self.is_comparison() || self.decoder.is_some() || self.config(DEFAULT, &[DEFAULT]) != bare {
            return Ok(None);
        }
        let tuned = jacobi_eval::tuned(model)?;
        if let Some(decoder) = &tuned {
            let line = format!("decoder: {} of {}", decoder.name.as_str(), model.join(TUNED_FILE).display());
            output::status(&output::paint(Stream::Stderr, Color::Dim, &line));
        }
        Ok(tuned)
    }

    /// The settings of `name`, without those that only others of `names` have.
    fn config(&self, name: DecoderName, names: &[DecoderName]) -> DecoderConfig {
        let others_have_blocks =
            name == DecoderName::Ar && names.iter().any(|&other| other != DecoderName::Ar);
        let others_have_windows = name != DecoderName::MultiBlock && names.contains(&DecoderName::MultiBlock);
        let block_size = self.block_size.map(|size| size as usize).filter(|_| !others_have_blocks);
        let config = DecoderConfig { name: name.into(), block_size, ..DecoderConfig::default() };
        if others_have_windows {
            return config;
        }
        DecoderConfig {
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
            ..config
        }
    }
}

impl From<DecoderName> for jacobi_eval::DecoderName {
    fn from(name: DecoderName) -> Self {
        match name {
            DecoderName::Ar => Self::Ar,
            DecoderName::Jacobi => Self::Jacobi,
            DecoderName::MultiBlock => Self::MultiBlock,
        }
    }
}

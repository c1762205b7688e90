//! A decoder's settings as users write them: in `[[eval.decoders]]` of a recipe, in `jacobi.json`, and as options of
//! the command line. [`DecoderConfig::strategy`] checks them and makes the [`Strategy`] that decodes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::multi_block::{MAX_BLOCKS, SPAWN_RATIO};
use crate::{
    DecoderError, DecoderName, Filler, Growth, JacobiConfig, MultiBlockConfig, Passes, Settings, StopRules,
    Strategy,
};

/// Most rows that a pass verifies: more than is fast on any device, and few enough for the cache's memory.
const MAX_ROWS: usize = 8192;

/// A rule of [`Growth`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WindowName {
    /// A block at a time.
    Blocks,
    /// As many tokens as were accepted.
    Sliding,
}

/// A decoder and its settings: an entry of `[[eval.decoders]]`. An absent setting has the decoder's default; a
/// setting that the decoder does not have is an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderConfig {
    /// Which decoder.
    pub name: DecoderName,
    /// Tokens of a block, n. For `jacobi` and `multi_block`. Default: `16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// Decide a token by a pass over one row when a wider pass gives its two best tokens log-probabilities
    /// closer than this. For `jacobi` and `multi_block`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_gap")]
    pub strict_gap: Option<f32>,
    /// How the draft window takes in fresh tokens. This and the settings below are for `multi_block` alone.
    /// Default: `"blocks"`; `"sliding"` with `passes = "two"`, unless `max_blocks` or `spawn_ratio` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowName>,
    /// Most blocks in flight, K. Default: `2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_blocks: Option<usize>,
    /// Share of the newest block that a pass must accept or leave as it was before the next block is started,
    /// r. Default: `0.85`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spawn_ratio: Option<f64>,
    /// What fresh draft tokens are. Default: `"random"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filler: Option<Filler>,
    /// Rejected drafts tried again per pass, as branches; 0 turns recycling off. Default: `4`; `0` with
    /// `passes = "two"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_size: Option<usize>,
    /// Rows of the token tree, the real-active draft included; 0 turns it off. Default: `0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree_budget: Option<usize>,
    /// How a draft adapter is used. Without one it only decides the defaults of `window` and `pool_size`. Default:
    /// `"one"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes: Option<Passes>,
}

impl DecoderConfig {
    /// Greedy decoding with these settings until `stop`.
    ///
    /// # Errors
    /// As [`DecoderConfig::strategy`].
    pub fn settings(&self, seed: u64, stop: StopRules) -> Result<Settings, DecoderError> {
        Ok(Settings { strict_gap: self.strict_gap, ..Settings::greedy(self.strategy(seed)?, stop) })
    }

    /// The strategy with these settings and the defaults of the absent ones.
    ///
    /// # Errors
    /// [`DecoderError`] for a setting that the decoder does not have, or a value out of range.
    pub fn strategy(&self, seed: u64) -> Result<Strategy, DecoderError> {
        self.checked(seed).map_err(|reason| DecoderError { name: self.name, reason })
    }

    /// The same decoder with the defaults of absent settings written out.
    pub fn resolved(&self) -> Self {
        match self.strategy(0) {
            Ok(strategy) => Self { strict_gap: self.strict_gap, ..Self::from(&strategy) },
            Err(_) => self.clone(),
        }
    }

    /// Name of the first given setting that only `multi_block` has.
    pub fn multi_block_setting(&self) -> Option<String> {
        let shared = ["name", "block_size", "strict_gap"];
        self.to_map()
            .into_iter()
            .map(|(setting, _)| setting)
            .find(|setting| !shared.contains(&setting.as_str()))
    }

    /// The name and the given settings.
    fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            other => unreachable!("a struct of names and numbers is a JSON object, not {other:?}"),
        }
    }

    /// The strategy, or what is wrong and what to do.
    fn checked(&self, seed: u64) -> Result<Strategy, String> {
        let default = match self.passes {
            Some(Passes::Two) => MultiBlockConfig::two_passes(),
            _ => MultiBlockConfig::default(),
        };
        let block_size = self.block_size.unwrap_or(default.block_size);
        let unknown = match self.name {
            DecoderName::Ar if self.block_size.is_some() => Some("block_size".to_owned()),
            DecoderName::Ar if self.strict_gap.is_some() => Some("strict_gap".to_owned()),
            DecoderName::Ar | DecoderName::Jacobi => self.multi_block_setting(),
            DecoderName::MultiBlock => None,
        };
        if let Some(setting) = unknown {
            return Err(format!("it has no {setting}; remove the setting"));
        }
        if block_size == 0 {
            return Err("block_size is 0; it must be at least 1".to_owned());
        }
        if let Some(gap) = self.strict_gap.filter(|gap| !(gap.is_finite() && *gap > 0.0)) {
            return Err(format!("strict_gap is {gap}; it must be above 0 and finite"));
        }
        let strategy = match self.name {
            DecoderName::Ar => Strategy::Autoregressive,
            DecoderName::Jacobi => Strategy::Jacobi(JacobiConfig { block_size, seed }),
            DecoderName::MultiBlock => Strategy::MultiBlock(MultiBlockConfig {
                block_size,
                growth: self.growth(&default)?,
                filler: self.filler.unwrap_or(default.filler),
                pool_size: self.pool_size.unwrap_or(default.pool_size),
                tree_budget: self.tree_budget.unwrap_or(default.tree_budget),
                passes: default.passes,
                seed,
            }),
        };
        match strategy.max_rows() {
            ..=MAX_ROWS => Ok(strategy),
            rows => Err(format!(
                "a pass could have {rows} rows, more than {MAX_ROWS}; lower block_size, max_blocks, pool_size or tree_budget"
            )),
        }
    }

    fn growth(&self, default: &MultiBlockConfig) -> Result<Growth, String> {
        let setting = match (self.max_blocks, self.spawn_ratio) {
            (None, None) => None,
            (Some(_), _) => Some("max_blocks"),
            (None, Some(_)) => Some("spawn_ratio"),
        };
        let is_sliding = match self.window {
            Some(window) => window == WindowName::Sliding,
            None => default.growth == Growth::Sliding && setting.is_none(),
        };
        if is_sliding {
            let Some(setting) = setting else { return Ok(Growth::Sliding) };
            return Err(format!("a sliding window has no {setting}; remove the setting"));
        }
        let max_blocks = self.max_blocks.unwrap_or(MAX_BLOCKS);
        let spawn_ratio = self.spawn_ratio.unwrap_or(SPAWN_RATIO);
        if max_blocks == 0 {
            return Err("max_blocks is 0; it must be at least 1".to_owned());
        }
        if !(0.0..=1.0).contains(&spawn_ratio) {
            return Err(format!("spawn_ratio is {spawn_ratio}; it must be between 0 and 1"));
        }
        Ok(Growth::Blocks { max_blocks, spawn_ratio })
    }
}

/// Every setting written out.
impl From<&Strategy> for DecoderConfig {
    fn from(strategy: &Strategy) -> Self {
        let named = Self { name: strategy.name(), ..Self::default() };
        match strategy {
            Strategy::Autoregressive => named,
            Strategy::Jacobi(config) => Self { block_size: Some(config.block_size), ..named },
            Strategy::MultiBlock(config) => {
                let (window, max_blocks, spawn_ratio) = match config.growth {
                    Growth::Sliding => (WindowName::Sliding, None, None),
                    Growth::Blocks { max_blocks, spawn_ratio } => {
                        (WindowName::Blocks, Some(max_blocks), Some(spawn_ratio))
                    }
                };
                Self {
                    block_size: Some(config.block_size),
                    window: Some(window),
                    max_blocks,
                    spawn_ratio,
                    filler: Some(config.filler),
                    pool_size: Some(config.pool_size),
                    tree_budget: Some(config.tree_budget),
                    passes: Some(config.passes),
                    ..named
                }
            }
        }
    }
}

impl Settings {
    /// The decoder's settings as results record them: all but its name, and without the window, the filler and
    /// the passes where they are the default.
    pub fn decoder_settings(&self) -> Map<String, Value> {
        let all = DecoderConfig::from(&self.strategy);
        let shown = DecoderConfig {
            window: all.window.filter(|&window| window != WindowName::Blocks),
            filler: all.filler.filter(|&filler| filler != Filler::default()),
            passes: all.passes.filter(|&passes| passes != Passes::default()),
            strict_gap: self.strict_gap,
            ..all
        };
        let mut settings = shown.to_map();
        settings.shift_remove("name");
        // Last, as in earlier results: a sample is looked up by the text of its settings.
        if let Some(gap) = settings.shift_remove("strict_gap") {
            settings.insert("strict_gap".to_owned(), gap);
        }
        settings
    }
}

/// Writes 0.1 as 0.1, where a plain cast to f64 gives 0.10000000149.
fn serialize_gap<S: Serializer>(gap: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    let as_written = |gap: f32| gap.to_string().parse::<f64>().expect("a printed number is a number");
    gap.map(as_written).serialize(serializer)
}

#[cfg(test)]
mod tests;

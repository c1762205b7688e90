//! Decoders by name and setting, as configurations and command lines give them.

use jacobi_decoder::{Filler, Growth, JacobiConfig, MultiBlockConfig, Settings, StopRules, Strategy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::EvalError;

/// A decoder by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecoderName {
    /// One token per forward.
    #[default]
    Ar,
    /// Jacobi decoding, block by block.
    Jacobi,
    /// Several blocks in flight, rejected drafts recycled, token trees.
    MultiBlock,
}

impl DecoderName {
    /// The name in the configuration and in every row.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ar => "ar",
            Self::Jacobi => "jacobi",
            Self::MultiBlock => "multi_block",
        }
    }
}

/// How the draft window takes in fresh tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WindowName {
    /// A block at a time.
    Blocks,
    /// As many as were accepted.
    Sliding,
}

/// What fresh draft tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FillerName {
    /// Drawn from prompt and response.
    Random,
    /// What followed the last tokens before.
    Ngram,
}

/// A decoder and its settings: an entry of `[[eval.decoders]]`. What is absent is the decoder's default; a setting the
/// decoder does not have is an error.
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
    /// Default: `"blocks"`.
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
    pub filler: Option<FillerName>,
    /// Rejected drafts tried again per pass, as branches; 0 turns recycling off. Default: `4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_size: Option<usize>,
    /// Rows of the token tree, the real-active draft included; 0 turns it off. Default: `0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree_budget: Option<usize>,
}

/// Most rows of a pass: far beyond what is fast anywhere, and few enough to have room in a cache.
const MAX_ROWS: usize = 8192;

impl DecoderConfig {
    /// How this decoder answers a prompt: greedily, until `stop`.
    ///
    /// # Errors
    /// As [`DecoderConfig::strategy`].
    pub fn settings(&self, seed: u64, stop: StopRules) -> Result<Settings, EvalError> {
        Ok(Settings { strict_gap: self.strict_gap, ..Settings::greedy(self.strategy(seed)?, stop) })
    }

    /// The decoder this names, whatever else it is told.
    ///
    /// # Errors
    /// [`EvalError::Decoder`] for a setting the decoder does not have or cannot take.
    pub fn strategy(&self, seed: u64) -> Result<Strategy, EvalError> {
        let strategy = self.of_any_size(seed)?;
        match strategy.max_rows() {
            ..=MAX_ROWS => Ok(strategy),
            rows => Err(EvalError::Decoder {
                name: self.name.as_str(),
                reason: format!(
                    "a pass could have {rows} rows, more than {MAX_ROWS}; lower block_size, max_blocks, pool_size or tree_budget"
                ),
            }),
        }
    }

    fn of_any_size(&self, seed: u64) -> Result<Strategy, EvalError> {
        let refuse = |reason: String| Err(EvalError::Decoder { name: self.name.as_str(), reason });
        let default = MultiBlockConfig::default();
        let block_size = self.block_size.unwrap_or(default.block_size);
        let unknown = match self.name {
            DecoderName::Ar if self.block_size.is_some() => Some("block_size"),
            DecoderName::Ar if self.strict_gap.is_some() => Some("strict_gap"),
            DecoderName::Ar | DecoderName::Jacobi => self.of_the_window().first().copied(),
            DecoderName::MultiBlock => None,
        };
        if let Some(setting) = unknown {
            return refuse(format!("it has no {setting}; remove the setting"));
        }
        if block_size == 0 {
            return refuse("block_size is 0; it must be at least 1".to_owned());
        }
        if let Some(gap) = self.strict_gap.filter(|gap| !(gap.is_finite() && *gap > 0.0)) {
            return refuse(format!("strict_gap is {gap}; it must be above 0 and finite"));
        }
        match self.name {
            DecoderName::Ar => Ok(Strategy::Autoregressive),
            DecoderName::Jacobi => Ok(Strategy::Jacobi(JacobiConfig { block_size, seed })),
            DecoderName::MultiBlock => match self.growth(default.growth) {
                Err(reason) => refuse(reason),
                Ok(growth) => Ok(Strategy::MultiBlock(MultiBlockConfig {
                    block_size,
                    growth,
                    filler: match self.filler {
                        None => default.filler,
                        Some(FillerName::Random) => Filler::Random,
                        Some(FillerName::Ngram) => Filler::Ngram,
                    },
                    pool_size: self.pool_size.unwrap_or(default.pool_size),
                    tree_budget: self.tree_budget.unwrap_or(default.tree_budget),
                    seed,
                })),
            },
        }
    }

    /// The same decoder with every setting it has written out, defaults too.
    pub fn resolved(&self) -> Self {
        let mut resolved = self.clone();
        match self.strategy(0) {
            Ok(Strategy::Jacobi(config)) => resolved.block_size = Some(config.block_size),
            Ok(Strategy::MultiBlock(config)) => {
                resolved.block_size = Some(config.block_size);
                match config.growth {
                    Growth::Sliding => resolved.window = Some(WindowName::Sliding),
                    Growth::Blocks { max_blocks, spawn_ratio } => {
                        resolved.window = Some(WindowName::Blocks);
                        resolved.max_blocks = Some(max_blocks);
                        resolved.spawn_ratio = Some(spawn_ratio);
                    }
                }
                resolved.filler = Some(match config.filler {
                    Filler::Random => FillerName::Random,
                    Filler::Ngram => FillerName::Ngram,
                });
                resolved.pool_size = Some(config.pool_size);
                resolved.tree_budget = Some(config.tree_budget);
            }
            Ok(Strategy::Autoregressive) | Err(_) => {}
        }
        resolved
    }

    /// The settings that only `multi_block` has, as far as they are given.
    fn of_the_window(&self) -> Vec<&'static str> {
        let given = [
            ("window", self.window.is_some()),
            ("max_blocks", self.max_blocks.is_some()),
            ("spawn_ratio", self.spawn_ratio.is_some()),
            ("filler", self.filler.is_some()),
            ("pool_size", self.pool_size.is_some()),
            ("tree_budget", self.tree_budget.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    fn growth(&self, default: Growth) -> Result<Growth, String> {
        if self.window == Some(WindowName::Sliding) {
            let idle =
                [("max_blocks", self.max_blocks.is_some()), ("spawn_ratio", self.spawn_ratio.is_some())];
            return match idle.into_iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(format!("a sliding window has no {name}; remove the setting")),
                None => Ok(Growth::Sliding),
            };
        }
        let (blocks, ratio) = match default {
            Growth::Blocks { max_blocks, spawn_ratio } => (max_blocks, spawn_ratio),
            Growth::Sliding => (1, 1.0),
        };
        let (max_blocks, spawn_ratio) =
            (self.max_blocks.unwrap_or(blocks), self.spawn_ratio.unwrap_or(ratio));
        if max_blocks == 0 {
            return Err("max_blocks is 0; it must be at least 1".to_owned());
        }
        if !(0.0..=1.0).contains(&spawn_ratio) {
            return Err(format!("spawn_ratio is {spawn_ratio}; it must be between 0 and 1"));
        }
        Ok(Growth::Blocks { max_blocks, spawn_ratio })
    }
}

/// The settings of a decoder by name, for rows and files.
pub fn settings_of(decoder: &Settings) -> Map<String, Value> {
    let mut settings = Map::new();
    let mut put = |name: &str, value: Value| settings.insert(name.to_owned(), value);
    match &decoder.strategy {
        Strategy::Autoregressive => {}
        Strategy::Jacobi(config) => {
            put("block_size", config.block_size.into());
        }
        Strategy::MultiBlock(config) => {
            put("block_size", config.block_size.into());
            match config.growth {
                Growth::Sliding => {
                    put("window", "sliding".into());
                }
                Growth::Blocks { max_blocks, spawn_ratio } => {
                    put("max_blocks", max_blocks.into());
                    put("spawn_ratio", spawn_ratio.into());
                }
            }
            if config.filler == Filler::Ngram {
                put("filler", "ngram".into());
            }
            put("pool_size", config.pool_size.into());
            put("tree_budget", config.tree_budget.into());
        }
    }
    if let Some(gap) = decoder.strict_gap {
        put("strict_gap", as_written(gap).into());
    }
    settings
}

/// The number whose digits are those of `gap`: 0.1 stays 0.1 where a plain cast gives 0.10000000149.
fn as_written(gap: f32) -> f64 {
    gap.to_string().parse().expect("a printed number is a number")
}

fn serialize_gap<S: Serializer>(gap: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    gap.map(as_written).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> DecoderConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_given_becomes_the_strategy_and_its_settings_say_it_again() {
        let full = r#"{"block_size":8,"max_blocks":3,"spawn_ratio":0.5,"filler":"ngram","pool_size":1,"tree_budget":9,"strict_gap":0.1}"#;
        let rows = [
            (r#"{"name": "ar"}"#, "{}"),
            (r#"{"name": "jacobi"}"#, r#"{"block_size":16}"#),
            (r#"{"name": "jacobi", "strict_gap": 0.05}"#, r#"{"block_size":16,"strict_gap":0.05}"#),
            (
                r#"{"name": "multi_block"}"#,
                r#"{"block_size":16,"max_blocks":2,"spawn_ratio":0.85,"pool_size":4,"tree_budget":0}"#,
            ),
            (
                r#"{"name": "multi_block", "window": "sliding", "pool_size": 0}"#,
                r#"{"block_size":16,"window":"sliding","pool_size":0,"tree_budget":0}"#,
            ),
            (&format!(r#"{{"name": "multi_block", {}"#, &full[1..]), full),
        ];
        let stop = StopRules { max_new_tokens: 1, eos_token_ids: vec![] };
        let decoder = |text: &str| read(text).settings(3, stop.clone()).unwrap();
        for (text, expected) in rows {
            let settings = settings_of(&decoder(text));
            assert_eq!(Value::Object(settings.clone()).to_string(), expected, "{text}");
            let mut again = settings;
            again.insert("name".to_owned(), serde_json::to_value(read(text).name).unwrap());
            assert_eq!(decoder(&Value::Object(again).to_string()), decoder(text), "{text}");
            let written = serde_json::to_string(&read(text)).unwrap();
            assert_eq!(read(&written), read(text), "{text}");
        }
    }

    #[test]
    fn what_a_decoder_does_not_have_is_refused() {
        let rows = [
            (r#"{"name": "ar", "block_size": 4}"#, "no block_size"),
            (r#"{"name": "ar", "pool_size": 4}"#, "no pool_size"),
            (r#"{"name": "jacobi", "block_size": 0}"#, "at least 1"),
            (r#"{"name": "jacobi", "tree_budget": 4}"#, "no tree_budget"),
            (r#"{"name": "ar", "strict_gap": 0.1}"#, "no strict_gap"),
            (r#"{"name": "jacobi", "strict_gap": 0}"#, "strict_gap is 0; it must be above 0"),
            (r#"{"name": "jacobi", "strict_gap": -0.5}"#, "above 0"),
            (r#"{"name": "multi_block", "strict_gap": 1e60}"#, "finite"),
            (r#"{"name": "multi_block", "max_blocks": 0}"#, "at least 1"),
            (r#"{"name": "multi_block", "spawn_ratio": 1.5}"#, "between 0 and 1"),
            (r#"{"name": "multi_block", "tree_budget": 1000000}"#, "more than 8192; lower"),
            (r#"{"name": "multi_block", "pool_size": 9223372036854775807}"#, "more than 8192; lower"),
            (r#"{"name": "multi_block", "window": "sliding", "max_blocks": 2}"#, "no max_blocks"),
        ];
        for (text, expected) in rows {
            let message = read(text).strategy(0).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}

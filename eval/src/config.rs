//! What to evaluate: prompts, task, decoders, models.

use std::path::PathBuf;

use jacobi_datasets::PromptsConfig;
use jacobi_datasets::schema::eval_row::ModelRole;
use jacobi_decoder::{JacobiConfig, Strategy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::EvalError;

const DEFAULT_BLOCK_SIZE: usize = 16;

/// The `[eval]` section of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Held-out prompts; a task that scores needs `answer_column`.
    pub prompts: PromptsConfig,
    /// Name in the task registry: `gsm8k`, or `none` for speed alone.
    pub task: String,
    /// Longest response, EOS included.
    pub max_new_tokens: usize,
    /// Decoders to compare. The autoregressive one is added in front if it is not among them.
    pub decoders: Vec<DecoderConfig>,
    /// Prompts decoded by every decoder before measuring starts, and not counted: the first ones of the file.
    pub warmup: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        let jacobi = DecoderConfig { name: DecoderName::Jacobi, block_size: None };
        Self {
            prompts: PromptsConfig::default(),
            task: "none".to_owned(),
            max_new_tokens: 256,
            decoders: vec![DecoderConfig::default(), jacobi],
            warmup: 1,
        }
    }
}

/// A decoder by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderName {
    /// One token per forward.
    #[default]
    Ar,
    /// Jacobi decoding, block by block.
    Jacobi,
}

impl DecoderName {
    /// The name in the configuration and in every row.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ar => "ar",
            Self::Jacobi => "jacobi",
        }
    }
}

/// A decoder and its settings: an entry of `[[eval.decoders]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderConfig {
    /// Which decoder.
    pub name: DecoderName,
    /// Tokens refined together; 16 if absent. Only for `jacobi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
}

impl DecoderConfig {
    fn autoregressive() -> Self {
        Self::default()
    }

    /// The decoder this names.
    ///
    /// # Errors
    /// [`EvalError::Decoder`] for a setting the decoder does not have or cannot take.
    pub fn strategy(&self, seed: u64) -> Result<Strategy, EvalError> {
        let refuse =
            |reason: &str| EvalError::Decoder { name: self.name.as_str(), reason: reason.to_owned() };
        match (self.name, self.block_size) {
            (DecoderName::Ar, None) => Ok(Strategy::Autoregressive),
            (DecoderName::Ar, Some(_)) => Err(refuse("it has no block_size; remove the setting")),
            (DecoderName::Jacobi, Some(0)) => Err(refuse("block_size is 0; it must be at least 1")),
            (DecoderName::Jacobi, size) => {
                let block_size = size.unwrap_or(DEFAULT_BLOCK_SIZE);
                Ok(Strategy::Jacobi(JacobiConfig { block_size, seed }))
            }
        }
    }
}

/// A decoder ready to run, with what its rows call it.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: DecoderName,
    pub(crate) settings: Map<String, Value>,
    pub(crate) strategy: Strategy,
}

impl EvalConfig {
    /// The decoders, autoregressive first.
    pub(crate) fn contenders(&self, seed: u64) -> Result<Vec<Contender>, EvalError> {
        if self.max_new_tokens == 0 {
            return Err(EvalError::MaxNewTokens);
        }
        let others = self.decoders.iter().filter(|decoder| decoder.name != DecoderName::Ar);
        let listed = self.decoders.iter().find(|decoder| decoder.name == DecoderName::Ar);
        let first = listed.cloned().unwrap_or_else(DecoderConfig::autoregressive);
        let mut contenders: Vec<Contender> = Vec::new();
        for decoder in [&first].into_iter().chain(others) {
            let strategy = decoder.strategy(seed)?;
            let mut settings = Map::new();
            if let Strategy::Jacobi(config) = &strategy {
                settings.insert("block_size".to_owned(), config.block_size.into());
            }
            if contenders.iter().any(|other| other.strategy == strategy) {
                let reason = format!("it is listed twice with the same settings {settings:?}; remove one");
                return Err(EvalError::Decoder { name: decoder.name.as_str(), reason });
            }
            contenders.push(Contender { name: decoder.name, settings, strategy });
        }
        Ok(contenders)
    }
}

/// A model to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalModel {
    /// What rows call it.
    pub name: String,
    /// Before or after training.
    pub role: ModelRole,
    /// A local Hugging Face directory.
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    type Listed<'a> = &'a [(DecoderName, Option<usize>)];

    fn config(decoders: Listed) -> EvalConfig {
        let decoders =
            decoders.iter().map(|&(name, block_size)| DecoderConfig { name, block_size }).collect();
        EvalConfig { decoders, ..EvalConfig::default() }
    }

    #[test]
    fn autoregressive_is_always_there_and_first() {
        use DecoderName::{Ar, Jacobi};
        let rows: [(Listed, &[&str]); 4] = [
            (&[], &["ar {}"]),
            (&[(Ar, None)], &["ar {}"]),
            (&[(Jacobi, None)], &["ar {}", "jacobi {\"block_size\":16}"]),
            (
                &[(Jacobi, Some(4)), (Ar, None), (Jacobi, Some(8))],
                &["ar {}", "jacobi {\"block_size\":4}", "jacobi {\"block_size\":8}"],
            ),
        ];
        for (decoders, expected) in rows {
            let contenders = config(decoders).contenders(7).unwrap();
            let names: Vec<String> = contenders
                .iter()
                .map(|c| format!("{} {}", c.name.as_str(), Value::Object(c.settings.clone())))
                .collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        use DecoderName::{Ar, Jacobi};
        let rows: [(Listed, &str); 3] = [
            (&[(Ar, Some(4))], "no block_size"),
            (&[(Jacobi, Some(0))], "at least 1"),
            (&[(Jacobi, Some(16)), (Jacobi, None)], "twice"),
        ];
        for (decoders, expected) in rows {
            let message = config(decoders).contenders(7).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let config = EvalConfig { max_new_tokens: 0, ..EvalConfig::default() };
        assert!(matches!(config.contenders(7), Err(EvalError::MaxNewTokens)));
    }

    #[test]
    fn unknown_keys_are_errors() {
        let read = |text: &str| serde_json::from_str::<EvalConfig>(text).map_err(|err| err.to_string());
        let config = read(r#"{"decoders": [{"name": "jacobi", "block_size": 32}]}"#).unwrap();
        assert_eq!(config.decoders[0].block_size, Some(32));
        assert!(read(r#"{"max_tokens": 1}"#).unwrap_err().contains("max_tokens"));
        assert!(read(r#"{"decoders": [{"n": 1}]}"#).unwrap_err().contains("`n`"));
    }
}

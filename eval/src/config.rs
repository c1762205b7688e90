//! What to evaluate: prompts, task, decoders, models.

use std::path::PathBuf;

use jacobi_datasets::PromptsConfig;
use jacobi_datasets::schema::eval_row::ModelRole;
use jacobi_decoder::{Settings, StopRules};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{DecoderConfig, DecoderName, EvalError, decoders::settings_of, tuned};

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
    /// Whether a model with a `jacobi.json` beside it is also measured under what was tuned for it.
    pub tuned: bool,
    /// Prompts decoded by every decoder before measuring starts, and not counted: the first ones of the file.
    pub warmup: usize,
    /// Prompts decoded once more afterwards, untimed, to see how high the right token ranked where a draft was wrong:
    /// the first ones of the file. 0 leaves it out.
    pub rank_prompts: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        let jacobi = DecoderConfig { name: DecoderName::Jacobi, ..DecoderConfig::default() };
        Self {
            prompts: PromptsConfig::default(),
            task: "none".to_owned(),
            max_new_tokens: 256,
            decoders: vec![DecoderConfig::default(), jacobi],
            tuned: true,
            warmup: 1,
            rank_prompts: 8,
        }
    }
}

/// A decoder ready to run, with what its rows call it.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: DecoderName,
    pub(crate) shown: Map<String, Value>,
    pub(crate) settings: Settings,
}

impl Contender {
    pub(crate) fn new(decoder: &DecoderConfig, seed: u64, stop: &StopRules) -> Result<Self, EvalError> {
        let settings = decoder.settings(seed, stop.clone())?;
        Ok(Self { name: decoder.name, shown: settings_of(&settings), settings })
    }
}

impl EvalConfig {
    /// The decoders, autoregressive first.
    pub(crate) fn contenders(&self, seed: u64, eos_token_ids: &[u32]) -> Result<Vec<Contender>, EvalError> {
        if self.max_new_tokens == 0 {
            return Err(EvalError::MaxNewTokens);
        }
        let others = self.decoders.iter().filter(|decoder| decoder.name != DecoderName::Ar);
        let listed = self.decoders.iter().find(|decoder| decoder.name == DecoderName::Ar);
        let first = listed.cloned().unwrap_or_default();
        let stop = self.stop_rules(eos_token_ids);
        let mut contenders: Vec<Contender> = Vec::new();
        for decoder in [&first].into_iter().chain(others) {
            let contender = Contender::new(decoder, seed, &stop)?;
            if contenders.iter().any(|other| other.settings == contender.settings) {
                let reason =
                    format!("it is listed twice with the same settings {:?}; remove one", contender.shown);
                return Err(EvalError::Decoder { name: decoder.name.as_str(), reason });
            }
            contenders.push(contender);
        }
        Ok(contenders)
    }

    /// The decoders of one model: those listed, and what was tuned for it unless it is among them.
    pub(crate) fn contenders_of(
        &self,
        model: &EvalModel,
        seed: u64,
        eos_token_ids: &[u32],
    ) -> Result<Vec<Contender>, EvalError> {
        let mut contenders = self.contenders(seed, eos_token_ids)?;
        if self.tuned
            && let Some(decoder) = tuned(&model.dir)?
        {
            let contender = Contender::new(&decoder, seed, &self.stop_rules(eos_token_ids))?;
            if contenders.iter().all(|other| other.settings != contender.settings) {
                contenders.push(contender);
            }
        }
        Ok(contenders)
    }

    fn stop_rules(&self, eos_token_ids: &[u32]) -> StopRules {
        StopRules { max_new_tokens: self.max_new_tokens, eos_token_ids: eos_token_ids.to_vec() }
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
        let decoder = |&(name, block_size)| DecoderConfig { name, block_size, ..DecoderConfig::default() };
        let decoders = decoders.iter().map(decoder).collect();
        EvalConfig { decoders, ..EvalConfig::default() }
    }

    #[test]
    fn strictness_makes_another_contender() {
        let mut config = config(&[(DecoderName::Jacobi, None), (DecoderName::Jacobi, None)]);
        config.decoders[1].strict_gap = Some(0.5);
        let contenders = config.contenders(7, &[2]).unwrap();
        let gaps: Vec<Option<f32>> = contenders.iter().map(|c| c.settings.strict_gap).collect();
        assert_eq!(gaps, [None, None, Some(0.5)]);
        assert!(contenders.iter().all(|c| c.settings.stop.eos_token_ids == [2]));
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
            let contenders = config(decoders).contenders(7, &[]).unwrap();
            let names: Vec<String> = contenders
                .iter()
                .map(|c| format!("{} {}", c.name.as_str(), Value::Object(c.shown.clone())))
                .collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        use DecoderName::{Ar, Jacobi};
        let rows: [(Listed, &str); 2] =
            [(&[(Ar, Some(4))], "no block_size"), (&[(Jacobi, Some(16)), (Jacobi, None)], "twice")];
        for (decoders, expected) in rows {
            let message = config(decoders).contenders(7, &[]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let config = EvalConfig { max_new_tokens: 0, ..EvalConfig::default() };
        assert!(matches!(config.contenders(7, &[]), Err(EvalError::MaxNewTokens)));
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

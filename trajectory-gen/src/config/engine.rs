//! Values of the `[generate]` section that the engine goes by.

use std::fmt;

use jacobi_datasets::{PackConfig, SCHEDULE_KEY, ScheduleKind};
use jacobi_decoder::{Disagreement, RandomSampling, Room, States, StopRules};
use jacobi_model::LanguageModel;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{GenerateConfig, GenerateError, engine::EngineSettings};

/// Samples side by side that `"auto"` does not exceed: more do not make a CPU's passes faster.
const AUTO_SAMPLES: usize = 128;

/// Samples worked on side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchSize {
    /// As many as `memory_budget_gb` allows their caches, up to 128.
    #[default]
    Auto,
    /// So many.
    Samples(usize),
}

impl BatchSize {
    /// The number, if it is one.
    pub fn samples(self) -> Option<usize> {
        match self {
            Self::Auto => None,
            Self::Samples(samples) => Some(samples),
        }
    }
}

/// Which states are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatesKept {
    /// All of them: the shards serve every noise schedule.
    #[default]
    All,
    /// Those up to the one that the round's `[train]` section will ask for.
    Scheduled,
}

/// What a given response that is not the model's leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisagreement {
    /// The sample is left out, and counted.
    Drop,
    /// The model's own response from the first difference on takes its place.
    #[default]
    KeepOurs,
}

impl GenerateConfig {
    /// How the engine is to work, for shards that training will read as `train` says.
    ///
    /// # Errors
    /// [`GenerateError::NoSchedule`] if which states training will ask for is not known beforehand.
    pub(crate) fn engine(
        &self,
        model: &dyn LanguageModel,
        eos_token_ids: &[u32],
        train: &PackConfig,
    ) -> Result<EngineSettings, GenerateError> {
        let states = match self.states {
            StatesKept::All => States::All,
            StatesKept::Scheduled if train.noise.schedule == ScheduleKind::Random => {
                return Err(GenerateError::NoSchedule);
            }
            StatesKept::Scheduled => States::Scheduled { noise: train.noise, window: train.window_size },
        };
        let sampling = RandomSampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            ..RandomSampling::default()
        };
        let stop = StopRules { max_new_tokens: self.max_new_tokens, eos_token_ids: eos_token_ids.to_vec() };
        Ok(EngineSettings {
            block_size: self.block_size,
            states,
            stop,
            sampling: (self.temperature > 0.0).then_some(sampling),
            on_disagreement: match self.on_disagreement {
                OnDisagreement::Drop => Disagreement::Refuse,
                OnDisagreement::KeepOurs => Disagreement::Replace,
            },
            room: self.room(model),
        })
    }

    /// Refuses numbers that mean nothing.
    pub(super) fn validate_engine(&self) -> Result<(), GenerateError> {
        let refuse = |field, value: f64, must| Err(GenerateError::Number { field, value, must });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse("temperature", self.temperature.into(), "a number, 0 or above");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p.into(), "above 0 and at most 1");
        }
        if self.temperature == 0.0 && (self.top_k > 0 || self.top_p < 1.0) {
            return refuse("temperature", 0.0, "above 0 where top_k or top_p is set");
        }
        if !(self.memory_budget_gb.is_finite() && self.memory_budget_gb > 0.0) {
            return refuse("memory_budget_gb", self.memory_budget_gb, "a number above 0");
        }
        Ok(())
    }

    /// Slots for the longest samples there can be.
    fn room(&self, model: &dyn LanguageModel) -> Room {
        let longest = model.context_length().min(self.max_prompt_tokens + self.max_new_tokens);
        // The pass that finds the last token has a row beyond it.
        let capacity = longest + 1;
        let slots = match self.batch_size {
            BatchSize::Samples(samples) => samples,
            BatchSize::Auto => {
                let bytes = (model.cache_bytes_per_token() * capacity).max(1);
                ((self.memory_budget_gb * 1e9) as usize / bytes).clamp(1, AUTO_SAMPLES)
            }
        };
        Room { slots, capacity, rows: self.pass_tokens }
    }

    /// What shards say of the way their states were made, besides the sizes: key and value.
    pub(crate) fn decoding_metadata(&self, train: &PackConfig) -> Vec<(&'static str, String)> {
        let mut entries = vec![("strategy", "greedy".to_owned())];
        if self.temperature > 0.0 {
            entries = vec![
                ("strategy", "sampling".to_owned()),
                ("temperature", self.temperature.to_string()),
                ("top_k", self.top_k.to_string()),
                ("top_p", self.top_p.to_string()),
            ];
        }
        if self.states == StatesKept::Scheduled {
            entries.push((SCHEDULE_KEY, train.schedule_text()));
        }
        entries
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Samples(samples) => serializer.serialize_u64(samples as u64),
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The name is how a schema knows what it can be.
        deserializer.deserialize_newtype_struct("CountOrAuto", BatchSizeVisitor)
    }
}

struct BatchSizeVisitor;

impl<'de> de::Visitor<'de> for BatchSizeVisitor {
    type Value = BatchSize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number of samples, or \"auto\"")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<BatchSize, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<BatchSize, E> {
        match word {
            "auto" => Ok(BatchSize::Auto),
            _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, samples: u64) -> Result<BatchSize, E> {
        Ok(BatchSize::Samples(samples as usize))
    }

    fn visit_i64<E: de::Error>(self, samples: i64) -> Result<BatchSize, E> {
        let refused = || E::invalid_value(de::Unexpected::Signed(samples), &self);
        usize::try_from(samples).map(BatchSize::Samples).map_err(|_| refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of nothing but sizes.
    struct Sizes;

    impl LanguageModel for Sizes {
        fn vocab_size(&self) -> usize {
            10
        }

        fn context_length(&self) -> usize {
            1000
        }

        fn cache_bytes_per_token(&self) -> usize {
            1_000_000
        }

        fn session<'a>(&'a self, _slots: usize, _capacity: usize) -> Box<dyn jacobi_model::Session + 'a> {
            unreachable!("nothing is decoded")
        }
    }

    #[test]
    fn auto_fills_the_memory_budget_with_samples_of_the_greatest_length() {
        let slots = |config: &GenerateConfig| config.room(&Sizes).slots;
        let config =
            GenerateConfig { max_prompt_tokens: 60, max_new_tokens: 39, ..GenerateConfig::default() };
        assert_eq!(config.room(&Sizes).capacity, 100);
        for (budget, expected) in [(1.0, 10), (0.55, 5), (0.001, 1), (500.0, AUTO_SAMPLES)] {
            assert_eq!(slots(&GenerateConfig { memory_budget_gb: budget, ..config.clone() }), expected);
        }
        let fixed = GenerateConfig { batch_size: BatchSize::Samples(7), ..config.clone() };
        assert_eq!(slots(&fixed), 7);
        // The context is a limit too.
        let long = GenerateConfig { max_new_tokens: 5000, ..config };
        assert_eq!(long.room(&Sizes).capacity, 1001);
        assert_eq!(GenerateConfig { pass_tokens: 9, ..long }.room(&Sizes).rows, 9);
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused_by_name() {
        let base = GenerateConfig::default;
        for (config, expected) in [
            (GenerateConfig { temperature: -1.0, ..base() }, "generate.temperature = -1: it must be"),
            (GenerateConfig { temperature: f32::NAN, ..base() }, "generate.temperature = NaN"),
            (GenerateConfig { top_k: 5, ..base() }, "generate.temperature = 0: it must be above 0"),
            (GenerateConfig { temperature: 1.0, top_p: 0.0, ..base() }, "generate.top_p = 0"),
            (GenerateConfig { memory_budget_gb: 0.0, ..base() }, "generate.memory_budget_gb = 0"),
            (GenerateConfig { pass_tokens: 0, ..base() }, "generate.pass_tokens"),
            (GenerateConfig { batch_size: BatchSize::Samples(0), ..base() }, "generate.batch_size"),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(GenerateConfig { temperature: 0.7, top_k: 5, top_p: 0.9, ..base() }.validate().is_ok());
    }

    #[test]
    fn a_batch_size_is_a_number_or_auto() {
        let read = |text: &str| serde_json::from_str::<BatchSize>(text).map_err(|error| error.to_string());
        assert_eq!(read("\"auto\""), Ok(BatchSize::Auto));
        assert_eq!(read("7"), Ok(BatchSize::Samples(7)));
        for wrong in ["\"many\"", "-1", "1.5", "true"] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains("a number of samples, or \"auto\""), "{wrong}: {error}");
        }
        for value in [BatchSize::Auto, BatchSize::Samples(3)] {
            assert_eq!(read(&serde_json::to_string(&value).unwrap()), Ok(value));
        }
    }
}

//! The engine's settings, from the `[generate]` section.

use jacobi_datasets::{PackConfig, SCHEDULE_KEY, ScheduleKind};
use jacobi_decoder::{Disagreement, JacobiConfig, RandomSampling, Room, States, StopRules, Strategy};
use jacobi_model::{Device, LanguageModel};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::by_device::Capacity;
use crate::{GenerateConfig, GenerateError, engine::EngineSettings};

/// Number of samples processed in parallel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "expected a number of samples, or \"auto\"")]
pub enum BatchSize {
    /// As many as `memory_budget_gb` has room for, up to 128, on a GPU up to a quarter of the rows of a pass if that is more.
    #[default]
    Auto,
    /// A number.
    #[serde(untagged)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatesKept {
    /// All states: the shards can be trained on under every noise schedule.
    #[default]
    All,
    /// Only the states up to the one that this round's `[train]` section selects. Saves at least a third of the
    /// work. Training under another schedule is then an error, and a random schedule is not possible.
    Scheduled,
    /// None, only the responses: enough for adapters that learn from random or on-policy states, at a fraction of the
    /// work.
    None,
}

/// What happens to a given response that differs from the model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDisagreement {
    /// The sample is skipped and counted.
    Drop,
    /// The model's own response replaces it from the first difference on.
    #[default]
    KeepOurs,
}

impl GenerateConfig {
    /// The engine's settings, for shards that training will read with `train`.
    ///
    /// # Errors
    /// [`GenerateError::NoSchedule`] if the schedule is random, so that the states that training selects are not known;
    /// [`GenerateError::IdleAdapter`] if the model has an adapter that nothing would use.
    pub(crate) fn engine(
        &self,
        (model, device): (&dyn LanguageModel, Device),
        eos_token_ids: &[u32],
        train: &PackConfig,
    ) -> Result<EngineSettings, GenerateError> {
        let states = match self.states {
            StatesKept::None => None,
            StatesKept::All => Some(States::All),
            StatesKept::Scheduled if train.noise.schedule == ScheduleKind::Random => {
                return Err(GenerateError::NoSchedule);
            }
            StatesKept::Scheduled => {
                Some(States::Scheduled { noise: train.noise, window: train.window_size })
            }
        };
        let sampling = RandomSampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            ..RandomSampling::default()
        };
        let stop = StopRules { max_new_tokens: self.max_new_tokens, eos_token_ids: eos_token_ids.to_vec() };
        let given = (self.memory_budget_gb.map(|gb| gb * 1e9), self.pass_tokens);
        let room = self.room(model, Capacity::of(device, model, given));
        let strategy = self.strategy(model, room);
        if model.has_adapter() && states.is_none() && strategy == Strategy::Autoregressive {
            return Err(GenerateError::IdleAdapter { samples: room.slots, pass_tokens: room.rows });
        }
        Ok(EngineSettings {
            block_size: self.block_size,
            states,
            strategy,
            stop,
            sampling: (self.temperature > 0.0).then_some(sampling),
            on_disagreement: match self.on_disagreement {
                OnDisagreement::Drop => Disagreement::Refuse,
                OnDisagreement::KeepOurs => Disagreement::Replace,
            },
            room,
        })
    }

    /// How responses are decoded. An adapter drafts them where the drafts of all samples fit into a pass: in wider passes
    /// they would cost more than they save.
    fn strategy(&self, model: &dyn LanguageModel, room: Room) -> Strategy {
        match model.has_adapter() && room.slots * self.drafted_rows() <= room.rows {
            true => Strategy::Jacobi(JacobiConfig { block_size: self.block_size, seed: 0 }),
            false => Strategy::Autoregressive,
        }
    }

    /// Rows of a sample in a pass, where an adapter drafts its response.
    fn drafted_rows(&self) -> usize {
        2 * self.block_size - 1
    }

    /// Checks sampling settings and memory budget.
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
        if let Some(budget) = self.memory_budget_gb.filter(|gb| !(gb.is_finite() && *gb > 0.0)) {
            return refuse("memory_budget_gb", budget, "a number above 0");
        }
        Ok(())
    }

    /// Bounds of the batch, with slots for the longest possible samples.
    fn room(&self, model: &dyn LanguageModel, of_device: Capacity) -> Room {
        let longest = model.context_length().min(self.max_prompt_tokens + self.max_new_tokens);
        // The pass that finds the last token has a row beyond it, or a draft.
        let capacity = longest + if model.has_adapter() { self.block_size } else { 1 };
        let slots = match self.batch_size {
            BatchSize::Samples(samples) => samples,
            BatchSize::Auto => {
                let bytes = (model.cache_bytes_per_token() * capacity).max(1);
                (of_device.caches as usize / bytes).clamp(1, of_device.samples)
            }
        };
        Room { slots, capacity, rows: of_device.rows }
    }

    /// Metadata of the shards on how their states were made, besides the sizes: key and value.
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

#[cfg(test)]
pub(crate) mod tests;

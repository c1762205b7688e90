//! The `[tune]` section of a recipe, which the stage of a run and the verb share.

use jacobi_datasets::Section;
use jacobi_datasets::schema::tuned::Objective;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `[tune]` section of a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TuneConfig {
    /// Whether `jacobi run` tunes the exported model before it evaluates it.
    pub enabled: bool,
    /// The figure to maximise.
    pub objective: Objective,
    /// Number of combinations of settings to try besides the defaults.
    pub candidates: usize,
    /// Maximum number of prompts: the first ones of the evaluation, else of the last round's training. With fewer
    /// than 20 the result is never `ar`.
    pub prompts: usize,
    /// Seconds after which the best decoder so far is taken. Fewer candidates are tried if the time is too short
    /// for all.
    pub seconds: usize,
}

impl Default for TuneConfig {
    fn default() -> Self {
        Self { enabled: true, objective: Objective::Tps, candidates: 32, prompts: 40, seconds: 120 }
    }
}

impl Section for TuneConfig {
    const NAME: &'static str = "tune";
    const NEUTRAL: &'static [(&'static str, &'static str)] =
        &[("enabled", "decides whether the stage runs; its result is the same")];
}

impl TuneConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// A text that names the key, its value and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        for (key, value) in [("prompts", self.prompts), ("seconds", self.seconds)] {
            if value == 0 {
                return Err(format!("[tune]: {key} = 0; it must be at least 1"));
            }
        }
        Ok(())
    }
}

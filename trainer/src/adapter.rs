//! The `[train.adapter]` table: a LoRA adapter of a frozen base model is trained instead of all weights.
//!
//! With `rows = "draft"` the adapter drafts and the base verifies (docs/algorithm.md): prompt and clean stream run through the
//! base, without gradient; a noisy row uses the adapter and sees the base's keys and values of the text up to the first token
//! of its window, and those of the adapter behind it. The target is the base's distribution. With `rows = "all"` the adapted
//! model as a whole is trained on both losses, and merged into its base when it is saved.

use jacobi_datasets::{NoiseContext, NoiseTokens, NoisyRows, PackConfig, StateSource, States};
use jacobi_model::{Adapter, AdapterConfig, Architecture, Target, Transformer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{TrainConfig, TrainError, config::check};

/// Rows that use the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterRows {
    /// The noisy rows: the adapter drafts, and the base alone decides the text.
    #[default]
    Draft,
    /// All rows: ordinary LoRA training. Checkpoints are plain models with the adapter merged into the weights.
    All,
}

/// How an adapter is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterSettings {
    /// Rank of the update of each weight.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`. Default: twice the rank.
    pub alpha: Option<f64>,
    /// The linear layers with an update: of `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`.
    pub targets: Vec<Target>,
    /// Rows that use the adapter.
    pub rows: AdapterRows,
    /// Where the states of noisy blocks come from: `"trajectory"` (recorded ones, by the noise schedule), `"random"` (random
    /// tokens behind the first), `"on_policy"` (what the drafter itself would hold), or shares of the samples,
    /// `{ random = 1, on_policy = 3 }`. Random and on-policy blocks need responses only, and begin anywhere in them.
    pub states: States,
    /// What random tokens are drawn from.
    pub noise_tokens: NoiseTokens,
    /// Tokens of a random or on-policy block. Default: the block size of the trajectories.
    pub block_size: Option<usize>,
}

impl Default for AdapterSettings {
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: None,
            targets: Target::ALL.to_vec(),
            rows: AdapterRows::Draft,
            states: States::default(),
            noise_tokens: NoiseTokens::Text,
            block_size: None,
        }
    }
}

impl AdapterSettings {
    /// Size of the adapter.
    pub fn shape(&self) -> AdapterConfig {
        let mut targets = self.targets.clone();
        targets.sort_unstable();
        AdapterConfig { rank: self.rank, alpha: self.alpha.unwrap_or(2.0 * self.rank as f64), targets }
    }

    /// A new adapter for `model`, in fp32.
    pub(crate) fn start(&self, model: &Transformer, seed: u64) -> Adapter {
        Adapter::new(model.architecture(), self.shape(), seed, model.device())
    }

    /// Whether blocks are made that no trajectory has.
    pub(crate) fn makes_states(&self) -> bool {
        [StateSource::Random, StateSource::OnPolicy].into_iter().any(|source| self.states.includes(source))
    }

    /// `pack` with the states of this table.
    pub(crate) fn pack(&self, pack: PackConfig) -> PackConfig {
        PackConfig {
            states: self.states,
            block_size: self.block_size,
            noise_tokens: self.noise_tokens,
            noisy_rows: match self.rows {
                AdapterRows::Draft => NoisyRows::FromSecond,
                AdapterRows::All => NoisyRows::FromDivergence,
            },
            ..pack
        }
    }

    /// Checks the rank against the width of `model`.
    pub(crate) fn check_rank(&self, model: &Architecture) -> Result<(), TrainError> {
        let fits = self.rank <= model.hidden_size as usize;
        check(
            "adapter.rank",
            fits,
            self.rank,
            "must be at most the width of the model (hidden_size in config.json)",
        )
    }

    /// Checks that an adapter of this shape can go on being trained.
    pub(crate) fn check_shape(&self, found: &AdapterConfig) -> Result<(), TrainError> {
        let AdapterConfig { rank, alpha, targets } = self.shape();
        let names: Vec<&str> = targets.iter().map(|target| target.as_str()).collect();
        let value = format!("rank {rank}, alpha {alpha}, targets {names:?}");
        check(
            "adapter",
            self.shape() == *found,
            value,
            "must have the shape of the adapter that the round starts from",
        )
    }

    /// Checks this table, and the settings of `train` that it rules out.
    pub(crate) fn validate(&self, train: &TrainConfig) -> Result<(), TrainError> {
        check("adapter.rank", self.rank > 0, self.rank, "must be at least 1")?;
        let alpha = self.alpha.unwrap_or(1.0);
        check("adapter.alpha", alpha > 0.0 && alpha.is_finite(), alpha, "must be a positive number")?;
        let names: Vec<&str> = self.targets.iter().map(|target| target.as_str()).collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        let are_distinct = !names.is_empty() && unique.len() == names.len();
        let rule = "must name at least one linear layer, and none twice";
        check("adapter.targets", are_distinct, format!("{names:?}"), rule)?;
        self.validate_states(train)?;
        if self.rows == AdapterRows::All {
            return Ok(());
        }
        let [from, to] = train.ar_weight.ends();
        let rule = "must be 0 with train.adapter.rows = \"draft\": the clean rows belong to the frozen base";
        check("ar_weight", from == 0.0 && to == 0.0, train.ar_weight, rule)?;
        let rule = "must be false with train.adapter.rows = \"draft\", which has no autoregressive loss";
        check("ar_prompt_tokens", !train.ar_prompt_tokens, true, rule)?;
        let rule = "must be left out with train.adapter.rows = \"draft\": the teacher is the base already";
        check("teacher", train.teacher == crate::TeacherModel::Own, "\"base\"", rule)
    }

    fn validate_states(&self, train: &TrainConfig) -> Result<(), TrainError> {
        let shares = self.states.shares();
        let each = [shares.trajectory, shares.random, shares.on_policy];
        let sum: f64 = each.iter().sum();
        let are_shares = each.iter().all(|&share| share >= 0.0) && sum > 0.0 && sum.is_finite();
        check("adapter.states", are_shares, format!("{each:?}"), "must have shares of 0 or more, not all 0")?;
        let size = self.block_size.unwrap_or(2);
        check(
            "adapter.block_size",
            size > 1,
            size,
            "must be at least 2: the first token of a block is known",
        )?;
        if self.makes_states() {
            let is_alone = train.window_size == 1 || train.noise_context == NoiseContext::Clean;
            let rule = "must be 1 (or train.noise_context = \"clean\") with random or on-policy states, whose blocks \
                        do not see each other";
            return check("window_size", is_alone, train.window_size, rule);
        }
        let rule = "has no effect with adapter.states = \"trajectory\": leave it out";
        check("adapter.block_size", self.block_size.is_none(), size, rule)?;
        let is_text = self.noise_tokens == NoiseTokens::Text;
        check("adapter.noise_tokens", is_text, "\"vocabulary\"", rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_do_not_go_with_an_adapter_are_refused_by_name() {
        let adapter =
            AdapterSettings { states: States::One(StateSource::Random), ..AdapterSettings::default() };
        let config = TrainConfig {
            adapter: Some(adapter.clone()),
            ar_weight: 0.0.into(),
            window_size: 1,
            ..TrainConfig::default()
        };
        config.validate().unwrap();
        let with = |adapter: AdapterSettings| TrainConfig { adapter: Some(adapter), ..config.clone() };
        let shares = |random| States::Mixture(jacobi_datasets::StateShares { random, ..Default::default() });
        let recorded = States::default();
        let rows = [
            ("train.ar_weight = 1", TrainConfig { ar_weight: 1.0.into(), ..config.clone() }),
            ("train.ar_prompt_tokens = true", TrainConfig { ar_prompt_tokens: true, ..config.clone() }),
            ("train.teacher", TrainConfig { teacher: crate::TeacherModel::Base, ..config.clone() }),
            ("train.window_size = 16", TrainConfig { window_size: 16, ..config.clone() }),
            ("train.ar_weight = 0", TrainConfig { pc_weight: 0.0, ..config.clone() }),
            ("adapter.rank = 0", with(AdapterSettings { rank: 0, ..adapter.clone() })),
            ("adapter.alpha = 0", with(AdapterSettings { alpha: Some(0.0), ..adapter.clone() })),
            ("adapter.targets = []", with(AdapterSettings { targets: vec![], ..adapter.clone() })),
            ("adapter.targets", with(AdapterSettings { targets: vec![Target::QProj; 2], ..adapter.clone() })),
            ("adapter.states", with(AdapterSettings { states: shares(0.0), ..adapter.clone() })),
            ("adapter.states", with(AdapterSettings { states: shares(-1.0), ..adapter.clone() })),
            ("adapter.block_size = 1", with(AdapterSettings { block_size: Some(1), ..adapter.clone() })),
            (
                "adapter.block_size = 8",
                with(AdapterSettings { block_size: Some(8), states: recorded, ..adapter.clone() }),
            ),
            (
                "adapter.noise_tokens",
                with(AdapterSettings { noise_tokens: NoiseTokens::Vocabulary, states: recorded, ..adapter }),
            ),
        ];
        for (named, config) in rows {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
        let all = AdapterSettings { rows: AdapterRows::All, ..AdapterSettings::default() };
        TrainConfig { adapter: Some(all), ..TrainConfig::default() }.validate().unwrap();
    }
}

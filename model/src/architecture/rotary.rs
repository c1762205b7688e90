//! The rotary embedding as config.json describes it. transformers 5 writes `rope_parameters`, older versions
//! `rope_theta` and `rope_scaling`; both are read as transformers 5 reads them.

use serde_json::Value;

use crate::{
    ModelError,
    fields::Fields,
    rope::{RopeConfig, RopeScaling, Yarn},
};

const TYPES: &str = "supported: default, linear, dynamic, llama3, yarn";
/// The context before scaling, in the object of the scaling or in config.json.
const ORIGINAL: &str = "original_max_position_embeddings";
const PARTIAL: &str = "partial_rotary_factor";

impl Fields<'_> {
    /// `context` is `max_position_embeddings`.
    pub(super) fn rope(&self, head_dim: i64, context: i64) -> Result<RopeConfig, ModelError> {
        self.check_whole_heads()?;
        let table = match self.object("rope_scaling", "rope_scaling.")? {
            None => self.object("rope_parameters", "rope_parameters.")?,
            table => table,
        };
        let theta = self.float("rope_theta", Some(10_000.0))?;
        let Some(table) = table else {
            return Ok(RopeConfig { theta, scaling: RopeScaling::None, head_dim });
        };
        table.check_whole_heads()?;
        if let Some((layers, _)) = table.json.iter().find(|(_, value)| value.is_object()) {
            return Err(table.unsupported(layers, "one rotary embedding for all layers"));
        }
        let theta = table.float("rope_theta", Some(theta))?;
        let scaling = self.scaling(&table, context)?;
        Ok(RopeConfig { theta, scaling, head_dim })
    }

    fn scaling(&self, table: &Fields, context: i64) -> Result<RopeScaling, ModelError> {
        let field = if table.get("rope_type").is_some() { "rope_type" } else { "type" };
        Ok(match table.get(field).map_or(Some("default"), Value::as_str) {
            // "Dynamic NTK" changes only texts longer than max_position_embeddings, and none is computed.
            Some("default") => RopeScaling::None,
            Some("dynamic") => {
                table.float("factor", None)?;
                RopeScaling::None
            }
            Some("linear") => RopeScaling::Linear { factor: table.float("factor", None)? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: table.float("factor", None)?,
                low_freq_factor: table.float("low_freq_factor", None)?,
                high_freq_factor: table.float("high_freq_factor", None)?,
                original_context: self.original_context(table, context)?,
            },
            Some("yarn") => RopeScaling::Yarn(self.yarn(table, context)?),
            _ => return Err(table.unsupported(field, TYPES)),
        })
    }

    fn yarn(&self, table: &Fields, context: i64) -> Result<Yarn, ModelError> {
        let original_context = self.original_context(table, context)?;
        // As in Python, a null `factor` is the ratio of the contexts, a null `truncate` is false, and a zero counts
        // as absent where a default follows.
        let factor = match table.json.get("factor") {
            Some(Value::Null) => context as f64 / original_context,
            _ => table.float("factor", None)?,
        };
        if factor <= 0.0 {
            return Err(table.unsupported("factor", "a number above 0"));
        }
        let number = |field: &str| -> Result<Option<f64>, ModelError> {
            let value = table.float(field, Some(0.0))?;
            Ok((value != 0.0).then_some(value))
        };
        let attention_factor =
            match (table.get("attention_factor"), number("mscale")?, number("mscale_all_dim")?) {
                (Some(_), ..) => table.float("attention_factor", None)?,
                (None, Some(mscale), Some(all)) => Yarn::scale(factor, mscale) / Yarn::scale(factor, all),
                (None, ..) => Yarn::scale(factor, 1.0),
            };
        let truncate = match table.json.get("truncate") {
            Some(Value::Null) => false,
            _ => table.bool("truncate", true)?,
        };
        Ok(Yarn {
            factor,
            original_context,
            beta_fast: number("beta_fast")?.unwrap_or(32.0),
            beta_slow: number("beta_slow")?.unwrap_or(1.0),
            attention_factor,
            truncate,
        })
    }

    /// `original_max_position_embeddings` of the scaling, or `context`. In config.json itself it has to be the same:
    /// versions of transformers differ in which of two they take.
    fn original_context(&self, table: &Fields, context: i64) -> Result<f64, ModelError> {
        let original = table.float(ORIGINAL, Some(context as f64))?;
        if original <= 0.0 {
            return Err(table.unsupported(ORIGINAL, "a number above 0"));
        }
        match self.float(ORIGINAL, Some(original))? {
            outer if outer == original => Ok(original),
            _ => Err(self.unsupported(ORIGINAL, &format!("{original} as in {}{ORIGINAL}", table.prefix))),
        }
    }

    fn check_whole_heads(&self) -> Result<(), ModelError> {
        match self.float(PARTIAL, Some(1.0))? {
            1.0 => Ok(()),
            _ => Err(self.unsupported(PARTIAL, "supported: 1")),
        }
    }
}

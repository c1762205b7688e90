//! A setting of the loss that may change over a run.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A constant, `0.5`, or a ramp over the run, `{ from = 1.0, to = 0.1, curve = "cosine" }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ScalarSchedule {
    /// The same in every step.
    Constant(f64),
    /// Changes from the first step to the last.
    Ramp(Ramp),
}

/// First and last value, and the curve between them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// Value in the first step.
    pub from: f64,
    /// Value in the last step.
    pub to: f64,
    /// Curve between the two.
    #[serde(default)]
    pub curve: Curve,
}

/// Curve between two values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Curve {
    /// A straight line.
    #[default]
    Linear,
    /// Half a cosine: slow at both ends.
    Cosine,
}

impl ScalarSchedule {
    /// The value in step `step` (from 0) of `total`.
    pub fn at(&self, step: usize, total: usize) -> f64 {
        match *self {
            Self::Constant(value) => value,
            Self::Ramp(Ramp { from, to, curve }) => {
                let progress = step as f64 / (total.max(2) - 1) as f64;
                let share = match curve {
                    Curve::Linear => progress,
                    Curve::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * progress).cos()),
                };
                from + (to - from) * share
            }
        }
    }

    /// First and last value; all others lie between them.
    pub fn ends(&self) -> [f64; 2] {
        match *self {
            Self::Constant(value) => [value; 2],
            Self::Ramp(Ramp { from, to, .. }) => [from, to],
        }
    }
}

/// Not derived: the error of an untagged enum would not name an unknown key.
impl<'de> Deserialize<'de> for ScalarSchedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrTable;

        impl<'de> Visitor<'de> for NumberOrTable {
            type Value = ScalarSchedule;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number, or a table with `from`, `to` and `curve`")
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<ScalarSchedule, E> {
                Ok(ScalarSchedule::Constant(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<ScalarSchedule, E> {
                Ok(ScalarSchedule::Constant(value as f64))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<ScalarSchedule, E> {
                Ok(ScalarSchedule::Constant(value as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ScalarSchedule, A::Error> {
                Ramp::deserialize(MapAccessDeserializer::new(map)).map(ScalarSchedule::Ramp)
            }
        }

        deserializer.deserialize_any(NumberOrTable)
    }
}

impl fmt::Display for ScalarSchedule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Constant(value) => write!(f, "{value}"),
            Self::Ramp(Ramp { from, to, curve: Curve::Linear }) => write!(f, "{from} to {to}, linear"),
            Self::Ramp(Ramp { from, to, curve: Curve::Cosine }) => write!(f, "{from} to {to}, cosine"),
        }
    }
}

impl From<f64> for ScalarSchedule {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_at_its_ends_and_between() {
        let ramp = |curve| ScalarSchedule::Ramp(Ramp { from: 2.0, to: 1.0, curve });
        let rows = [
            (ScalarSchedule::Constant(3.0), 7, 10, 3.0),
            (ramp(Curve::Linear), 0, 11, 2.0),
            (ramp(Curve::Linear), 4, 11, 1.6),
            (ramp(Curve::Linear), 10, 11, 1.0),
            (ramp(Curve::Cosine), 5, 11, 1.5),
            (ramp(Curve::Cosine), 10, 11, 1.0),
            (ramp(Curve::Linear), 0, 1, 2.0),
        ];
        for (schedule, step, total, expected) in rows {
            assert!((schedule.at(step, total) - expected).abs() < 1e-12, "{schedule:?} at {step}");
        }
    }

    #[test]
    fn a_schedule_is_a_number_or_a_table() {
        let parse = |json: &str| serde_json::from_str::<ScalarSchedule>(json);
        assert_eq!(parse("0.5").unwrap(), ScalarSchedule::Constant(0.5));
        assert_eq!(parse("1").unwrap(), ScalarSchedule::Constant(1.0));
        let ramp = Ramp { from: 1.0, to: 0.1, curve: Curve::Cosine };
        assert_eq!(
            parse(r#"{"from": 1, "to": 0.1, "curve": "cosine"}"#).unwrap(),
            ScalarSchedule::Ramp(ramp)
        );
        assert!(parse(r#"{"from": 1, "to": 0.1, "form": "cosine"}"#).is_err());
        assert!(parse(r#"{"from": 1}"#).is_err());
    }
}

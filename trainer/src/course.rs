//! A number that may change over a run.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A constant, `0.5`, or a change, `{ from = 1.0, to = 0.1, curve = "cosine" }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Course {
    /// The same in every step.
    Constant(f64),
    /// From the first step to the last.
    Change(Change),
}

/// Both ends of a change, and the way between.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// In the first step.
    pub from: f64,
    /// In the last step.
    pub to: f64,
    /// The way between.
    #[serde(default)]
    pub curve: Curve,
}

/// The way between two values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Curve {
    /// A straight line.
    #[default]
    Linear,
    /// Half a cosine: slow at both ends.
    Cosine,
}

impl Course {
    /// The value in step `step` (from 0) of `total`.
    pub fn at(&self, step: usize, total: usize) -> f64 {
        match *self {
            Self::Constant(value) => value,
            Self::Change(Change { from, to, curve }) => {
                let progress = step as f64 / (total.max(2) - 1) as f64;
                let share = match curve {
                    Curve::Linear => progress,
                    Curve::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * progress).cos()),
                };
                from + (to - from) * share
            }
        }
    }

    /// The ends: every value lies between.
    pub fn ends(&self) -> [f64; 2] {
        match *self {
            Self::Constant(value) => [value; 2],
            Self::Change(Change { from, to, .. }) => [from, to],
        }
    }
}

/// Not derived: an untagged enum cannot say which key it does not know.
impl<'de> Deserialize<'de> for Course {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrTable;

        impl<'de> Visitor<'de> for NumberOrTable {
            type Value = Course;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number, or a table with `from`, `to` and `curve`")
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Course, E> {
                Ok(Course::Constant(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Course, E> {
                Ok(Course::Constant(value as f64))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Course, E> {
                Ok(Course::Constant(value as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Course, A::Error> {
                Change::deserialize(MapAccessDeserializer::new(map)).map(Course::Change)
            }
        }

        deserializer.deserialize_any(NumberOrTable)
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Constant(value) => write!(f, "{value}"),
            Self::Change(Change { from, to, curve: Curve::Linear }) => write!(f, "{from} to {to}, linear"),
            Self::Change(Change { from, to, curve: Curve::Cosine }) => write!(f, "{from} to {to}, cosine"),
        }
    }
}

impl From<f64> for Course {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_at_its_ends_and_between() {
        let change = |curve| Course::Change(Change { from: 2.0, to: 1.0, curve });
        let rows = [
            (Course::Constant(3.0), 7, 10, 3.0),
            (change(Curve::Linear), 0, 11, 2.0),
            (change(Curve::Linear), 4, 11, 1.6),
            (change(Curve::Linear), 10, 11, 1.0),
            (change(Curve::Cosine), 5, 11, 1.5),
            (change(Curve::Cosine), 10, 11, 1.0),
            (change(Curve::Linear), 0, 1, 2.0),
        ];
        for (course, step, total, expected) in rows {
            assert!((course.at(step, total) - expected).abs() < 1e-12, "{course:?} at {step}");
        }
    }

    #[test]
    fn a_course_is_a_number_or_a_table() {
        let parse = |json: &str| serde_json::from_str::<Course>(json);
        assert_eq!(parse("0.5").unwrap(), Course::Constant(0.5));
        assert_eq!(parse("1").unwrap(), Course::Constant(1.0));
        let change = Change { from: 1.0, to: 0.1, curve: Curve::Cosine };
        assert_eq!(parse(r#"{"from": 1, "to": 0.1, "curve": "cosine"}"#).unwrap(), Course::Change(change));
        assert!(parse(r#"{"from": 1, "to": 0.1, "form": "cosine"}"#).is_err());
        assert!(parse(r#"{"from": 1}"#).is_err());
    }
}

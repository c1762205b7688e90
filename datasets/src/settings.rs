//! The settings that decide a result: recorded beside it, compared before a run continues it.
//!
//! Each section of the recipe lists the keys that do not decide its result ([`Section::NEUTRAL`]); all others do. So a
//! new key decides until it is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A section of the recipe that decides a result.
pub trait Section: Serialize {
    /// Name of the section.
    const NAME: &'static str;
    /// The keys that do not decide the result, each with the reason. A key of a table within the section is
    /// `table.key`.
    const NEUTRAL: &'static [(&'static str, &'static str)];

    /// The settings of this section that decide its result.
    fn deciding(&self) -> RecordedSettings {
        RecordedSettings::of_section(self)
    }
}

/// Settings that decide a result, flat: `section.key` and the value as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordedSettings {
    values: BTreeMap<String, String>,
}

impl RecordedSettings {
    /// All keys of `section` but the neutral ones.
    pub fn of_section<S: Section + ?Sized>(section: &S) -> Self {
        let mut settings = Self::default();
        settings.set(S::NAME, section);
        for (key, _) in S::NEUTRAL {
            settings.values.remove(&format!("{}.{key}", S::NAME));
        }
        settings
    }

    /// Sets `key`, or the keys below it if `value` is a table. A null removes the key, and a record with it differs.
    ///
    /// # Panics
    /// When `value` has no JSON form.
    pub fn set(&mut self, key: &str, value: impl Serialize) {
        self.flatten(key, serde_json::to_value(value).expect("settings are plain values"));
    }

    fn flatten(&mut self, key: &str, value: Value) {
        match value {
            Value::Null => drop(self.values.remove(key)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.flatten(&format!("{key}.{name}"), value);
                }
            }
            other => drop(self.values.insert(key.to_owned(), other.to_string())),
        }
    }

    /// Adds the settings of `other`.
    pub fn extend(&mut self, other: Self) {
        self.values.extend(other.values);
    }

    /// The value of `key` as JSON.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// How these settings differ from `recorded` ones.
    pub fn differences(&self, recorded: &Self) -> Differences {
        let keys: BTreeSet<&String> = self.values.keys().chain(recorded.values.keys()).collect();
        let differs = |key: &&String| recorded.values.get(*key) != self.values.get(*key);
        let text = |settings: &Self, key: &str| settings.get(key).map_or("not set".to_owned(), plain);
        let difference =
            |key: &String| Difference { key: key.clone(), was: text(recorded, key), is: text(self, key) };
        Differences(keys.into_iter().filter(differs).map(difference).collect())
    }
}

/// A value for people: a text without its quotes.
fn plain(value: &str) -> String {
    serde_json::from_str(value).unwrap_or_else(|_| value.to_owned())
}

/// A setting whose value has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `section.key`.
    pub key: String,
    /// The recorded value, a text without quotes.
    pub was: String,
    /// The value now.
    pub is: String,
}

/// The settings whose values have changed; displayed one per line as `key: was X, is Y`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences(pub Vec<Difference>);

impl Differences {
    /// Whether no setting has changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|Difference { key, was, is }| write!(f, "\n  {key}: was {was}, is {is}"))
    }
}

#[cfg(test)]
mod tests;

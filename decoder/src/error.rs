//! Settings that no decoder can have.

use crate::DecoderName;

/// A setting that the decoder does not have, or a value out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decoder \"{}\": {reason}", name.as_str())]
pub struct DecoderError {
    /// The decoder.
    pub name: DecoderName,
    /// What is wrong and what to do.
    pub reason: String,
}

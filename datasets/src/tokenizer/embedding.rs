//! Refuses token ids that the model's embedding has no row for. A tokenizer can know more tokens than the model,
//! for example a padding token that was added without resizing the embedding.

use serde_json::Value;

use super::Tokenizer;
use crate::error::DatasetError;
use crate::prompts::Message;

impl Tokenizer {
    /// Checks that the model has an embedding for each of these ids. Without `vocab_size` in config.json there is
    /// nothing to check.
    ///
    /// # Errors
    /// `BeyondEmbedding`, with the first such id.
    pub fn check_ids(&self, ids: &[u32]) -> Result<(), DatasetError> {
        let Some(rows) = self.embedding_rows else { return Ok(()) };
        let Some(&id) = ids.iter().find(|id| u64::from(**id) >= rows) else { return Ok(()) };
        let token = self.id_to_token(id).unwrap_or_else(|| "not in the vocabulary".to_owned());
        Err(DatasetError::BeyondEmbedding { dir: self.dir.clone(), token, id, rows })
    }

    /// Checks that a conversation of one message has only ids of the embedding in the chat template: otherwise no
    /// prompt has, and a long run would fail row by row.
    ///
    /// # Errors
    /// `BeyondEmbedding`.
    pub fn check_template(&self) -> Result<(), DatasetError> {
        match self.encode_chat(&[Message::new("user", "a")]) {
            Err(error @ DatasetError::BeyondEmbedding { .. }) => Err(error),
            // Any other failure depends on the messages: it belongs to the prompt that meets it.
            _ => Ok(()),
        }
    }
}

/// Number of rows of the embedding according to a config.json.
pub(super) fn embedding_rows(config_json: &Value) -> Option<u64> {
    config_json["vocab_size"].as_u64().filter(|rows| *rows > 0)
}

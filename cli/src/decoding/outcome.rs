//! A decoded response: its JSON form and its one-line summary.

use jacobi_datasets::FinishReason;
use jacobi_decoder::DecodeStats;
use serde_json::{Map, Value, json};

/// A response, complete or interrupted.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// Ids of the prompt, including the chat template.
    pub prompt_tokens: Vec<u32>,
    /// Ids of the response.
    pub response_tokens: Vec<u32>,
    /// Text of the response.
    pub text: String,
    /// Why it ended; `None` if it was interrupted.
    pub finish_reason: Option<FinishReason>,
    /// Passes, acceptance and time.
    pub stats: DecodeStats,
}

impl Decoded {
    /// The documented JSON form.
    pub fn to_json(&self) -> Map<String, Value> {
        let stats = &self.stats;
        let fields = json!({
            "prompt_tokens": self.prompt_tokens,
            "response_tokens": self.response_tokens,
            "text": self.text,
            "finish_reason": self.finish_reason.map(FinishReason::as_str),
            "stats": {
                "forwards": stats.forwards,
                "cycles": stats.cycles,
                "tokens": stats.tokens,
                "tpf": stats.tpf(),
                "tps": stats.tps(),
                "prefill_seconds": stats.prefill_seconds,
                "decode_seconds": stats.decode_seconds,
                "acceptance": stats.acceptance,
                "accepted_from": stats.accepted_from,
                "limited_by": stats.limited_by,
                "widths": stats.widths,
            },
        });
        fields.as_object().cloned().expect("an object was written")
    }

    /// The statistics in one line.
    pub fn summary(&self) -> String {
        let stats = &self.stats;
        let mut text = format!("{} tokens, {} passes", self.response_tokens.len(), stats.forwards);
        if let (Some(tpf), Some(tps)) = (stats.tpf(), stats.tps()) {
            text += &format!(", TPF {tpf:.2}, {tps:.1} tokens/s");
        }
        let end = self.finish_reason.map_or("a signal", FinishReason::as_str);
        text + &format!(", prefill {:.2} s, ended by {end}", stats.prefill_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jacobi_decoder::{Limit, Source, WidthStats};

    #[test]
    fn json_and_summary_carry_the_published_fields() {
        let stats = DecodeStats {
            forwards: 2,
            cycles: 2,
            tokens: 5,
            prefill_seconds: 0.25,
            decode_seconds: 0.5,
            acceptance: vec![0, 0, 1, 1],
            accepted_from: [(Source::Own, 2), (Source::Tree, 1)].into(),
            limited_by: [(Limit::Draft, 1), (Limit::End, 1)].into(),
            widths: [(16, WidthStats { forwards: 2, seconds: 0.5 })].into(),
        };
        let mut decoded = Decoded {
            prompt_tokens: vec![1, 3],
            response_tokens: vec![4, 5, 6, 7, 8, 2],
            text: "hi".into(),
            finish_reason: Some(FinishReason::Eos),
            stats,
        };
        let expected = json!({
            "prompt_tokens": [1, 3], "response_tokens": [4, 5, 6, 7, 8, 2], "text": "hi", "finish_reason": "eos",
            "stats": {"forwards": 2, "cycles": 2, "tokens": 5, "tpf": 2.5, "tps": 10.0, "prefill_seconds": 0.25,
                "decode_seconds": 0.5, "acceptance": [0, 0, 1, 1], "accepted_from": {"own": 2, "tree": 1},
                "limited_by": {"draft": 1, "end": 1}, "widths": {"16": {"forwards": 2, "seconds": 0.5}}},
        });
        assert_eq!(Value::Object(decoded.to_json()), expected);
        let summary = "6 tokens, 2 passes, TPF 2.50, 10.0 tokens/s, prefill 0.25 s, ended by";
        assert_eq!(decoded.summary(), format!("{summary} eos"));
        decoded.finish_reason = None;
        assert_eq!(decoded.summary(), format!("{summary} a signal"));
        assert_eq!(decoded.to_json()["finish_reason"], Value::Null);
    }
}

//! Counters and gauges in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An atomic number.
#[derive(Debug, Default)]
pub struct Count(AtomicUsize);

impl Count {
    /// Adds `count`.
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Subtracts `count`.
    pub fn sub(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Sets it to `count`.
    pub fn set(&self, count: usize) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The metrics, counted since the start unless said otherwise.
#[derive(Debug, Default)]
pub struct Metrics {
    /// HTTP requests for answers, successful or not.
    pub requests: Count,
    /// Requests that were refused or failed.
    pub errors: Count,
    /// Answers that wait for a slot (gauge).
    pub queue: Count,
    /// Answers in the batch (gauge).
    pub running: Count,
    /// Prompt tokens that were run.
    pub prompt_tokens: Count,
    /// Tokens that were generated.
    pub tokens: Count,
    /// Generated tokens that were accepted from a draft.
    pub accepted_drafts: Count,
    /// Forward passes, each over the whole batch.
    pub passes: Count,
    /// Rows of these passes.
    pub rows: Count,
    /// Passes after the prefill, counted per answer.
    pub response_passes: Count,
}

impl Metrics {
    /// All metrics as text.
    pub fn to_text(&self) -> String {
        let lines = [
            ("requests_total", "counter", "requests for answers", &self.requests),
            ("errors_total", "counter", "requests that were refused or failed", &self.errors),
            ("queue", "gauge", "answers that wait for a slot", &self.queue),
            ("running", "gauge", "answers in the batch", &self.running),
            ("prompt_tokens_total", "counter", "prompt tokens that were run", &self.prompt_tokens),
            ("tokens_total", "counter", "tokens that were generated", &self.tokens),
            ("accepted_draft_tokens_total", "counter", "tokens accepted from a draft", &self.accepted_drafts),
            ("passes_total", "counter", "forward passes", &self.passes),
            ("rows_total", "counter", "rows of the forward passes", &self.rows),
            (
                "response_passes_total",
                "counter",
                "passes after the prefill, summed over answers",
                &self.response_passes,
            ),
        ];
        let mut text = String::new();
        for (name, kind, help, count) in lines {
            let count = count.get();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "# HELP jacobi_{name} {help}\n# TYPE jacobi_{name} {kind}\njacobi_{name} {count}"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_three_lines() {
        let metrics = Metrics::default();
        metrics.tokens.add(5);
        metrics.queue.add(3);
        metrics.queue.sub(1);
        let text = metrics.to_text();
        assert!(text.contains("# TYPE jacobi_tokens_total counter\njacobi_tokens_total 5\n"), "{text}");
        assert!(text.contains("# TYPE jacobi_queue gauge\njacobi_queue 2\n"), "{text}");
        assert_eq!(text.lines().count(), 30);
    }
}

//! Progress: a bar on a terminal, elsewhere a plain line at intervals.

use std::io::{self, IsTerminal};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// Interval between plain lines in a log.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows a transfer from or to the hub.
pub fn show_transfer(name: &str, done: u64, total: u64) {
    static BAR: LazyLock<ProgressBar> = LazyLock::new(|| {
        let style =
            ProgressStyle::with_template("{msg} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
        ProgressBar::new(0).with_style(style.expect("the template is a constant"))
    });
    static LAST_LINE: Mutex<Option<Instant>> = Mutex::new(None);
    if total == 0 {
        return BAR.finish_and_clear();
    }
    if !io::stderr().is_terminal() {
        let mut last = LAST_LINE.lock().unwrap_or_else(PoisonError::into_inner);
        if last.get_or_insert_with(Instant::now).elapsed() >= LINE_EVERY {
            *last = Some(Instant::now());
            output::status(&format!("{name}: {} of {} MB", done / 1_000_000, total / 1_000_000));
        }
        return;
    }
    if BAR.is_finished() {
        BAR.reset();
    }
    BAR.set_message(name.to_owned());
    BAR.set_length(total);
    BAR.set_position(done);
}

/// One stage's progress.
pub struct Progress {
    label: String,
    bar: Option<ProgressBar>,
    started: Option<(Instant, usize)>,
    last_line: Instant,
}

impl Progress {
    /// Starts the progress of the stage `label`. Nothing is shown before the first update.
    pub fn new(label: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix:<12} {bar:28} {pos}/{len} {msg}")
                .expect("the template is a constant");
            ProgressBar::new(0).with_style(style).with_prefix(label.to_owned())
        });
        Self { label: label.to_owned(), bar, started: None, last_line: Instant::now() }
    }

    /// Shows `done` of `total`, with `detail` after the rate. A resumed stage may start above zero; the rate counts from
    /// its first call.
    pub fn update(&mut self, done: usize, total: usize, detail: &str) {
        let (start, first) = *self.started.get_or_insert((Instant::now(), done));
        let pace = pace(start.elapsed(), done.saturating_sub(first), total.saturating_sub(done));
        let message = [pace.as_str(), detail].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        let message = message.join("  ");
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_message(message);
            bar.set_position(done as u64);
        } else if self.last_line.elapsed() >= LINE_EVERY || (done == total && first < total) {
            output::status(&format!("{}: {done}/{total}  {message}", self.label));
            self.last_line = Instant::now();
        }
    }

    /// Prints a line about the stage, above the bar if there is one.
    pub fn say(&self, text: &str) {
        let line = format!("{}: {text}", self.label);
        match &self.bar {
            Some(bar) => bar.suspend(|| output::status(&line)),
            None => output::status(&line),
        }
    }

    /// Removes the bar and prints one line with the outcome.
    pub fn finish(self, summary: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let took = self.started.map_or(String::new(), |(start, _)| format!(" in {}", clock(start.elapsed())));
        output::status(&format!("{}: {summary}{took}", self.label));
    }
}

impl Drop for Progress {
    /// Removes the bar, so that it does not cover an error message.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Rate and time left, or nothing before the first rate.
fn pace(elapsed: Duration, done: usize, left: usize) -> String {
    if done == 0 || elapsed.is_zero() {
        return String::new();
    }
    let rate = done as f64 / elapsed.as_secs_f64();
    let rate_text = if rate >= 0.1 { format!("{rate:.1}/s") } else { format!("{:.1} s each", 1.0 / rate) };
    format!("{rate_text}  {} left", clock(Duration::from_secs_f64(left as f64 / rate)))
}

/// A duration in short form: `42s`, `3m05s`, `2h07m`.
pub fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_rates_read_well() {
        let rows = [(0.4, "0s"), (42.0, "42s"), (185.0, "3m05s"), (7620.0, "2h07m")];
        for (seconds, expected) in rows {
            assert_eq!(clock(Duration::from_secs_f64(seconds)), expected);
        }
        assert_eq!(pace(Duration::from_secs(10), 20, 100), "2.0/s  50s left");
        assert_eq!(pace(Duration::from_secs(100), 5, 3), "20.0 s each  1m00s left");
        assert_eq!(pace(Duration::from_secs(1), 0, 5), "");
    }
}

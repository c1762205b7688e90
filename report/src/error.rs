//! Failures to write a report.

use std::path::PathBuf;

use jacobi_datasets::DatasetError;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or directory could not be read or written.
    #[error(transparent)]
    File(#[from] DatasetError),
    /// A row or sample has no JSON form.
    #[error("cannot write {file} as JSON")]
    Json {
        /// The file.
        file: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A chart could not be drawn.
    #[error("cannot draw the chart {chart}")]
    Chart {
        /// The chart.
        chart: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A line of the metrics file is not a JSON object.
    #[error(
        "{}:{line}: not a line of training metrics; delete the line, or delete the file to report without a loss curve",
        path.display()
    )]
    MetricsLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

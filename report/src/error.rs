//! What can go wrong when a report is written.

use std::path::PathBuf;

use jacobi_datasets::DatasetError;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The report directory could not be made.
    #[error("cannot create the report directory; check that {} is writable", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A report file could not be written; the cause names it.
    #[error("cannot write the report")]
    Write(#[from] DatasetError),
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
    /// The metrics file could not be read.
    #[error("cannot read the training metrics {}", path.display())]
    ReadMetrics {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A line of the metrics file is not a JSON object.
    #[error(
        "{}:{line}: not a line of training metrics; delete the line, or the file to report without a loss curve",
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

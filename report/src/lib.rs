//! Renders evaluation rows: a terminal table, `report.md`, a self-contained `report.html`, SVG charts, a
//! model card, the results of tuning, and coloured trajectories. It measures nothing and never links
//! libtorch: its input is rows and samples.

mod chart;
mod comparison;
mod content;
mod details;
mod error;
mod figures;
mod html;
mod lm_eval;
mod markdown;
mod metrics;
mod model_card;
mod pass_page;
mod pass_view;
mod passes;
mod samples;
mod table;
mod text;
mod training;
mod trajectory_view;
mod tune;
mod write;

pub use comparison::{ComparisonRow, comparison_table};
pub use content::ROWS_LEFT_OUT;
pub use error::ReportError;
pub use metrics::{EvaluationPoint, TrainingCurve, TrainingPoint};
pub use model_card::{AdapterSize, ModelCard, card_with_decoder, model_card};
pub use pass_page::{DecodedPage, decoded_page};
pub use pass_view::{Mark, PassRow, Span, bracket_legend, color_legend, pass_line};
pub use table::{terminal_summary, terminal_table};
pub use text::visible;
pub use training::{training_table, write_training};
pub use trajectory_view::{Marks, trajectory_page, trajectory_view};
pub use tune::{tune_table, write_tune_report};
pub use write::write_report;

#[cfg(test)]
mod fixtures;

//! The report directory; every file is written atomically.

use std::path::Path;

use jacobi_datasets::DatasetError;
use jacobi_datasets::atomic::write_atomic;
use jacobi_datasets::schema::eval_row::{EvalSample, Results};

use crate::chart::{Chart, charts, training};
use crate::content::Content;
use crate::{ReportError, TrainingCurve, html, lm_eval, markdown};

/// Writes `results.json`, `samples.jsonl`, the SVG charts, `report.md` and `report.html` into `dir`, which is
/// created if missing. The measurements are written first, so that they are kept if a chart cannot be drawn.
///
/// # Errors
/// The directory or a file in it cannot be written, or a chart cannot be drawn.
pub fn write_report(
    dir: &Path,
    results: &Results,
    samples: &[EvalSample],
    training: &[TrainingCurve],
) -> Result<(), ReportError> {
    let json = |file| move |source| ReportError::Json { file, source };
    let mut file = serde_json::to_value(results).map_err(json("results.json"))?;
    if let Some(fields) = file.as_object_mut() {
        fields.extend(lm_eval::block(&results.rows));
    }
    let mut lines = String::new();
    for sample in samples {
        lines += &serde_json::to_string(sample).map_err(json("samples.jsonl"))?;
        lines.push('\n');
    }
    write_files(dir, [("results.json", &*format!("{file:#}\n")), ("samples.jsonl", &*lines)])?;

    let (charts, training_charts) = (charts(&results.rows)?, training::charts(training)?);
    write_files(dir, charts.iter().chain(&training_charts).map(Chart::as_file))?;
    let content = Content::of(results, samples, training, [&charts, &training_charts]);
    let (markdown, html) = (markdown::render(&content), html::render(&content));
    write_files(dir, [("report.md", &*markdown), ("report.html", &*html)])
}

/// Writes files (name, content) into `dir`, which is created if missing, each atomically.
pub(crate) fn write_files<'a>(
    dir: &Path,
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), ReportError> {
    fs_err::create_dir_all(dir).map_err(DatasetError::io("create", dir))?;
    for (name, text) in files {
        write_atomic(&dir.join(name), |out| out.write_all(text.as_bytes()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

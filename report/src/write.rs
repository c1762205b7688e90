//! The report directory: every file whole or not there.

use std::path::Path;

use jacobi_datasets::atomic::write_atomic;
use jacobi_datasets::schema::eval_row::{EvalSample, Results};

use crate::chart::{charts, training};
use crate::content::Content;
use crate::{ReportError, TrainingCurve, html, lm_eval, markdown};

/// Writes `results.json`, `samples.jsonl`, the SVG charts, `report.md` and `report.html` into `dir`, which is made if
/// missing. The measurements go first: if a drawing fails, they are kept.
///
/// # Errors
/// The directory or a file in it cannot be written, or a chart cannot be drawn.
pub fn write_report(
    dir: &Path,
    results: &Results,
    samples: &[EvalSample],
    training: &[TrainingCurve],
) -> Result<(), ReportError> {
    fs_err::create_dir_all(dir).map_err(|source| ReportError::Directory { path: dir.to_owned(), source })?;
    let write = |name: &str, text: &str| write_atomic(&dir.join(name), |out| out.write_all(text.as_bytes()));

    let json = |file| move |source| ReportError::Json { file, source };
    let mut file = serde_json::to_value(results).map_err(json("results.json"))?;
    if let Some(fields) = file.as_object_mut() {
        fields.extend(lm_eval::block(&results.rows));
    }
    write("results.json", &format!("{file:#}\n"))?;
    let mut lines = String::new();
    for sample in samples {
        lines += &serde_json::to_string(sample).map_err(json("samples.jsonl"))?;
        lines.push('\n');
    }
    write("samples.jsonl", &lines)?;

    let (charts, training_charts) = (charts(&results.rows)?, training::charts(training)?);
    for chart in charts.iter().chain(&training_charts) {
        write(&chart.file, &chart.svg)?;
    }
    let content = Content::of(results, samples, training, [&charts, &training_charts]);
    write("report.md", &markdown::render(&content))?;
    write("report.html", &html::render(&content))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{results, samples};

    #[test]
    fn every_file_is_there_and_the_data_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("run").join("report");
        write_report(&report, &results(), &samples(), &[]).unwrap();
        let mut names: Vec<String> = fs_err::read_dir(&report)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = [
            "acceptance.svg",
            "frontier.svg",
            "iterations.svg",
            "positions.svg",
            "ranks.svg",
            "report.html",
            "report.md",
            "results.json",
            "samples.jsonl",
            "speed.svg",
            "tpf.svg",
            "widths.svg",
        ];
        assert_eq!(names, expected);
        let text = fs_err::read_to_string(report.join("results.json")).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results());
        assert!(text.contains("\n  \"results\": {\n    \"jacobi_gsm8k\": {\n"), "{text}");
        let text = fs_err::read_to_string(report.join("samples.jsonl")).unwrap();
        let read: Vec<EvalSample> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, samples());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs_err::write(&file, "").unwrap();
        let message = write_report(&file.join("report"), &results(), &[], &[]).unwrap_err().to_string();
        assert!(message.contains("file/report"), "{message}");
    }
}

//! Metrics files: resumed, cut short, damaged.

use super::*;

fn read(text: &str) -> Result<TrainingCurve, ReportError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    fs_err::write(&path, text).unwrap();
    TrainingCurve::read("round-1", &path, 8)
}

#[test]
fn curves_are_read_and_summarised() {
    let curve = read(concat!(
        "{\"step\": 0, \"eval/tpf\": 1.25}\n",
        "{\"step\": 1, \"train/loss\": 4.0, \"train/loss_ar\": 1.0, \"train/tokens_per_second\": 100}\n",
        "{\"step\": 2, \"train/loss\": 9.0, \"eval/tpf\": 9.0, \"train/tokens_per_second\": 200}\n",
        "{\"step\": 2, \"train/loss\": 2.0, \"train/tokens_per_second\": 300}\n",
        "{\"note\": \"no step\"}\n",
        "{\"step\": 2, \"eval/tpf\": 1.5, \"eval/loss_ar\": 0.5}\n",
        "{\"step\": 3, \"train/l"
    ))
    .unwrap();
    assert_eq!(curve.points.len(), 2);
    let evaluation = |step, tpf, loss_ar| EvaluationPoint { step, tpf, exact_match_ar: None, loss_ar };
    assert_eq!(curve.evaluations, [evaluation(0, 1.25, None), evaluation(2, 1.5, Some(0.5))]);
    assert_eq!(
        curve.summary(),
        "round-1: 2 steps, 16 samples, loss 4.00 to 2.00 (autoregressive 1.00 to 1.00), 200.0 tokens/s, \
         TPF 1.25 to 1.50"
    );
    assert_eq!(read("").unwrap().summary(), "round-1: no steps logged");
}

#[test]
fn time_adds_up_over_sittings() {
    let lines = [(1, 60.0), (2, 100.0), (3, 30.0), (4, 70.0)];
    let text: String = lines
        .map(|(step, seconds)| format!("{{\"step\": {step}, \"seconds\": {seconds}, \"train/loss\": 1}}\n"))
        .concat();
    assert_eq!(read(&text).unwrap().cost(), "round-1: 4 steps, 32 samples, 3 min");
    let rows = [(119.0, "119 s"), (7199.0, "120 min"), (7200.0, "2.0 h")];
    assert!(rows.iter().all(|&(seconds, text)| duration(seconds) == text));
}

#[test]
fn a_bad_line_is_named() {
    let message = read("{\"step\": 1}\noops\n").unwrap_err().to_string();
    assert!(message.contains("metrics.jsonl:2:"), "{message}");
}

//! Good and bad jacobi.json files.

use super::*;
use jacobi_decoder::DecoderName;

const FILE: &str = r#"{"schema": "jacobi-tune/1", "decoder": {"name": "multi_block", "block_size": 8, "tree_budget": 16},
    "is_default": false, "prompts": 2, "tokens": 9, "forwards": 3, "rows": 30, "decode_seconds": 0.5, "tpf": 3.0,
    "tps": 18.0, "speedup_over_ar": null, "objective": "tps", "dtype": "float32",
    "latency": {"cached": 1, "knee": 1, "widths": []}, "command": "jacobi tune", "environment": {}}"#;

fn with_file(text: &str) -> Result<Option<DecoderConfig>, EvalError> {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join(TUNED_FILE), text).unwrap();
    tuned(dir.path())
}

#[test]
fn the_tuned_decoder_is_read_if_there_is_one() {
    let expected = DecoderConfig {
        name: DecoderName::MultiBlock,
        block_size: Some(8),
        tree_budget: Some(16),
        ..DecoderConfig::default()
    };
    assert_eq!(with_file(FILE).unwrap(), Some(expected));
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(tuned(dir.path()).unwrap(), None);
    assert_eq!(tuned(&dir.path().join("nowhere")).unwrap(), None);
}

#[test]
fn a_bad_file_is_named_with_the_way_out_and_its_cause() {
    let rows = [
        (String::new(), "EOF"),
        ("{oops".into(), "line 1"),
        ("[]".into(), "its schema is null"),
        (FILE.replace("tune/1", "tune/2"), "its schema is \"jacobi-tune/2\", not \"jacobi-tune/1\""),
        (FILE.replace("\"dtype\"", "\"dtyp\""), "missing field `dtype`"),
        (FILE.replace("\"name\": \"multi_block\", ", ""), "no name"),
        (FILE.replace("multi_block", "medusa"), "unknown variant `medusa`"),
        (FILE.replace("tree_budget", "tree"), "unknown field `tree`"),
        (FILE.replace("multi_block", "jacobi"), "it has no tree_budget"),
        (FILE.replace("\"block_size\": 8", "\"block_size\": 0"), "at least 1"),
    ];
    for (text, cause) in rows {
        let error = with_file(&text).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("jacobi.json") && message.contains("delete it"), "{message}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(cause), "{source}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs_err::create_dir(dir.path().join(TUNED_FILE)).unwrap();
    assert!(matches!(tuned(dir.path()), Err(EvalError::Tuned { .. })));
}

//! The form of a file: its opening, length and name.

use super::{File, Finding, assert_none, project};

const SOURCE_LINES_MAX: usize = 400;
const TEST_LINES_MAX: usize = 600;
const REFUSED_WORDS: &[&str] = &["v2", "old", "new", "backup", "bak", "deprecated", "final", "copy", "tmp"];

/// Checks opening, length and name.
fn check_form(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut must = |holds: bool, line: usize, rule: String| {
        if !holds {
            findings.push(format!("{}:{line}: {rule}", file.path));
        }
    };
    let mut words = file.path.split(|c: char| !c.is_alphanumeric());
    let refused = words.find(|word| REFUSED_WORDS.contains(&word.to_lowercase().as_str()));
    must(
        refused.is_none(),
        1,
        format!("'{}' in a file name: git is the archive", refused.unwrap_or_default()),
    );
    if file.extension() == "rs" {
        must(file.text.starts_with("//! "), 1, "a Rust file opens with //! and says what it is".into());
    }
    if file.extension() == "sh" {
        let strict =
            file.text.starts_with("#!/usr/bin/env bash\n") && file.text.contains("\nset -euo pipefail\n");
        must(strict, 1, "a script opens with #!/usr/bin/env bash and has set -euo pipefail".into());
    }
    if file.is_source() {
        let total = file.text.lines().count();
        let source = match file.text.split_once("\n#[cfg(test)]\nmod tests {\n") {
            _ if file.is_test() => 0,
            Some((source, _)) => source.lines().count(),
            None => total,
        };
        let split = "split it by concept";
        must(
            source <= SOURCE_LINES_MAX,
            source,
            format!("{source} lines of source, at most {SOURCE_LINES_MAX}: {split}"),
        );
        let tests = total - source;
        must(
            tests <= TEST_LINES_MAX,
            total,
            format!("{tests} lines of tests, at most {TEST_LINES_MAX}: {split}"),
        );
    }
    findings
}

#[test]
fn every_file_is_well_formed() {
    assert_none(project().iter().flat_map(check_form).collect());
}

#[test]
fn form_check_tells_bad_from_good() {
    let long = |lines: usize| format!("//! Long.\n{}", "x\n".repeat(lines - 1));
    let with_tests = |source: usize, tests: usize| {
        format!("{}#[cfg(test)]\nmod tests {{\n{}", long(source), "x\n".repeat(tests - 2))
    };
    let script = "#!/usr/bin/env bash\n# Why.\nset -euo pipefail\n";
    let rows = [
        ("a/src/b.rs", long(400), 0),
        ("a/src/b.rs", long(401), 1),
        ("a/src/b.rs", with_tests(400, 600), 0),
        ("a/src/b.rs", with_tests(401, 601), 2),
        ("a/src/b.rs", format!("//! B.\n#[cfg(test)]\nmod fixtures;\n{}", long(401)), 1),
        ("tests/b.rs", long(600), 0),
        ("tests/b.rs", long(601), 1),
        ("a/src/b/tests.rs", long(600), 0),
        ("a/src/b_tests.rs", long(601), 1),
        ("a/src/b.rs", "use std::io;\n".into(), 1),
        ("a/src/loss_v2.rs", long(2), 1),
        ("a/old/loss.rs", long(2), 1),
        ("a/src/newline.rs", long(2), 0),
        ("scripts/a.sh", script.into(), 0),
        ("scripts/a.sh", "#!/bin/sh\n".into(), 1),
    ];
    for (path, text, expected) in rows {
        let findings = check_form(&File::new(path, &text));
        assert_eq!(findings.len(), expected, "{path}: {findings:?}");
    }
}

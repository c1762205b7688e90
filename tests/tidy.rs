//! The project's rules that neither rustc nor clippy checks: allowed dependencies, form and length of files, forbidden
//! lines, and that README, ARCHITECTURE and the golden files agree with the tree.
//!
//! Each check is a function from text to [`Finding`]s. It must find nothing in the project, and something in samples that
//! break the rule.

mod dependencies;
mod documents;
mod form;
mod lines;

use std::path::{Path, PathBuf};

/// `path:line: what is wrong and what to do`.
type Finding = String;

/// A file of the project: its path from the root with `/` between parts, its text (empty for binary files).
struct File {
    path: String,
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn extension(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    fn is_source(&self) -> bool {
        ["rs", "py", "sh", "cpp", "h"].contains(&self.extension())
    }

    /// A file that holds tests only: all of tests/, and `tests.rs` or `x_tests.rs` in a crate.
    fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

/// Every file of the tree that .gitignore does not exclude, sorted by path.
fn project() -> Vec<File> {
    let ignore = fs_err::read_to_string(root().join(".gitignore")).unwrap();
    let patterns: Vec<&str> =
        ignore.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}{}", entry.file_name().into_string().unwrap());
            if path == ".git" || patterns.iter().any(|pattern| is_ignored(pattern, &path)) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(format!("{path}/"));
            } else {
                let text = String::from_utf8(fs_err::read(entry.path()).unwrap()).unwrap_or_default();
                files.push(File { path, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The part of .gitignore's syntax that is used here: a name anywhere, or `/path` from the root; one `*` at most.
fn is_ignored(pattern: &str, path: &str) -> bool {
    let candidate = if pattern.starts_with('/') { path } else { file_name(path) };
    let pattern = pattern.trim_matches('/');
    match pattern.split_once('*') {
        None => candidate == pattern,
        Some((start, end)) => {
            candidate.len() >= start.len() + end.len()
                && candidate.starts_with(start)
                && candidate.ends_with(end)
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn text_of<'a>(files: &'a [File], path: &str) -> &'a str {
    &files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is missing")).text
}

#[track_caller]
fn assert_none(findings: Vec<Finding>) {
    assert!(findings.is_empty(), "{} broken rules:\n  {}", findings.len(), findings.join("\n  "));
}

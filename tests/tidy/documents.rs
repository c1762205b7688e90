//! README, ARCHITECTURE, links and golden files agree with the files of the project.

use super::{File, Finding, assert_none, file_name, project, text_of};

const README_LINES_MAX: usize = 150;

#[test]
fn readme_is_short() {
    let lines = text_of(&project(), "README.md").lines().count();
    assert!(
        lines <= README_LINES_MAX,
        "README.md has {lines} lines, at most {README_LINES_MAX}: move details to docs/"
    );
}

/// ARCHITECTURE's table of folders, whose rows begin with "| `folder/` |", names every crate and no folder that is gone.
fn check_folders(architecture: &str, files: &[File]) -> Vec<Finding> {
    let named: Vec<&str> = architecture
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(folder, _)| folder)
        .collect();
    let gone = named
        .iter()
        .filter(|folder| !files.iter().any(|file| file.path.starts_with(**folder)))
        .map(|folder| format!("ARCHITECTURE.md: the table of folders names {folder}, which does not exist"));
    let crates = files.iter().filter_map(|file| file.path.strip_suffix("Cargo.toml"));
    let missing = crates
        .filter(|folder| !folder.is_empty() && !named.contains(folder))
        .map(|folder| format!("ARCHITECTURE.md: the table of folders lacks the crate {folder}"));
    gone.chain(missing).collect()
}

#[test]
fn architecture_names_the_folders() {
    let files = project();
    assert_none(check_folders(text_of(&files, "ARCHITECTURE.md"), &files));
    let sample = ["Cargo.toml", "a/Cargo.toml", "a/src/lib.rs", "docs/b.md"].map(|path| File::new(path, ""));
    let rows = [
        ("| `a/` | one | |\n| `docs/` | two | |\n", 0),
        ("| `docs/` | two | |\n", 1),
        ("| `a/` | |\n| `b/` | |\n", 1),
    ];
    for (table, expected) in rows {
        assert_eq!(check_folders(table, &sample).len(), expected, "{table}");
    }
}

/// The anchors of a Markdown file's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            title.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
        })
        .collect()
}

/// Relative links of a Markdown file lead to files of the project, and their anchors to headings.
fn check_links(file: &File, files: &[File]) -> Vec<Finding> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    for (line, number) in file.text.lines().zip(1..) {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains(':') {
                continue;
            }
            let (link, anchor) = target.split_once('#').unwrap_or((target, ""));
            let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
            for part in link.trim_end_matches('/').split('/') {
                match part {
                    ".." => drop(parts.pop()),
                    _ => parts.push(part),
                }
            }
            let path = if link.is_empty() { file.path.clone() } else { parts.join("/") };
            let linked = files.iter().find(|other| other.path == path);
            let is_folder = files.iter().any(|other| other.path.starts_with(&format!("{path}/")));
            let has_anchor = anchor.is_empty()
                || linked.is_some_and(|linked| anchors(&linked.text).iter().any(|found| found == anchor));
            if (linked.is_none() && !is_folder) || !has_anchor {
                findings.push(format!("{}:{number}: the link to {target} leads nowhere", file.path));
            }
        }
    }
    findings
}

#[test]
fn links_lead_to_files() {
    let files = project();
    assert_none(
        files
            .iter()
            .filter(|file| file.extension() == "md")
            .flat_map(|file| check_links(file, &files))
            .collect(),
    );
    let rows = [
        ("[a](a.md) [w](https://x.org)", 0),
        ("[a](../docs/a.md#part-2-n--1)", 0),
        ("# Here\n[b](#here)", 0),
        ("[a](b.md)", 1),
        ("[a](a.md#gone) [b](#here)", 2),
    ];
    for (text, expected) in rows {
        let sample = File::new("docs/x.md", text);
        let files = [File::new("docs/a.md", "## Part 2: `n` = 1\n"), File::new("docs/x.md", text)];
        assert_eq!(check_links(&sample, &files).len(), expected, "{text}");
    }
}

/// In ARCHITECTURE.md each invariant ends in `Guard: ..`; the functions it names in backticks exist.
fn check_guards(architecture: &str, files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rest in architecture.split("Guard: ").skip(1) {
        let guards = rest.split("\n-").next().unwrap_or(rest);
        let guards = guards.split("\n\n").next().unwrap_or(guards);
        for name in guards.split('`').skip(1).step_by(2).filter(|name| !name.contains(['/', '.'])) {
            let definition = format!("fn {name}(");
            if !files.iter().any(|file| file.extension() == "rs" && file.text.contains(&definition)) {
                findings.push(format!("ARCHITECTURE.md: no test is called {name}"));
            }
        }
    }
    findings
}

#[test]
fn invariants_name_their_guards() {
    let files = project();
    let architecture = text_of(&files, "ARCHITECTURE.md");
    assert!(architecture.matches("Guard: ").count() >= 5, "the invariants are where this test looks");
    assert_none(check_guards(architecture, &files));
    let sample = [File::new("a.rs", "fn law_holds() {}")];
    assert_none(check_guards("- Law. Guard: `law_holds` in `tests/a.rs`.", &sample));
    assert_eq!(
        check_guards("- Law. Guard: `law_is_gone`,\n  `law_holds`, `law_too`.\n- `other`", &sample).len(),
        2
    );
}

/// Each golden file has a program in scripts/golden that wrote it: of the same stem, or naming file and folder.
fn check_goldens(files: &[File]) -> Vec<Finding> {
    let scripts: Vec<&File> = files.iter().filter(|file| file.path.starts_with("scripts/golden/")).collect();
    let stem = |path: &str| file_name(path).split('.').next().unwrap_or_default().to_owned();
    let goldens = files.iter().filter_map(|file| Some((file, file.path.strip_prefix("tests/golden/")?)));
    goldens
        .filter(|(file, inner)| {
            let mut parts = inner.rsplit('/');
            let (name, folder) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            !scripts.iter().any(|script| {
                stem(&script.path) == stem(&file.path)
                    || (script.text.contains(name) && script.text.contains(folder))
            })
        })
        .map(|(file, _)| format!("{}: no program in scripts/golden says that it writes this", file.path))
        .collect()
}

#[test]
fn goldens_have_their_generators() {
    assert_none(check_goldens(&project()));
    let scripts = [File::new("scripts/golden/rope.py", "\"tiny\" -> out / \"model.safetensors\"")];
    let rows = [
        ("rope.safetensors", 0),
        ("models/tiny/model.safetensors", 0),
        ("models/big/model.safetensors", 1),
        ("x.json", 1),
    ];
    for (golden, expected) in rows {
        let golden = File::new(&format!("tests/golden/{golden}"), "");
        let script = File::new(&scripts[0].path, &scripts[0].text);
        assert_eq!(check_goldens(&[script, golden]).len(), expected);
    }
}

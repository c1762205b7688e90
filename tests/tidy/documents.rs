//! What README, ARCHITECTURE, links and golden files promise, held against the tree.

use super::{File, Finding, assert_none, file_name, project, text_of};

/// The paths of README's annotated tree: the fenced block after "## The tree", two spaces per level.
fn tree_paths(readme: &str) -> Vec<String> {
    let block = readme.split("\n## The tree\n").nth(1).and_then(|rest| rest.split("```").nth(1));
    let mut folders: Vec<&str> = Vec::new();
    let mut paths = Vec::new();
    for line in
        block.expect("README has a fenced tree").lines().skip(1).filter(|line| !line.trim().is_empty())
    {
        let name = line.split_whitespace().next().expect("the line is not empty");
        folders.truncate((line.len() - line.trim_start().len()) / 2);
        paths.push(format!("{}{name}", folders.concat()));
        if name.ends_with('/') {
            folders.push(name);
        }
    }
    paths
}

/// Every path of the tree exists, and every Rust file is in it. A folder's line stands for its lib.rs or mod.rs, a
/// file's for its tests.
fn check_tree(readme: &str, files: &[File]) -> Vec<Finding> {
    let paths = tree_paths(readme);
    let exists = |path: &str| {
        files.iter().any(|file| file.path == path || (path.ends_with('/') && file.path.starts_with(path)))
    };
    let gone = paths
        .iter()
        .filter(|path| !exists(path))
        .map(|path| format!("README.md: the tree names {path}, which is not there"));
    let missing = files
        .iter()
        .filter(|file| file.extension() == "rs" && !["lib.rs", "mod.rs"].contains(&file_name(&file.path)))
        .filter(|file| file.path.starts_with("tests/") || !file.is_test())
        .filter(|file| !paths.contains(&file.path))
        .map(|file| format!("README.md: the tree lacks {}: add it with a phrase of what it is", file.path));
    gone.chain(missing).collect()
}

#[test]
fn readme_tree_is_the_tree() {
    let files = project();
    assert_none(check_tree(text_of(&files, "README.md"), &files));
}

#[test]
fn tree_check_tells_bad_from_good() {
    let files = [File::new("a/src/lib.rs", ""), File::new("a/src/b.rs", ""), File::new("c.sh", "")];
    let rows = [
        ("a/           one\n  src/b.rs   two\n", 0),
        ("a/\n  src/\n    b.rs  two\nc.sh\n", 0),
        ("a/\n", 1),
        ("a/\n  src/b.rs\n  src/gone.rs\n", 1),
        ("a/src/b.rs\nd/\n", 1),
    ];
    for (tree, expected) in rows {
        let findings = check_tree(&format!("# T\n\n## The tree\n\nWords.\n\n```text\n{tree}```\n"), &files);
        assert_eq!(findings.len(), expected, "{tree}: {findings:?}");
    }
}

/// Relative links of a Markdown file lead to files of the project.
fn check_links(file: &File, files: &[File]) -> Vec<Finding> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    for (line, number) in file.text.lines().zip(1..) {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if target.is_empty() || target.contains(':') {
                continue;
            }
            let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
            for part in target.trim_end_matches('/').split('/') {
                match part {
                    ".." => drop(parts.pop()),
                    _ => parts.push(part),
                }
            }
            let path = parts.join("/");
            if !files.iter().any(|other| other.path == path || other.path.starts_with(&format!("{path}/"))) {
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
    let rows =
        [("[a](a.md) [w](https://x.org)", 0), ("[a](../docs/a.md#part) [b](#here)", 0), ("[a](b.md)", 1)];
    for (text, expected) in rows {
        let sample = File::new("docs/x.md", text);
        assert_eq!(check_links(&sample, &[File::new("docs/a.md", "")]).len(), expected, "{text}");
    }
}

/// In ARCHITECTURE.md each invariant ends in `Guard: ..`; the functions it names in backticks exist.
fn check_guards(architecture: &str, files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, number) in architecture.lines().zip(1..) {
        let Some((_, guards)) = line.split_once("Guard: ") else {
            continue;
        };
        for name in guards.split('`').skip(1).step_by(2).filter(|name| !name.contains(['/', '.'])) {
            let definition = format!("fn {name}(");
            if !files.iter().any(|file| file.extension() == "rs" && file.text.contains(&definition)) {
                findings.push(format!("ARCHITECTURE.md:{number}: no test is called {name}"));
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
    assert_eq!(check_guards("- Law. Guard: `law_is_gone`.", &sample).len(), 1);
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

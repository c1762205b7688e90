//! Which crate may depend on which.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::{File, Finding, assert_none, project, text_of};

/// Allowed dependencies between our crates. A crate that is not listed has none.
const EDGES: &[(&str, &[&str])] = &[
    ("jacobi-model", &["jacobi-torch-ext"]),
    ("jacobi-decoder", &["jacobi-model", "jacobi-datasets"]),
    ("jacobi-trainer", &["jacobi-decoder", "jacobi-model", "jacobi-datasets", "jacobi-torch-ext"]),
    ("jacobi-trajectory-gen", &["jacobi-decoder", "jacobi-model", "jacobi-datasets"]),
    ("jacobi-eval", &["jacobi-decoder", "jacobi-model", "jacobi-datasets"]),
    ("jacobi-report", &["jacobi-datasets"]),
];
const SEES_ALL: &[&str] = &["jacobi-cli", "jacobi-fuzz", "jacobi-tests"];

/// Third-party crates that only these may name; the reason becomes the finding's text.
const OUTSIDE: &[(&str, &[&str], &str)] = &[
    ("tokenizers", &["jacobi-datasets"], "only datasets handles text, the rest handles ids"),
    ("minijinja", &["jacobi-datasets"], "only datasets handles text, the rest handles ids"),
    ("anyhow", &["jacobi-cli", "jacobi-tests"], "a library has typed errors"),
    ("clap", &["jacobi-cli"], "only the binary parses arguments"),
    ("indicatif", &["jacobi-cli"], "only the binary draws on the terminal"),
    ("console", &["jacobi-cli"], "only the binary draws on the terminal"),
];

/// Crates that never link libtorch, not even through another crate.
const TENSOR_FREE: &[&str] = &["jacobi-datasets", "jacobi-report"];

fn check_edges(path: &str, manifest: &Table) -> Vec<Finding> {
    let name = manifest["package"]["name"].as_str().expect("a package has a name");
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    let named: BTreeSet<&str> = tables
        .iter()
        .filter_map(|table| manifest.get(*table).and_then(Value::as_table))
        .flat_map(|table| table.keys().map(String::as_str))
        .collect();
    let allowed = EDGES.iter().find(|(from, _)| *from == name).map_or(&[][..], |(_, to)| to);
    let mut findings = Vec::new();
    for dependency in named {
        let is_ours = dependency.starts_with("jacobi-");
        if is_ours && !SEES_ALL.contains(&name) && !allowed.contains(&dependency) {
            findings.push(format!("{path}: {name} may not depend on {dependency}; it may on {allowed:?}"));
        }
        let rule =
            OUTSIDE.iter().find(|(outside, users, _)| *outside == dependency && !users.contains(&name));
        if let Some((_, users, why)) = rule {
            findings.push(format!("{path}: {name} may not name {dependency}, only {users:?} may: {why}"));
        }
    }
    findings
}

/// Follows Cargo.lock from `start` and reports the path to libtorch, if there is one.
fn check_tensor_free(lock: &Table, start: &str) -> Vec<Finding> {
    let packages = lock["package"].as_array().expect("Cargo.lock lists packages");
    let mut dependencies: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let listed = package.get("dependencies").and_then(Value::as_array);
        // Each is "name" or "name version"; two versions of one crate count as one.
        let names = listed
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter_map(|entry| entry.split(' ').next());
        dependencies
            .entry(package["name"].as_str().expect("a package has a name"))
            .or_default()
            .extend(names);
    }
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![start]];
    while let Some(way) = ways.pop() {
        let last = way[way.len() - 1];
        if last == "torch-sys" {
            return vec![format!("Cargo.lock: {start} links libtorch: {}", way.join(" -> "))];
        }
        for next in dependencies.get(last).into_iter().flatten().filter(|next| seen.insert(**next)) {
            ways.push([&way[..], &[*next]].concat());
        }
    }
    vec![]
}

fn table_of(files: &[File], path: &str) -> Table {
    text_of(files, path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn manifests(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with("/Cargo.toml"))
}

#[test]
fn dependencies_point_one_way() {
    let files = project();
    assert!(manifests(&files).count() >= 9, "the crates are where this test looks");
    assert_none(
        manifests(&files).flat_map(|file| check_edges(&file.path, &table_of(&files, &file.path))).collect(),
    );
}

#[test]
fn datasets_and_report_never_link_libtorch() {
    let lock = table_of(&project(), "Cargo.lock");
    assert_none(TENSOR_FREE.iter().flat_map(|name| check_tensor_free(&lock, name)).collect());
    assert_eq!(check_tensor_free(&lock, "jacobi-decoder").len(), 1, "the decoder does, by way of the model");
}

#[test]
fn edge_check_tells_bad_from_good() {
    let rows = [
        ("jacobi-decoder", "jacobi-model.workspace = true", 0),
        ("jacobi-decoder", "jacobi-trainer.workspace = true", 1),
        ("jacobi-model", "jacobi-decoder = { path = \"../decoder\" }", 1),
        ("jacobi-cli", "jacobi-model.workspace = true\nanyhow.workspace = true", 0),
        ("jacobi-eval", "anyhow.workspace = true\nclap = \"4\"", 2),
    ];
    for (name, dependencies, expected) in rows {
        for kind in ["dependencies", "dev-dependencies"] {
            let text = format!("[package]\nname = \"{name}\"\n[{kind}]\n{dependencies}\n");
            let findings = check_edges("Cargo.toml", &text.parse().unwrap());
            assert_eq!(findings.len(), expected, "{name} on {dependencies}: {findings:?}");
        }
    }
}

/// Every line of the root's dependency table is below a comment, without an empty line between.
fn check_reasons(manifest: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_table = false;
    let mut has_reason = false;
    for (line, number) in manifest.lines().zip(1..) {
        if line.starts_with('[') {
            in_table = line.trim() == "[workspace.dependencies]";
        }
        has_reason = line.starts_with('#') || (has_reason && !line.trim().is_empty());
        if in_table && line.contains(" = ") && !has_reason {
            findings
                .push(format!("Cargo.toml:{number}: a dependency needs a comment above it: why we have it"));
        }
    }
    findings
}

#[test]
fn every_dependency_has_its_reason() {
    assert_none(check_reasons(text_of(&project(), "Cargo.toml")));
    let rows =
        [("# Why.\na = \"1\"\nb = \"1\"\n", 0), ("# Why.\na = \"1\"\n\nb = \"1\"\n", 1), ("a = \"1\"\n", 1)];
    for (table, expected) in rows {
        assert_eq!(check_reasons(&format!("[workspace.dependencies]\n{table}")).len(), expected, "{table}");
    }
}

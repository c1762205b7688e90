//! The embedded files are those of the repository, and writing them replaces nothing.

use std::path::PathBuf;

use super::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli/ lies in the workspace")
}

/// The files under `folder` of the repository, as paths from its root.
fn files_under(folder: &str) -> Vec<String> {
    let mut folders = vec![PathBuf::from(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(path),
                false => files.push(path.to_str().unwrap().to_owned()),
            }
        }
    }
    files
}

#[test]
fn the_default_model_its_prompts_and_every_recipe_for_users_are_embedded() {
    let mut expected = [files_under("datasets/default"), files_under("configs")].concat();
    // It builds the default model, from the corpus of a script.
    expected.retain(|path| path != "configs/default-model.toml");
    expected.sort();
    let embedded: Vec<&str> = FILES.iter().map(|(path, _)| *path).collect();
    assert_eq!(embedded, expected);
}

#[test]
fn missing_files_are_written_once_and_no_other_file_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    assert_eq!(write_into(dir).unwrap(), FILES.len());
    for (path, content) in FILES {
        assert_eq!(fs_err::read(dir.join(path)).unwrap(), *content, "{path}");
    }
    let (first, last) = (dir.join(FILES[0].0), dir.join(FILES[FILES.len() - 1].0));
    fs_err::remove_file(&first).unwrap();
    assert_eq!(write_into(dir).unwrap(), 1);
    // Another content refuses the whole call, files before it included.
    fs_err::remove_file(&first).unwrap();
    fs_err::write(&last, "mine").unwrap();
    let error = write_into(dir).unwrap_err();
    assert!(error.is::<UsageError>() && error.to_string().contains(last.to_str().unwrap()), "{error}");
    assert!(!first.exists());
    assert_eq!(fs_err::read(&last).unwrap(), b"mine");
}

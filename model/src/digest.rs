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
    Ok(DigestCache::of_user().digests(dir)?.files)
}

/// BLAKE3 of the weight files of `dir`, as [`crate::LoadedModel::weight_hash`]; empty without weights.
///
/// # Errors
/// A file of the directory that cannot be read.
pub fn weight_hash(dir: &Path) -> Result<String, ModelError> {
    Ok(DigestCache::of_user().digests(dir)?.weights)
}

/// [`weight_hash`], if the cache has it: then no weights are read.
pub(crate) fn known_weight_hash(dir: &Path) -> Option<String> {
    DigestCache::of_user().known_weight_hash(dir)
}

/// The digests of former runs, a file for each state of a directory.
struct DigestCache {
    /// None: nothing is kept.
    dir: Option<PathBuf>,
    /// Digests of files that were changed less than this before are not kept.
    settled: Duration,
}

impl DigestCache {
    fn of_user() -> Self {
        Self { dir: dirs::cache_dir().map(|dir| dir.join("jacobi/digests")), settled: SETTLED }
    }

    fn known_weight_hash(&self, dir: &Path) -> Option<String> {
        let files = hashed_files(dir).ok()?;
        let hash = cached(&self.entry(&files)?)?.weights;
        Some(hash).filter(|hash| !hash.is_empty())
    }

    fn digests(&self, dir: &Path) -> Result<Digests, ModelError> {
        let files = hashed_files(dir)?;
        let entry = self.entry(&files);
        if let Some(found) = entry.as_deref().and_then(cached) {
            return Ok(found);
        }
        let is_settled = self.is_settled(&files);
        let digests = work_out(&files)?;
        // Cache it only if no file changed while it was hashed.
        if let Some(entry) = entry.filter(|entry| is_settled && self.entry(&files).as_ref() == Some(entry)) {
            keep(&entry, &digests);
        }
        Ok(digests)
    }

    /// The file that holds the digests of this state of the files: their paths, sizes and times of change.
    fn entry(&self, files: &[HashedFile]) -> Option<PathBuf> {
        let mut hasher = blake3::Hasher::new();
        for HashedFile { path, is_weights, is_listed } in files {
            let path = fs_err::canonicalize(path).ok()?;
            let metadata = fs_err::metadata(&path).ok()?;
            let modified = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            let state = (metadata.len(), modified.as_nanos(), identity(&metadata), is_weights, is_listed);
            hasher.update(path.as_os_str().as_encoded_bytes());
            hasher.update(format!("\0{state:?}\0").as_bytes());
        }
        Some(self.dir.as_ref()?.join(hasher.finalize().to_hex().to_string()))
    }

    /// Whether the last change of every file is long enough ago.
    fn is_settled(&self, files: &[HashedFile]) -> bool {
        let is_old = |time: SystemTime| time.elapsed().is_ok_and(|age| age >= self.settled);
        files.iter().all(|HashedFile { path, .. }| {
            fs_err::metadata(path).is_ok_and(|metadata| {
                metadata.modified().is_ok_and(is_old) && changed(&metadata).is_none_or(is_old)
            })
        })
    }
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

/// The time of the last change of a file, its name and permissions included, which no program can set.
#[cfg(unix)]
fn changed(metadata: &std::fs::Metadata) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt;
    let nanoseconds = Duration::from_nanos(metadata.ctime_nsec().try_into().ok()?);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().try_into().ok()?) + nanoseconds)
}

#[cfg(not(unix))]
fn changed(_: &std::fs::Metadata) -> Option<SystemTime> {
    None
}

/// The digests in the file `entry`; none if it is not whole.
fn cached(entry: &Path) -> Option<Digests> {
    let digests: Digests = serde_json::from_slice(&fs_err::read(entry).ok()?).ok()?;
    let is_hex =
        |text: &str, digits| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_whole = is_hex(&digests.files, 16) && (digests.weights.is_empty() || is_hex(&digests.weights, 64));
    is_whole.then_some(digests)
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
        let (dir, kept) = (directory(), tempfile::tempdir().unwrap());
        let (dir, config) = (dir.path(), dir.path().join("config.json"));
        let cache = |settled| DigestCache { dir: Some(kept.path().join("digests")), settled };
        let first = cache(SETTLED).digests(dir).unwrap();
        // The time of modification can be set, that of change cannot.
        for file in hashed_files(dir).unwrap() {
            let file = fs_err::OpenOptions::new().write(true).open(file.path).unwrap();
            file.file().set_modified(SystemTime::now() - 5 * SETTLED).unwrap();
        }
        cache(SETTLED).digests(dir).unwrap();
        let is_fresh = "its files may change within one tick of the clock";
        assert_eq!(cache(SETTLED).known_weight_hash(dir), None, "{is_fresh}");
        let cache = cache(Duration::ZERO);
        assert_eq!(cache.digests(dir).unwrap().files, first.files);
        assert_eq!(cache.known_weight_hash(dir), Some(first.weights.clone()));
        let entry = cache.entry(&hashed_files(dir).unwrap()).unwrap();
        // As a digest that was not worked out again.
        let other = "0123456789abcdef";
        keep(&entry, &Digests { weights: first.weights.clone(), files: other.to_owned() });
        assert_eq!(cache.digests(dir).unwrap().files, other);
        for (weights, files) in
            [("short", other), (&*first.weights, "no digits of hex"), ("", &*first.weights)]
        {
            keep(&entry, &Digests { weights: weights.to_owned(), files: files.to_owned() });
            assert_eq!(cache.known_weight_hash(dir), None, "{weights} {files}");
        }
        // Of equal size and with the former time of modification.
        let time = fs_err::metadata(&config).unwrap().modified().unwrap();
        fs_err::write(&config, "[]").unwrap();
        fs_err::OpenOptions::new().write(true).open(&config).unwrap().file().set_modified(time).unwrap();
        let changed = cache.digests(dir).unwrap().files;
        assert!(changed != first.files && changed != other, "{changed}");
    }
}

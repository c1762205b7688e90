//! What was measured so far, in a file: a benchmark of half an hour goes on where it was stopped, or is run in pieces.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

/// Measurements under one setting, by rows and way.
pub struct Measured {
    path: Option<PathBuf>,
    all: Value,
}

impl Measured {
    /// Those in `path` that were made by this very program under `settings`; without a path nothing is remembered.
    pub fn open(path: Option<&Path>, settings: &Value) -> anyhow::Result<Self> {
        let fresh = json!({ "settings": settings, "program": program()?, "rows": {} });
        let found = path.filter(|path| path.is_file()).map(read).transpose()?;
        let all = found.filter(|found| ["settings", "program"].iter().all(|key| found[key] == fresh[key]));
        Ok(Self { path: path.map(Path::to_owned), all: all.unwrap_or(fresh) })
    }

    /// The measurement of `way` at `rows`: the remembered one, or `measure`'s, which is remembered.
    pub fn of(
        &mut self,
        rows: usize,
        way: &str,
        measure: impl FnOnce() -> anyhow::Result<Value>,
    ) -> anyhow::Result<Value> {
        let key = rows.to_string();
        if let Some(found) = self.all["rows"][&key].get(way) {
            return Ok(found.clone());
        }
        let measured = measure()?;
        self.all["rows"][&key][way] = measured.clone();
        if let Some(path) = &self.path {
            let text = format!("{:#}\n", self.all);
            jacobi_datasets::atomic::write_atomic(path, |out| {
                std::io::Write::write_all(out, text.as_bytes())
            })?;
        }
        Ok(measured)
    }
}

pub fn read(path: &Path) -> anyhow::Result<Value> {
    let text = fs_err::read_to_string(path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// When this program was built: figures of two builds are not put side by side.
fn program() -> anyhow::Result<Value> {
    let built = fs_err::metadata(std::env::current_exe()?)?.modified()?;
    Ok(built.duration_since(std::time::UNIX_EPOCH)?.as_millis().to_string().into())
}

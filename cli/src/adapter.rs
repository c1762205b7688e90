//! A draft adapter and its base model, as the options name them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jacobi_datasets::hub;
use jacobi_model::{Architecture, ModelError, StoredAdapter};

use crate::exit::UsageError;

/// The directory of a model, and of its adapter if there is one.
#[derive(Clone, Debug)]
pub struct ModelDirs {
    /// The model.
    pub model: PathBuf,
    /// The adapter.
    pub adapter: Option<PathBuf>,
}

impl ModelDirs {
    /// The model that is asked for; without one the base that the config of the adapter names.
    ///
    /// # Errors
    /// An adapter that cannot be read, or whose base is not there; a download that fails.
    pub fn find(model: Option<&Path>, adapter: Option<&Path>) -> anyhow::Result<Self> {
        let adapter = adapter.map(hub::adapter_dir).transpose()?;
        let model = match (model, &adapter) {
            (Some(model), _) => hub::model_dir(model)?,
            (None, Some(adapter)) => base_of(adapter)?,
            (None, None) => {
                return Err(UsageError("no model: give --model DIR or --adapter DIR".into()).into());
            }
        };
        Ok(Self { model, adapter })
    }

    /// Checks that both are what they are given as, before anything is said of them or downloaded for them.
    ///
    /// # Errors
    /// A directory that is no model; an adapter that cannot be read.
    pub fn check(&self) -> Result<(), ModelError> {
        Architecture::from_dir(&self.model)?;
        self.adapter.as_deref().map(StoredAdapter::read).transpose()?;
        Ok(())
    }

    /// The directory of `jacobi.json`, which an adapter has instead of its base.
    pub fn tuned(&self) -> &Path {
        self.adapter.as_deref().unwrap_or(&self.model)
    }
}

/// The directory of the base that the adapter in `dir` names.
fn base_of(dir: &Path) -> anyhow::Result<PathBuf> {
    let stored = StoredAdapter::read(dir)?;
    let Some(base) = stored.base() else {
        let message = format!("{} names no base model: give it by --model DIR", dir.display());
        return Err(UsageError(message).into());
    };
    let base = match stored.revision() {
        Some(revision) if !Path::new(base).exists() => format!("{base}@{revision}"),
        _ => base.to_owned(),
    };
    let wanted =
        || format!("the adapter {} is for the base model {base}: give it by --model DIR", dir.display());
    let found = hub::model_dir(Path::new(&base)).with_context(wanted)?;
    if found.is_dir() { Ok(found) } else { Err(anyhow::anyhow!("{base} does not exist").context(wanted())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_the_given_model_or_the_one_that_the_adapter_names() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let dir = tempfile::tempdir().unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs_err::copy(root.join("tests/golden/adapters/tiny_llama").join(file), dir.path().join(file))
                .unwrap();
        }
        let config = dir.path().join("adapter_config.json");
        let text = fs_err::read_to_string(&config).unwrap();
        let base = root.join("tests/golden/models/tiny_llama");
        let naming = |base: &str| {
            fs_err::write(&config, text.replace("tests/golden/models/tiny_llama", base)).unwrap();
            ModelDirs::find(None, Some(dir.path()))
        };
        assert_eq!(naming(base.to_str().unwrap()).unwrap().model, base);
        let error = format!("{:#}", naming("/nowhere/base").unwrap_err());
        assert!(error.contains("/nowhere/base") && error.contains("--model"), "{error}");
        let given = ModelDirs::find(Some(&base), Some(dir.path())).unwrap();
        assert_eq!((given.model.as_path(), given.tuned()), (base.as_path(), dir.path()));
        assert!(ModelDirs::find(None, None).is_err());
    }
}

//! Writes a model under Hugging Face names. A model is a list of files: the caller decides where and when
//! each is written. Tensors are converted one at a time, so no second copy of the model is in memory.

use std::{borrow::Cow, collections::HashMap, io::Write, path::Path};

use safetensors::{Dtype as StoredDtype, serialize_to_file, tensor::View};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use crate::{
    ModelError,
    precision::{dtype_name, to_kind},
    weights::{INDEX_FILE, WEIGHTS_FILE},
};

/// The largest weight file, as on the hub.
pub const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// One file of a model directory, ready to be written.
pub struct ModelFile<'a> {
    /// Its name in the directory.
    pub name: String,
    content: Content<'a>,
}

enum Content<'a> {
    Json(Value),
    /// In this dtype, or each in its own, with entries of the file's metadata.
    Tensors(&'a [(String, Tensor)], Option<Kind>, HashMap<String, String>),
}

impl ModelFile<'_> {
    /// Writes the file to `path` and fsyncs it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        match &self.content {
            Content::Json(value) => write_json(path, value),
            Content::Tensors(tensors, kind, metadata) => {
                save_with_metadata(path, tensors, *kind, metadata.clone())
            }
        }
    }
}

impl<'a> ModelFile<'a> {
    pub(crate) fn json(name: &str, value: Value) -> Self {
        Self { name: name.to_owned(), content: Content::Json(value) }
    }

    /// Tensors, each in its own dtype, with entries of the file's metadata.
    pub(crate) fn tensors(
        name: &str,
        tensors: &'a [(String, Tensor)],
        metadata: HashMap<String, String>,
    ) -> Self {
        Self { name: name.to_owned(), content: Content::Tensors(tensors, None, metadata) }
    }
}

/// The files of a model: `config.json` and the weights in `kind`, in files of at most `max_shard_bytes` each
/// (one tensor at least).
pub fn model_files<'a>(
    config: &Map<String, Value>,
    tensors: &'a [(String, Tensor)],
    kind: Kind,
    max_shard_bytes: usize,
) -> Vec<ModelFile<'a>> {
    let mut config = config.clone();
    config.remove("dtype");
    config.insert("torch_dtype".into(), dtype_name(kind).into());
    let mut files = vec![ModelFile::json("config.json", Value::Object(config))];
    let shards = split(tensors, kind, max_shard_bytes);
    let name_of = |shard: usize| match shards.len() {
        1 => WEIGHTS_FILE.to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
    };
    let mut weight_map = Map::new();
    for (at, shard) in shards.iter().enumerate() {
        let name = name_of(at);
        weight_map.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), Value::from(name.clone()))));
        files.push(ModelFile { name, content: Content::Tensors(shard, Some(kind), HashMap::new()) });
    }
    if shards.len() > 1 {
        let total_size: usize = tensors.iter().map(|(_, t)| t.numel() * kind.elt_size_in_bytes()).sum();
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        files.push(ModelFile::json(INDEX_FILE, index));
    }
    files
}

/// Writes all of [`model_files`] into `dir`. For an atomic save the caller renames the directory afterwards.
///
/// # Errors
/// A file that cannot be written.
pub fn save_model(
    dir: &Path,
    config: &Map<String, Value>,
    tensors: &[(String, Tensor)],
    kind: Kind,
    max_shard_bytes: usize,
) -> Result<(), ModelError> {
    fs_err::create_dir_all(dir)?;
    model_files(config, tensors, kind, max_shard_bytes)
        .iter()
        .try_for_each(|file| file.write(&dir.join(&file.name)))
}

/// Consecutive runs of tensors, each of at most `max_bytes` unless a single tensor is larger.
fn split(tensors: &[(String, Tensor)], kind: Kind, max_bytes: usize) -> Vec<&[(String, Tensor)]> {
    let (mut shards, mut start, mut bytes) = (vec![], 0, 0);
    for (i, (_, tensor)) in tensors.iter().enumerate() {
        let size = tensor.numel() * kind.elt_size_in_bytes();
        if i > start && bytes + size > max_bytes {
            shards.push(&tensors[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += size;
    }
    shards.push(&tensors[start..]);
    shards
}

/// Writes named tensors to one safetensors file and fsyncs it. They are cast to `kind`; `None` keeps each
/// dtype.
///
/// # Errors
/// A file that cannot be written.
pub fn save_tensors(path: &Path, tensors: &[(String, Tensor)], kind: Option<Kind>) -> Result<(), ModelError> {
    save_with_metadata(path, tensors, kind, HashMap::new())
}

/// As [`save_tensors`], with entries of the file's metadata.
fn save_with_metadata(
    path: &Path,
    tensors: &[(String, Tensor)],
    kind: Option<Kind>,
    mut metadata: HashMap<String, String>,
) -> Result<(), ModelError> {
    let views =
        tensors.iter().map(|(name, tensor)| (name, Stored::new(tensor, kind.unwrap_or(tensor.kind()))));
    metadata.insert("format".to_owned(), "pt".to_owned());
    // safetensors makes the file private to its owner; the user's umask is to decide instead.
    let permissions = fs_err::File::create(path)?.metadata()?.permissions();
    serialize_to_file(views, Some(metadata), path)
        .map_err(|source| ModelError::Unwritten { path: path.to_path_buf(), source })?;
    fs_err::set_permissions(path, permissions)?;
    Ok(fs_err::File::open(path)?.sync_all()?)
}

/// A tensor that is converted to bytes only when it is written.
struct Stored<'a> {
    tensor: &'a Tensor,
    kind: Kind,
    shape: Vec<usize>,
}

impl<'a> Stored<'a> {
    fn new(tensor: &'a Tensor, kind: Kind) -> Self {
        Self { tensor, kind, shape: tensor.size().iter().map(|&n| n as usize).collect() }
    }
}

impl View for Stored<'_> {
    fn dtype(&self) -> StoredDtype {
        match self.kind {
            Kind::Float => StoredDtype::F32,
            Kind::BFloat16 => StoredDtype::BF16,
            Kind::Half => StoredDtype::F16,
            Kind::Int64 => StoredDtype::I64,
            other => panic!("no checkpoint holds tensors of {other:?}"),
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = to_kind(&self.tensor.detach(), self.kind).to_device(tch::Device::Cpu).contiguous();
        let mut bytes = vec![0u8; self.data_len()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.kind.elt_size_in_bytes()
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| ModelError::json(path, e))?;
    let mut file = fs_err::File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    Ok(file.sync_all()?)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn weights_have_the_permissions_of_the_config() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = [("a".to_owned(), Tensor::from_slice(&[1.0f32]))];
        let config = Map::new();
        let mode = |file: &ModelFile| {
            let path = dir.path().join(&file.name);
            file.write(&path).unwrap();
            fs_err::metadata(&path).unwrap().permissions().mode()
        };
        let modes: Vec<u32> = model_files(&config, &tensors, Kind::Float, 1000).iter().map(mode).collect();
        assert!(modes.len() == 2 && modes[0] == modes[1], "{modes:?}");
    }
}

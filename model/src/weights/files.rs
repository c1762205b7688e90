//! The weight files of a model directory.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    path::{Component, Path, PathBuf},
};

use safetensors::{Dtype as StoredDtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::stored::{StoredTensor, read_header};
use crate::{ModelError, file_state::FileState};

/// The weights, where one file holds all.
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// Which file holds which tensor, where there are several.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

const CONVERT: &str = "load it with transformers and save it again (AutoModelForCausalLM.from_pretrained(DIR)\
    .save_pretrained(DIR)), which writes safetensors";
const MERGE: &str = "merge the adapter into its base model with peft (merge_and_unload) and save that";
/// Starts and ends of the names of weight files that are not read, and what to do with them.
const OTHER_FORMATS: &[(&str, &str, &str)] = &[
    ("adapter_model", "", MERGE),
    ("pytorch_model", ".bin", CONVERT),
    ("pytorch_model", ".bin.index.json", CONVERT),
    ("tf_model", ".h5", CONVERT),
    ("flax_model", ".msgpack", CONVERT),
    ("consolidated", "", "take the files of the model in the format of Hugging Face"),
    ("", ".gguf", "take the safetensors files of the model that it was made from"),
    (
        "",
        ".safetensors",
        "rename it to model.safetensors if it has all weights under their names of Hugging Face",
    ),
];

/// Every tensor of the directory's weight files, found by the headers of the files. Nothing else of them is read, except
/// where two files have the same tensor.
///
/// A tensor can lie in two files, also in a model.safetensors beside an index. Programs differ in which of the two
/// they take (transformers takes model.safetensors, vLLM what the index names), so both have to be equal.
pub(super) fn stored_tensors(
    dir: &Path,
) -> Result<(OpenedFiles, BTreeMap<String, StoredTensor>), ModelError> {
    let mut tensors: BTreeMap<String, StoredTensor> = BTreeMap::new();
    let mut opened = OpenedFiles(vec![]);
    for file in weight_files(dir)? {
        let path = dir.join(&file);
        if !path.is_file() {
            return Err(ModelError::MissingFile { dir: dir.to_path_buf(), file });
        }
        let (open, found) = read_header(&path)?;
        opened.0.push((path, open.state.clone()));
        for (name, tensor) in found {
            match tensors.entry(name) {
                Entry::Vacant(entry) => drop(entry.insert(tensor)),
                Entry::Occupied(entry) if entry.get().equals(&tensor)? => {}
                Entry::Occupied(entry) => {
                    let other = entry.get().file.path.file_name().unwrap_or_default().to_string_lossy();
                    let remedy = match file.as_str() {
                        WEIGHTS_FILE => format!(
                            "delete {WEIGHTS_FILE}, or {INDEX_FILE} with its files, whichever is not the model"
                        ),
                        _ => "save or download the model again".to_owned(),
                    };
                    let problem = format!("differs between {other} and {file}: {remedy}");
                    return Err(ModelError::tensor(dir, entry.key(), problem));
                }
            }
        }
    }
    // A directory that was replaced between two files would give layers of two models.
    opened.require_unchanged()?;
    Ok((opened, tensors))
}

/// The weight files of a loaded model, as they were when they were opened.
#[derive(Clone)]
pub(crate) struct OpenedFiles(Vec<(PathBuf, FileState)>);

impl OpenedFiles {
    /// An error that names the first file whose name now leads to another file or content.
    pub(crate) fn require_unchanged(&self) -> Result<(), ModelError> {
        match self.0.iter().find(|(path, state)| FileState::at(path).ok().as_ref() != Some(state)) {
            Some((path, _)) => Err(ModelError::Changed { path: path.clone() }),
            None => Ok(()),
        }
    }
}

/// The content of a safetensors file.
pub(crate) struct Parsed {
    /// As stored.
    pub(crate) tensors: Vec<(String, Tensor)>,
    pub(crate) metadata: HashMap<String, String>,
}

/// Parses the `bytes` of the file at `path`.
pub(crate) fn read_safetensors(path: &Path, bytes: &[u8]) -> Result<Parsed, ModelError> {
    let damaged = |source| ModelError::Safetensors { path: path.to_path_buf(), source };
    let parsed = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let tensor = |(name, view): (&str, TensorView)| Ok((name.to_owned(), to_tensor(path, name, &view)?));
    let tensors = parsed.iter().map(tensor).collect::<Result<_, ModelError>>()?;
    Ok(Parsed { tensors, metadata: header.metadata().clone().unwrap_or_default() })
}

/// The names of the files of the index, or of the one file, or both; sorted.
///
/// # Errors
/// No weights, or an index that names no files of its directory.
pub(crate) fn weight_files(dir: &Path) -> Result<Vec<String>, ModelError> {
    let (index, has_one) = (dir.join(INDEX_FILE), dir.join(WEIGHTS_FILE).is_file());
    if !index.is_file() {
        let one = vec![WEIGHTS_FILE.to_owned()];
        return if has_one { Ok(one) } else { Err(no_weights(dir)) };
    }
    let text = fs_err::read_to_string(&index)?;
    let json: Value = serde_json::from_str(&text).map_err(|e| ModelError::json(&index, e))?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| ModelError::field(&index, "weight_map", "is missing or not an object"))?;
    let mut files = Vec::with_capacity(map.len());
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_file_name(name)).ok_or_else(|| {
            let problem = format!("names {file} for {tensor}, which is no file name in its directory");
            ModelError::field(&index, "weight_map", &problem)
        })?;
        files.push(name.to_owned());
    }
    files.extend(has_one.then(|| WEIGHTS_FILE.to_owned()));
    files.sort();
    files.dedup();
    Ok(files)
}

/// Whether `name` is a file within a directory: no other directory, and no path on any system.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let is_one = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    is_one && !name.contains(['/', '\\', ':'])
}

/// Names a weight file of another format, if there is one, and what to do with it.
fn no_weights(dir: &Path) -> ModelError {
    let names = fs_err::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let other = OTHER_FORMATS.iter().find_map(|(start, end, remedy)| {
        let file = names.iter().find(|name| name.starts_with(start) && name.ends_with(end))?;
        Some((file.clone(), *remedy))
    });
    let dir = dir.to_path_buf();
    match other {
        Some((file, remedy)) => ModelError::OtherFormat { dir, file, remedy },
        None => ModelError::MissingFile { dir, file: WEIGHTS_FILE.to_owned() },
    }
}

fn to_tensor(path: &Path, name: &str, view: &TensorView) -> Result<Tensor, ModelError> {
    let kind = kind_of(path, name, view.dtype())?;
    let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    Tensor::f_from_data_size(view.data(), &shape, kind)
        .map_err(|error| ModelError::tensor(path, name, format!("is refused by libtorch: {error}")))
}

pub(super) fn kind_of(path: &Path, name: &str, dtype: StoredDtype) -> Result<Kind, ModelError> {
    match dtype {
        StoredDtype::F32 => Ok(Kind::Float),
        StoredDtype::F16 => Ok(Kind::Half),
        StoredDtype::BF16 => Ok(Kind::BFloat16),
        other => {
            let problem = format!("is stored as {other:?}; supported: F32, F16, BF16");
            Err(ModelError::tensor(path, name, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// A directory with the tensors `a` and `b` of these values in two files.
    fn write(dir: &Path, value: f64) {
        fs_err::create_dir(dir).unwrap();
        for name in ["a", "b"] {
            let tensor = Tensor::full([3], value, (Kind::Float, Device::Cpu));
            Tensor::write_safetensors(&[(name, tensor)], dir.join(format!("{name}.safetensors"))).unwrap();
        }
        let index = r#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#;
        fs_err::write(dir.join(INDEX_FILE), index).unwrap();
    }

    #[test]
    fn a_directory_that_is_replaced_while_it_is_read_gives_one_model_and_is_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let [dir, new, former] = ["model", "new", "former"].map(|name| parent.path().join(name));
        write(&dir, 1.0);
        write(&new, 2.0);
        let (opened, tensors) = stored_tensors(&dir).unwrap();
        opened.require_unchanged().unwrap();
        fs_err::rename(&dir, &former).unwrap();
        fs_err::rename(&new, &dir).unwrap();
        fs_err::remove_dir_all(&former).unwrap();
        let target = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        for tensor in tensors.values() {
            tensor.read_into(&dir, &target).unwrap();
            assert_eq!(target, Tensor::ones([3], (Kind::Float, Device::Cpu)));
        }
        let message = opened.require_unchanged().unwrap_err().to_string();
        assert!(message.contains("model/a.safetensors has changed since it was opened"), "{message}");
    }
}

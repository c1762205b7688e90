//! Weights in, under Hugging Face names. A checkpoint key is the path of the code that takes it: a key
//! that no code takes, or that code takes and no file has, is an error on load.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use safetensors::{Dtype as StoredDtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::{ModelError, precision::to_kind};

/// The single-file name of the hub.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// Tensors that old exports carry and no forward pass needs.
const DERIVED: &str = "rotary_emb.inv_freq";

/// Where parameters come from while a model is built.
pub(crate) struct WeightSource {
    origin: Origin,
    options: (Kind, Device),
    taken: Vec<(String, Tensor)>,
}

enum Origin {
    Stored { dir: PathBuf, tensors: BTreeMap<String, Tensor> },
    Random { deviation: f64 },
}

/// Parameters that are multiplied with the same input, one above the other in one memory.
pub(crate) struct Stacked {
    /// All rows: one product gives what the parts' products give.
    pub(crate) whole: Tensor,
    /// The parameters themselves, which share its memory.
    pub(crate) parts: Vec<Tensor>,
}

/// A place in the tree of parameters, as `model.layers.0.self_attn`.
pub(crate) struct WeightPath<'a> {
    source: &'a mut WeightSource,
    prefix: String,
}

impl WeightSource {
    /// Every tensor of a model directory, to be brought to a dtype and a device. Also returns the hash of the weight files.
    pub(crate) fn read(dir: &Path, options: (Kind, Device)) -> Result<(Self, String), ModelError> {
        let (tensors, hash) = read_tensors(dir)?;
        Ok((
            Self { origin: Origin::Stored { dir: dir.to_path_buf(), tensors }, options, taken: vec![] },
            hash,
        ))
    }

    /// Fresh parameters: matrices normal with `deviation`, norms one, biases zero; from `seed`.
    pub(crate) fn random(deviation: f64, seed: u64, options: (Kind, Device)) -> Self {
        // Of every device.
        tch::manual_seed(seed.cast_signed());
        Self { origin: Origin::Random { deviation }, options, taken: vec![] }
    }

    pub(crate) fn root(&mut self) -> WeightPath<'_> {
        WeightPath { source: self, prefix: String::new() }
    }

    fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let fetched = self.fetched(name, shape)?;
        let tensor = self.placed(&fetched);
        self.taken.push((name.to_owned(), tensor.shallow_clone()));
        Ok(tensor)
    }

    fn take_stacked(&mut self, names: &[String], shapes: &[Vec<i64>]) -> Result<Stacked, ModelError> {
        let fetch = |(name, shape): (&String, &Vec<i64>)| self.fetched(name, shape);
        let parts: Vec<Tensor> = names.iter().zip(shapes).map(fetch).collect::<Result<_, _>>()?;
        let whole = self.placed(&Tensor::cat(&parts, 0));
        let sizes: Vec<i64> = shapes.iter().map(|shape| shape[0]).collect();
        let parts = whole.split_with_sizes(&sizes, 0);
        self.taken.extend(names.iter().cloned().zip(parts.iter().map(Tensor::shallow_clone)));
        Ok(Stacked { whole, parts })
    }

    fn placed(&self, tensor: &Tensor) -> Tensor {
        let (kind, device) = self.options;
        to_kind(tensor, kind).to_device(device)
    }

    /// As it is stored, or drawn.
    fn fetched(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        Ok(match &mut self.origin {
            Origin::Random { deviation } => initial(name, shape, *deviation, self.options.1),
            Origin::Stored { dir, tensors } => {
                let tensor = tensors.remove(name).ok_or_else(|| ModelError::MissingTensor {
                    dir: dir.clone(),
                    name: name.to_owned(),
                    shape: shape.to_vec(),
                })?;
                check_tensor(dir, name, &tensor, shape)?;
                tensor
            }
        })
    }

    /// Every parameter in the order the code took it; an error if a stored tensor is left over.
    pub(crate) fn finish(mut self) -> Result<Vec<(String, Tensor)>, ModelError> {
        let (kind, device) = self.options;
        if let Origin::Stored { dir, tensors } = &mut self.origin {
            if let Some(head) = tensors.remove("lm_head.weight") {
                let embedding = self.taken.iter().find(|(name, _)| name.ends_with("embed_tokens.weight"));
                if !embedding.is_some_and(|(_, e)| to_kind(&head, kind).to_device(device).equal(e)) {
                    return Err(ModelError::UntiedHead { dir: dir.clone() });
                }
            }
            if let Some(name) = tensors.keys().find(|name| !name.ends_with(DERIVED)) {
                return Err(ModelError::ExtraTensor { dir: dir.clone(), name: name.clone() });
            }
        }
        Ok(self.taken)
    }
}

impl WeightPath<'_> {
    /// The path below this one.
    pub(crate) fn child(&mut self, name: impl std::fmt::Display) -> WeightPath<'_> {
        let prefix =
            if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        WeightPath { source: self.source, prefix }
    }

    /// Number of parameters taken so far, here and elsewhere.
    pub(crate) fn taken(&self) -> usize {
        self.source.taken.len()
    }

    /// The parameter `name` here, of exactly this shape.
    pub(crate) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        self.source.take(&format!("{}.{name}", self.prefix), shape)
    }

    /// The parameter `name` of each of `children`, stacked; each with its first dimension; `rest` are the others.
    pub(crate) fn take_stacked(
        &mut self,
        children: &[(&str, i64)],
        name: &str,
        rest: &[i64],
    ) -> Result<Stacked, ModelError> {
        let names: Vec<String> =
            children.iter().map(|(child, _)| format!("{}.{child}.{name}", self.prefix)).collect();
        let shapes: Vec<Vec<i64>> = children.iter().map(|(_, size)| [&[*size], rest].concat()).collect();
        self.source.take_stacked(&names, &shapes)
    }
}

fn initial(name: &str, shape: &[i64], deviation: f64, device: Device) -> Tensor {
    let options = (Kind::Float, device);
    match shape {
        [_] if name.ends_with("bias") => Tensor::zeros(shape, options),
        [_] => Tensor::ones(shape, options),
        _ => Tensor::randn(shape, options) * deviation,
    }
}

fn check_tensor(dir: &Path, name: &str, tensor: &Tensor, shape: &[i64]) -> Result<(), ModelError> {
    if tensor.size() != shape {
        return Err(ModelError::WrongShape {
            dir: dir.to_path_buf(),
            name: name.to_owned(),
            found: tensor.size(),
            expected: shape.to_vec(),
        });
    }
    if !bool::try_from(tensor.isfinite().all()).expect("all() gives one boolean") {
        return Err(ModelError::NonFinite { dir: dir.to_path_buf(), name: name.to_owned() });
    }
    Ok(())
}

/// Every tensor of the directory's weight files as stored, and the blake3 hash of their bytes in name order.
///
/// # Errors
/// No weight file, a truncated one, a dtype that is no float.
pub fn read_tensors(dir: &Path) -> Result<(BTreeMap<String, Tensor>, String), ModelError> {
    let mut tensors = BTreeMap::new();
    let mut hasher = blake3::Hasher::new();
    for file in weight_files(dir)? {
        let path = dir.join(&file);
        if !path.is_file() {
            return Err(ModelError::MissingFile { dir: dir.to_path_buf(), file });
        }
        let bytes = fs_err::read(&path)?;
        hasher.update(&bytes);
        let parsed = SafeTensors::deserialize(&bytes)
            .map_err(|source| ModelError::Safetensors { path: path.clone(), source })?;
        for (name, view) in parsed.iter() {
            tensors.insert(name.to_owned(), to_tensor(&path, name, &view)?);
        }
    }
    Ok((tensors, hasher.finalize().to_hex().to_string()))
}

fn weight_files(dir: &Path) -> Result<Vec<String>, ModelError> {
    let index = dir.join(INDEX_FILE);
    if !index.is_file() {
        return Ok(vec![WEIGHTS_FILE.to_owned()]);
    }
    let text = fs_err::read_to_string(&index)?;
    let json: Value = serde_json::from_str(&text).map_err(|e| ModelError::json(&index, e))?;
    let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(|| ModelError::MissingField {
        path: index.clone(),
        field: "weight_map".into(),
        expected: "an object",
    })?;
    let mut files: Vec<String> = map.values().filter_map(Value::as_str).map(str::to_owned).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

fn to_tensor(path: &Path, name: &str, view: &TensorView) -> Result<Tensor, ModelError> {
    let kind = match view.dtype() {
        StoredDtype::F32 => Kind::Float,
        StoredDtype::F16 => Kind::Half,
        StoredDtype::BF16 => Kind::BFloat16,
        other => {
            return Err(ModelError::UnsupportedTensorDtype {
                path: path.to_path_buf(),
                name: name.to_owned(),
                dtype: format!("{other:?}"),
            });
        }
    };
    let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    Tensor::f_from_data_size(view.data(), &shape, kind)
        .map_err(|source| ModelError::Torch { name: name.to_owned(), source })
}

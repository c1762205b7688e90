//! Reads weights under their Hugging Face names. Each module takes the tensors below its path. A stored tensor
//! that no module takes is an error, and so is one that a module takes and no file has.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use safetensors::{Dtype as StoredDtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::{ModelError, precision::to_kind};

/// The weights, where one file holds all.
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// Which file holds which tensor, where there are several.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Tensors that old exports contain and that follow from config.json.
const DERIVED: &str = "rotary_emb.inv_freq";

const NOT_FINITE: &str = "contains NaN or infinity: the model is damaged. If it was copied or downloaded, do that again; if \
    it was trained, take an earlier checkpoint and train on with a lower train.learning_rate";

/// Where parameters come from while a model is built.
pub(crate) struct WeightSource {
    origin: Origin,
    /// Dtype and device of the model.
    pub(crate) options: (Kind, Device),
    taken: Vec<(String, Tensor)>,
}

enum Origin {
    Stored { dir: PathBuf, tensors: BTreeMap<String, Tensor> },
    Random { deviation: f64 },
}

/// Parameters that are multiplied with the same input, concatenated along their first dimension.
pub(crate) struct Stacked {
    /// All of them, for one product instead of several.
    pub(crate) whole: Tensor,
    /// Each of them: views of `whole`.
    pub(crate) parts: Vec<Tensor>,
}

/// A place in the tree of parameters, as `model.layers.0.self_attn`.
pub(crate) struct WeightPath<'a> {
    source: &'a mut WeightSource,
    prefix: String,
}

impl WeightSource {
    /// Every tensor of a model directory, and the hash of the weight files.
    pub(crate) fn read(dir: &Path, options: (Kind, Device)) -> Result<(Self, String), ModelError> {
        let (tensors, hash) = read_tensors(dir)?;
        let origin = Origin::Stored { dir: dir.to_path_buf(), tensors };
        Ok((Self { origin, options, taken: vec![] }, hash))
    }

    /// Random matrices, normal with standard deviation `deviation`; norms are 1, biases 0.
    pub(crate) fn random(deviation: f64, seed: u64, options: (Kind, Device)) -> Self {
        // Seeds the generators of all devices.
        tch::manual_seed(seed.cast_signed());
        Self { origin: Origin::Random { deviation }, options, taken: vec![] }
    }

    pub(crate) fn root(&mut self) -> WeightPath<'_> {
        WeightPath { source: self, prefix: String::new() }
    }

    fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let tensor = self.fetch(name, shape)?;
        let tensor = self.convert(&tensor);
        self.taken.push((name.to_owned(), tensor.shallow_clone()));
        Ok(tensor)
    }

    fn take_stacked(&mut self, names: &[String], shapes: &[Vec<i64>]) -> Result<Stacked, ModelError> {
        let fetch = |(name, shape): (&String, &Vec<i64>)| self.fetch(name, shape);
        let parts: Vec<Tensor> = names.iter().zip(shapes).map(fetch).collect::<Result<_, _>>()?;
        let whole = self.convert(&Tensor::cat(&parts, 0));
        let sizes: Vec<i64> = shapes.iter().map(|shape| shape[0]).collect();
        let parts = whole.split_with_sizes(&sizes, 0);
        self.taken.extend(names.iter().cloned().zip(parts.iter().map(Tensor::shallow_clone)));
        Ok(Stacked { whole, parts })
    }

    /// To the dtype and device of the model.
    fn convert(&self, tensor: &Tensor) -> Tensor {
        let (kind, device) = self.options;
        to_kind(tensor, kind).to_device(device)
    }

    /// In the dtype and on the device where it is stored or drawn.
    fn fetch(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        Ok(match &mut self.origin {
            Origin::Random { deviation } => initial(name, shape, *deviation, self.options.1),
            Origin::Stored { dir, tensors } => {
                let error = |problem: String| ModelError::tensor(dir, name, problem);
                let tensor = tensors
                    .remove(name)
                    .ok_or_else(|| error(format!("{shape:?} is missing from the weights")))?;
                if tensor.size() != shape {
                    let found = tensor.size();
                    return Err(error(format!("has shape {found:?}, config.json calls for {shape:?}")));
                }
                if !bool::try_from(tensor.isfinite().all()).expect("all() gives one boolean") {
                    return Err(error(NOT_FINITE.to_owned()));
                }
                tensor
            }
        })
    }

    /// Every parameter in the order in which it was taken; an error if a stored tensor was not taken.
    pub(crate) fn finish(mut self) -> Result<Vec<(String, Tensor)>, ModelError> {
        let (kind, device) = self.options;
        if let Origin::Stored { dir, tensors } = &mut self.origin {
            if let Some(head) = tensors.remove("lm_head.weight") {
                let embedding = self.taken.iter().find(|(name, _)| name.ends_with("embed_tokens.weight"));
                if !embedding.is_some_and(|(_, e)| to_kind(&head, kind).to_device(device).equal(e)) {
                    let problem = "differs from model.embed_tokens.weight, but tie_word_embeddings is true";
                    return Err(ModelError::tensor(dir, "lm_head.weight", problem));
                }
            }
            if let Some(name) = tensors.keys().find(|name| !name.ends_with(DERIVED)) {
                let problem = "belongs to no part of this architecture; does config.json match the weights?";
                return Err(ModelError::tensor(dir, name, problem));
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

    /// Number of parameters taken so far from the whole source.
    pub(crate) fn taken(&self) -> usize {
        self.source.taken.len()
    }

    /// The parameter `name` at this path, of exactly this shape.
    pub(crate) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        self.source.take(&format!("{}.{name}", self.prefix), shape)
    }

    /// The parameter `name` of each of `children`, stacked. Each child comes with its first dimension; `rest`
    /// are the others.
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

/// Every tensor of the directory's weight files as stored, and the blake3 hash of the files' bytes in the
/// order of their names.
fn read_tensors(dir: &Path) -> Result<(BTreeMap<String, Tensor>, String), ModelError> {
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
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| ModelError::field(&index, "weight_map", "is missing or not an object"))?;
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
            let problem = format!("is stored as {other:?}; supported: F32, F16, BF16");
            return Err(ModelError::tensor(path, name, problem));
        }
    };
    let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    Tensor::f_from_data_size(view.data(), &shape, kind)
        .map_err(|error| ModelError::tensor(path, name, format!("is refused by libtorch: {error}")))
}

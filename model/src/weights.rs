//! Reads weights under their Hugging Face names. Each module takes the tensors below its path. A stored tensor
//! that no module takes is an error, and so is one that a module takes and no file has.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tch::{Device, Kind, Tensor};

use crate::ModelError;

mod files;
mod stored;

use files::stored_tensors;
pub(crate) use files::{INDEX_FILE, OpenedFiles, Parsed, WEIGHTS_FILE, read_safetensors, weight_files};
use stored::StoredTensor;

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
    /// Without `with_values` the headers are checked, and the tensors stay uninitialised.
    Stored {
        dir: PathBuf,
        tensors: BTreeMap<String, StoredTensor>,
        with_values: bool,
    },
    Random {
        deviation: f64,
    },
}

/// Parameters that are multiplied with the same input, concatenated along their first dimension.
pub(crate) struct Stacked {
    /// All of them, for one product instead of several.
    pub(crate) whole: Tensor,
    /// Each of them: views of `whole`.
    pub(crate) parts: Vec<Tensor>,
}

impl Stacked {
    /// Copies of `parts`.
    pub(crate) fn new(parts: &[Tensor]) -> Self {
        let sizes: Vec<i64> = parts.iter().map(|part| part.size()[0]).collect();
        Self::split(Tensor::cat(parts, 0), &sizes)
    }

    /// `whole`, whose parts have these sizes in the first dimension.
    fn split(whole: Tensor, sizes: &[i64]) -> Self {
        let parts = whole.split_with_sizes(sizes, 0);
        Self { whole, parts }
    }
}

/// A place in the tree of parameters, as `model.layers.0.self_attn`.
pub(crate) struct WeightPath<'a> {
    source: &'a mut WeightSource,
    prefix: String,
}

impl WeightSource {
    /// Every tensor of a model directory, and the files that hold them.
    pub(crate) fn read(dir: &Path, options: (Kind, Device)) -> Result<(Self, OpenedFiles), ModelError> {
        Self::stored(dir, options, true)
    }

    /// As [`WeightSource::read`], by the headers of the files alone: names and shapes are checked, and the tensors have no
    /// values. Memory that nobody writes to is not occupied.
    pub(crate) fn read_headers(dir: &Path) -> Result<Self, ModelError> {
        Ok(Self::stored(dir, (Kind::BFloat16, Device::Cpu), false)?.0)
    }

    fn stored(
        dir: &Path,
        options: (Kind, Device),
        with_values: bool,
    ) -> Result<(Self, OpenedFiles), ModelError> {
        let (opened, tensors) = stored_tensors(dir)?;
        let origin = Origin::Stored { dir: dir.to_path_buf(), tensors, with_values };
        Ok((Self { origin, options, taken: vec![] }, opened))
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
        let tensor = Tensor::empty(shape, self.options);
        self.fill(name, &tensor)?;
        self.taken.push((name.to_owned(), tensor.shallow_clone()));
        Ok(tensor)
    }

    fn take_stacked(&mut self, names: &[String], shapes: &[Vec<i64>]) -> Result<Stacked, ModelError> {
        let sizes: Vec<i64> = shapes.iter().map(|shape| shape[0]).collect();
        let whole_shape = [&[sizes.iter().sum()], &shapes[0][1..]].concat();
        let stacked = Stacked::split(Tensor::empty(&whole_shape, self.options), &sizes);
        for (name, part) in names.iter().zip(&stacked.parts) {
            self.fill(name, part)?;
            self.taken.push((name.clone(), part.shallow_clone()));
        }
        Ok(stacked)
    }

    /// Writes the values of the parameter `name` into `target`.
    fn fill(&mut self, name: &str, target: &Tensor) -> Result<(), ModelError> {
        let shape = target.size();
        match &mut self.origin {
            Origin::Random { deviation } => {
                let drawn = initial(name, &shape, *deviation, target.device());
                target.shallow_clone().copy_(&drawn);
            }
            Origin::Stored { dir, tensors, with_values } => {
                let error = |problem: String| ModelError::tensor(dir, name, problem);
                let stored = tensors
                    .remove(name)
                    .ok_or_else(|| error(format!("{shape:?} is missing from the weights")))?;
                if stored.shape != shape {
                    let found = stored.shape;
                    return Err(error(format!("has shape {found:?}, config.json calls for {shape:?}")));
                }
                if *with_values {
                    stored.read_into(dir, target)?;
                }
            }
        }
        Ok(())
    }

    /// Every parameter in the order in which it was taken; an error if a stored tensor was not taken.
    pub(crate) fn finish(mut self) -> Result<Vec<(String, Tensor)>, ModelError> {
        if let Origin::Stored { dir, tensors, with_values } = &mut self.origin {
            if let Some(head) = tensors.remove("lm_head.weight").filter(|_| *with_values) {
                let embedding = self.taken.iter().find(|(name, _)| name.ends_with("embed_tokens.weight"));
                let is_tied = embedding.map(|(_, tensor)| head.is_converted_to(tensor)).transpose()?;
                if is_tied != Some(true) {
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

pub(crate) fn require_finite(path: &Path, name: &str, tensor: &Tensor) -> Result<(), ModelError> {
    match bool::try_from(tensor.isfinite().all()).expect("all() gives one boolean") {
        true => Ok(()),
        false => Err(ModelError::tensor(path, name, NOT_FINITE)),
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

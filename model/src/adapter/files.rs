//! Adapter directories in the form of PEFT: `adapter_config.json` and `adapter_model.safetensors`. The metadata of the
//! latter, which PEFT passes over, also record which weights the adapter belongs to.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use tch::{Device, Tensor};

use super::{Adapter, AdapterConfig, Matrix, Target};
use crate::{
    Architecture, ModelError,
    fields::Fields,
    precision::to_float32,
    saving::ModelFile,
    weights::{Parsed, read_safetensors, require_finite},
};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The key in the metadata of the weights.
const BASE_WEIGHTS: &str = "base_weights_blake3";

/// Fields that are read.
const READ: &[&str] = &[
    "peft_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "target_modules",
    "bias",
    "init_lora_weights",
];

/// Fields that do not change what an adapter computes once it is trained.
const NEUTRAL: &[&str] = &[
    "auto_mapping",
    "ensure_weight_tying",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "task_type",
];

/// Values of `init_lora_weights` under which PEFT leaves the base as it is.
const INITIAL: &[&str] = &["gaussian", "orthogonal"];

/// The base model of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterBase {
    /// A directory, or ORG/NAME of the hub.
    pub name: String,
    /// [`crate::LoadedModel::weight_hash`].
    pub weight_hash: String,
}

/// An adapter directory that was read, not yet compared with its base model.
pub struct StoredAdapter {
    dir: PathBuf,
    config: AdapterConfig,
    base: Option<String>,
    revision: Option<String>,
    base_weights: Option<String>,
    tensors: BTreeMap<String, Tensor>,
    weight_hash: String,
}

impl StoredAdapter {
    /// The files of an adapter directory.
    pub const FILES: [&str; 2] = [CONFIG_FILE, WEIGHTS_FILE];

    /// Whether there is an adapter in `dir`.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(CONFIG_FILE).is_file()
    }

    /// Reads an adapter directory.
    ///
    /// # Errors
    /// A file that is missing or damaged, and every setting of PEFT that would change the computation and is not supported.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let file = |name: &str| match dir.join(name) {
            path if path.is_file() => Ok(path),
            _ => Err(ModelError::NoAdapter { dir: dir.to_path_buf(), file: name.to_owned() }),
        };
        let path = file(CONFIG_FILE)?;
        let json: Map<String, Value> = serde_json::from_str(&fs_err::read_to_string(&path)?)
            .map_err(|error| ModelError::json(&path, error))?;
        let fields = Fields { json: &json, path: &path, prefix: "" };
        let config = read_config(&fields)?;
        let base = fields.text("base_model_name_or_path")?.map(str::to_owned);
        let revision = fields.text("revision")?.map(str::to_owned);
        let path = file(WEIGHTS_FILE)?;
        let bytes = fs_err::read(&path)?;
        let Parsed { tensors, mut metadata } = read_safetensors(&path, &bytes)?;
        let base_weights = metadata.remove(BASE_WEIGHTS);
        if let Some(hash) = base_weights.as_ref().filter(|hash| blake3::Hash::from_hex(hash).is_err()) {
            let problem = format!("= {hash:?} is not 64 hexadecimal digits: copy or download the file again");
            return Err(ModelError::field(&path, BASE_WEIGHTS, problem));
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            config,
            base,
            revision,
            base_weights,
            tensors: tensors.into_iter().collect(),
            weight_hash: blake3::hash(&bytes).to_hex().to_string(),
        })
    }

    /// Rank, alpha and targets.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// The directory of its base model, or ORG/NAME of the hub, as its config names it.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// The revision of its base on the hub, if its config names one.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// blake3 of the weight files of its base in hexadecimal digits, if it is recorded.
    pub fn base_weights(&self) -> Option<&str> {
        self.base_weights.as_deref()
    }

    /// blake3 of its own weights.
    pub fn weight_hash(&self) -> &str {
        &self.weight_hash
    }

    /// Its matrices as stored, by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.tensors.values().map(Tensor::numel).sum()
    }

    /// The adapter in fp32 on `device`, for a base model of this architecture and weight hash.
    ///
    /// # Errors
    /// An adapter of another model; a tensor that is missing, of another shape or rank, damaged, or unknown.
    pub fn attach(
        mut self,
        base: &Architecture,
        weight_hash: &str,
        device: Device,
    ) -> Result<Adapter, ModelError> {
        let path = self.dir.join(WEIGHTS_FILE);
        let name = self.base.as_deref().map_or_else(String::new, |base| format!(" ({base})"));
        if let Some(recorded) = self.base_weights.filter(|recorded| recorded != weight_hash) {
            let problem = format!(
                "is {recorded}, but the weights of the base model have {weight_hash}: give the model that the adapter was \
                 trained for{name}"
            );
            return Err(ModelError::field(&path, BASE_WEIGHTS, problem));
        }
        let rank = self.config.rank;
        let matrix = |tensor: &str, matrix, size: [i64; 2]| {
            let error = |problem: String| ModelError::tensor(&path, tensor, problem);
            let missing = || error(format!("{size:?} is missing; is it the adapter of another model{name}?"));
            let found = self.tensors.remove(tensor).ok_or_else(missing)?;
            let shape = found.size();
            let other_rank = match matrix {
                Matrix::A => shape.first(),
                Matrix::B => shape.last(),
            };
            if let Some(other) = other_rank.filter(|_| shape.len() == 2 && shape != size)
                && *other != rank as i64
            {
                return Err(error(format!("has rank {other}, but `r` is {rank} in {CONFIG_FILE}")));
            }
            if shape != size {
                return Err(error(format!(
                    "has shape {shape:?}, but the base model calls for {size:?}: give the model that the adapter was \
                     trained for{name}"
                )));
            }
            require_finite(&path, tensor, &found)?;
            Ok(to_float32(&found).to_device(device))
        };
        let adapter = Adapter::build(base, self.config, matrix)?;
        match self.tensors.keys().next() {
            None => Ok(adapter),
            Some(tensor) => {
                let problem = format!(
                    "belongs to none of `target_modules` in the {} layers of the base model",
                    base.num_hidden_layers
                );
                Err(ModelError::tensor(&path, tensor, problem))
            }
        }
    }
}

fn read_config(fields: &Fields) -> Result<AdapterConfig, ModelError> {
    if fields.get("peft_type").is_none_or(|kind| kind != "LORA") {
        return Err(fields.unsupported("peft_type", "supported: LORA"));
    }
    for (name, value) in fields.json {
        let name = name.as_str();
        if !READ.contains(&name) && !NEUTRAL.contains(&name) && !is_off(value) {
            return Err(fields.unsupported(name, "only plain LoRA is applied: train or save it without"));
        }
    }
    if fields.get("bias").is_some_and(|bias| bias != "none") {
        return Err(fields.unsupported("bias", "supported: none"));
    }
    let keeps_base =
        |value: &Value| value.is_boolean() || value.as_str().is_some_and(|text| INITIAL.contains(&text));
    if fields.get("init_lora_weights").is_some_and(|value| !keeps_base(value)) {
        let supported = "it may have changed the base; save it with path_initial_model_for_weight_conversion";
        return Err(fields.unsupported("init_lora_weights", supported));
    }
    Ok(AdapterConfig {
        rank: fields.size("r", None)? as usize,
        alpha: fields.float("lora_alpha", None)?,
        targets: read_targets(fields)?,
    })
}

/// Whether a switch, a list or a number of a method is unset.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn read_targets(fields: &Fields) -> Result<Vec<Target>, ModelError> {
    const FIELD: &str = "target_modules";
    let known = Target::ALL.map(Target::as_str).join(", ");
    let unknown = || fields.unsupported(FIELD, &format!("supported: a list of {known}"));
    let names = match fields.get(FIELD) {
        Some(Value::String(all)) if all == "all-linear" => return Ok(Target::ALL.to_vec()),
        Some(Value::Array(names)) if !names.is_empty() => names,
        _ => return Err(unknown()),
    };
    let find = |name: &Value| Target::ALL.into_iter().find(|target| name == target.as_str());
    let mut targets = names.iter().map(find).collect::<Option<Vec<_>>>().ok_or_else(unknown)?;
    targets.sort();
    targets.dedup();
    Ok(targets)
}

impl Adapter {
    /// Writes the adapter into `dir` in its own dtype, as PEFT would.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, dir: &Path, base: &AdapterBase) -> Result<(), ModelError> {
        fs_err::create_dir_all(dir)?;
        self.files(base).iter().try_for_each(|file| file.write(&dir.join(&file.name)))
    }

    /// The files of an adapter directory.
    pub fn files(&self, base: &AdapterBase) -> Vec<ModelFile<'_>> {
        let metadata = HashMap::from([(BASE_WEIGHTS.to_owned(), base.weight_hash.clone())]);
        let AdapterConfig { rank, alpha, targets } = &self.config;
        let targets: Vec<&str> = targets.iter().map(|target| target.as_str()).collect();
        // Most programs write a whole number, and some read nothing else.
        let alpha = if alpha.fract() == 0.0 { json!(*alpha as i64) } else { json!(alpha) };
        let config = json!({
            "base_model_name_or_path": base.name,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": rank,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
        });
        vec![
            ModelFile::json(CONFIG_FILE, config),
            ModelFile::tensors(WEIGHTS_FILE, &self.parameters, metadata),
        ]
    }
}

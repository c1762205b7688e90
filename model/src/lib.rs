//! A Transformer for the Llama, Qwen2, Qwen3 and Mistral families on libtorch: sizes from config.json,
//! weights under Hugging Face names, a preallocated KV cache, fp32 and bf16. Knows nothing of blocks, noise
//! or text.

mod adapter;
mod architecture;
mod attention;
mod buckets;
mod cache;
mod device;
mod digest;
mod environment;
mod error;
mod fields;
mod file_state;
mod fixed;
mod gradients;
mod graphs;
mod layer;
mod linear;
mod lm;
mod mask;
mod mlp;
mod norm;
mod precision;
mod rope;
mod rows;
mod saving;
mod session;
mod training;
mod transformer;
mod weights;

pub use adapter::{
    AdaptedRows, Adapter, AdapterConfig, Target,
    files::{AdapterBase, StoredAdapter},
};
pub use architecture::{Architecture, Family};
pub use attention::{LayerPass, TrainingRow};
pub use buckets::{Bucket, PlacedParameter};
pub use device::{Chosen, Compute, DeviceChoice, DeviceError, cache_budget};
pub use digest::{digest_of_model, weight_hash};
pub use environment::{environment, logits};
pub use error::ModelError;
pub use gradients::Gradients;
pub use graphs::{Record, set_graphs};
pub use jacobi_torch_ext::{GpuError, Graph, GraphPool, Run, Runs, gpu_memory, threads};
pub use layer::LayerCache;
pub use lm::{LanguageModel, Place, Predictions, Session, Work};
pub use mask::AttentionMask;
pub use precision::{Dtype, dtype_name, to_float32};
pub use rope::{Rope, RopeTable};
pub use rows::Rows;
pub use saving::{MAX_SHARD_BYTES, ModelFile, model_files, save_model, save_tensors};
pub use session::DecodingModel;
pub use tch::Device;
pub use transformer::{LoadedModel, Outline, Transformer, load, outline, token_tensor};

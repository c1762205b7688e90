//! Trajectory shards to checkpoints: the dual loss under the noise-aware causal mask, AdamW with fp32 masters,
//! bitwise resume.

mod adamw;
mod batch;
mod checkpoint;
mod config;
mod data;
mod error;
mod flops;
mod loss;
mod lr;
mod metrics;
mod step;
mod tensorboard;
mod train;

pub use adamw::{AdamW, AdamWConfig, clip_factor};
pub use checkpoint::{TrainerState, is_finished, latest_checkpoint};
pub use config::TrainConfig;
pub use data::TrainData;
pub use error::TrainError;
pub use flops::{gemm_peak, model_flops};
pub use loss::{LossConfig, LossPlan, Losses, PcNormalization, PcPositionWeight, dual_loss};
pub use lr::{LrSchedule, lr_factor};
pub use metrics::TrainProgress;
pub use tensorboard::EventWriter;
pub use train::{Init, TrainJob, TrainOutcome, train};

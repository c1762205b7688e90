//! Trajectory shards to checkpoints: the dual loss under the noise-aware causal mask, AdamW with fp32 masters,
//! bitwise resume.

mod adamw;
mod backward;
mod batch;
mod checkpoint;
mod config;
mod course;
mod data;
mod error;
mod flops;
mod loss;
mod lr;
mod metrics;
mod step;
mod tensorboard;
mod train;

pub use adamw::{AdamW, AdamWConfig, MomentsDtype, clip_factor};
pub use backward::ActivationCheckpointing;
pub use checkpoint::{TrainerState, is_finished, latest_checkpoint};
pub use config::{TeacherModel, TrainConfig};
pub use course::{Change, Course, Curve};
pub use data::TrainData;
pub use error::TrainError;
pub use flops::{gemm_peak, model_flops};
pub use loss::{Counts, Head, LossConfig, Losses, PcNormalization, PcPositionWeight, Teacher, dual_loss};
pub use lr::{LrSchedule, lr_factor};
pub use metrics::TrainProgress;
pub use step::{NotFinite, StepReport, StepSettings, Stepper};
pub use tensorboard::EventWriter;
pub use train::{Init, TrainJob, TrainOutcome, train};

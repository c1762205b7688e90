//! Trains a model on trajectory shards: the dual loss under the noise-aware causal mask, AdamW with fp32 master
//! weights, evaluation by decoding, exact resume from checkpoints.

mod adamw;
mod adapter;
mod backward;
mod batch;
mod checkpoint;
mod config;
mod data;
mod disk;
mod division;
mod error;
mod estimate;
mod evaluation;
mod flops;
mod job;
mod loss;
mod lr;
mod metrics;
mod monitor;
mod peers;
mod post_mortem;
mod ranks;
mod schedule;
mod shards;
mod state_files;
mod step;
mod tensorboard;
mod train;
mod watch;

pub use adamw::{AdamW, AdamWConfig, MomentsDtype, Piece, clip_factor};
pub use adapter::{AdapterRows, AdapterSettings};
pub use backward::ActivationCheckpointing;
pub use checkpoint::{TrainerState, latest_checkpoint, result_checkpoint};
pub use config::{TeacherModel, TrainConfig};
pub use data::{CutResponses, CutRows, Dataset, TrainData};
pub use error::TrainError;
pub use estimate::{Footprint, Forecast, RowLoad, footprint, forecast};
pub use evaluation::{Evaluation, Evaluations};
pub use job::{Init, TrainJob, TrainOutcome};
pub use loss::{
    Counts, Head, LossConfig, Losses, PcNormalization, PcPositionWeight, PcTerms, Teacher, dual_loss,
};
pub use lr::LrSchedule;
pub use metrics::{RankFigures, TrainProgress};
pub use peers::Peers;
pub use ranks::{Ranks, Rendezvous};
pub use schedule::{Curve, Ramp, ScalarSchedule};
pub use shards::Sharding;
pub use step::{NoStep, StepReport, StepSettings, Stepper};
pub use train::train;
pub use watch::{Abandon, RankFailure};

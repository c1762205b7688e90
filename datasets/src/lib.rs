//! Data as rows: prompts, trajectories on disk, packed samples, and the tokenizer.
//!
//! No tensors here: this crate never links libtorch. Token ids are `u32`, in Parquet `i32`.
//!
//! Reading order: [`prompts`] and [`tokenizer`] (text to ids), [`schema::trajectory`] (recorded states),
//! [`layout`] (the packed sequence and its mask), [`noise`] (which state becomes the noisy block),
//! [`states`] (noisy blocks that are not recorded), [`mod@pack`] (a packed sample with its losses), [`row`] (several
//! samples in one forward pass).

pub mod atomic;
pub mod error;
pub mod hub;
pub mod import;
pub mod index;
mod jinja;
pub mod layout;
pub mod noise;
pub mod pack;
pub mod prompts;
pub mod ranks;
pub mod repetition;
pub mod responses;
pub mod rng;
pub mod row;
pub mod schema;
pub mod settings;
pub mod shards;
pub mod states;
pub mod tokenizer;

pub use atomic::write_atomic;
pub use error::DatasetError;
pub use index::{RowSummary, ShardIndex, read_all};
pub use layout::{CausalRun, Layout, NoiseContext};
pub use noise::{NoiseScheduleConfig, ScheduleKind, choose_state, is_settled, wants_fixed_point};
pub use pack::{ArTarget, PackConfig, PackError, PackedSample, PcPair, pack};
pub use prompts::{
    BadRow, Message, Place, Prompt, PromptFormat, PromptStream, PromptsConfig, Role, read_prompts,
    stream_prompts,
};
pub use ranks::{Keeper, Membership, Rank, RankError, local_rank};
pub use repetition::repeats;
pub use responses::{Matching, Responses};
pub use rng::{Rng, Streams};
pub use row::{LossRow, PackedRow, RowParts, StudentRow, fill_rows, row_len};
pub use schema::manifest::{Manifest, RankEntry, ShardEntry, shard_file_name};
pub use schema::trajectory::{
    FinishReason, SCHEDULE_KEY, ShardDigest, State, Trajectory, TrajectoryMetadata, jacobi_passes,
    read_shard, write_shard,
};
pub use settings::{Difference, Differences, RecordedSettings, Section};
pub use shards::{ShardWriter, Tally};
pub use states::{EarlierWindow, MAX_PASSES, NoiseTokens, NoisyRows, StateShares, StateSource, States};
pub use tokenizer::{Chat, TOKENIZER_FILES, Tokenizer, copy_tokenizer_file};

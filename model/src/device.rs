//! The choice of a device by the user, and the device that it means on this machine.

use std::{fmt, str::FromStr};

use jacobi_torch_ext::{GpuError, NoGpu, gpu_count, select};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::Dtype;

#[cfg(test)]
mod tests;

/// Default bytes for KV caches on a CPU, whose memory other programs share.
const CPU_CACHES: f64 = 4e9;

/// Share of a GPU's free memory for KV caches; the rest is for activations and logits.
const GPU_SHARE: f64 = 0.75;

/// The device a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^(auto|cpu|cuda(:[0-9]+)?)$"))]
pub enum DeviceChoice {
    /// The GPU of this process where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this process: process n of this machine has GPU n.
    Gpu,
    /// The GPU of this number.
    NumberedGpu(usize),
}

/// Dtype and device of a computation.
#[derive(Clone, Copy, Debug)]
pub struct Compute {
    /// The compute dtype.
    pub dtype: Dtype,
    /// The device of parameters and activations.
    pub device: Device,
}

/// On the CPU.
impl From<Dtype> for Compute {
    fn from(dtype: Dtype) -> Self {
        Self { dtype, device: Device::Cpu }
    }
}

/// The device to compute on, with a note for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The device.
    pub device: Device,
    /// Why it is the CPU although this build supports GPUs.
    pub note: Option<String>,
}

/// A device that is unknown or not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not the name of a device.
    #[error("`{0}` is not a device: give auto, cpu, cuda or cuda:N")]
    Unknown(String),
    /// This machine has no such GPU, or none left for this process.
    #[error("device = \"{asked}\" is not available: {reason}")]
    Unavailable {
        /// The user's choice.
        asked: DeviceChoice,
        /// Why, with a way out.
        reason: String,
    },
    /// A GPU that does not work.
    #[error("GPU {index} cannot be used")]
    Broken {
        /// Its number.
        index: usize,
        /// CUDA's own message.
        source: GpuError,
    },
}

/// Bytes for KV caches beside a loaded model: on a GPU with `free` bytes the most of them, on a CPU 4 GB.
pub fn cache_budget(free: Option<u64>) -> f64 {
    free.map_or(CPU_CACHES, |free| GPU_SHARE * free as f64)
}

impl DeviceChoice {
    /// The device for process `local_rank` of this machine. A GPU becomes this thread's current device.
    ///
    /// # Errors
    /// A GPU that is not available.
    pub fn resolve(self, local_rank: usize) -> Result<Chosen, DeviceError> {
        if self == Self::Cpu {
            return Ok(Chosen { device: Device::Cpu, note: None });
        }
        let bound = std::env::var_os("CUDA_VISIBLE_DEVICES").is_some();
        let chosen = self.among(gpu_count(), local_rank, bound)?;
        if let Device::Cuda(index) = chosen.device {
            select(chosen.device).map_err(|source| DeviceError::Broken { index, source })?;
        }
        Ok(chosen)
    }

    /// The device among `gpus`. `bound`: the environment restricts which GPUs this process sees.
    fn among(
        self,
        gpus: Result<usize, NoGpu>,
        local_rank: usize,
        bound: bool,
    ) -> Result<Chosen, DeviceError> {
        let on = |device| Ok(Chosen { device, note: None });
        let unavailable = |reason| Err(DeviceError::Unavailable { asked: self, reason });
        let count = match (self, gpus) {
            (Self::Cpu, _) | (Self::Auto, Err(NoGpu::NotBuilt)) => return on(Device::Cpu),
            (Self::Auto, Err(reason)) => {
                let note = Some(format!("computing on the CPU: {reason}"));
                return Ok(Chosen { device: Device::Cpu, note });
            }
            (_, Err(reason)) => {
                return unavailable(format!("{reason}; device = \"cpu\" computes on the CPU"));
            }
            (_, Ok(count)) => count,
        };
        match self {
            Self::NumberedGpu(index) if index < count => on(Device::Cuda(index)),
            Self::NumberedGpu(_) => unavailable(format!("there are {count} GPUs here, counted from 0")),
            _ if local_rank < count => on(Device::Cuda(local_rank)),
            // The launcher shows each process one GPU.
            _ if count == 1 && bound => on(Device::Cuda(0)),
            _ => unavailable(format!(
                "process {local_rank} of this machine has no GPU for itself, there are {count}: start as many \
                 processes as there are GPUs, or set device = \"cpu\""
            )),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu => f.write_str("cuda"),
            Self::NumberedGpu(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Gpu),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                index.parse().map(Self::NumberedGpu).map_err(|_| unknown())
            }
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = DeviceError;

    fn try_from(text: String) -> Result<Self, DeviceError> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

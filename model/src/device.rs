//! Where to compute: what users ask for, and which device that is here.

use std::{fmt, str::FromStr};

use jacobi_torch_ext::{GpuError, NoGpu, gpu_count, select};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::Dtype;

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
    /// The GPU of this process: its number is that of the process on this machine.
    Gpu,
    /// The GPU of this number.
    NumberedGpu(usize),
}

/// What to compute in, and where.
#[derive(Clone, Copy, Debug)]
pub struct Compute {
    /// In.
    pub dtype: Dtype,
    /// Where.
    pub device: Device,
}

/// On the CPU.
impl From<Dtype> for Compute {
    fn from(dtype: Dtype) -> Self {
        Self { dtype, device: Device::Cpu }
    }
}

/// A device, and what is to be said about how it came to be that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The device.
    pub device: Device,
    /// Why it is not the GPU that could have been expected.
    pub note: Option<String>,
}

/// A device that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No such device exists anywhere.
    #[error("`{0}` is no device: give auto, cpu, cuda or cuda:N")]
    Unknown(String),
    /// There is no GPU at all.
    #[error("device = \"{asked}\" cannot be had: {reason}; device = \"cpu\" computes on the CPU")]
    NoGpu {
        /// What was asked for.
        asked: DeviceChoice,
        /// Why there is none.
        reason: NoGpu,
    },
    /// There are fewer.
    #[error("device = \"{asked}\" cannot be had: there are {count} GPUs here, counted from 0")]
    OutOfRange {
        /// What was asked for.
        asked: DeviceChoice,
        /// How many there are.
        count: usize,
    },
    /// More processes than GPUs.
    #[error(
        "device = \"{asked}\": process {local_rank} of this machine has no GPU of its own, there are {count}: start as many \
         processes as there are GPUs, or set device = \"cpu\""
    )]
    TooFew {
        /// What was asked for.
        asked: DeviceChoice,
        /// Which process of this machine this is.
        local_rank: usize,
        /// How many there are.
        count: usize,
    },
    /// A GPU that does not work.
    #[error("GPU {index} cannot be used")]
    Broken {
        /// Which.
        index: usize,
        /// What CUDA says.
        source: GpuError,
    },
}

impl DeviceChoice {
    /// The device that this is here, for the process `local_rank` of this machine, and has this thread work on it.
    ///
    /// # Errors
    /// A GPU that was asked for and cannot be had.
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

    /// The device among `gpus`. `bound` says whether someone decided which of them this process sees.
    fn among(
        self,
        gpus: Result<usize, NoGpu>,
        local_rank: usize,
        bound: bool,
    ) -> Result<Chosen, DeviceError> {
        let on = |device| Ok(Chosen { device, note: None });
        let count = match (self, gpus) {
            (Self::Cpu, _) | (Self::Auto, Err(NoGpu::NotBuilt)) => return on(Device::Cpu),
            (Self::Auto, Err(reason)) => {
                let note = Some(format!("computing on the CPU: {reason}"));
                return Ok(Chosen { device: Device::Cpu, note });
            }
            (_, Err(reason)) => return Err(DeviceError::NoGpu { asked: self, reason }),
            (_, Ok(count)) => count,
        };
        match self {
            Self::NumberedGpu(index) if index < count => on(Device::Cuda(index)),
            Self::NumberedGpu(_) => Err(DeviceError::OutOfRange { asked: self, count }),
            _ if local_rank < count => on(Device::Cuda(local_rank)),
            // A launcher that shows each process its own.
            _ if count == 1 && bound => on(Device::Cuda(0)),
            _ => Err(DeviceError::TooFew { asked: self, local_rank, count }),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, gpus: Result<usize, NoGpu>, local_rank: usize, bound: bool) -> String {
        let choice: DeviceChoice = text.parse().unwrap();
        assert_eq!(choice.to_string(), text);
        match choice.among(gpus, local_rank, bound) {
            Ok(Chosen { device, note }) => format!("{device:?} {}", note.unwrap_or_default()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_choice_is_a_device_or_says_why_not() {
        let no_driver = || Err(NoGpu::NotFound("no driver".into()));
        type Case = (&'static str, Result<usize, NoGpu>, usize, bool, &'static str);
        let rows: [Case; 12] = [
            ("auto", Err(NoGpu::NotBuilt), 0, false, "Cpu "),
            ("auto", no_driver(), 0, false, "Cpu computing on the CPU: CUDA finds no GPU: no driver"),
            ("auto", Ok(2), 1, false, "Cuda(1) "),
            ("auto", Ok(2), 2, false, "process 2 of this machine has no GPU of its own, there are 2"),
            ("cpu", Ok(2), 1, false, "Cpu "),
            ("cuda", Ok(8), 7, false, "Cuda(7) "),
            ("cuda", Ok(1), 3, true, "Cuda(0) "),
            ("cuda", Ok(1), 3, false, "has no GPU of its own"),
            ("cuda", no_driver(), 0, false, "device = \"cuda\" cannot be had: CUDA finds no GPU: no driver"),
            ("cuda:1", Err(NoGpu::NotBuilt), 0, false, "without the feature `cuda`"),
            ("cuda:1", Ok(2), 0, false, "Cuda(1) "),
            ("cuda:2", Ok(2), 0, false, "device = \"cuda:2\" cannot be had: there are 2 GPUs"),
        ];
        for (text, gpus, local_rank, bound, expected) in rows {
            let found = found(text, gpus, local_rank, bound);
            assert!(found.contains(expected), "{text} as {local_rank}: {found}");
        }
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}` is no device")), "{error}");
        }
    }
}

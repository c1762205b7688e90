//! What the device itself can do: the peak of its matrix products, and how fast it copies.

use std::time::Instant;

use jacobi_torch_ext::synchronize;
use tch::{Device, Kind, Tensor};

use super::{shapes::Scale, sheet::Sheet};

/// What figures are held against.
#[derive(Clone, Copy)]
pub struct Machine {
    /// FLOP/s of a product of two large square matrices in bf16.
    pub peak: f64,
    /// Bytes per second, read and written, of a copy.
    pub bandwidth: f64,
}

impl Machine {
    pub fn measure(sheet: &mut Sheet, device: Device, scale: &Scale) -> Self {
        const TIMES: usize = 10;
        let timed = |work: &mut dyn FnMut()| {
            let idle = || synchronize(device).expect("a device that works");
            work();
            idle();
            let started = Instant::now();
            (0..TIMES).for_each(|_| work());
            idle();
            started.elapsed().as_secs_f64() / TIMES as f64
        };
        let size = scale.product;
        let matrix = Tensor::randn([size, size], (Kind::Float, device)).to_kind(Kind::BFloat16);
        let peaks: Vec<f64> = (0..scale.rounds)
            .map(|_| 2.0 * (size as f64).powi(3) / timed(&mut || drop(matrix.matmul(&matrix))))
            .collect();
        let from = Tensor::zeros([scale.copied], (Kind::Float, device));
        let mut to = from.zeros_like();
        let bytes = 2.0 * 4.0 * scale.copied as f64;
        let speeds: Vec<f64> = (0..scale.rounds).map(|_| bytes / timed(&mut || to.copy_(&from))).collect();
        let scaled = |of: &[f64], by: f64| of.iter().map(|x| x / by).collect::<Vec<_>>();
        let peak = sheet.samples("bf16 GEMM peak", "TFLOP/s", &scaled(&peaks, 1e12)) * 1e12;
        let bandwidth =
            sheet.samples("copy bandwidth, read and written", "GB/s", &scaled(&speeds, 1e9)) * 1e9;
        Self { peak, bandwidth }
    }
}

//! Copies between the host and a GPU, through pinned memory, few and large. A CPU has nothing to copy.

use tch::{Device, Kind, Tensor};

use crate::{GpuError, Timestamp};

/// Moves whole numbers, one-dimensional tensors on the CPU, to `device` in one copy.
pub fn upload<'a>(numbers: impl IntoIterator<Item = &'a mut Tensor>, device: Device) {
    if device != Device::Cpu {
        move_together(numbers, |joint| send(joint, device));
    }
}

fn move_together<'a>(
    numbers: impl IntoIterator<Item = &'a mut Tensor>,
    copy: impl FnOnce(&Tensor) -> Tensor,
) {
    let mut numbers: Vec<&mut Tensor> = numbers.into_iter().collect();
    let wide: Vec<Tensor> = numbers.iter().map(|x| x.to_kind(Kind::Int64)).collect();
    let joint = copy(&Tensor::cat(&wide, 0));
    let mut start = 0;
    for x in &mut numbers {
        let count = x.numel() as i64;
        **x = joint.narrow(0, start, count).to_kind(x.kind());
        start += count;
    }
}

/// `x`, of the CPU, on `device`. The copy may go on after this: libtorch keeps its pinned memory until it is done.
pub(crate) fn send(x: &Tensor, device: Device) -> Tensor {
    match device {
        Device::Cpu => x.shallow_clone(),
        // `pin_memory` warns at every call that its argument is deprecated.
        _ => x.internal_pin_memory(device).to_device_(device, x.kind(), true, false),
    }
}

/// `x` on the CPU. Waits until it is there.
///
/// # Errors
/// Work of the GPU that failed.
pub fn download(x: &Tensor) -> Result<Tensor, GpuError> {
    // To memory that libtorch pins.
    let there = x.to_device_(Device::Cpu, x.kind(), true, false);
    Timestamp::now(x.device())?.wait()?;
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;

    #[test]
    fn numbers_that_travel_together_stay_what_they_are() {
        let wide = Tensor::from_slice(&[1i64 << 40, -3]);
        let narrow = Tensor::from_slice(&[7i32, -1, 5]);
        let none = Tensor::from_slice::<i64>(&[]);
        let expected = [&wide, &narrow, &none].map(Tensor::copy);
        let same = |found: &[Tensor; 3]| {
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.kind(), expected.kind());
                assert!(download(found).unwrap().equal(expected), "{found:?}");
            }
        };
        for device in devices("transfers") {
            let mut moved = expected.each_ref().map(Tensor::copy);
            upload(&mut moved, device);
            assert!(moved.iter().all(|x| x.device() == device));
            same(&moved);
        }
        let mut moved = [wide, narrow, none];
        move_together(&mut moved, Tensor::copy);
        same(&moved);
    }
}

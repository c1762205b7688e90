//! The exponential function in plain arithmetic: loops over it become vector instructions, and every lane, as well as the
//! remainder of a loop, gives the same bits. To be called in kernels that pulp dispatches; elsewhere fused multiply-adds are
//! function calls.

/// e^x to about one unit in the last place, in [e^-87, e^88].
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting this, 1.5 * 2^23, rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // The polynomial of Cephes for e^r on [-ln 2 / 2, ln 2 / 2].
    let mut p = 1.987_569_2e-4f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1] {
        p = p.mul_add(r, coefficient);
    }
    let power = p.mul_add(r * r, r) + 1.0;
    // The low bits of `shifted` are n, which becomes the exponent of 2^n.
    power * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_exact_to_an_ulp_or_so() {
        for i in -870_000..880_000 {
            let x = i as f32 / 10_000.0;
            let exact = f64::from(x).exp();
            let off = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(off < 2e-7, "exp({x}): relative error {off}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e9) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }
}

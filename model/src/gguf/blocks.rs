//! The storage formats of GGUF tensors: blocks of quantised values back to f32.
//!
//! Layouts and arithmetic as in llama.cpp's `ggml-quants.c`, in its order of operations, so that the values are equal
//! bit for bit to those of the `gguf` Python package (golden: `scripts/golden/gguf_blocks.py`).

use half::{bf16, f16};

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the names users know from llama.cpp")]
pub enum BlockType {
    /// Plain single precision.
    F32,
    /// Plain half precision.
    F16,
    /// Plain bfloat16.
    BF16,
    /// 32 four-bit values, one scale.
    Q4_0,
    /// 32 four-bit values, scale and minimum.
    Q4_1,
    /// 32 five-bit values, one scale.
    Q5_0,
    /// 32 five-bit values, scale and minimum.
    Q5_1,
    /// 32 eight-bit values, one scale.
    Q8_0,
    /// 256 four-bit values, eight six-bit scales and minimums.
    Q4_K,
    /// 256 five-bit values, eight six-bit scales and minimums.
    Q5_K,
    /// 256 six-bit values, sixteen eight-bit scales.
    Q6_K,
}

/// Type number in the file, the type, its name, values per block, bytes per block.
const TABLE: &[(u32, BlockType, &str, usize, usize)] = &[
    (0, BlockType::F32, "F32", 1, 4),
    (1, BlockType::F16, "F16", 1, 2),
    (2, BlockType::Q4_0, "Q4_0", 32, 18),
    (3, BlockType::Q4_1, "Q4_1", 32, 20),
    (6, BlockType::Q5_0, "Q5_0", 32, 22),
    (7, BlockType::Q5_1, "Q5_1", 32, 24),
    (8, BlockType::Q8_0, "Q8_0", 32, 34),
    (12, BlockType::Q4_K, "Q4_K", 256, 144),
    (13, BlockType::Q5_K, "Q5_K", 256, 176),
    (14, BlockType::Q6_K, "Q6_K", 256, 210),
    (30, BlockType::BF16, "BF16", 1, 2),
];

/// Names of types that exist and are not dequantised here.
const OTHERS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl BlockType {
    /// The type numbered `id` in the file, or the name of what is not supported.
    pub(super) fn from_id(id: u32) -> Result<Self, String> {
        if let Some(row) = TABLE.iter().find(|row| row.0 == id) {
            return Ok(row.1);
        }
        let known = OTHERS.iter().find(|(other, _)| *other == id);
        Err(known.map_or_else(|| format!("type number {id}"), |(_, name)| (*name).to_owned()))
    }

    /// The names of all supported types, for messages.
    pub(super) fn supported() -> String {
        TABLE.iter().map(|row| row.2).collect::<Vec<_>>().join(", ")
    }

    /// The name that llama.cpp prints.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Values per block.
    pub fn block_len(self) -> usize {
        self.row().3
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    fn row(self) -> &'static (u32, BlockType, &'static str, usize, usize) {
        TABLE.iter().find(|row| row.1 == self).expect("every type has its row in TABLE")
    }

    /// The values of `bytes`, which is a whole number of blocks.
    ///
    /// # Panics
    /// When `bytes` does not end with a block.
    pub fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        assert_eq!(
            bytes.len() % self.block_bytes(),
            0,
            "{} bytes are no whole {} blocks",
            bytes.len(),
            self.name()
        );
        let mut out = Vec::with_capacity(bytes.len() / self.block_bytes() * self.block_len());
        for block in bytes.chunks_exact(self.block_bytes()) {
            match self {
                Self::F32 => out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                Self::F16 => out.push(half_at(block, 0)),
                Self::BF16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                Self::Q4_0 => simple(block, &mut out, Simple { bits5: false, minimum: false }),
                Self::Q4_1 => simple(block, &mut out, Simple { bits5: false, minimum: true }),
                Self::Q5_0 => simple(block, &mut out, Simple { bits5: true, minimum: false }),
                Self::Q5_1 => simple(block, &mut out, Simple { bits5: true, minimum: true }),
                Self::Q8_0 => {
                    let scale = half_at(block, 0);
                    out.extend(block[2..].iter().map(|&q| scale * f32::from(q.cast_signed())));
                }
                Self::Q4_K => scaled_minimum(block, &[], &block[16..], &mut out),
                Self::Q5_K => scaled_minimum(block, &block[16..48], &block[48..], &mut out),
                Self::Q6_K => six_bits(block, &mut out),
            }
        }
        out
    }
}

fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// The four formats of 32 values with one scale.
#[derive(Clone, Copy)]
struct Simple {
    /// A fifth bit per value, in a word of its own.
    bits5: bool,
    /// A minimum is added; without one the values are centred.
    minimum: bool,
}

/// scale, (minimum), (fifth bits), nibbles: the low nibbles are values 0..16, the high ones 16..32.
fn simple(block: &[u8], out: &mut Vec<f32>, format: Simple) {
    let scale = half_at(block, 0);
    let (minimum, rest) = if format.minimum { (half_at(block, 2), &block[4..]) } else { (0.0, &block[2..]) };
    let (fifth, nibbles) = match rest {
        [a, b, c, d, nibbles @ ..] if format.bits5 => (u32::from_le_bytes([*a, *b, *c, *d]), nibbles),
        nibbles => (0, nibbles),
    };
    let centre = if format.bits5 { 16.0 } else { 8.0 };
    let values = nibbles.iter().map(|q| q & 15).chain(nibbles.iter().map(|q| q >> 4));
    for (i, nibble) in values.enumerate() {
        let value = f32::from(nibble | u8::from(fifth >> i & 1 == 1) << 4);
        out.push(if format.minimum { scale * value + minimum } else { scale * (value - centre) });
    }
}

/// Q4_K and Q5_K: super-scale, super-minimum, 12 bytes of packed six-bit scales and minimums, then the values in
/// eight runs of 32, two runs to a stretch of 32 bytes; `fifth` holds bit r of byte i for value i of run r.
fn scaled_minimum(block: &[u8], fifth: &[u8], nibbles: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    for run in 0..8 {
        let (s, m) = scale_and_minimum(&block[4..16], run);
        let (run_scale, run_minimum) = (scale * f32::from(s), minimum * f32::from(m));
        for i in 0..32 {
            let byte = nibbles[run / 2 * 32 + i];
            let nibble = if run % 2 == 0 { byte & 15 } else { byte >> 4 };
            let bit = fifth.get(i).map_or(0, |bits| (bits >> run & 1) << 4);
            out.push(run_scale * f32::from(nibble | bit) - run_minimum);
        }
    }
}

/// Runs 0..4 have six bits in a byte of their own; runs 4..8 have four bits in bytes 8..12 and two on top of the first.
fn scale_and_minimum(packed: &[u8], run: usize) -> (u8, u8) {
    if run < 4 {
        return (packed[run] & 63, packed[run + 4] & 63);
    }
    let low = packed[run + 4];
    ((low & 15) | (packed[run - 4] >> 6) << 4, (low >> 4) | (packed[run] >> 6) << 4)
}

/// Q6_K: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, the super-scale. Half h of the block
/// is four runs of 32: runs 0 and 1 take the low nibbles of its 64 bytes, runs 2 and 3 the high ones.
fn six_bits(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    for i in 0..256 {
        let (half, run, at) = (i / 128, i / 32 % 4, i % 32);
        let byte = low[half * 64 + run % 2 * 32 + at];
        let nibble = if run < 2 { byte & 15 } else { byte >> 4 };
        let pair = high[half * 32 + at] >> (2 * run) & 3;
        let value = f32::from(nibble | pair << 4) - 32.0;
        out.push(scale * f32::from(scales[i / 16].cast_signed()) * value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_equals_the_gguf_package_bit_for_bit() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/gguf_blocks.safetensors");
        let bytes = fs_err::read(path).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (_, kind, name, block_len, block_bytes) in TABLE {
            let input = golden.tensor(&format!("{name}.bytes")).unwrap();
            let values = golden.tensor(&format!("{name}.values")).unwrap();
            assert_eq!(input.data().len() % block_bytes, 0, "{name}");
            let expected: Vec<u32> =
                values.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
            let found: Vec<u32> = kind.dequantize(input.data()).iter().map(|v| v.to_bits()).collect();
            assert_eq!(found.len(), input.data().len() / block_bytes * block_len, "{name}");
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn an_unsupported_type_is_named() {
        assert_eq!(BlockType::from_id(3), Ok(BlockType::Q4_1));
        assert_eq!(BlockType::from_id(10), Err("Q2_K".to_owned()));
        assert_eq!(BlockType::from_id(999), Err("type number 999".to_owned()));
    }
}

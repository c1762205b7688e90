//! Scalars for TensorBoard: event files written by hand, since the format is small and stable.
//!
//! An event file is a sequence of records framed as TFRecord (little-endian `u64` length, masked CRC-32C of
//! the length, data, masked CRC-32C of the data). Each record is one `tensorflow.Event` protocol buffer; the
//! fields used are listed at [`scalar_event`]. Nothing here knows what is being measured: a tag, a step, a value.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the first record of every event file must say.
const FILE_VERSION: &str = "brain.Event:2";

/// Appends scalars to one event file.
///
/// A run that stops and resumes makes one file per life; TensorBoard reads all files of the directory as one
/// run, in the order of their names.
pub struct EventWriter {
    file: BufWriter<fs_err::File>,
}

impl EventWriter {
    /// Starts a new event file in `dir`, which is created if it is missing. No existing file is touched.
    ///
    /// # Errors
    /// The directory or the file cannot be created or written; the error names the path.
    pub fn create(dir: &Path) -> io::Result<Self> {
        fs_err::create_dir_all(dir)?;
        let now = wall_time();
        let mut file = BufWriter::new(new_file(dir, now.trunc() as u64)?);
        write_record(&mut file, &version_event(now))?;
        file.flush()?;
        Ok(Self { file })
    }

    /// Appends one point of the curve `tag`. It reaches the disk with [`EventWriter::flush`], on drop, or
    /// when the buffer is full.
    ///
    /// # Errors
    /// The file cannot be written; the error names the path.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32) -> io::Result<()> {
        write_record(&mut self.file, &scalar_event(wall_time(), tag, step, value))
    }

    /// Takes back what earlier files of the directory say about `step` and later ones: a run starts again from there.
    ///
    /// # Errors
    /// The file cannot be written; the error names the path.
    pub fn restart(&mut self, step: u64) -> io::Result<()> {
        write_record(&mut self.file, &restart_event(wall_time(), step))?;
        self.file.flush()
    }

    /// Hands buffered points to the operating system, where a running TensorBoard sees them.
    ///
    /// # Errors
    /// The file cannot be written; the error names the path.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Seconds since 1970, as events carry them; a clock before 1970 counts as 0.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Names sort by second, then by a counter that keeps two writers of the same second apart.
fn new_file(dir: &Path, seconds: u64) -> io::Result<fs_err::File> {
    let mut attempt = 0_u32;
    loop {
        let path = dir.join(format!("events.out.tfevents.{seconds:010}.jacobi-{attempt:03}"));
        match fs_err::OpenOptions::new().write(true).create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => attempt += 1,
            result => return result,
        }
    }
}

fn write_record(out: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked_crc(&length).to_le_bytes())?;
    out.write_all(data)?;
    out.write_all(&masked_crc(data).to_le_bytes())
}

/// `Event { wall_time: 1 (double), file_version: 3 (string) }`
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_f64(&mut event, 1, wall_time);
    put_bytes(&mut event, 3, FILE_VERSION.as_bytes());
    event
}

/// `Event { wall_time: 1 (double), step: 2 (int64), session_log: 7 }` with `SessionLog { status: 1 (enum, START is 1) }`
fn restart_event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut log = Vec::new();
    put_varint_field(&mut log, 1, 1);

    let mut event = Vec::new();
    put_f64(&mut event, 1, wall_time);
    put_varint_field(&mut event, 2, step);
    put_bytes(&mut event, 7, &log);
    event
}

/// `Event { wall_time: 1 (double), step: 2 (int64), summary: 5 }` with
/// `Summary { value: 1 }` and `Value { tag: 1 (string), simple_value: 2 (float) }`
fn scalar_event(wall_time: f64, tag: &str, step: u64, value: f32) -> Vec<u8> {
    let mut point = Vec::new();
    put_bytes(&mut point, 1, tag.as_bytes());
    put_f32(&mut point, 2, value);
    let mut summary = Vec::new();
    put_bytes(&mut summary, 1, &point);

    let mut event = Vec::new();
    put_f64(&mut event, 1, wall_time);
    put_varint_field(&mut event, 2, step);
    put_bytes(&mut event, 5, &summary);
    event
}

// Protocol buffer wire format: a field starts with the varint `number << 3 | wire type`, where the type is
// 0 for a varint, 1 for 8 bytes, 2 for a length and that many bytes, 5 for 4 bytes.

fn put_varint_field(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

fn put_f64(out: &mut Vec<u8>, number: u64, value: f64) {
    put_varint(out, number << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_f32(out: &mut Vec<u8>, number: u64, value: f32) {
    put_varint(out, number << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Seven bits per byte, lowest first; the top bit says that more follow.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// TFRecord stores checksums rotated and shifted by a constant, so that a checksum of data which itself holds
/// checksums stays strong.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected, initial value and final xor all ones.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// The remainder of each byte value under the reflected Castagnoli polynomial.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// One field of a protocol buffer message: its number and what it holds.
    #[derive(Debug, PartialEq)]
    enum Field<'a> {
        Varint(u64, u64),
        F64(u64, f64),
        F32(u64, f32),
        Bytes(u64, &'a [u8]),
    }

    fn take<'a>(data: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (head, rest) = data.split_at(count);
        *data = rest;
        head
    }

    fn take_varint(data: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = take(data, 1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
        }
        panic!("varint of more than ten bytes")
    }

    fn fields(mut data: &[u8]) -> Vec<Field<'_>> {
        let mut fields = Vec::new();
        while !data.is_empty() {
            let key = take_varint(&mut data);
            let number = key >> 3;
            fields.push(match key & 7 {
                0 => Field::Varint(number, take_varint(&mut data)),
                1 => Field::F64(number, f64::from_le_bytes(take(&mut data, 8).try_into().unwrap())),
                2 => {
                    let length = take_varint(&mut data) as usize;
                    Field::Bytes(number, take(&mut data, length))
                }
                5 => Field::F32(number, f32::from_le_bytes(take(&mut data, 4).try_into().unwrap())),
                other => panic!("wire type {other}"),
            });
        }
        fields
    }

    fn records(mut file: &[u8]) -> Vec<&[u8]> {
        let mut records = Vec::new();
        while !file.is_empty() {
            let length = take(&mut file, 8);
            assert_eq!(take(&mut file, 4), masked_crc(length).to_le_bytes(), "checksum of the length");
            let data = take(&mut file, u64::from_le_bytes(length.try_into().unwrap()) as usize);
            assert_eq!(take(&mut file, 4), masked_crc(data).to_le_bytes(), "checksum of the data");
            records.push(data);
        }
        records
    }

    fn file_names(dir: &Path) -> Vec<String> {
        let entries = fs_err::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn crc_matches_published_vectors() {
        let rows: [(&[u8], u32); 4] = [
            (b"", 0),
            (b"123456789", 0xE306_9283),
            (&[0; 32], 0x8A91_36AA), // RFC 3720 B.4
            (&[0xff; 32], 0x62A8_AB43),
        ];
        for (data, expected) in rows {
            assert_eq!(crc32c(data), expected, "{data:?}");
        }
    }

    #[test]
    fn varints_take_seven_bits_per_byte() {
        let rows: [(u64, &[u8]); 5] = [
            (0, &[0]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ];
        for (value, expected) in rows {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes, expected, "{value}");
        }
    }

    #[test]
    fn points_read_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let points = [("train/loss", 0, 2.5_f32), ("train/loss", 1, f32::NAN), ("eval/tpf", 1 << 40, -0.0)];
        let before = wall_time();
        let mut writer = EventWriter::create(&dir.path().join("made/on/demand")).unwrap();
        for (tag, step, value) in points {
            writer.scalar(tag, step, value).unwrap();
        }
        writer.flush().unwrap();

        let dir = dir.path().join("made/on/demand");
        let file = fs_err::read(dir.join(&file_names(&dir)[0])).unwrap();
        let records = records(&file);
        assert_eq!(records.len(), 1 + points.len());
        assert_eq!(fields(records[0])[1], Field::Bytes(3, b"brain.Event:2"));
        for (record, (tag, step, value)) in records[1..].iter().zip(points) {
            let [Field::F64(1, time), Field::Varint(2, read_step), Field::Bytes(5, summary)] =
                fields(record)[..]
            else {
                panic!("event of another form: {:?}", fields(record))
            };
            assert!(before <= time && time <= wall_time(), "wall time {time} is the time of writing");
            assert_eq!(read_step, step);
            let [Field::Bytes(1, point)] = fields(summary)[..] else { panic!("one value per summary") };
            let [Field::Bytes(1, read_tag), Field::F32(2, read_value)] = fields(point)[..] else {
                panic!("value of another form: {:?}", fields(point))
            };
            assert_eq!(read_tag, tag.as_bytes());
            assert_eq!(read_value.to_bits(), value.to_bits());
        }
    }

    #[test]
    fn a_file_equals_that_of_the_package() {
        let events = [
            version_event(1_700_000_000.0),
            restart_event(1_700_000_000.25, 300),
            scalar_event(1_700_000_000.5, "train/loss", 300, 2.5),
            scalar_event(1_700_000_001.5, "eval/tpf", 5_000_000_000, -0.125),
        ];
        let mut file = Vec::new();
        for event in events {
            write_record(&mut file, &event).unwrap();
        }
        assert_eq!(file, fs_err::read("../tests/golden/tensorboard_events.tfevents").unwrap());
    }

    #[test]
    fn each_writer_makes_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        for life in 1..=3 {
            let mut writer = EventWriter::create(dir.path()).unwrap();
            writer.scalar("train/loss", life, 1.0).unwrap();
        }
        let names = file_names(dir.path());
        assert_eq!(names.len(), 3, "{names:?}");
        for name in names {
            assert!(name.starts_with("events.out.tfevents."), "{name}");
            assert_eq!(records(&fs_err::read(dir.path().join(name)).unwrap()).len(), 2);
        }
    }
}

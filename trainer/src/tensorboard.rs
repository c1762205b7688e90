//! Scalars for TensorBoard.
//!
//! An event file is a sequence of TFRecords: length as little-endian `u64`, its masked CRC-32C, the data, their masked
//! CRC-32C. The data of each are one `tensorflow.Event` message (`event.proto` and `summary.proto` of TensorBoard), of
//! which the messages below have the fields in use.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

/// The first record of every event file has this version.
const FILE_VERSION: &str = "brain.Event:2";

/// Status of a session log: points of earlier files from this step on are void.
const START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl Event {
    fn version(wall_time: f64) -> Self {
        Self { wall_time, file_version: Some(FILE_VERSION.to_owned()), ..Self::default() }
    }

    fn restart(wall_time: f64, step: u64) -> Self {
        let session_log = Some(SessionLog { status: START });
        Self { wall_time, step: step as i64, session_log, ..Self::default() }
    }

    fn scalar(wall_time: f64, tag: &str, step: u64, value: f32) -> Self {
        let value = Value { tag: tag.to_owned(), simple_value: Some(value) };
        let summary = Some(Summary { value: vec![value] });
        Self { wall_time, step: step as i64, summary, ..Self::default() }
    }
}

/// Appends scalars to one event file.
///
/// Each start of a run makes a new file; TensorBoard reads all files of the directory as one run, in the order of their
/// names.
pub(crate) struct EventWriter {
    file: BufWriter<fs_err::File>,
}

impl EventWriter {
    /// Starts a new event file in `dir`, which is created if it is missing. No existing file is touched.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        fs_err::create_dir_all(dir)?;
        let now = wall_time();
        let mut file = BufWriter::new(new_file(dir, now.trunc() as u64)?);
        write_record(&mut file, &Event::version(now))?;
        file.flush()?;
        Ok(Self { file })
    }

    /// Appends one point of the curve `tag`. It reaches the disk with [`EventWriter::flush`], on drop, or
    /// when the buffer is full.
    pub(crate) fn scalar(&mut self, tag: &str, step: u64, value: f32) -> io::Result<()> {
        write_record(&mut self.file, &Event::scalar(wall_time(), tag, step, value))
    }

    /// Makes TensorBoard drop the points of earlier files from `step` on: the run resumes there.
    pub(crate) fn restart(&mut self, step: u64) -> io::Result<()> {
        write_record(&mut self.file, &Event::restart(wall_time(), step))?;
        self.file.flush()
    }

    /// Hands buffered points to the operating system, where a running TensorBoard sees them.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Seconds since 1970; 0 for an earlier clock.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Names sort by second, then by a counter that distinguishes writers of the same second.
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

fn write_record(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let data = event.encode_to_vec();
    let length = (data.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked_crc(&length).to_le_bytes())?;
    out.write_all(&data)?;
    out.write_all(&masked_crc(&data).to_le_bytes())
}

/// TFRecord masks its checksums because the CRC of data that contain their own CRC is weak.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests;

//! The bytes of a prompt file: what they hold by their first bytes, decompressed, without a byte-order mark.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::error::DatasetError;

/// What a file holds.
pub(super) enum Content {
    Parquet(File),
    /// Without the compression and the byte-order mark.
    Text(Box<dyn BufRead>),
}

const PARQUET: &[u8] = b"PAR1";
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

const UTF_16: &str = "UTF-16: convert it to UTF-8, for instance with `iconv -f UTF-16 -t UTF-8`";

/// Files that are refused, by their first bytes, with the way out.
const REFUSED: &[(&[u8], &str)] = &[
    (b"BZh", "compressed with bzip2: decompress it, or compress it with gzip or zstd"),
    (b"\xfd7zXZ", "compressed with xz: decompress it, or compress it with gzip or zstd"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: decompress it, or compress it with gzip or zstd"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"ARROW1", "an Arrow (Feather) file: write it as Parquet (in datasets, `dataset.to_parquet(\"FILE\")`)"),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream: write it as Parquet (in datasets, `dataset.to_parquet(\"FILE\")`)",
    ),
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
];

/// Opens a file and looks at its first bytes, whatever its name.
///
/// # Errors
/// `Io`; `Prompts` for a compression or an encoding that is not read.
pub(super) fn open(path: &Path) -> Result<Content, DatasetError> {
    let failed = || DatasetError::io("read", path);
    let mut file = fs_err::File::open(path).map_err(failed())?.into_parts().0;
    let mut reader: Box<dyn BufRead> = Box::new(BufReader::new(file.try_clone().map_err(failed())?));
    let mut is_compressed = false;
    loop {
        let head;
        (head, reader) = peek(reader).map_err(failed())?;
        if head.starts_with(PARQUET) {
            let file = if is_compressed { unpacked(reader) } else { file.rewind().map(|()| file) };
            return Ok(Content::Parquet(file.map_err(failed())?));
        }
        if head.starts_with(GZIP) {
            reader = decoded("gzip", MultiGzDecoder::new(reader));
        } else if head.starts_with(ZSTD) {
            reader = decoded("zstd", zstd::Decoder::with_buffer(reader).map_err(failed())?);
        } else if let Some(what) = refused(&head) {
            return Err(DatasetError::Prompts(format!("{} is {what}", path.display())));
        } else {
            if head.starts_with(BYTE_ORDER_MARK) {
                reader.consume(BYTE_ORDER_MARK.len());
            }
            return Ok(Content::Text(reader));
        }
        is_compressed = true;
    }
}

/// What a file is that is not read. Half of the bytes of UTF-16 are zero, with a byte-order mark or without.
fn refused(head: &[u8]) -> Option<&'static str> {
    let known = REFUSED.iter().find(|(start, _)| head.starts_with(start)).map(|(_, what)| *what);
    known.or_else(|| head.iter().take(2).any(|&byte| byte == 0).then_some(UTF_16))
}

/// The first bytes, and a reader that gives them again.
fn peek(mut reader: Box<dyn BufRead>) -> io::Result<(Vec<u8>, Box<dyn BufRead>)> {
    let mut head = Vec::new();
    reader.by_ref().take(8).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(reader))))
}

/// A Parquet file is read from its end, so a compressed one is unpacked to a temporary file.
fn unpacked(mut reader: Box<dyn BufRead>) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(&mut reader, &mut file)?;
    Ok(file)
}

fn decoded(codec: &'static str, decoder: impl Read + 'static) -> Box<dyn BufRead> {
    Box::new(BufReader::new(Decoded { codec, decoder }))
}

/// A decoder whose errors name the codec and the way out.
struct Decoded<R> {
    codec: &'static str,
    decoder: R,
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| {
            let codec = self.codec;
            let text = format!(
                "its {codec} data is cut short or damaged ({error}): fetch it, or compress it, again"
            );
            io::Error::new(error.kind(), text)
        })
    }
}

#[cfg(test)]
mod tests;

//! Compressed files, and files that are refused by their first bytes.

use std::io::Write;

use flate2::write::GzEncoder;

use super::*;
use crate::prompts::{PromptFormat, PromptsConfig, read_prompts};

const LINES: &[u8] = b"\xef\xbb\xbf{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The prompts of a file, or its error with its cause.
fn read(name: &str, bytes: &[u8], format: PromptFormat) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs_err::write(&path, bytes).unwrap();
    let rows = read_prompts(&PromptsConfig { path, format, ..Default::default() });
    let rows = rows.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", cause.unwrap_or_default())
    })?;
    Ok(rows.into_iter().map(|row| row.unwrap().messages[0].text()).collect())
}

#[test]
fn compressed_files_are_read_as_what_is_in_them() {
    let two_members = [gzip(&LINES[..20]), gzip(&LINES[20..])].concat();
    let zstd = zstd::encode_all(LINES, 0).unwrap();
    let two_frames = [zstd::encode_all(&LINES[..20], 0).unwrap(), zstd::encode_all(&LINES[20..], 0).unwrap()];
    let csv = gzip(b"prompt\na\nb\n");
    let rows: [(&str, &[u8], PromptFormat); 10] = [
        ("x.jsonl", LINES, PromptFormat::Auto),
        ("x.jsonl.gz", &gzip(LINES), PromptFormat::Auto),
        ("x.JSON.GZ", &gzip(LINES), PromptFormat::Auto),
        // The bytes decide, not the name.
        ("x.jsonl", &two_members, PromptFormat::Auto),
        ("x.jsonl.gz", LINES, PromptFormat::Auto),
        ("x.jsonl.zst", &zstd, PromptFormat::Auto),
        ("x.ndjson.zstd", &two_frames.concat(), PromptFormat::Auto),
        ("x.csv.gz", &csv, PromptFormat::Auto),
        ("x", &csv, PromptFormat::Tsv),
        ("x.json", &gzip(&gzip(LINES)), PromptFormat::Auto),
    ];
    for (name, bytes, format) in rows {
        assert_eq!(read(name, bytes, format).unwrap(), ["a", "b"], "{name}");
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/prompt_files");
    let parquet = gzip(&fs_err::read(dir.join("codecs.parquet")).unwrap());
    let message = read("x.parquet.gz", &parquet, PromptFormat::Auto).unwrap_err();
    assert!(
        message.contains("no column `prompt`: set prompts.prompt_column to one of gzip, brotli"),
        "{message}"
    );
}

#[test]
fn files_that_are_cut_short_or_of_another_kind_are_refused_with_the_way_out() {
    let (gzip, zstd) = (gzip(LINES), zstd::encode_all(LINES, 0).unwrap());
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let rows: [(&[u8], &str); 8] = [
        (&gzip[..gzip.len() - 9], "its gzip data is cut short or damaged"),
        (&zstd[..zstd.len() - 5], "its zstd data is cut short or damaged"),
        (&utf16, "is UTF-16: convert it to UTF-8"),
        (&utf16[2..], "is UTF-16: convert it to UTF-8"),
        (b"BZh91AY", "is compressed with bzip2: decompress it"),
        (b"PK\x03\x04..", "is a zip archive: unpack it"),
        (b"ARROW1\0\0", "is an Arrow (Feather) file: write it as Parquet"),
        (b"\xff\xff\xff\xff\x10\0\0\0", "is an Arrow stream: write it as Parquet"),
    ];
    for (bytes, expected) in rows {
        let message = read("x.jsonl", bytes, PromptFormat::Auto).unwrap_err();
        assert!(message.contains("x.jsonl") && message.contains(expected), "{message}");
    }
}

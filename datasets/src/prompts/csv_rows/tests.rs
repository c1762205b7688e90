//! Rows of CSV and TSV files.

use super::*;
use crate::prompts::row::Wanted;

fn rows(text: &[u8], delimiter: u8, columns: &[&str]) -> Vec<String> {
    let wanted = |column: &&str| Wanted { column: (*column).to_owned(), setting: None };
    let wanted: Vec<Wanted> = columns.iter().map(wanted).collect();
    let row = |row: RowResult| match row {
        Ok(Ok(row)) => columns.iter().map(|column| format!("{column}={}", row.columns[*column])).collect(),
        Ok(Err(bad)) => bad.to_string(),
        Err(error) => error.to_string(),
    };
    let text = Box::new(Cursor::new(text.to_vec()));
    open(Path::new("x.csv"), text, delimiter, Names::of(Some(&wanted))).unwrap().map(row).collect()
}

#[test]
fn values_are_text_as_in_the_file() {
    let text = b"id,p,x\r\n007,\"a \"\"q\"\", b\nc\",\r\n\r\n1e3,NA,\xff\r\n8";
    let expected = [r#"id="007"p="a \"q\", b\nc""#, r#"id="1e3"p="NA""#, r#"id="8"p=null"#];
    assert_eq!(rows(text, b',', &["id", "p"]), expected);
    assert_eq!(rows(b"id\tp\n1\ta,b\n", b'\t', &["id", "p"]), [r#"id="1"p="a,b""#]);
    for empty in ["", "id,p", "id,p\n"] {
        assert!(rows(empty.as_bytes(), b',', &["p"]).is_empty(), "{empty:?}");
    }
}

#[test]
fn a_name_that_a_header_has_twice_is_refused_if_it_is_read() {
    let open = |text: &[u8], column: &str| {
        let wanted = [Wanted { column: column.to_owned(), setting: None }];
        let text = Box::new(Cursor::new(text.to_vec()));
        let opened = open(Path::new("x.csv"), text, b',', Names::of(Some(&wanted)));
        opened.err().map(|error| error.to_string())
    };
    let header = b"p,id,id,,\na,1,2,,\n";
    assert_eq!(open(header, "p"), None);
    assert_eq!(open(header, "id").as_deref(), Some("x.csv has several columns `id`: rename one of them"));
}

#[test]
fn rows_are_counted_whatever_the_line_ends() {
    for text in [&b"p,q\n1,a\n2,b,c\n"[..], b"p,q\r\n1,a\r\n2,b,c\r\n", b"p,q\n\"1\n\n\",a\n\n2,b,c\n"] {
        assert!(rows(text, b',', &["p"])[1].starts_with("row 2: 3 values"));
    }
}

#[test]
fn bad_rows_name_their_number_and_column() {
    let found = rows(b"id,p\n1,a\n2,b,c\n3,\xff\n4,d\n", b',', &["p"]);
    assert_eq!(found[..2], ["p=\"a\"", "row 2: 3 values, but the header has 2"]);
    assert!(found[2].starts_with("row 3: `p` is not UTF-8"), "{}", found[2]);
    assert_eq!(found[3], "p=\"d\"");
    let found = rows(b"id,p\n1,a\n2,\"b\n3,c\n", b',', &["p"]);
    assert!(found[1].starts_with("x.csv, row 2: a quoted value never ends"), "{found:?}");
}

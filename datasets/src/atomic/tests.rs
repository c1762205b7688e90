//! Files replaced whole, and failures that leave the former file.

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn writes_and_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    for text in ["one", "two, longer", ""] {
        write_atomic(&path, |out| out.write_all(text.as_bytes())).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(names(dir.path()), ["a.txt"]);
}

#[test]
fn a_failing_writer_leaves_the_former_file_and_no_rubbish() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    write_atomic(&path, |out| out.write_all(b"former")).unwrap();
    let err = write_atomic(&path, |out| {
        out.write_all(b"half")?;
        Err(io::Error::other("disk on fire"))
    });
    assert!(err.unwrap_err().to_string().contains("a.txt"));
    assert_eq!(fs_err::read_to_string(&path).unwrap(), "former");
    assert_eq!(names(dir.path()), ["a.txt"]);
}

#[test]
fn a_missing_directory_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nowhere").join("a.txt");
    let err = write_atomic(&path, |_| Ok(())).unwrap_err();
    assert!(err.to_string().contains("nowhere/a.txt"), "{err}");
}

#[cfg(unix)]
#[test]
fn mode_follows_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
    write_atomic(&ours, |_| Ok(())).unwrap();
    fs_err::write(&plain, "").unwrap();
    let mode = |path| fs_err::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(ours), mode(plain));
}

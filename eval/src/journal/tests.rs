//! Samples that are kept, and files that are damaged.

use super::*;
use crate::fixtures::sample;

fn of(decoder: &str, id: &str) -> EvalSample {
    let mut sample = sample(decoder, 8, 4, 1.0);
    sample.sample_id = id.to_owned();
    sample
}

#[test]
fn a_prompt_is_kept_when_every_decoder_has_answered_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report").join("samples.jsonl");
    let mut journal = Journal::open(&path).unwrap();
    assert_eq!(journal.sitting, 1);
    let prompts = ["a", "b", "c"].map(|id| [of("ar", id), of("jacobi", id)]);
    journal.append(&prompts[0]).unwrap();
    journal.append(&prompts[1][..1]).unwrap();
    let mut failed = prompts[2].clone();
    failed[1].error = Some("x".to_owned());
    journal.append(&failed).unwrap();
    let mut journal = Journal::open(&path).unwrap();
    assert_eq!(journal.sitting, 2);
    assert_eq!(journal.take(&prompts[0]).as_deref(), Some(&prompts[0][..]));
    assert_eq!((journal.take(&prompts[1]), journal.take(&prompts[2])), (None, None));
    let mut other = prompts[0].clone();
    other[1].decoder_settings.insert("spawn_ratio".to_owned(), 0.5.into());
    assert_eq!(journal.take(&other), None);
}

#[test]
fn a_line_cut_short_is_removed_and_a_damaged_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.jsonl");
    Journal::open(&path).unwrap().append(&[of("ar", "a"), of("ar", "b")]).unwrap();
    let whole = fs_err::read_to_string(&path).unwrap();
    let first = whole.split_inclusive('\n').next().unwrap();
    for cut in [1, 40, whole.len() - first.len() - 1] {
        fs_err::write(&path, &whole[..first.len() + cut]).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert!(journal.take(&[of("ar", "a")]).is_some() && journal.take(&[of("ar", "b")]).is_none());
        assert_eq!(fs_err::read_to_string(&path).unwrap(), first);
        journal.append(&[of("ar", "b")]).unwrap();
        assert_eq!(read_samples(&path).unwrap(), [of("ar", "a"), of("ar", "b")]);
    }
    fs_err::write(&path, format!("{first}{{oops}}\n")).unwrap();
    let message = Journal::open(&path).unwrap_err().to_string();
    assert!(message.contains("samples.jsonl:2") && message.contains("--overwrite"), "{message}");
}

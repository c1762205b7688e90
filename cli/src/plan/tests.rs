//! Counts, sizes and digests.

use std::path::Path;

use super::*;

#[test]
fn steps_count_partial_batches_and_obey_max_steps() {
    let train = TrainConfig { epochs: 2, batch_size: 8, ..Default::default() };
    assert_eq!(steps(&train, 17), 6);
    assert_eq!(steps(&TrainConfig { max_steps: Some(5), ..train }, 17), 5);
}

#[test]
fn sizes_read_well() {
    for (count, expected) in
        [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_950, "1.0 MB"), (7_240_000_000, "7.2 GB")]
    {
        assert_eq!(bytes(count), expected);
    }
}

#[test]
fn a_task_digest_depends_on_all_that_a_task_says_but_where_its_questions_lie() {
    let good = "name = \"sums\"\nversion = 1\nfollows = \"mine\"\nmax_new_tokens = 9\nextractor = { pattern = \"a\" }\n\
                scorer = \"text\"\n[prompts]\npath = \"a.jsonl\"\ntemplate = \"{{ q }}\"\nanswer_column = \"a\"\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sums.toml");
    let digest = |from: &str, to: &str| {
        fs_err::write(&path, good.replace(from, to)).unwrap();
        digest_of_task(&jacobi_eval::tasks::find(path.to_str().unwrap()).unwrap()).unwrap()
    };
    let mut seen = std::collections::BTreeSet::from([digest("", "")]);
    let edits = [
        ("{{ q }}", "{{ q }}?"),
        ("pattern = \"a\"", "pattern = \"b\""),
        ("\"text\"", "\"number\""),
        ("= 9", "= 8"),
    ];
    for (from, to) in edits {
        assert!(seen.insert(digest(from, to)), "{to}");
    }
    assert!(!seen.insert(digest("a.jsonl", "b.jsonl")));
}

/// Evaluations on disk are continued and compared by this digest: it must not change with the order of fields.
#[test]
fn the_digest_of_a_task_is_the_recorded_one() {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart.toml");
    let recipe = Recipe::load(&recipe, &[]).unwrap();
    let digests: Vec<_> =
        recipe.eval.measured().unwrap().iter().map(|task| digest_of_task(task).unwrap()).collect();
    assert_eq!(digests, ["d13e64975c129aea"]);
}

#[test]
fn a_model_digest_depends_on_every_file_that_matters() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for (name, text) in [("config.json", "1"), ("config.json", "2"), ("model.safetensors", "3")] {
        fs_err::write(dir.path().join(name), text).unwrap();
        assert!(seen.insert(digest_of_model(dir.path()).unwrap()));
    }
    fs_err::write(dir.path().join("README.md"), "words").unwrap();
    fs_err::write(dir.path().join(TUNED_FILE), "{}").unwrap();
    assert!(!seen.insert(digest_of_model(dir.path()).unwrap()));
}

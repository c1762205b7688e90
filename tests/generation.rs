//! Prompts to shards: the same rows after any interruption, each prompt accounted for.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::{FinishReason, Manifest, PromptsConfig, Rank, Responses, Trajectory, read_all};
use jacobi_trajectory_gen::{
    BatchSize, CUT_RESPONSES, Choice, GenerateConfig, GenerateError, GenerateJob, GenerateProgress,
    OnDisagreement, OutOfRange, estimate, generate, merge,
};

use crate::support::{job, prompt_file, random_words, scratch, tiny_model};

/// A model, its prompts, and room for outputs.
struct Bench {
    dir: tempfile::TempDir,
    prompts: PromptsConfig,
    config: GenerateConfig,
}

impl Bench {
    fn new(prompts: usize) -> Self {
        let dir = scratch();
        tiny_model(&dir.path().join("model"), 1);
        let config =
            GenerateConfig { block_size: 8, max_new_tokens: 20, rows_per_group: 3, ..random_words() };
        Self { prompts: prompt_file(dir.path(), prompts), config, dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write_prompts(&self, lines: &[&str]) {
        fs_err::write(&self.prompts.path, lines.join("\n")).unwrap();
    }

    fn run(&self, name: &str) -> Result<Manifest, GenerateError> {
        self.run_as(name, |_| ())
    }

    fn run_as(&self, name: &str, change: impl Fn(&mut GenerateJob)) -> Result<Manifest, GenerateError> {
        let (model, output) = (self.path("model"), self.path(name));
        let mut job = job(&model, &self.prompts, &output, &self.config);
        change(&mut job);
        Ok(generate(&job, &AtomicBool::new(false), &mut |_| ())?.manifest)
    }

    /// Stops after `reports` reports; whether it was in time.
    fn interrupt(&self, name: &str, reports: usize) -> bool {
        let (model, output) = (self.path("model"), self.path(name));
        let stop = AtomicBool::new(reports == 0);
        let mut seen = 0;
        let outcome = generate(&job(&model, &self.prompts, &output, &self.config), &stop, &mut |_| {
            seen += 1;
            stop.store(seen >= reports, Ordering::Relaxed);
        });
        outcome.unwrap().interrupted && seen == reports
    }

    fn rows(&self, name: &str) -> Vec<Trajectory> {
        read_all(&self.path(name)).unwrap().1
    }
}

fn line(id: &str, prompt: &str) -> String {
    format!("{{\"id\": \"{id}\", \"prompt\": \"{prompt}\"}}")
}

fn counts(manifest: &Manifest) -> [usize; 4] {
    [manifest.input, manifest.written, manifest.skipped, manifest.failed]
}

#[test]
fn interrupted_generation_resumes_to_the_same_shards() {
    let bench = Bench::new(10);
    bench.run("whole").unwrap();
    // Zero: while prompts are still counted, with nothing on disk and with something.
    for reports in [0, 2, 4, 0, 1, 5] {
        assert!(bench.interrupt("parts", reports));
    }
    let manifest = bench.run("parts").unwrap();
    assert_eq!(bench.rows("parts"), bench.rows("whole"));
    assert_eq!((counts(&manifest), manifest.complete), ([10, 10, 0, 0], true));
    // A complete directory is left as it is.
    let before = fs_err::metadata(bench.path("parts/manifest.json")).unwrap().modified().unwrap();
    bench.run("parts").unwrap();
    assert_eq!(fs_err::metadata(bench.path("parts/manifest.json")).unwrap().modified().unwrap(), before);
}

#[test]
fn progress_reports_tokens_and_iterations_so_far() {
    let bench = Bench::new(3);
    let (model, output) = (bench.path("model"), bench.path("t"));
    let mut last = GenerateProgress::default();
    let job = job(&model, &bench.prompts, &output, &bench.config);
    generate(&job, &AtomicBool::new(false), &mut |now| last = *now).unwrap();
    let rows = bench.rows("t");
    let tokens: usize = rows.iter().map(|row| row.response_tokens.len()).sum();
    // The number of iterations of each block to its fixed point.
    let states = rows.iter().flat_map(|row| &row.states);
    let iterations: u32 = states.filter(|state| state.tail.is_empty()).map(|state| state.iteration).sum();
    assert_eq!((last.done, last.tokens, last.iterations), (3, tokens, iterations as usize));
    assert!(last.iterations > 0);
}

#[test]
fn rows_depend_neither_on_the_batch_nor_on_how_they_are_stored() {
    let mut bench = Bench::new(7);
    bench.run("base").unwrap();
    bench.config = GenerateConfig {
        batch_size: BatchSize::Samples(2),
        rows_per_group: 1,
        shard_bytes: 1,
        ..bench.config
    };
    let manifest = bench.run("other").unwrap();
    assert_eq!(manifest.shards.len(), 7);
    assert_eq!(bench.rows("other"), bench.rows("base"));
    // They are neutral: a run resumes under other values.
    bench.config.shard_bytes = 1 << 20;
    bench.run("other").unwrap();
}

#[test]
fn other_settings_are_named_and_replace_rows_only_when_told_to() {
    let mut bench = Bench::new(3);
    bench.run("t").unwrap();
    bench.config.block_size = 4;
    let error = bench.run("t").unwrap_err();
    assert!(error.is_usage());
    let message = error.to_string();
    for part in ["generate.block_size: was 8, is 4", "--overwrite", bench.path("t").to_str().unwrap()] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
    let seed = bench.run_as("t", |job| job.seed = 6).unwrap_err().to_string();
    assert!(seed.contains("seed: was 5, is 6"), "{seed}");
    bench.run_as("t", |job| job.overwrite = true).unwrap();
    assert_eq!(read_all(&bench.path("t")).unwrap().0.block_size, 4);
    // Files of this very job stay, so that the same command resumes.
    let shard = bench.path("t/trajectories-00000-of-00001.parquet");
    let made = fs_err::metadata(&shard).unwrap().modified().unwrap();
    bench.run_as("t", |job| job.overwrite = true).unwrap();
    assert_eq!(fs_err::metadata(&shard).unwrap().modified().unwrap(), made);
    // Rows of prompts that are gone, and a manifest that cannot be read, give way.
    bench.prompts.limit = Some(2);
    assert_eq!(counts(&bench.run_as("t", |job| job.overwrite = true).unwrap()), [2, 2, 0, 0]);
    fs_err::write(bench.path("t/manifest.json"), "{").unwrap();
    bench.run("t").unwrap_err();
    assert_eq!(counts(&bench.run_as("t", |job| job.overwrite = true).unwrap()), [2, 2, 0, 0]);
}

#[test]
fn more_prompts_continue_a_directory_and_missing_ones_are_refused() {
    let mut bench = Bench::new(6);
    bench.run("whole").unwrap();
    bench.prompts.limit = Some(4);
    assert_eq!(counts(&bench.run("t").unwrap()), [4, 4, 0, 0]);
    bench.prompts.limit = None;
    assert_eq!(counts(&bench.run("t").unwrap()), [6, 6, 0, 0]);
    assert_eq!(bench.rows("t"), bench.rows("whole"));
    bench.prompts.offset = 2;
    let error = bench.run("t").unwrap_err();
    assert!(error.is_usage(), "{error}");
    assert!(error.to_string().contains("2 trajectories of prompts"), "{error}");
    assert_eq!(bench.rows("t"), bench.rows("whole"), "nothing is touched");
}

#[test]
fn failed_prompts_are_listed_and_tried_again_once_repaired() {
    let bench = Bench::new(0);
    let (good, other) = (line("a", "Anna has 2."), line("b", "Ben has 3."));
    bench.write_prompts(&[&good, "{broken", &other]);
    assert_eq!(counts(&bench.run("t").unwrap()), [3, 2, 0, 1]);
    let errors = || fs_err::read_to_string(bench.path("t/errors.jsonl")).unwrap();
    assert!(errors().contains("line 2") && errors().contains("malformed JSON"), "{}", errors());
    assert_eq!(counts(&bench.run("t").unwrap()), [3, 2, 0, 1], "still broken");
    assert_eq!(errors().lines().count(), 1);
    bench.write_prompts(&[&good, &line("c", "Cleo has 4."), &other]);
    assert_eq!(counts(&bench.run("t").unwrap()), [3, 3, 0, 0]);
    assert_eq!((errors().as_str(), bench.rows("t").len()), ("", 3));
}

#[test]
fn a_prompt_file_without_usable_rows_can_be_repaired() {
    let mut bench = Bench::new(0);
    bench.write_prompts(&["{broken", "[1]"]);
    let message = bench.run("t").unwrap_err().to_string();
    assert!(message.contains("none of 2 prompts") && message.contains("errors.jsonl"), "{message}");
    bench.write_prompts(&[&line("a", "Anna has 2.")]);
    bench.config.block_size = 4;
    assert_eq!(counts(&bench.run("t").unwrap()), [1, 1, 0, 0]);
}

#[test]
fn prompts_skipped_under_other_settings_are_tried_again() {
    let mut bench = Bench::new(2);
    (bench.config.max_new_tokens, bench.config.cut_responses) = (1, Choice::Drop);
    bench.run("t").unwrap_err();
    (bench.config.max_new_tokens, bench.config.cut_responses) = (2, Choice::Keep);
    let manifest = bench.run("t").unwrap();
    assert_eq!(counts(&manifest), [2, 2, 0, 0]);
    let cut = bench.rows("t").iter().filter(|row| row.finish_reason == FinishReason::Length).count();
    assert_eq!(manifest.counts.get(CUT_RESPONSES).copied().unwrap_or(0), cut);
}

#[test]
fn a_prompt_with_an_id_beyond_the_embedding_fails_alone() {
    let bench = Bench::new(0);
    let path = bench.path("model").join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    let mut pad = json["added_tokens"][0].clone();
    (pad["id"], pad["content"]) = (873.into(), "[PAD]".into());
    json["added_tokens"].as_array_mut().unwrap().push(pad);
    fs_err::write(&path, json.to_string()).unwrap();
    let lines = [("a", "Anna has 2."), ("b", "Anna [PAD] has 3."), ("c", "Anna has 4.")];
    let lines = lines.map(|(id, text)| line(id, text));
    bench.write_prompts(&lines.each_ref().map(String::as_str));
    assert_eq!(counts(&bench.run("t").unwrap()), [3, 2, 0, 1]);
    let errors = fs_err::read_to_string(bench.path("t").join("errors.jsonl")).unwrap();
    assert!(errors.contains("token id 873 ([PAD])") && errors.contains("\"b\""), "{errors}");
    // Where every prompt has it, nothing is computed.
    let template = bench.path("model").join("chat_template.jinja");
    fs_err::write(template, "[PAD]{{ messages[0].content }}").unwrap();
    let error = bench.run("u").unwrap_err().to_string();
    assert!(error.contains("token id 873 ([PAD])") && !bench.path("u").exists(), "{error}");
}

#[test]
fn consecutive_failures_end_the_run_and_keep_finished_rows() {
    let mut bench = Bench::new(0);
    bench.config.max_consecutive_errors = 2;
    bench.config.batch_size = BatchSize::Samples(1);
    let good: Vec<String> = (0..300).map(|i| line(&format!("{i:03}"), &format!("Anna has {i}."))).collect();
    let mut lines: Vec<&str> = good.iter().map(String::as_str).collect();
    bench.config.max_new_tokens = 2;
    lines.insert(1, "{broken");
    bench.write_prompts(&lines);
    assert_eq!(bench.run("one").unwrap().failed, 1);
    lines.extend(["{broken", "{broken", "{broken"]);
    bench.write_prompts(&lines);
    let error = bench.run("two").unwrap_err();
    assert!(!error.is_usage());
    let message = error.to_string();
    assert!(message.contains("2 prompts in a row") && message.contains("line 303"), "{message}");
    let manifest = Manifest::load(&bench.path("two")).unwrap().unwrap();
    assert!(!manifest.complete && manifest.written >= 250, "{}", manifest.written);
}

/// A change of the settings, rows written then, prompts skipped by rule.
type FilterRow = (&'static str, fn(&mut GenerateConfig), usize, &'static [(&'static str, usize)]);

/// Four prompts, one of them twice and one long. What repetition is, the unit tests say.
#[test]
fn every_filter_is_counted_and_changes_the_outcome() {
    let bench = Bench::new(0);
    let long = line("long", &"many words ".repeat(40));
    let (a, again, b) = (line("a", "Anna has 2."), line("a2", "Anna has 2."), line("b", "Ben has 3."));
    bench.write_prompts(&[&a, &again, &b, &long]);
    let base = GenerateConfig { max_prompt_tokens: 60, ..bench.config.clone() };
    let rows: [FilterRow; 6] = [
        ("base", |_| (), 2, &[("duplicate_prompt", 1), ("prompt_too_long", 1)]),
        ("keep", |c| c.duplicate_prompts = Choice::Keep, 3, &[("prompt_too_long", 1)]),
        ("longer", |c| c.max_prompt_tokens = 300, 3, &[("duplicate_prompt", 1)]),
        ("cut prompt", |c| c.prompts_out_of_range = OutOfRange::Truncate, 3, &[("duplicate_prompt", 1)]),
        (
            "short prompt",
            |c| c.min_prompt_tokens = 60,
            0,
            &[("duplicate_prompt", 1), ("prompt_too_long", 1), ("prompt_too_short", 2)],
        ),
        (
            "cut response",
            |c| (c.max_new_tokens, c.cut_responses) = (1, Choice::Drop),
            0,
            &[("duplicate_prompt", 1), ("prompt_too_long", 1), ("response_cut", 2)],
        ),
    ];
    for (name, change, written, skipped) in rows {
        let mut config = base.clone();
        change(&mut config);
        let bench = Bench { config, dir: scratch(), prompts: bench.prompts.clone() };
        tiny_model(&bench.path("model"), 1);
        let outcome = bench.run("t");
        let manifest = Manifest::load(&bench.path("t")).unwrap().unwrap();
        let found: Vec<(&str, usize)> =
            manifest.skipped_by.iter().map(|(rule, count)| (rule.as_str(), *count)).collect();
        assert_eq!((manifest.written, found.as_slice()), (written, skipped), "{name}");
        assert_eq!(outcome.is_ok(), written > 0, "{name}");
        assert_eq!(manifest.written + manifest.skipped + manifest.failed, 4, "{name}");
        if written > 0 {
            // Skipped prompts are not answered again.
            assert_eq!(counts(&bench.run("t").unwrap()), counts(&manifest), "{name}");
        }
    }
}

#[test]
fn out_of_range_prompts_can_end_the_run() {
    let mut bench = Bench::new(2);
    bench.config.prompts_out_of_range = OutOfRange::Fail;
    bench.config.max_prompt_tokens = 5;
    let message = bench.run("t").unwrap_err().to_string();
    for part in ["sample-0", "at most 5", "generate.prompts_out_of_range"] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
    // Next to nothing fits behind a prompt that fills the context.
    bench.write_prompts(&[&line("long", &"many words ".repeat(400))]);
    bench.config.prompts_out_of_range = OutOfRange::Truncate;
    bench.config.responses_out_of_range = OutOfRange::Fail;
    (bench.config.max_prompt_tokens, bench.config.min_response_tokens) = (1 << 20, 20);
    let error = bench.run("short").unwrap_err();
    assert!(error.is_usage());
    for part in ["long", "at least 20", "generate.responses_out_of_range"] {
        assert!(error.to_string().contains(part), "{part:?} is missing: {error}");
    }
}

#[test]
fn two_ranks_make_the_rows_of_one_and_merge_to_its_directory() {
    let bench = Bench::new(0);
    let mut lines: Vec<String> = (0..9).map(|i| line(&format!("{i}"), &format!("Anna has {i}."))).collect();
    lines.extend([line("again", "Anna has 3."), "{broken".to_owned()]);
    bench.write_prompts(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let whole = bench.run("one").unwrap();
    let ranked = |rank, world_size| bench.run_as("two", |job| job.rank = Some(Rank { rank, world_size }));
    let message = merge(&bench.path("two")).unwrap_err().to_string();
    assert!(message.contains("cannot merge"), "{message}");
    let first = ranked(0, 2).unwrap();
    let message = merge(&bench.path("two")).unwrap_err().to_string();
    assert!(message.contains("rank-00001-of-00002 is missing"), "{message}");
    let second = ranked(1, 2).unwrap();
    assert!(first.written > 0 && second.written > 0, "{} and {}", first.written, second.written);
    let merged = merge(&bench.path("two")).unwrap();
    assert_eq!((counts(&merged), &merged.skipped_by), (counts(&whole), &whole.skipped_by));
    assert_eq!(bench.rows("two"), bench.rows("one"));
    // Again is the same, and a single run takes the joined rows as its own.
    assert_eq!(merge(&bench.path("two")).unwrap().shards, merged.shards);
    assert_eq!(counts(&bench.run("two").unwrap()), counts(&whole));
    let message = merge(&bench.path("one")).unwrap_err().to_string();
    assert!(message.contains("no rank made"), "{message}");
}

#[test]
fn incomplete_sets_of_ranks_are_refused() {
    let mut bench = Bench::new(8);
    let ranked = |bench: &Bench, rank| bench.run_as("t", |job| job.rank = Some(Rank { rank, world_size: 2 }));
    ranked(&bench, 0).unwrap();
    bench.config.block_size = 4;
    ranked(&bench, 1).unwrap();
    let message = merge(&bench.path("t")).unwrap_err().to_string();
    assert!(message.contains("generate.block_size: was 8, is 4"), "{message}");
    bench.config.block_size = 8;
    bench.prompts.limit = Some(7);
    bench
        .run_as("t", |job| (job.rank, job.overwrite) = (Some(Rank { rank: 1, world_size: 2 }), true))
        .unwrap();
    let message = merge(&bench.path("t")).unwrap_err().to_string();
    assert!(message.contains("they read different files"), "{message}");
    bench.prompts.limit = None;
    ranked(&bench, 1).unwrap();
    let shard = bench.path("t/rank-00001-of-00002/trajectories-00000-of-00001.parquet");
    let mut bytes = fs_err::read(&shard).unwrap();
    bytes[100] ^= 1;
    fs_err::write(&shard, bytes).unwrap();
    let message = merge(&bench.path("t")).unwrap_err().to_string();
    assert!(message.contains("has changed since it was written"), "{message}");
}

#[test]
fn a_damaged_shard_is_named_and_regenerated_once_deleted() {
    let mut bench = Bench::new(8);
    bench.config.shard_bytes = 1;
    bench.run("whole").unwrap();
    bench.run("t").unwrap();
    let shard = bench.path("t/trajectories-00001-of-00003.parquet");
    let good = fs_err::read(&shard).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for damaged in [&flipped[..], &good[..good.len() / 2]] {
        fs_err::write(&shard, damaged).unwrap();
        let message = bench.run("t").unwrap_err().to_string();
        for part in ["trajectories-00001-of-00003.parquet", "delete it", "jacobi generate"] {
            assert!(message.contains(part), "{part:?} is missing: {message}");
        }
    }
    fs_err::remove_file(&shard).unwrap();
    assert_eq!(counts(&bench.run("t").unwrap()), [8, 8, 0, 0]);
    assert_eq!(bench.rows("t"), bench.rows("whole"));
}

#[test]
fn an_estimate_counts_and_measures_and_writes_nothing() {
    let bench = Bench::new(6);
    let (model, output) = (bench.path("model"), bench.path("t"));
    let job = job(&model, &bench.prompts, &output, &bench.config);
    let counted = estimate(&job, 0).unwrap();
    assert_eq!((counted.input, counted.candidates, counted.calibration), (6, 6, None));
    let measured = estimate(&job, 3).unwrap();
    let tokens = measured.scaled(|c| c.response_tokens as f64).unwrap();
    bench.run("real").unwrap();
    let real: usize = bench.rows("real").iter().map(|row| row.response_tokens.len()).sum();
    assert!((tokens - real as f64).abs() < 0.3 * real as f64, "{tokens} for {real}");
    assert!(measured.scaled(|c| c.bytes as f64).unwrap() > 0.0);
    assert!(!output.exists());
}

#[test]
fn an_unwritable_directory_is_named() {
    let bench = Bench::new(2);
    fs_err::write(bench.path("file"), "").unwrap();
    let message = bench.run("file/t").unwrap_err().to_string();
    assert!(message.contains("file/t"), "{message}");
    assert!(Path::new(&bench.path("file")).is_file());
}

/// The responses of a run as another engine would have written them, one of them not the model's and one missing.
#[test]
fn given_responses_are_used_and_disagreeing_blocks_are_counted() {
    let mut bench = Bench::new(5);
    bench.run("ours").unwrap();
    let ours = bench.rows("ours");
    let file = bench.path("responses.jsonl");
    let mut given: Vec<(String, Vec<u32>)> =
        ours.iter().map(|row| (row.sample_id.clone(), row.response_tokens.clone())).collect();
    given.pop();
    let foreign = given[1].1[9];
    given[1].1[9] = if foreign == 50 { 51 } else { 50 };
    let line =
        |(id, tokens): &(String, Vec<u32>)| format!("{{\"id\": \"{id}\", \"token_ids\": {tokens:?}}}\n");
    fs_err::write(&file, given.iter().map(line).collect::<String>()).unwrap();
    bench.config.responses = Some(file.clone());
    let manifest = bench.run("kept").unwrap();
    assert_eq!(counts(&manifest), [5, 4, 0, 1]);
    assert!(manifest.counts["disagreeing_blocks"] >= 1, "{:?}", manifest.counts);
    let (metadata, kept) = read_all(&bench.path("kept")).unwrap();
    assert_eq!(metadata.decoding["responses"], Responses::read(&file).unwrap().digest());
    assert_eq!((&kept[0], &kept[2], &kept[3]), (&ours[0], &ours[2], &ours[3]));
    let errors = fs_err::read_to_string(bench.path("kept/errors.jsonl")).unwrap();
    assert!(errors.contains("sample-4") && errors.contains("no response to it"), "{errors}");
    // Other responses are another setting, another place of the same is none.
    let elsewhere = bench.path("elsewhere.jsonl");
    fs_err::rename(&file, &elsewhere).unwrap();
    let message = bench.run("kept").unwrap_err().to_string();
    assert!(message.contains("responses.jsonl"), "{message}");
    bench.config.responses = None;
    let message = bench.run("kept").unwrap_err().to_string();
    assert!(message.contains("generate.responses: was"), "{message}");
    bench.config.responses = Some(elsewhere);
    assert_eq!(bench.run("kept").unwrap(), manifest);

    bench.config.on_disagreement = OnDisagreement::Drop;
    let manifest = bench.run("dropped").unwrap();
    assert_eq!((counts(&manifest), manifest.skipped_by["disagreement"]), ([5, 3, 1, 1], 1));
    assert!(manifest.counts["disagreeing_blocks"] >= 1, "{:?}", manifest.counts);
    bench.config.on_disagreement = OnDisagreement::default();
    bench.config.max_new_tokens = 12;
    bench.run("too long").unwrap_err();
    let manifest = Manifest::load(&bench.path("too long")).unwrap().unwrap();
    assert_eq!((manifest.skipped_by["response_too_long"], manifest.failed), (4, 1));
    bench.config.responses_out_of_range = OutOfRange::Truncate;
    assert_eq!(counts(&bench.run("cut").unwrap()), [5, 4, 0, 1]);
}

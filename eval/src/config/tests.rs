//! Which tasks and decoders a configuration names.

use serde_json::Value;

use super::*;

type Listed<'a> = &'a [(DecoderName, Option<usize>)];

fn stop() -> StopRules {
    StopRules { max_new_tokens: 9, eos_token_ids: vec![2] }
}

fn config(decoders: Listed) -> EvalConfig {
    let decoder = |&(name, block_size)| DecoderConfig { name, block_size, ..DecoderConfig::default() };
    let decoders = decoders.iter().map(decoder).collect();
    EvalConfig { decoders, ..EvalConfig::default() }
}

#[test]
fn strictness_makes_another_contender() {
    let mut config = config(&[(DecoderName::Jacobi, None), (DecoderName::Jacobi, None)]);
    config.decoders[1].strict_gap = Some(0.5);
    let contenders = config.contenders(7, &stop()).unwrap();
    let gaps: Vec<Option<f32>> = contenders.iter().map(|c| c.strict_gap).collect();
    assert_eq!(gaps, [None, None, Some(0.5)]);
    assert!(contenders.iter().all(|c| c.stop.eos_token_ids == [2]));
}

#[test]
fn autoregressive_is_always_there_and_first() {
    use DecoderName::{Ar, Jacobi};
    let rows: [(Listed, &[&str]); 4] = [
        (&[], &["ar {}"]),
        (&[(Ar, None)], &["ar {}"]),
        (&[(Jacobi, None)], &["ar {}", "jacobi {\"block_size\":16}"]),
        (
            &[(Jacobi, Some(4)), (Ar, None), (Jacobi, Some(8))],
            &["ar {}", "jacobi {\"block_size\":4}", "jacobi {\"block_size\":8}"],
        ),
    ];
    for (decoders, expected) in rows {
        let contenders = config(decoders).contenders(7, &stop()).unwrap();
        let names: Vec<String> = contenders
            .iter()
            .map(|c| format!("{} {}", c.strategy.name().as_str(), Value::Object(c.decoder_settings())))
            .collect();
        assert_eq!(names, expected);
    }
}

/// A model directory with nothing but a `jacobi.json` of `jacobi` with this block size.
fn tuned_model(dir: &std::path::Path, role: ModelRole, block_size: Option<usize>) -> EvalModel {
    let name = role.as_str().to_owned();
    let dir = dir.join(&name);
    fs_err::create_dir(&dir).unwrap();
    if let Some(block_size) = block_size {
        let text = crate::tuned::FILE_OF_JACOBI.replace("BLOCK_SIZE", &block_size.to_string());
        fs_err::write(dir.join("jacobi.json"), text).unwrap();
    }
    EvalModel { name, role, dir, adapter: None }
}

#[test]
fn the_tuned_decoder_comes_first_for_the_trained_model_and_its_base() {
    use DecoderName::Jacobi;
    let dir = tempfile::tempdir().unwrap();
    let base = tuned_model(dir.path(), ModelRole::Base, None);
    let trained = tuned_model(dir.path(), ModelRole::Trained, Some(5));
    let models = [base.clone(), trained.clone()];
    let sizes = |config: &EvalConfig, model: &EvalModel| -> Vec<Option<u64>> {
        let contenders = config.contenders_of(model, &models, 7, &stop()).unwrap();
        contenders.iter().map(|one| one.decoder_settings().get("block_size")?.as_u64()).collect()
    };
    let listed = config(&[(Jacobi, Some(4)), (Jacobi, Some(8))]);
    for model in [&base, &trained] {
        assert_eq!(sizes(&listed, model), [None, Some(5), Some(4), Some(8)], "{}", model.name);
        // A listed one moves ahead of the others.
        let listed = config(&[(Jacobi, Some(4)), (Jacobi, Some(8)), (Jacobi, Some(5))]);
        assert_eq!(sizes(&listed, model), [None, Some(5), Some(4), Some(8)], "{}", model.name);
        let without = EvalConfig { tuned: false, ..config(&[(Jacobi, Some(4))]) };
        assert_eq!(sizes(&without, model), [None, Some(4)]);
    }
    let row = |block_size: usize| {
        let decoder =
            DecoderConfig { name: Jacobi, block_size: Some(block_size), ..DecoderConfig::default() };
        EvalRow { model: trained.name.clone(), ..row_of(&decoder.settings(0, stop()).unwrap()) }
    };
    let lacking = |rows: &[EvalRow]| listed.unmeasured_tuned(&models, rows).unwrap();
    assert_eq!(lacking(&[row(4)]), Some("jacobi n=5".to_owned()));
    assert_eq!(lacking(&[row(4), row(5)]), None);
    let mut rows = [row(4), row(5)];
    rows.iter_mut().for_each(|row| row.model_role = ModelRole::Trained);
    let found = crate::tuned::mark_tuned(&models, &mut rows).unwrap();
    assert_eq!((found.len(), rows[0].tuned, rows[1].tuned), (1, false, true));
}

#[test]
fn a_base_beside_its_trained_model_can_be_measured_under_ar_alone() {
    let dir = tempfile::tempdir().unwrap();
    let base = tuned_model(dir.path(), ModelRole::Base, Some(6));
    let trained = tuned_model(dir.path(), ModelRole::Trained, Some(5));
    let models = [base.clone(), trained.clone()];
    let listed = config(&[(DecoderName::Jacobi, Some(4))]);
    let brief = EvalConfig { base_decoders: BaseDecoders::Ar, ..listed.clone() };
    let count = |config: &EvalConfig, model: &EvalModel, models: &[EvalModel]| {
        config.contenders_of(model, models, 7, &stop()).unwrap().len()
    };
    assert_eq!([&listed, &brief].map(|config| count(config, &base, &models)), [3, 1]);
    assert_eq!([&listed, &brief].map(|config| count(config, &trained, &models)), [3, 3]);
    assert_eq!(count(&brief, &base, &models[..1]), 3, "by itself it has all decoders");

    let tuned = DecoderConfig { name: DecoderName::Jacobi, block_size: Some(5), ..DecoderConfig::default() };
    let mut rows = [EvalRow { model: trained.name.clone(), ..row_of(&tuned.settings(0, stop()).unwrap()) }];
    rows[0].model_role = ModelRole::Trained;
    assert_eq!(brief.unmeasured_tuned(&models, &rows).unwrap(), None);
    assert!(listed.unmeasured_tuned(&models, &rows).unwrap().is_some());
}

#[test]
fn invalid_settings_are_refused() {
    use DecoderName::{Ar, Jacobi};
    let rows: [(Listed, &str); 2] =
        [(&[(Ar, Some(4))], "no block_size"), (&[(Jacobi, Some(16)), (Jacobi, None)], "twice")];
    for (decoders, expected) in rows {
        let message = config(decoders).contenders(7, &stop()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn prompts_of_ones_own_and_tasks_are_measured_one_after_the_other() {
    let task = |name: &str| TaskConfig { name: name.to_owned(), ..TaskConfig::default() };
    let mut config = EvalConfig { task: "gsm8k".to_owned(), ..EvalConfig::default() };
    assert!(matches!(config.measured(), Err(EvalError::NoTasks)));
    config.tasks = vec![task("math500"), TaskConfig { limit: Some(3), ..task("gsm8k") }];
    let names = |config: &EvalConfig| -> Vec<(String, Option<u32>, Option<usize>)> {
        let measured = config.measured().unwrap().into_iter();
        measured.map(|task| (task.name, task.version, task.max_new_tokens)).collect()
    };
    let (math, school) = (("math500".into(), Some(2), Some(2048)), ("gsm8k".into(), Some(2), Some(512)));
    assert_eq!(names(&config), [math.clone(), school]);
    assert_eq!(config.measured().unwrap()[1].prompts.limit, Some(3));
    config.prompts.path = "own.jsonl".into();
    assert!(config.measured().unwrap_err().to_string().contains("\"gsm8k\" is listed twice"));
    config.tasks[1] =
        TaskConfig { path: Some("q.jsonl".into()), offset: 2, max_new_tokens: Some(7), ..task("spec_bench") };
    let spec = ("spec_bench".into(), Some(1), Some(7));
    assert_eq!(names(&config), [("gsm8k".into(), None, Some(256)), math, spec]);
    let prompts = &config.measured().unwrap()[2].prompts;
    assert_eq!((prompts.path.as_path(), prompts.offset), (std::path::Path::new("q.jsonl"), 2));
    config.tasks[1].path = None;
    assert!(config.measured().unwrap_err().to_string().contains("--tasks spec_bench=FILE"));
    config.tasks.pop();
    config.max_new_tokens = 0;
    assert!(matches!(config.measured(), Err(EvalError::MaxNewTokens)));
}

#[test]
fn chosen_tasks_and_decoders_keep_their_configured_settings() {
    use DecoderName::{Jacobi, MultiBlock};
    let mut config = config(&[(Jacobi, Some(4)), (Jacobi, Some(8))]);
    config.prompts.path = "own.jsonl".into();
    config.tasks = vec![TaskConfig { name: "gsm8k".to_owned(), limit: Some(3), ..TaskConfig::default() }];
    config.choose_tasks(&["math500=m.jsonl".to_owned(), "gsm8k".to_owned()]);
    let measured = config.measured().unwrap();
    let shown = |task: &Task| (task.name.clone(), task.prompts.limit, task.prompts.path.is_file());
    assert_eq!(
        measured.iter().map(shown).collect::<Vec<_>>(),
        [("math500".to_owned(), None, false), ("gsm8k".to_owned(), Some(3), false)]
    );
    assert_eq!(measured[0].prompts.path, PathBuf::from("m.jsonl"));
    config.choose_decoders(&[MultiBlock, Jacobi]);
    let decoders: Vec<_> = config.decoders.iter().map(|d| (d.name, d.block_size)).collect();
    assert_eq!(decoders, [(MultiBlock, None), (Jacobi, Some(4)), (Jacobi, Some(8))]);
}

#[test]
fn unknown_keys_are_errors() {
    let read = |text: &str| serde_json::from_str::<EvalConfig>(text).map_err(|err| err.to_string());
    let config = read(r#"{"decoders": [{"name": "jacobi", "block_size": 32}]}"#).unwrap();
    assert_eq!(config.decoders[0].block_size, Some(32));
    assert!(read(r#"{"max_tokens": 1}"#).unwrap_err().contains("max_tokens"));
    assert!(read(r#"{"decoders": [{"n": 1}]}"#).unwrap_err().contains("`n`"));
}

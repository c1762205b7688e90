//! Recipes: read, completed, refused, and described by a schema.

use serde_json::json;

use super::*;

fn load(text: &str, set: &[&str]) -> anyhow::Result<Recipe> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("small.toml");
    fs_err::write(&file, text).unwrap();
    Recipe::load(&file, &set.iter().map(ToString::to_string).collect::<Vec<_>>())
}

#[test]
fn the_resolved_recipe_reads_back_as_itself() {
    let text = "[model]\npath = \"m\"\n[train]\nbatch_size = 3\n[[rounds]]\n[[rounds]]\n[rounds.train]\nbatch_size = 5\n";
    let recipe = load(text, &["seed=9"]).unwrap();
    assert_eq!((recipe.name.as_str(), recipe.output_dir.as_path()), ("small", Path::new("runs/small")));
    let again = load(&recipe.to_toml(), &[]).unwrap();
    assert_eq!(again.to_toml(), recipe.to_toml());
    let batches: Vec<usize> = again.rounds.iter().map(|round| round.train.batch_size).collect();
    assert_eq!((again.seed, batches), (9, vec![3, 5]));
}

#[test]
fn invalid_values_are_usage_errors() {
    let error = load("", &["train.batch_size=0"]).unwrap_err();
    assert!(error.is::<UsageError>(), "{error:#}");
    assert!(error.to_string().contains("batch_size = 0"), "{error:#}");
    assert!(load("", &[]).unwrap().model_path().unwrap_err().to_string().contains("--set model.path=DIR"));
}

#[test]
fn a_run_exports_the_adapter_of_its_last_round() {
    let adapter = "ar_weight = 0\n[rounds.train.adapter]\nblock_size = 8\nstates = \"random\"\n";
    let round = format!("[[rounds]]\n[rounds.train]\nwindow_size = 1\n{adapter}");
    let recipe = load(&format!("[[rounds]]\n{round}"), &[]).unwrap();
    assert!(recipe.exports_adapter() && recipe.block_size() == 8);
    let all = load(&format!("{round}rows = \"all\"\n[[rounds]]\n"), &[]).unwrap();
    assert!(!all.exports_adapter() && all.block_size() == 16);
}

#[test]
fn rounds_after_a_drafter_go_on_training_it_for_the_same_model() {
    let adapter = "ar_weight = 0\n[rounds.train.adapter]\nblock_size = 8\nstates = \"random\"\n";
    let round = format!("[[rounds]]\n[rounds.train]\nwindow_size = 1\n{adapter}");
    let three = load(&format!("[[rounds]]\n{round}{round}"), &[]).unwrap();
    assert_eq!([1, 2, 3].map(|round| three.round_of_model(round)), [None, Some(1), Some(1)]);
    assert_eq!([1, 2, 3].map(|round| three.round_of_adapter(round)), [None, None, Some(2)]);
    let rows = [
        (
            format!("{round}[[rounds]]\n"),
            "round 2: the round before trains an adapter that drafts, and no model",
        ),
        (
            format!("{round}{round}rows = \"all\"\n"),
            "round 2: the round before trains an adapter that drafts",
        ),
        (
            format!("{round}{round}rank = 8\n"),
            "round 2: train.adapter has another rank, alpha or other targets",
        ),
    ];
    for (text, expected) in rows {
        let error = load(&text, &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_drafter_needs_the_states_and_the_base_that_its_round_makes() {
    let text = "[generate]\nstates = \"none\"\n[train]\nar_weight = 0\nwindow_size = 1\n[train.adapter]\n";
    let missing = "round 1: generate.states = \"none\" leaves out the states";
    let rows: [(&[&str], Option<&str>); 6] = [
        (&[], Some(missing)),
        (&["train.adapter.states=\"on_policy\""], None),
        (&["train.adapter.states={trajectory = 1, random = 1}"], Some(missing)),
        (&["generate.states=\"all\""], None),
        (&["generate.states=\"all\"", "model.init=\"random\""], Some("with model.init = \"random\"")),
        (&["generate.states=\"all\"", "model.init=\"random\"", "train.adapter.rows=\"all\""], None),
    ];
    for (set, expected) in rows {
        let error = load(text, set).map_err(|error| error.to_string()).err();
        match expected {
            Some(part) => {
                assert!(error.as_ref().is_some_and(|error| error.contains(part)), "{set:?}: {error:?}")
            }
            None => assert_eq!(error, None, "{set:?}"),
        }
    }
    let plain = "[generate]\nstates = \"none\"\n";
    assert!(load(plain, &[]).unwrap_err().to_string().contains(missing));
    load(plain, &["train.pc_weight=0"]).unwrap();
}

#[test]
fn a_recipe_for_no_verb_is_invalid_and_missing_settings_are_noted() {
    let model = "model.path=m";
    let rows: [(&[&str], Result<usize, &str>); 5] = [
        (&[], Err("model.path is not set")),
        (&[model], Err("neither prompts.path nor eval.prompts.path")),
        (&[model, "prompts.path=a.jsonl"], Ok(1)),
        (&[model, "eval.prompts.path=a.jsonl"], Ok(1)),
        (&[model, "prompts.path=a.jsonl", "eval.prompts.path=a.jsonl"], Ok(0)),
    ];
    for (set, expected) in rows {
        let found =
            load("", set).unwrap().missing_settings().map(|lines| lines.len()).map_err(|e| e.to_string());
        match expected {
            Ok(count) => assert_eq!(found, Ok(count), "{set:?}"),
            Err(part) => assert!(found.as_ref().is_err_and(|e| e.contains(part)), "{set:?}: {found:?}"),
        }
    }
    let error = load("", &["eval.task=gsm8k", "eval.prompts.path=a.jsonl"]).unwrap_err().to_string();
    assert!(error.contains("eval.prompts.answer_column"), "{error}");
}

#[test]
fn the_decoders_shown_have_every_setting() {
    let shown = load("[[eval.decoders]]\nname = \"multi_block\"\n", &[]).unwrap().to_toml();
    for key in
        ["block_size = 16", "window = \"blocks\"", "max_blocks = 2", "filler = \"random\"", "pool_size = 4"]
    {
        assert!(shown.contains(key), "{key} is missing: {shown}");
    }
    assert_eq!(load(&shown, &[]).unwrap().to_toml(), shown);
}

#[test]
fn the_default_decoders_have_the_block_size_of_the_last_round() {
    let size_of = |text: &str, set: &[&str]| {
        let decoders = load(text, set).unwrap().eval.decoders;
        decoders.iter().find(|decoder| decoder.name == DecoderName::Jacobi).map(|decoder| decoder.block_size)
    };
    // 16 is not written out: earlier evaluations have not recorded it.
    assert_eq!(size_of("", &[]), Some(None));
    assert_eq!(size_of("[generate]\nblock_size = 8\n", &[]), Some(Some(8)));
    let rounds = "[generate]\nblock_size = 8\n[[rounds]]\n[[rounds]]\n[rounds.generate]\nblock_size = 32\n";
    assert_eq!(size_of(rounds, &[]), Some(Some(32)));
    let listed = "[generate]\nblock_size = 8\n[[eval.decoders]]\nname = \"jacobi\"\n";
    assert_eq!(size_of(listed, &[]), Some(None));
    assert_eq!(size_of("[generate]\nblock_size = 8\n", &["eval.decoders=[]"]), None);
}

#[test]
fn the_schema_has_types_defaults_choices_and_descriptions() {
    let schema = Recipe::schema();
    for section in ["model", "prompts", "generate", "train", "tune", "eval"] {
        assert_eq!(schema["properties"][section]["type"], "object", "{section}");
        assert_eq!(schema["properties"][section]["additionalProperties"], false, "{section}");
    }
    assert_eq!(schema["properties"]["rounds"]["items"]["properties"]["train"]["type"], "object");
    let key = |section: &str, key: &str| schema["properties"][section]["properties"][key].clone();
    let expected = json!({
        "description": "Passes over the samples.", "type": "integer", "minimum": 0, "default": 1,
    });
    assert_eq!(key("train", "epochs"), expected);
    let expected = json!({"description": "Peak learning rate.", "type": "number", "default": 1e-5});
    assert_eq!(key("train", "learning_rate"), expected);
    let limit = key("prompts", "limit");
    assert_eq!(
        (&limit["type"], &limit["minimum"], &limit["default"]),
        (&json!("integer"), &json!(0), &Value::Null)
    );
    let batch_size = key("generate", "batch_size");
    let kinds = batch_size["anyOf"].as_array().unwrap();
    assert_eq!((&kinds[0]["const"], &kinds[1]["type"]), (&json!("auto"), &json!("integer")));
    assert_eq!(kinds[1]["minimum"], 0);
    assert_eq!(key("train", "ar_weight")["anyOf"][1]["additionalProperties"], false);
    assert_eq!(key("model", "device")["pattern"], "^(auto|cpu|cuda(:[0-9]+)?)$");
    let names: Vec<Value> = key("train", "lr_schedule")["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["const"].clone())
        .collect();
    assert_eq!(names, ["constant", "linear", "cosine", "wsd"]);
    let text = schema.to_string();
    for absent in ["\"null\"", ":null", "\"format\":\"", "\\n"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
}

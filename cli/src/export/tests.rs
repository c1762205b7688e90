//! Tests of `export.rs`.

use jacobi_trainer::AdapterRows;

use super::*;

fn row(decoder: &str, speedup: f64) -> EvalRow {
    EvalRow {
        model: "mine".to_owned(),
        model_role: ModelRole::Trained,
        decoder: decoder.to_owned(),
        samples: 5,
        speedup_over_ar: Some(speedup),
        ..EvalRow::default()
    }
}

#[test]
fn the_recommended_decoder_is_the_tuned_else_the_fastest_else_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = Recipe { name: "mine".to_owned(), ..Recipe::default() };
    let found = |rows: Vec<EvalRow>| {
        let results = Results::new("jacobi eval".to_owned(), Map::new(), rows);
        let results = Some(&results).filter(|results| !results.rows.is_empty());
        let tuned = decoding(&recipe, dir.path(), results).unwrap();
        let read = jacobi_eval::tuned(dir.path()).unwrap().unwrap();
        (tuned.best.label(), tuned.best.prompts, read.name.as_str())
    };
    assert_eq!(found(vec![]), ("jacobi n=16".to_owned(), 0, "jacobi"));
    let base = EvalRow { model_role: ModelRole::Base, ..row("jacobi", 9.0) };
    let rows = vec![base, row("ar", 1.0), row("multi_block", 2.0), row("jacobi", 1.5)];
    assert_eq!(found(rows.clone()), ("multi_block".to_owned(), 5, "multi_block"));
    // Only a race recommends `ar`.
    assert_eq!(found(vec![row("ar", 1.0), row("jacobi", 0.9)]), ("jacobi".to_owned(), 5, "jacobi"));
    assert_eq!(found(rows.clone()).0, "multi_block");
    // As `jacobi tune` leaves it.
    let path = dir.path().join(TUNED_FILE);
    let text = fs_err::read_to_string(&path).unwrap().replace("multi_block", "ar");
    fs_err::write(&path, text.replace("\"widths\": []", "\"widths\": [{\"rows\": 1, \"seconds\": 0.5}]"))
        .unwrap();
    assert_eq!(found(rows), ("ar".to_owned(), 5, "ar"));
}

#[test]
fn the_licence_of_the_base_is_found_in_its_card() {
    let rows = [
        ("---\nlicense: apache-2.0\n---\n# A", Some("apache-2.0")),
        ("---\nlicense: \"mit\"\nx: y\n---\n", Some("mit")),
        ("# A\nlicense: none\n", None),
        ("---\ntags:\n- a\n---\nlicense: late\n", None),
    ];
    for (text, expected) in rows {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("README.md"), text).unwrap();
        assert_eq!(license_of(dir.path()).as_deref(), expected, "{text:?}");
    }
}

#[test]
fn an_adapter_names_the_base_of_the_recipe_unless_its_base_is_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (root, output) = (Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(), dir.path().join("export"));
    let adapter = root.join("tests/golden/adapters/tiny_llama");
    let base = |on_hub: Option<&HubRepo>| {
        export(&adapter, &output, on_hub, true).unwrap();
        let config: Value =
            serde_json::from_slice(&fs_err::read(output.join("adapter_config.json")).unwrap()).unwrap();
        let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
        (text("base_model_name_or_path"), text("revision"))
    };
    assert_eq!(base(None).0, "tests/golden/models/tiny_llama");
    let recipe = |rounds: usize, rows| {
        let adapter = Some(AdapterSettings { rows, ..AdapterSettings::default() });
        let mut recipe = Recipe { rounds: vec![Round::default(); rounds], ..Recipe::default() };
        recipe.rounds.last_mut().unwrap().train.adapter = adapter;
        recipe.model.path = "an-organization/m@v2".into();
        recipe
    };
    let on_hub = base_on_hub(&recipe(1, AdapterRows::Draft));
    assert_eq!(base(on_hub.as_ref()), ("an-organization/m".to_owned(), "v2".to_owned()));
    assert!(base_on_hub(&recipe(2, AdapterRows::Draft)).is_none());
    assert!(base_on_hub(&recipe(2, AdapterRows::All)).is_some());
}

#[test]
fn only_models_are_replaced_and_only_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint");
    let check = |output: &str, overwrite| {
        let checked = check_replaceable(&dir.path().join(output), &checkpoint, overwrite);
        checked.map_err(|error| error.to_string()).err().unwrap_or_default()
    };
    assert_eq!(check("missing", false), "");
    fs_err::create_dir(&checkpoint).unwrap();
    fs_err::create_dir(dir.path().join("output")).unwrap();
    assert_eq!(check("output", false), "");
    fs_err::write(dir.path().join("output/thesis.tex"), "").unwrap();
    assert!(check("output", true).contains("is not a model directory"));
    fs_err::write(dir.path().join("output/config.json"), "{}").unwrap();
    assert!(check("output", false).contains("--overwrite to replace it"));
    assert_eq!(check("output", true), "");
    // Neither the checkpoint nor what it lies in.
    for path in ["checkpoint", "checkpoint/../checkpoint", ""] {
        fs_err::write(dir.path().join(path).join("config.json"), "{}").unwrap();
        assert!(check(path, true).contains("holds the checkpoint"), "{path}");
    }
}

#[test]
fn results_of_another_model_are_not_used() {
    let mut results = Results::new("jacobi eval".to_owned(), Map::new(), Vec::new());
    let settings = [("1.role", "base"), ("1.files", "a"), ("2.role", "trained"), ("2.files", "b")];
    assert!(!is_of_model(&results, "b"));
    for (key, value) in settings {
        results.settings.set(&format!("models.{key}"), value);
    }
    assert_eq!(["a", "b", "c"].map(|digest| is_of_model(&results, digest)), [false, true, false]);
}

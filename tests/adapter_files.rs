//! Adapter directories: those of PEFT compute what PEFT computes (scripts/golden/adapter.py), and every defect ends in one
//! message that names the file and the defect.

use std::{collections::HashMap, path::Path};

use jacobi_model::{
    AdaptedRows, Adapter, AdapterBase, AdapterConfig, AttentionMask, Device, Dtype, LoadedModel, ModelError,
    StoredAdapter, Target, load, save_tensors,
};
use safetensors::{SafeTensors, serialize};
use serde_json::{Map, Value, json};
use tch::Tensor;

use crate::support::{golden, max_difference, scratch, tensors};

const CASES: [&str; 2] = ["tiny_llama", "tiny_qwen2"];

fn base(case: &str) -> LoadedModel {
    load(&golden("models").join(case), Dtype::Float32).unwrap()
}

fn attach(dir: &Path, base: &LoadedModel) -> Result<Adapter, ModelError> {
    let stored = StoredAdapter::read(dir)?;
    stored.attach(base.transformer.architecture(), &base.weight_hash().unwrap(), Device::Cpu)
}

/// The largest difference of the logits of the adapted model from those of PEFT.
fn off(base: &LoadedModel, adapter: &Adapter, expected: &Path) -> f64 {
    let expected = tensors(&expected.join("expected.safetensors"));
    let (model, ids) = (&base.transformer, &expected["input_ids"]);
    let rope = model.rope_table(24).range(0, 24);
    let adapted = Some(AdaptedRows { adapter, first: 0 });
    let logits = tch::no_grad(|| {
        model.logits(&model.hidden_adapted(ids, &rope, &AttentionMask::Causal, adapted, &mut |_| {}))
    });
    max_difference(&logits, &expected["logits"])
}

#[test]
fn an_adapter_of_peft_gives_the_logits_of_peft_and_survives_saving() {
    for case in CASES {
        let (dir, base) = (golden("adapters").join(case), base(case));
        let adapter = attach(&dir, &base).unwrap();
        let found = off(&base, &adapter, &dir);
        assert!(found <= 1e-4, "{case}: logits differ by {found}");
        let saved = scratch();
        let named = AdapterBase { name: "org/base".into(), weight_hash: base.weight_hash().unwrap() };
        adapter.save(saved.path(), &named).unwrap();
        let stored = StoredAdapter::read(saved.path()).unwrap();
        assert_eq!(
            (stored.base(), stored.base_weights()),
            (Some("org/base"), Some(&*base.weight_hash().unwrap()))
        );
        assert_eq!(stored.parameter_count(), adapter.parameter_count());
        let again = attach(saved.path(), &base).unwrap();
        assert_eq!(again.config(), adapter.config());
        for ((name, a), (expected, b)) in again.parameters().iter().zip(adapter.parameters()) {
            assert!(name == expected && a.equal(b), "{name}");
        }
        let names =
            |file: &Path| tensors(&file.join("adapter_model.safetensors")).into_keys().collect::<Vec<_>>();
        assert_eq!(names(saved.path()), names(&dir), "the names of PEFT");
    }
}

#[test]
fn a_new_adapter_changes_nothing() {
    let base = base("tiny_llama");
    let shape = base.transformer.architecture();
    let config = AdapterConfig { rank: 4, alpha: 1.0, targets: vec![Target::KProj, Target::GateProj] };
    let adapter = Adapter::new(shape, config.clone(), 1, Device::Cpu);
    assert!(off(&base, &adapter, &golden("models/tiny_llama")) <= 1e-4);
    let keys = shape.num_key_value_heads * shape.head_dim;
    let layer = 4 * (shape.hidden_size + keys) + 4 * (shape.hidden_size + shape.intermediate_size);
    assert_eq!(adapter.parameter_count() as i64, shape.num_hidden_layers * layer);
    let parameters = |seed| Adapter::new(shape, config.clone(), seed, Device::Cpu);
    assert!(parameters(1).parameters()[0].1.equal(&adapter.parameters()[0].1));
    assert!(!parameters(2).parameters()[0].1.equal(&adapter.parameters()[0].1));
}

fn set(dir: &Path, field: &str, value: Value) {
    let path = dir.join("adapter_config.json");
    let mut json: Map<String, Value> = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
    json.insert(field.into(), value);
    fs_err::write(path, serde_json::to_string(&json).unwrap()).unwrap();
}

fn edit(dir: &Path, edit: impl FnOnce(&mut Vec<(String, Tensor)>)) {
    let path = dir.join("adapter_model.safetensors");
    let mut list: Vec<_> = tensors(&path).into_iter().collect();
    edit(&mut list);
    save_tensors(&path, &list, None).unwrap();
}

type Damage = fn(&Path);

/// A change to a good adapter, and the parts that the message must have.
const ROWS: &[(&str, Damage, &[&str])] = &[
    (
        "no config",
        |d| fs_err::remove_file(d.join("adapter_config.json")).unwrap(),
        &["adapter_config.json", "PEFT"],
    ),
    (
        "no weights",
        |d| fs_err::remove_file(d.join("adapter_model.safetensors")).unwrap(),
        &["adapter_model.safetensors", "PEFT"],
    ),
    (
        "no JSON",
        |d| fs_err::write(d.join("adapter_config.json"), "{").unwrap(),
        &["adapter_config.json", "JSON"],
    ),
    (
        "truncated weights",
        |d| {
            let path = d.join("adapter_model.safetensors");
            let bytes = fs_err::read(&path).unwrap();
            fs_err::write(path, &bytes[..bytes.len() / 2]).unwrap();
        },
        &["adapter_model.safetensors", "copy or download"],
    ),
    ("another method", |d| set(d, "peft_type", json!("IA3")), &["`peft_type`", "IA3", "LORA"]),
    ("no rank", |d| set(d, "r", json!(null)), &["`r`", "positive"]),
    ("rank 0", |d| set(d, "r", json!(0)), &["`r`", "positive"]),
    ("no alpha", |d| set(d, "lora_alpha", json!("x")), &["`lora_alpha`", "number"]),
    ("unknown target", |d| set(d, "target_modules", json!(["q_proj", "wte"])), &["wte", "q_proj, k_proj"]),
    ("targets by a pattern", |d| set(d, "target_modules", json!(".*proj")), &[".*proj", "q_proj, k_proj"]),
    ("no targets", |d| set(d, "target_modules", json!([])), &["`target_modules`"]),
    ("DoRA", |d| set(d, "use_dora", json!(true)), &["`use_dora`", "plain LoRA"]),
    ("rsLoRA", |d| set(d, "use_rslora", json!(true)), &["`use_rslora`", "plain LoRA"]),
    ("biases", |d| set(d, "bias", json!("lora_only")), &["`bias`", "lora_only", "none"]),
    ("biases of B", |d| set(d, "lora_bias", json!(true)), &["`lora_bias`"]),
    ("whole modules", |d| set(d, "modules_to_save", json!(["lm_head"])), &["`modules_to_save`", "lm_head"]),
    ("ranks by module", |d| set(d, "rank_pattern", json!({"q_proj": 8})), &["`rank_pattern`"]),
    ("alphas by module", |d| set(d, "alpha_pattern", json!({"q_proj": 8})), &["`alpha_pattern`"]),
    ("transposed weights", |d| set(d, "fan_in_fan_out", json!(true)), &["`fan_in_fan_out`"]),
    ("some layers", |d| set(d, "layers_to_transform", json!([0])), &["`layers_to_transform`"]),
    ("a later method", |d| set(d, "use_something", json!(true)), &["`use_something`", "plain LoRA"]),
    (
        "a name of no base",
        |d| set(d, "base_model_name_or_path", json!(5)),
        &["`base_model_name_or_path`", "5", "text"],
    ),
    ("a revision that is a number", |d| set(d, "revision", json!(5)), &["`revision`", "5", "text"]),
    (
        "no digest of a base",
        |d| {
            let path = d.join("adapter_model.safetensors");
            let bytes = fs_err::read(&path).unwrap();
            let stored = SafeTensors::deserialize(&bytes).unwrap();
            let metadata = HashMap::from([("base_weights_blake3".to_owned(), "aéééééééé".to_owned())]);
            fs_err::write(&path, serialize(stored.tensors(), Some(metadata)).unwrap()).unwrap();
        },
        &["adapter_model.safetensors", "`base_weights_blake3`", "aéé", "64 hexadecimal digits"],
    ),
    ("a changed base", |d| set(d, "init_lora_weights", json!("pissa")), &["`init_lora_weights`", "pissa"]),
    ("another rank", |d| set(d, "r", json!(8)), &["layers.0.self_attn.q_proj.lora_A", "rank 4", "`r` is 8"]),
    (
        "a target less in the weights",
        |d| edit(d, |list| list.retain(|(name, _)| !name.contains("up_proj"))),
        &["up_proj.lora_A.weight", "is missing", "tests/golden/models/tiny_llama"],
    ),
    (
        "a target less in the config",
        |d| set(d, "target_modules", json!(["q_proj"])),
        &["lora_A.weight", "none of `target_modules`"],
    ),
    (
        "NaN",
        |d| edit(d, |list| drop(list[3].1.get(0).fill_(f64::NAN))),
        &["adapter_model.safetensors", "lora_B.weight", "NaN"],
    ),
    (
        "another shape",
        |d| edit(d, |list| list[0].1 = list[0].1.narrow(1, 0, 5).contiguous()),
        &["shape [4, 5]", "calls for [4, ", "trained for"],
    ),
];

#[test]
fn every_defect_of_an_adapter_is_named() {
    let base = base("tiny_llama");
    for (defect, damage, parts) in ROWS {
        let dir = scratch();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs_err::copy(golden("adapters/tiny_llama").join(file), dir.path().join(file)).unwrap();
        }
        damage(dir.path());
        let message = match attach(dir.path(), &base) {
            Ok(_) => panic!("{defect}: accepted"),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        };
        for part in *parts {
            assert!(message.contains(part), "{defect}: {message:?} lacks {part:?}");
        }
    }
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let (adapter, other) = (golden("adapters/tiny_llama"), base("tiny_qwen2"));
    let error = attach(&adapter, &other).err().unwrap().to_string();
    assert!(error.contains("tests/golden/models/tiny_llama"), "{error}");
    // Of the same shapes, but other weights.
    let right = base("tiny_llama");
    let dir = scratch();
    let named = AdapterBase { name: "org/base".into(), weight_hash: other.weight_hash().unwrap() };
    attach(&adapter, &right).unwrap().save(dir.path(), &named).unwrap();
    let error = attach(dir.path(), &right).err().unwrap().to_string();
    assert!(
        error.contains(&other.weight_hash().unwrap())
            && error.contains(&right.weight_hash().unwrap())
            && error.contains("org/base"),
        "{error}"
    );
}

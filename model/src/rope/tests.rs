//! Frequencies against transformers (scripts/golden/rope.py).

use std::path::Path;

use serde_json::{Map, Value};

use super::*;
use crate::Architecture;

#[test]
fn frequencies_and_attention_factors_equal_transformers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/rope.json");
    let rows: Vec<Value> = serde_json::from_str(&fs_err::read_to_string(golden).unwrap()).unwrap();
    assert!(rows.len() > 20);
    for row in rows {
        let config: &Map<String, Value> = row["config"].as_object().unwrap();
        let shown = |name: &str| config.get(name).map(Value::to_string);
        let name = format!("{:?} {:?}", shown("rope_scaling"), shown("rope_parameters"));
        let rope = Architecture::from_json(config, Path::new("config.json")).expect(&name).rope;
        let expected = row["attention_factor"].as_f64().unwrap();
        assert!((rope.attention_factor() - expected).abs() < 1e-12, "{name}: {}", rope.attention_factor());
        let found = Vec::<f32>::try_from(rope.inverse_frequencies(Device::Cpu)).unwrap();
        let expected = row["frequencies"].as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let expected = expected.as_f64().unwrap();
            let off = (f64::from(*found) / expected - 1.0).abs();
            assert!(off < 1e-6, "{name}: frequency {index} is {found}, not {expected}");
        }
    }
}

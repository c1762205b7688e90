//! Settings as users write them, and what becomes of them.

use super::*;

fn read(text: &str) -> DecoderConfig {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_is_given_becomes_the_strategy_and_its_settings_say_it_again() {
    let full = r#"{"block_size":8,"max_blocks":3,"spawn_ratio":0.5,"filler":"ngram","pool_size":1,"tree_budget":9,"passes":"two","strict_gap":0.1}"#;
    let rows = [
        (r#"{"name": "ar"}"#, "{}"),
        (r#"{"name": "jacobi"}"#, r#"{"block_size":16}"#),
        (r#"{"name": "jacobi", "strict_gap": 0.05}"#, r#"{"block_size":16,"strict_gap":0.05}"#),
        (
            r#"{"name": "multi_block"}"#,
            r#"{"block_size":16,"max_blocks":2,"spawn_ratio":0.85,"pool_size":4,"tree_budget":0}"#,
        ),
        (
            r#"{"name": "multi_block", "window": "sliding", "pool_size": 0}"#,
            r#"{"block_size":16,"window":"sliding","pool_size":0,"tree_budget":0}"#,
        ),
        (&format!(r#"{{"name": "multi_block", {}"#, &full[1..]), full),
        // UNO's cycle, unless other settings are given.
        (
            r#"{"name": "multi_block", "passes": "two"}"#,
            r#"{"block_size":16,"window":"sliding","pool_size":0,"tree_budget":0,"passes":"two"}"#,
        ),
        (
            r#"{"name": "multi_block", "passes": "two", "window": "blocks", "pool_size": 3}"#,
            r#"{"block_size":16,"max_blocks":2,"spawn_ratio":0.85,"pool_size":3,"tree_budget":0,"passes":"two"}"#,
        ),
        (
            r#"{"name": "multi_block", "passes": "two", "spawn_ratio": 0.5}"#,
            r#"{"block_size":16,"max_blocks":2,"spawn_ratio":0.5,"pool_size":0,"tree_budget":0,"passes":"two"}"#,
        ),
    ];
    let stop = StopRules { max_new_tokens: 1, eos_token_ids: vec![] };
    let decoder = |text: &str| read(text).settings(3, stop.clone()).unwrap();
    for (text, expected) in rows {
        let settings = decoder(text).decoder_settings();
        assert_eq!(Value::Object(settings.clone()).to_string(), expected, "{text}");
        let mut again = settings;
        again.insert("name".to_owned(), serde_json::to_value(read(text).name).unwrap());
        assert_eq!(decoder(&Value::Object(again).to_string()), decoder(text), "{text}");
        let written = serde_json::to_string(&read(text)).unwrap();
        assert_eq!(read(&written), read(text), "{text}");
    }
}

#[test]
fn what_a_decoder_does_not_have_is_refused() {
    let rows = [
        (r#"{"name": "ar", "block_size": 4}"#, "no block_size"),
        (r#"{"name": "ar", "pool_size": 4}"#, "no pool_size"),
        (r#"{"name": "jacobi", "block_size": 0}"#, "at least 1"),
        (r#"{"name": "jacobi", "tree_budget": 4}"#, "no tree_budget"),
        (r#"{"name": "ar", "strict_gap": 0.1}"#, "no strict_gap"),
        (r#"{"name": "jacobi", "strict_gap": 0}"#, "strict_gap is 0; it must be above 0"),
        (r#"{"name": "jacobi", "strict_gap": -0.5}"#, "above 0"),
        (r#"{"name": "multi_block", "max_blocks": 0}"#, "at least 1"),
        (r#"{"name": "multi_block", "spawn_ratio": 1.5}"#, "between 0 and 1"),
        (r#"{"name": "multi_block", "tree_budget": 1000000}"#, "more than 8192; lower"),
        (r#"{"name": "multi_block", "pool_size": 9223372036854775807}"#, "more than 8192; lower"),
        (r#"{"name": "multi_block", "window": "sliding", "max_blocks": 2}"#, "no max_blocks"),
    ];
    for (text, expected) in rows {
        let message = read(text).strategy(0).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
    // TOML reads 1e60 as infinity.
    let infinite = DecoderConfig { strict_gap: Some(f32::INFINITY), ..read(r#"{"name": "multi_block"}"#) };
    assert!(infinite.strategy(0).unwrap_err().to_string().contains("finite"));
}

//! Room for samples, refused numbers, and the two forms of a batch size.

use super::*;

/// A model of nothing but sizes.
struct Sizes;

impl LanguageModel for Sizes {
    fn vocab_size(&self) -> usize {
        10
    }

    fn context_length(&self) -> usize {
        1000
    }

    fn cache_bytes_per_token(&self) -> usize {
        1_000_000
    }

    fn session<'a>(&'a self, _slots: usize, _capacity: usize) -> Box<dyn jacobi_model::Session + 'a> {
        unreachable!("nothing is decoded")
    }
}

#[test]
fn auto_fills_the_memory_budget_with_samples_of_the_greatest_length() {
    let slots = |config: &GenerateConfig| config.room(&Sizes).slots;
    let config = GenerateConfig { max_prompt_tokens: 60, max_new_tokens: 39, ..GenerateConfig::default() };
    assert_eq!(config.room(&Sizes).capacity, 100);
    for (budget, expected) in [(1.0, 10), (0.55, 5), (0.001, 1), (500.0, AUTO_SAMPLES)] {
        assert_eq!(slots(&GenerateConfig { memory_budget_gb: budget, ..config.clone() }), expected);
    }
    let fixed = GenerateConfig { batch_size: BatchSize::Samples(7), ..config.clone() };
    assert_eq!(slots(&fixed), 7);
    // The context is a limit too.
    let long = GenerateConfig { max_new_tokens: 5000, ..config };
    assert_eq!(long.room(&Sizes).capacity, 1001);
    assert_eq!(GenerateConfig { pass_tokens: 9, ..long }.room(&Sizes).rows, 9);
}

#[test]
fn numbers_that_mean_nothing_are_refused_by_name() {
    let base = GenerateConfig::default;
    for (config, expected) in [
        (GenerateConfig { temperature: -1.0, ..base() }, "generate.temperature = -1: it must be"),
        (GenerateConfig { temperature: f32::NAN, ..base() }, "generate.temperature = NaN"),
        (GenerateConfig { top_k: 5, ..base() }, "generate.temperature = 0: it must be above 0"),
        (GenerateConfig { temperature: 1.0, top_p: 0.0, ..base() }, "generate.top_p = 0"),
        (GenerateConfig { memory_budget_gb: 0.0, ..base() }, "generate.memory_budget_gb = 0"),
        (GenerateConfig { pass_tokens: 0, ..base() }, "generate.pass_tokens"),
        (GenerateConfig { batch_size: BatchSize::Samples(0), ..base() }, "generate.batch_size"),
    ] {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(GenerateConfig { temperature: 0.7, top_k: 5, top_p: 0.9, ..base() }.validate().is_ok());
}

#[test]
fn a_batch_size_is_a_number_or_auto() {
    let read = |text: &str| serde_json::from_str::<BatchSize>(text).map_err(|error| error.to_string());
    assert_eq!(read("\"auto\""), Ok(BatchSize::Auto));
    assert_eq!(read("7"), Ok(BatchSize::Samples(7)));
    for wrong in ["\"many\"", "-1", "1.5", "true"] {
        let error = read(wrong).unwrap_err();
        assert!(error.contains("a number of samples, or \"auto\""), "{wrong}: {error}");
    }
    for value in [BatchSize::Auto, BatchSize::Samples(3)] {
        assert_eq!(read(&serde_json::to_string(&value).unwrap()), Ok(value));
    }
}

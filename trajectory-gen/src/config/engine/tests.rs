//! Room for samples, refused numbers, and the two forms of a batch size.

use super::*;

/// A model of nothing but sizes.
pub(crate) struct Sizes {
    context: usize,
}

impl Sizes {
    pub(crate) fn new(context: usize) -> Self {
        Self { context }
    }
}

impl LanguageModel for Sizes {
    fn vocab_size(&self) -> usize {
        10
    }

    fn context_length(&self) -> usize {
        self.context
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
    let room = |config: &GenerateConfig, caches: f64| {
        config.room(&Sizes::new(1000), Capacity { caches, rows: 9, samples: 128 })
    };
    let config = GenerateConfig { max_prompt_tokens: 60, max_new_tokens: 39, ..GenerateConfig::default() };
    assert_eq!(room(&config, 4e9).capacity, 100);
    for (budget, expected) in [(1e9, 10), (0.55e9, 5), (0.001e9, 1), (500e9, 128)] {
        assert_eq!(room(&config, budget).slots, expected);
    }
    let fixed = GenerateConfig { batch_size: BatchSize::Samples(7), ..config.clone() };
    assert_eq!(room(&fixed, 4e9).slots, 7);
    // The context is a limit too.
    let long = GenerateConfig { max_new_tokens: 5000, ..config };
    assert_eq!((room(&long, 4e9).capacity, room(&long, 4e9).rows), (1001, 9));
}

#[test]
fn numbers_that_mean_nothing_are_refused_by_name() {
    let base = GenerateConfig::default;
    for (config, expected) in [
        (GenerateConfig { temperature: -1.0, ..base() }, "generate.temperature = -1: it must be"),
        (GenerateConfig { temperature: f32::NAN, ..base() }, "generate.temperature = NaN"),
        (GenerateConfig { top_k: 5, ..base() }, "generate.temperature = 0: it must be above 0"),
        (GenerateConfig { temperature: 1.0, top_p: 0.0, ..base() }, "generate.top_p = 0"),
        (GenerateConfig { memory_budget_gb: Some(0.0), ..base() }, "generate.memory_budget_gb = 0"),
        (GenerateConfig { pass_tokens: Some(0), ..base() }, "generate.pass_tokens"),
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

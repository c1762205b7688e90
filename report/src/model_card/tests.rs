//! The card with and without measurements.

use super::*;
use crate::fixtures::{rows, trials};

#[test]
fn card_names_base_method_settings_figures_and_licence() {
    let training = [("learning_rate".to_owned(), "1e-5".to_owned())];
    let rows = rows();
    let card = ModelCard {
        name: "tiny-jacobi",
        base_model: "org/tiny@v1",
        base_on_hub: Some("org/tiny"),
        license: Some("apache-2.0"),
        training: &training,
        provenance: &[("base files".to_owned(), "0123abcd".to_owned())],
        decoding: &trials().best().unwrap(),
        adapter: None,
        custom_generate: true,
        rows: &rows,
        tuned_models: &[],
        command: "jacobi run --config a.toml",
    };
    let text = model_card(&card);
    for part in [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\nbase_model: \"org/tiny\"\nlicense: \"apache-2.0\"\n",
        "\n# tiny-jacobi\n",
        "- **2.71** tokens per forward pass",
        "| trained | jacobi n=16 |",
        "- parallel-decoding\n- custom_generate\n---\n",
        "AutoModelForCausalLM",
        "custom_generate=model.config._name_or_path, trust_remote_code=True",
        "arxiv.org/abs/2512.14681",
        "under the decoder in `jacobi.json`, the fastest of those measured, over 4 prompts: TPF 3.00, 150.0 tokens/s, 1.50x",
        "| name | jacobi |\n| block_size | 8 |\n",
        "| learning_rate | 1e-5 |\n",
        "## Provenance\n\n| item | value |\n| :--- | :--- |\n| base files | 0123abcd |\n",
        "under its licence, apache-2.0.\n",
    ] {
        assert!(text.contains(part), "missing {part:?} in:\n{text}");
    }
    a_card_gets_another_decoder(&text);
    let size = AdapterSize { rank: 48, block_size: 16 };
    let adapter = model_card(&ModelCard { adapter: Some(size), custom_generate: false, ..card });
    for part in [
        "---\nlibrary_name: peft\npipeline_tag: text-generation\nbase_model: \"org/tiny\"\nbase_model_relation: adapter\n",
        "A draft adapter for `org/tiny@v1`",
        "`jacobi decode --adapter DIR`",
        "--max-lora-rank 64 ",
        "\"num_speculative_tokens\": 15}'\n",
        "learn the distribution of the frozen base",
    ] {
        assert!(adapter.contains(part), "missing {part:?} in:\n{adapter}");
    }
    assert!(
        !adapter.contains("AutoModelForCausalLM") && !adapter.contains("trajectories under a noise-aware")
    );
}

fn a_card_gets_another_decoder(card: &str) {
    let mut trials = trials();
    trials.trials.swap(0, 1);
    trials.trials[1].speedup_over_ar = Some(0.9);
    trials.race.decided = true;
    let text = card_with_decoder(card, &trials.best().unwrap()).unwrap();
    for part in [
        "One token per forward pass with `jacobi decode --model DIR`",
        "| name | ar |\n",
        "- No decoder beat ar: the best of the others, jacobi n=8, had 0.90x its tokens/s.\n- A pass over 4 rows costs",
        "## Training",
    ] {
        assert!(text.contains(part), "missing {part:?} in:\n{text}");
    }
    assert!(!text.contains("| name | jacobi |"));
    assert_eq!(card_with_decoder("# Somebody's card", &trials.best().unwrap()), None);
}

#[test]
fn an_unknown_licence_and_missing_measurements_are_stated() {
    let mut unmeasured = trials().best().unwrap();
    unmeasured.best.prompts = 0;
    let card = ModelCard {
        name: "m",
        base_model: "b",
        base_on_hub: None,
        license: None,
        training: &[],
        provenance: &[],
        decoding: &unmeasured,
        adapter: None,
        custom_generate: false,
        rows: &[],
        tuned_models: &[],
        command: "jacobi export",
    };
    let text = model_card(&card);
    assert!(
        text.contains("not measured; `jacobi tune`")
            && text.contains("look it up there")
            && !text.contains("license:")
            && !text.contains("custom_generate")
            && !text.contains("## Measured")
    );
}

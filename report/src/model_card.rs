//! The README.md of an exported model in the form of the hub: front matter, measurements, use, training.

use jacobi_datasets::schema::eval_row::EvalRow;
use jacobi_datasets::schema::tuned::{Tuned, TunedModel};

use crate::content::{headline_list, headlines, method};
use crate::markdown;
use crate::table::Table;
use crate::text::{code_block, number, times};
use crate::tune::{pass_cost, remarks};

/// What a server has to know of a draft adapter.
#[derive(Clone, Copy, Debug)]
pub struct AdapterSize {
    /// Rank of the update of each weight.
    pub rank: usize,
    /// Tokens of the blocks that it was trained on, the known first one included.
    pub block_size: usize,
}

/// The content of a model card.
#[derive(Clone, Copy, Debug)]
pub struct ModelCard<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// Name or path of the model training started from.
    pub base_model: &'a str,
    /// Its name on the hub, if it is from there: the hub refuses a path as `base_model`.
    pub base_on_hub: Option<&'a str>,
    /// Licence identifier of the base model, if known; the trained weights derive from it.
    pub license: Option<&'a str>,
    /// Training settings by name, in the order to print.
    pub training: &'a [(String, String)],
    /// Inputs and versions by name, in the order to print.
    pub provenance: &'a [(String, String)],
    /// The decoder in `jacobi.json`.
    pub decoding: &'a Tuned,
    /// Its size, if it is a draft adapter, and not a model.
    pub adapter: Option<AdapterSize>,
    /// Whether the export has `custom_generate/`.
    pub custom_generate: bool,
    /// Measured rows; may be empty.
    pub rows: &'a [EvalRow],
    /// What tuning had found for the models of these rows.
    pub tuned_models: &'a [TunedModel],
    /// The command that made the model.
    pub command: &'a str,
}

const DECODER_STARTS: &str = "<!-- decoder in jacobi.json -->\n";
const DECODER_ENDS: &str = "<!-- end of decoder -->\n\n";

/// The model card `text` with another decoder in `jacobi.json`. `None` if it is not a card of [`model_card`].
pub fn card_with_decoder(text: &str, tuned: &Tuned) -> Option<String> {
    let (before, rest) = text.split_once(DECODER_STARTS)?;
    let (former, after) = rest.split_once(DECODER_ENDS)?;
    let decoding = decoding(tuned, former.contains("--adapter DIR"));
    Some(format!("{before}{DECODER_STARTS}{decoding}{DECODER_ENDS}{after}"))
}

/// The model card as Markdown.
pub fn model_card(card: &ModelCard) -> String {
    let mut text = front_matter(card);
    text += &format!("\n# {}\n\n", one_line(card.name));
    let base = one_line(card.base_model);
    text += &match card.adapter.is_some() {
        true => format!(
            "A draft adapter for `{base}`: LoRA matrices in the form of PEFT, applied to draft rows only. The base verifies \
             every token, so the text is exactly that of the base; the adapter decides how many tokens a forward pass \
             accepts. It holds none of the base's weights.\n\n"
        ),
        false => format!(
            "A Jacobi-forced version of `{base}`: the same architecture, no extra heads and no draft model, trained so that \
             Jacobi decoding accepts several tokens per forward pass. It is an ordinary checkpoint: every tool that \
             loads the base model loads this one.\n\n"
        ),
    };
    if !card.rows.is_empty() {
        text += "## Measured\n\n";
        for headline in headlines(card.rows, card.tuned_models) {
            text += &headline_list(&headline);
        }
        text += &format!("\n{}\n", Table::results(card.rows).markdown());
        for sentence in method(card.rows) {
            text += &format!("- {sentence}\n");
        }
        text += "\n";
    }
    text += &card.adapter.map_or_else(|| USE.to_owned(), use_adapter);
    if card.custom_generate {
        text += USE_IN_PARALLEL;
    }
    text += &format!("{DECODER_STARTS}{}{DECODER_ENDS}", decoding(card.decoding, card.adapter.is_some()));
    text += if card.adapter.is_some() { TRAINING_ADAPTER } else { TRAINING };
    text += &pairs("setting", card.training);
    text += "## Provenance\n\n";
    text += &pairs("item", card.provenance);
    text += &code_block(card.command);
    text += "\n## Licence\n\n";
    text += &match card.license {
        Some(license) => format!(
            "The weights derive from `{}` and stay under its licence, {}.\n",
            one_line(card.base_model),
            one_line(license)
        ),
        None => format!(
            "The weights derive from `{}` and stay under its licence; look it up there before you share them.\n",
            one_line(card.base_model)
        ),
    };
    text + CITATION
}

const USE: &str = "## Use

With transformers, one token per forward pass, as any causal language model:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(\".\")
tokenizer = AutoTokenizer.from_pretrained(\".\")
messages = [{\"role\": \"user\", \"content\": \"What is 12 + 30?\"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors=\"pt\", return_dict=True)
output = model.generate(**inputs, max_new_tokens=256, do_sample=False)
print(tokenizer.decode(output[0, inputs[\"input_ids\"].shape[1] :], skip_special_tokens=True))
```

";

fn use_adapter(AdapterSize { rank, block_size }: AdapterSize) -> String {
    // vLLM takes powers of two from 8 on as ranks, and its plug-in at most 128 drafts.
    let (rank, drafts) = (rank.next_power_of_two().max(8), block_size.saturating_sub(1).clamp(1, 128));
    format!(
        "## Use

`jacobi decode --adapter DIR` drafts with it; the base is found by its name, or given by `--model`. vLLM drafts with it with
the package in `python/` of jacobi's repository; requests for the model `fast` then get the base's greedy text in fewer passes:

```sh
vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules fast=DIR \\
  --override-generation-config '{{\"temperature\": 0}}' --speculative-config \\
  '{{\"method\": \"custom_class\", \"model\": \"jacobi_serve.vllm_adapter.AdapterProposer\", \"num_speculative_tokens\": {drafts}}}'
```

Loading it as an ordinary adapter would apply it to every row, which changes the text: it is not meant for that.

"
    )
}

const TRAINING: &str = "## Training

Progressive consistency distillation on the model's own Jacobi trajectories under a noise-aware causal mask, with an \
autoregressive loss on the greedy responses, after \"Fast and Accurate Causal Parallel Decoding using Jacobi Forcing\" \
([arXiv 2512.14681](https://arxiv.org/abs/2512.14681)).

";

const TRAINING_ADAPTER: &str = "## Training

The noisy rows run with the adapter and learn the distribution of the frozen base at the clean rows, after \"Fast and Accurate \
Causal Parallel Decoding using Jacobi Forcing\" ([arXiv 2512.14681](https://arxiv.org/abs/2512.14681)).

";

const USE_IN_PARALLEL: &str = "Several tokens per forward pass, the same text, with `custom_generate/generate.py` of this \
repository, for transformers 4.57 and 5.x:

```python
output = model.generate(
    **inputs, max_new_tokens=256, do_sample=False, custom_generate=model.config._name_or_path, trust_remote_code=True
)
print(model.jacobi_passes, \"forward passes\")
```

Streamers, stopping criteria and pipelines work as usual. Sampling, beams, several prompts at once and static caches are decoded
one token per pass, with one warning. transformers 4.57 uses the file of a local directory by default.

";

const CITATION: &str = "
## Citation

```bibtex
@article{jacobiforcing2025,
  title   = {Fast and Accurate Causal Parallel Decoding using Jacobi Forcing},
  journal = {arXiv preprint arXiv:2512.14681},
  year    = {2025}
}
```
";

/// A table of names and values; nothing if there are none.
fn pairs(heading: &str, pairs: &[(String, String)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    markdown::pairs(heading, pairs.iter().map(|(name, value)| (name.as_str(), value.clone()))) + "\n"
}

/// The decoder in `jacobi.json`, and how it was found.
fn decoding(tuned: &Tuned, is_adapter: bool) -> String {
    let best = &tuned.best;
    let tokens = if best.is_autoregressive() { "One token" } else { "Several tokens" };
    let found = match best.prompts {
        0 => "the one it was trained for, not measured; `jacobi tune` finds the fastest one for a machine"
            .to_owned(),
        prompts => format!(
            "the fastest of those measured, over {prompts} prompts: TPF {}, {} tokens/s, {} that of one token at a time",
            number(best.tpf),
            number(best.tps),
            times(best.speedup_over_ar)
        ),
    };
    let settings: Vec<(String, String)> =
        best.decoder.iter().map(|(name, value)| (name.clone(), value.to_string().replace('"', ""))).collect();
    let remarks = if best.prompts == 0 { Vec::new() } else { remarks(tuned) };
    let remarks: String =
        remarks.into_iter().chain(pass_cost(&tuned.latency)).map(|remark| format!("- {remark}\n")).collect();
    let remarks = if remarks.is_empty() { remarks } else { remarks + "\n" };
    let option = if is_adapter { "--adapter" } else { "--model" };
    format!(
        "{tokens} per forward pass with `jacobi decode {option} DIR`, under the decoder in `jacobi.json`, {found}:\n\n{}{remarks}",
        pairs("decoder", &settings)
    )
}

fn front_matter(card: &ModelCard) -> String {
    // JSON strings are valid YAML strings, also with colons and quotes.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let library = if card.adapter.is_some() { "peft" } else { "transformers" };
    let mut text = format!("---\nlibrary_name: {library}\npipeline_tag: text-generation\n");
    if let Some(base) = card.base_on_hub {
        text += &format!("base_model: {}\n", quoted(base));
        if card.adapter.is_some() {
            text += "base_model_relation: adapter\n";
        }
    }
    if let Some(license) = card.license {
        text += &format!("license: {}\n", quoted(license));
    }
    text += "tags:\n- jacobi-forcing\n- parallel-decoding\n";
    if card.custom_generate {
        text += "- custom_generate\n";
    }
    text + "---\n"
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r', '`'], " ")
}

#[cfg(test)]
mod tests;

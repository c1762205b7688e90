//! The tiny models of tests/cases: a byte tokenizer, and weights that are random or give known answers.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use jacobi_datasets::Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What a case says of its model. README.md in tests/cases explains the fields.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSpec {
    chat_template: Option<String>,
    chat_template_file: Option<String>,
    config: Map<String, Value>,
    tokenizer_config: Map<String, Value>,
    vocab_size: usize,
    layers: usize,
    special_tokens: Vec<String>,
    prefix: Option<String>,
    files: BTreeMap<String, Value>,
    seed: u64,
    answers: BTreeMap<char, String>,
    weights: Weights,
}

#[derive(Default, PartialEq, Deserialize)]
enum Weights {
    #[default]
    #[serde(skip)]
    OneFile,
    #[serde(rename = "stale")]
    Stale,
    #[serde(rename = "pytorch_model.bin")]
    PyTorch,
}

impl Default for ModelSpec {
    fn default() -> Self {
        let chatml = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}\
                      {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        Self {
            chat_template: Some(chatml.to_owned()),
            chat_template_file: None,
            config: Map::new(),
            tokenizer_config: Map::new(),
            vocab_size: 264,
            layers: 1,
            special_tokens: ["<s>", "</s>", "<|im_start|>", "<|im_end|>"].map(str::to_owned).to_vec(),
            prefix: None,
            files: BTreeMap::new(),
            seed: 0,
            answers: BTreeMap::new(),
            weights: Weights::OneFile,
        }
    }
}

/// Ids 0 to 255: byte-level BPE's characters for the bytes, in their order. Printable ASCII has its code less 33.
const BYTES: usize = 256;
/// `</s>`.
const EOS: usize = 257;
const HEADS: usize = 2;
/// Large enough that the tokens of random weights depend on the whole prompt.
const SCALE: f64 = 0.3;

/// Writes the model directory. Files that it names are in `folder`.
pub fn write_model(dir: &Path, spec: &ModelSpec, folder: &Path) {
    fs_err::create_dir_all(dir).unwrap();
    let write = |name: &str, value: &Value| fs_err::write(dir.join(name), value.to_string()).unwrap();
    write("tokenizer.json", &tokenizer(spec));
    let tokenizer_config = json!({
        "bos_token": "<s>",
        "eos_token": "</s>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": 100_000,
    });
    write("tokenizer_config.json", &with(tokenizer_config, &spec.tokenizer_config));
    write("config.json", &with(config(spec), &spec.config));
    spec.files.iter().for_each(|(name, value)| write(name, value));
    let template = dir.join("chat_template.jinja");
    match (&spec.chat_template_file, &spec.chat_template) {
        (Some(file), _) => drop(fs_err::copy(folder.join(file), template).unwrap()),
        (None, Some(text)) => fs_err::write(template, text).unwrap(),
        (None, None) => {}
    }
    match spec.weights {
        Weights::OneFile => store(&dir.join("model.safetensors"), weights(spec, spec.seed)),
        Weights::Stale => write_stale(dir, spec),
        Weights::PyTorch => fs_err::write(dir.join("pytorch_model.bin"), "a pickle").unwrap(),
    }
}

/// Lays `over` over `fields`: objects field by field, `"<absent>"` removes one.
pub fn merge(fields: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (name, value) in over {
        match (fields.get_mut(name), value) {
            (Some(Value::Object(inner)), Value::Object(value)) => merge(inner, value),
            _ => drop(fields.insert(name.clone(), value.clone())),
        }
    }
}

fn with(mut fields: Value, over: &Map<String, Value>) -> Value {
    let object = fields.as_object_mut().unwrap();
    merge(object, over);
    object.retain(|_, value| value != "<absent>");
    fields
}

fn tokenizer(spec: &ModelSpec) -> Value {
    let characters = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain('Ā'..='Ń');
    let vocabulary: Map<String, Value> =
        characters.enumerate().map(|(id, character)| (character.to_string(), json!(id))).collect();
    assert_eq!(vocabulary.len(), BYTES);
    let added = |(index, token): (usize, &String)| {
        json!({
            "id": BYTES + index, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let prefixed = |token: &String| {
        let id = BYTES + spec.special_tokens.iter().position(|special| special == token).unwrap();
        let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        json!({
            "type": "TemplateProcessing",
            "single": [special, text("A")],
            "pair": [special, text("A"), special, text("B")],
            "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
        })
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": spec.special_tokens.iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": spec.prefix.as_ref().map(prefixed),
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}

/// Answers need one direction of the hidden state per token.
fn hidden_size(spec: &ModelSpec) -> usize {
    if spec.answers.is_empty() { 32 } else { 288 }
}

fn config(spec: &ModelSpec) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "hidden_size": hidden_size(spec),
        "intermediate_size": 48,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": false,
        "torch_dtype": "float32",
        "bos_token_id": BYTES,
        "eos_token_id": EOS,
    })
}

/// A tensor's shape and values.
type Matrix = (Vec<usize>, Vec<f32>);

/// The tensors by name; random ones are uniform in `-SCALE .. SCALE`, the embedding ten times that.
fn weights(spec: &ModelSpec, seed: u64) -> BTreeMap<String, Matrix> {
    let (hidden, vocabulary) = (hidden_size(spec), spec.vocab_size);
    let head = hidden / HEADS;
    let mut shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
        ("lm_head.weight".to_owned(), vec![vocabulary, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ]);
    for layer in 0..spec.layers {
        let parts: [(&str, &[usize]); 9] = [
            ("self_attn.q_proj", &[HEADS * head, hidden]),
            ("self_attn.k_proj", &[head, hidden]),
            ("self_attn.v_proj", &[head, hidden]),
            ("self_attn.o_proj", &[hidden, HEADS * head]),
            ("mlp.gate_proj", &[48, hidden]),
            ("mlp.up_proj", &[48, hidden]),
            ("mlp.down_proj", &[hidden, 48]),
            ("input_layernorm", &[hidden]),
            ("post_attention_layernorm", &[hidden]),
        ];
        shapes.extend(
            parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape.to_vec())),
        );
    }
    let mut rng = Rng::new(&[seed]);
    let scale = if spec.answers.is_empty() { SCALE } else { 0.0 };
    let mut matrix = |name: &str, shape: &[usize]| -> Vec<f32> {
        let factor = if name.contains("embed_tokens") { 10.0 * scale } else { scale };
        let mut value = || if shape.len() == 1 { 1.0 } else { factor * (2.0 * rng.next_f64() - 1.0) };
        (0..shape.iter().product()).map(|_| value() as f32).collect()
    };
    let mut tensors: BTreeMap<String, Matrix> = shapes
        .into_iter()
        .map(|(name, shape)| (name.clone(), (shape.clone(), matrix(&name, &shape))))
        .collect();
    if !spec.answers.is_empty() {
        write_answers(spec, &mut tensors);
    }
    tensors
}

/// The next token depends on the last one alone; EOS follows each that the answers do not name.
fn write_answers(spec: &ModelSpec, tensors: &mut BTreeMap<String, Matrix>) {
    let id = |character: char| character as usize - '!' as usize;
    let mut next = HashMap::new();
    for (last, answer) in &spec.answers {
        let characters = answer.chars().map(id);
        next.extend(std::iter::once(id(*last)).chain(characters.clone()).zip(characters.chain([EOS])));
    }
    let hidden = hidden_size(spec);
    for token in 0..spec.vocab_size.min(260) {
        let follower = next.get(&token).copied().unwrap_or(EOS);
        tensors.get_mut("model.embed_tokens.weight").unwrap().1[token * hidden + token] = 10.0;
        tensors.get_mut("lm_head.weight").unwrap().1[follower * hidden + token] = 1.0;
    }
}

fn store(path: &Path, tensors: BTreeMap<String, Matrix>) {
    let bytes: BTreeMap<String, (Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| {
            (name, (shape, values.into_iter().flat_map(f32::to_le_bytes).collect()))
        })
        .collect();
    let views = bytes.iter().map(|(name, (shape, bytes))| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).unwrap();
}

/// Two shards with an index, and other weights in one file.
fn write_stale(dir: &Path, spec: &ModelSpec) {
    let mut first = weights(spec, spec.seed);
    let middle = first.keys().nth(first.len() / 2).unwrap().clone();
    let second = first.split_off(&middle);
    let mut map = Map::new();
    for (index, part) in (1..).zip([first, second]) {
        let file = format!("model-{index:05}-of-00002.safetensors");
        map.extend(part.keys().map(|name| (name.clone(), json!(file))));
        store(&dir.join(file), part);
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs_err::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    store(&dir.join("model.safetensors"), weights(spec, spec.seed + 1));
}

//! What a user could run instead, measured by a script before us: transformers and llama.cpp, each set against our speed.

use std::path::Path;

use anyhow::{Context, ensure};
use jacobi_torch_ext::vector_instructions;
use serde_json::{Value, json};

use crate::sheet::{Bound, Sheet};

/// How fast a decoder of ours was, and its response.
pub struct Speed {
    pub dtype: &'static str,
    pub decoder: &'static str,
    /// Tokens per second, the median of the rounds.
    pub per_second: f64,
    pub tokens: Vec<u32>,
}

/// What every alternative has to have done: the ids that it continued, and the number of tokens after the first.
pub struct Task {
    pub prompt_ids: Value,
    pub tokens: usize,
}

/// The file of scripts/bench_transformers.py, its dtypes in the order of `ours`. Returns its versions and threads.
pub fn transformers(sheet: &mut Sheet, path: &Path, task: &Task, ours: &[Speed]) -> anyhow::Result<Value> {
    let file = Measured::read(path, "scripts/bench_transformers.py", task)?;
    for (row, ours) in file.rows()?.iter().zip(ours) {
        let name = ours.dtype;
        ensure!(row["dtype"] == name, "{}: {name} is not in its place", path.display());
        let theirs = sheet.samples(
            format!("{name}: transformers, greedy"),
            "tokens/s",
            &file.numbers(&row["tokens_per_second"])?,
        );
        let ratio = sheet.figure(format!("{name}: AR / transformers"), "x", ours.per_second / theirs);
        let bar = if vector_instructions() == "AVX-512" { 1.3 } else { 1.2 };
        sheet.bar(format!("{name}: AR / transformers"), ratio, Bound::AtLeast(bar));
        let same = file.tokens_in_common(row, ours)?;
        sheet.figure(format!("{name}: tokens up to a difference"), "tokens", same as f64);
    }
    Ok(json!({ "versions": file.content["versions"], "threads": file.content["threads"] }))
}

/// The file of scripts/bench_llama_cpp.py: its plain rows against our autoregressive speed, `plain`, those with prompt
/// lookup against our speed with drafts that are looked up, `lookup`. Returns what it says of itself.
pub fn llama_cpp(
    sheet: &mut Sheet,
    path: &Path,
    task: &Task,
    [plain, lookup]: [&Speed; 2],
) -> anyhow::Result<Value> {
    let file = Measured::read(path, "scripts/bench_llama_cpp.py", task)?;
    for row in file.rows()? {
        let format = row["format"].as_str().with_context(|| file.bad())?;
        let (name, ours) = match row["lookup"].as_bool().with_context(|| file.bad())? {
            false => (format!("llama.cpp {format}"), plain),
            true => (format!("llama.cpp {format}, prompt lookup"), lookup),
        };
        let theirs = sheet.samples(name.as_str(), "tokens/s", &file.numbers(&row["tokens_per_second"])?);
        let ratio = ours.per_second / theirs;
        let verdict = if ratio >= 1.0 { "x, ours is faster" } else { "x, llama.cpp is faster" };
        sheet.figure(format!("{}: {} / {name}", ours.dtype, ours.decoder), verdict, ratio);
        let same = file.tokens_in_common(row, ours)?;
        ensure!(
            same > 0 || format != "F16",
            "{}: {name} begins with another token than we do: its weights were not converted rightly, or \
             scripts/bench_llama_cpp.py ran on another model",
            path.display()
        );
        sheet.figure(format!("{name}: tokens up to a difference"), "tokens", same as f64);
    }
    let golden = &file.content["golden"];
    if let [Some(texts @ 1..), Some(equal)] = ["texts", "equal"].map(|key| golden[key].as_u64()) {
        sheet.figure(format!("llama.cpp F16: texts equal to the goldens, of {texts}"), "texts", equal as f64);
    }
    let about = ["versions", "threads", "system", "rounded", "golden"];
    Ok(about.into_iter().map(|key| (key.to_owned(), file.content[key].clone())).collect())
}

/// A file that a script wrote.
struct Measured<'a> {
    path: &'a Path,
    script: &'static str,
    content: Value,
}

impl<'a> Measured<'a> {
    fn read(path: &'a Path, script: &'static str, task: &Task) -> anyhow::Result<Self> {
        let text = fs_err::read_to_string(path)?;
        let content: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(
            content["decoded"] == task.tokens && content["prompt_ids"] == task.prompt_ids,
            "{}: another prompt or number of tokens: run {script} again",
            path.display()
        );
        Ok(Self { path, script, content })
    }

    fn bad(&self) -> String {
        format!("{} is not what {} writes", self.path.display(), self.script)
    }

    fn rows(&self) -> anyhow::Result<&Vec<Value>> {
        self.content["rows"].as_array().with_context(|| self.bad())
    }

    fn numbers(&self, list: &Value) -> anyhow::Result<Vec<f64>> {
        let numbers: Option<Vec<f64>> =
            list.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.filter(|numbers| !numbers.is_empty()).with_context(|| self.bad())
    }

    /// How many tokens of the row's response and of ours are equal, counted up to the first difference.
    fn tokens_in_common(&self, row: &Value, ours: &Speed) -> anyhow::Result<usize> {
        let theirs = row["tokens"].as_array().with_context(|| self.bad())?;
        Ok(theirs.iter().zip(&ours.tokens).take_while(|(theirs, ours)| **theirs == **ours).count())
    }
}

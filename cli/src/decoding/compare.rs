//! `--compare`: one prompt under several decoders, which alternate pass by pass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jacobi_datasets::schema::eval_row::decoder_label;
use jacobi_decoder::{Decoding, Settings, Strategy};
use jacobi_report::ComparisonRow;
use serde_json::{Map, Value};

use super::columns::{Column, Columns};
use super::text_stream::TextStream;
use super::{Decoded, Engine};
use crate::output;

/// Time between two drawings: short enough to look live, long enough to cost nothing.
const DRAW_EVERY: Duration = Duration::from_millis(40);

/// The decoder's name with its main settings.
pub fn label(settings: &Settings) -> String {
    decoder_label(settings.strategy.name().as_str(), &settings.decoder_settings())
}

/// The responses of all decoders to the prompt, in their order.
pub struct Comparison(Vec<(Settings, Decoded)>);

/// Decodes `prompt` under every contender, until `stop` becomes true; if `live`, draws the texts in columns meanwhile.
///
/// # Errors
/// When standard output cannot be written.
pub fn compare(
    engine: &Engine,
    prompt: &[u32],
    contenders: Vec<Settings>,
    live: bool,
    stop: &AtomicBool,
) -> anyhow::Result<Comparison> {
    let mut lanes: Vec<Lane> =
        contenders.iter().map(|contender| Lane::new(engine, prompt, contender)).collect();
    let mut columns = live.then(Columns::default);
    let mut last = Instant::now();
    let mut open = true;
    while open && !stop.load(Ordering::SeqCst) {
        open = false;
        for lane in &mut lanes {
            open |= lane.step();
        }
        if let Some(columns) = &mut columns
            && (!open || last.elapsed() >= DRAW_EVERY)
        {
            columns.draw(&lanes.iter().map(Lane::column).collect::<Vec<_>>())?;
            last = Instant::now();
        }
    }
    if live {
        output::piece("\n")?;
    }
    let decoded: Vec<Decoded> =
        lanes.iter().map(|lane| engine.decoded(prompt.len(), &lane.decoding)).collect();
    drop(lanes);
    Ok(Comparison(contenders.into_iter().zip(decoded).collect()))
}

/// One response being decoded.
struct Lane<'a> {
    label: String,
    decoding: Decoding<'a>,
    stream: TextStream<'a>,
    text: String,
}

impl<'a> Lane<'a> {
    fn new(engine: &'a Engine, prompt: &[u32], contender: &'a Settings) -> Self {
        let decoding = Decoding::new(engine.model(), prompt, contender);
        let mut stream = TextStream::new(engine.tokenizer());
        let text = stream.push(decoding.text()[prompt.len()]);
        Self { label: label(contender), decoding, stream, text }
    }

    /// Makes a pass. False if the response was complete.
    fn step(&mut self) -> bool {
        let pass = self.decoding.next();
        for &token in pass.iter().flat_map(|pass| &pass.tokens) {
            self.text += &self.stream.push(token);
        }
        pass.is_some()
    }

    fn column(&self) -> Column {
        let stats = self.decoding.stats();
        let speed = match (stats.tps(), stats.tpf()) {
            (Some(tps), Some(tpf)) => format!("{tps:.1} tokens/s, TPF {tpf:.2}"),
            _ => String::new(),
        };
        let end =
            self.decoding.finish_reason().map_or(String::new(), |reason| format!(" ({})", reason.as_str()));
        Column { head: [format!("{}{end}", self.label), speed], text: self.text.clone() }
    }
}

impl Comparison {
    /// The rows of the table. Texts are compared only if both responses are complete.
    pub fn rows(&self) -> Vec<ComparisonRow> {
        let ar = self
            .0
            .iter()
            .find(|(contender, _)| contender.strategy == Strategy::Autoregressive)
            .map(|(_, decoded)| decoded);
        let row = |(contender, decoded): &(Settings, Decoded)| {
            let complete = ar.filter(|ar| ar.finish_reason.is_some() && decoded.finish_reason.is_some());
            let tps = decoded.stats.tps();
            ComparisonRow {
                decoder: label(contender),
                tokens: decoded.response_tokens.len(),
                forwards: decoded.stats.forwards,
                tpf: decoded.stats.tpf(),
                tps,
                speedup: tps.zip(ar.and_then(|ar| ar.stats.tps())).map(|(own, ar)| own / ar),
                same_text: complete.map(|ar| ar.response_tokens == decoded.response_tokens),
            }
        };
        self.0.iter().map(row).collect()
    }

    /// An array of the JSON forms of all responses, each with its decoder's name as `decoder`.
    pub fn to_json(&self) -> Value {
        let object = |(contender, decoded): &(Settings, Decoded)| {
            let mut named = Map::new();
            named.insert("decoder".to_owned(), contender.strategy.name().as_str().into());
            named.extend(decoded.to_json());
            Value::Object(named)
        };
        self.0.iter().map(object).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoding::tests::default_model;
    use jacobi_decoder::JacobiConfig;
    use jacobi_model::Dtype;

    #[test]
    fn decoders_take_turns_and_a_stop_keeps_partial_responses() {
        let engine = Engine::load(&default_model(), Dtype::Float32).unwrap();
        let prompt = engine.encode("Anna has 3 apples and buys 4.", false).unwrap();
        let contender = |strategy| Settings::greedy(strategy, engine.stop_rules(16));
        let jacobi = Strategy::Jacobi(JacobiConfig { block_size: 8, seed: 0 });
        let contenders = vec![contender(jacobi), contender(Strategy::Autoregressive)];
        let compared =
            |stop| compare(&engine, &prompt, contenders.clone(), false, &AtomicBool::new(stop)).unwrap();
        let rows = compared(false).rows();
        let labels: Vec<&str> = rows.iter().map(|row| row.decoder.as_str()).collect();
        assert_eq!(labels, ["jacobi n=8", "ar"]);
        assert_eq!((rows[0].same_text, rows[1].speedup), (Some(true), Some(1.0)));
        assert_eq!(rows[1].tokens, rows[1].forwards + 1);
        assert!(rows[0].forwards <= rows[1].forwards && rows[0].speedup.is_some());
        let stopped = compared(true);
        assert_eq!((stopped.rows()[0].tokens, stopped.rows()[0].same_text), (1, None));
        assert_eq!(stopped.to_json()[1]["decoder"], "ar");
        assert!(stopped.to_json()[1]["finish_reason"].is_null());
    }
}

//! `--compare`: one prompt under several decoders, which take turns pass by pass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jacobi_datasets::schema::eval_row::decoder_label;
use jacobi_decoder::{Decoding, Settings};
use jacobi_eval::DecoderName;
use jacobi_eval::decoders::settings_of;
use jacobi_report::ComparisonRow;
use serde_json::{Map, Value};

use super::columns::{Column, Columns};
use super::text_stream::TextStream;
use super::{Decoded, Engine};
use crate::output;

/// Between two drawings: often enough to look alive, seldom enough to cost nothing.
const DRAW_EVERY: Duration = Duration::from_millis(40);

/// A decoder by name, ready to run.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Which decoder.
    pub name: DecoderName,
    /// All that its response depends on.
    pub settings: Settings,
}

impl Contender {
    /// The name with the main settings.
    pub fn label(&self) -> String {
        decoder_label(self.name.as_str(), &settings_of(&self.settings))
    }
}

/// What every contender made of the prompt, in their order.
pub struct Comparison(Vec<(Contender, Decoded)>);

/// Decodes `prompt` under every contender, with columns drawn on the way if `live`; a raised `stop` breaks off.
///
/// # Errors
/// When standard output cannot be written.
pub fn compare(
    engine: &Engine,
    prompt: &[u32],
    contenders: Vec<Contender>,
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

/// One response on its way.
struct Lane<'a> {
    label: String,
    decoding: Decoding<'a>,
    stream: TextStream<'a>,
    text: String,
}

impl<'a> Lane<'a> {
    fn new(engine: &'a Engine, prompt: &[u32], contender: &'a Contender) -> Self {
        let decoding = Decoding::new(engine.model(), prompt, &contender.settings);
        let mut stream = TextStream::new(engine.tokenizer());
        let text = stream.push(decoding.text()[prompt.len()]);
        Self { label: contender.label(), decoding, stream, text }
    }

    /// One pass; whether there was one to make.
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
    /// The rows of the table. Speeds compare from the first pass on, texts only once both are whole.
    pub fn rows(&self) -> Vec<ComparisonRow> {
        let ar = self
            .0
            .iter()
            .find(|(contender, _)| contender.name == DecoderName::Ar)
            .map(|(_, decoded)| decoded);
        let row = |(contender, decoded): &(Contender, Decoded)| {
            let whole = ar.filter(|ar| ar.finish_reason.is_some() && decoded.finish_reason.is_some());
            let tps = decoded.stats.tps();
            ComparisonRow {
                decoder: contender.label(),
                tokens: decoded.response_tokens.len(),
                forwards: decoded.stats.forwards,
                tpf: decoded.stats.tpf(),
                tps,
                speedup: tps.zip(ar.and_then(|ar| ar.stats.tps())).map(|(own, ar)| own / ar),
                same_text: whole.map(|ar| ar.response_tokens == decoded.response_tokens),
            }
        };
        self.0.iter().map(row).collect()
    }

    /// An array of the objects that each decoder alone would give, with its name as `decoder`.
    pub fn to_json(&self) -> Value {
        let object = |(contender, decoded): &(Contender, Decoded)| {
            let mut named = Map::new();
            named.insert("decoder".to_owned(), contender.name.as_str().into());
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
    use jacobi_decoder::{JacobiConfig, Strategy};
    use jacobi_model::Dtype;

    #[test]
    fn decoders_take_turns_and_a_stop_leaves_what_is_there() {
        let engine = Engine::load(&default_model(), Dtype::Float32).unwrap();
        let prompt = engine.encode("Anna has 3 apples and buys 4.", false).unwrap();
        let contender =
            |name, strategy| Contender { name, settings: Settings::greedy(strategy, engine.stop_rules(16)) };
        let jacobi = Strategy::Jacobi(JacobiConfig { block_size: 8, seed: 0 });
        let contenders = vec![
            contender(DecoderName::Jacobi, jacobi),
            contender(DecoderName::Ar, Strategy::Autoregressive),
        ];
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

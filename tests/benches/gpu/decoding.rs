//! Decoding one text: a token at a time behind texts of several lengths, against what reading weights and cache takes;
//! passes of many widths; and what a multi-block decoder adds to its passes.

use jacobi_decoder::{Decoding, MultiBlockConfig, Settings, StopRules, Strategy};
use jacobi_model::{DecodingModel, LanguageModel, Place, Rows, Session, Transformer, Work};

use super::{
    Bench,
    metered::Metered,
    shapes::Shape,
    sheet::{Bound, Sheet, median},
};

pub fn measure(bench: &Bench, sheet: &mut Sheet, shape: &Shape) -> anyhow::Result<()> {
    let transformer = bench.model(&shape.config)?;
    let recorded = DecodingModel::with_fixed_shapes(&transformer);
    let models: [(&str, &dyn LanguageModel); 2] = [("", &recorded), (", kernel by kernel", &transformer)];
    let weights = weights_read(&transformer);
    // Before any long text: a cache that has grown stays, and attention depends on its size.
    widths(bench, sheet, shape, &recorded);
    for (how, model) in models {
        for context in bench.scale.contexts {
            let name = format!("{}: AR at {context}{how}", shape.name);
            let ms = sheet.samples(&name, "ms", &token_by_token(bench, model, context));
            if !how.is_empty() {
                continue;
            }
            let read = (weights + context * model.cache_bytes_per_token()) as f64;
            let floor = 1e3 * read / bench.machine.bandwidth;
            sheet.figure(format!("{name}: floor"), "ms", floor);
            sheet.bar(format!("{name} / floor"), ms / floor, Bound::AtMost(1.2));
            bench.beside(sheet, &name, "ms", ms);
        }
    }
    overhead(bench, sheet, shape, &recorded);
    Ok(())
}

/// Bytes that a pass reads of the weights: of an embedding beside a head a few rows.
fn weights_read(model: &Transformer) -> usize {
    let has_head = model.parameters().iter().any(|(name, _)| name == "lm_head.weight");
    let read =
        model.parameters().iter().filter(|(name, _)| !(has_head && name == "model.embed_tokens.weight"));
    read.map(|(_, tensor)| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum()
}

/// A session behind `context` tokens, with room for more.
fn behind<'m>(model: &'m dyn LanguageModel, context: usize, room: usize) -> Box<dyn Session + 'm> {
    const PIECE: usize = 2048;
    let mut session = model.session(1, context + room);
    let text = tokens(model, context);
    for piece in text.chunks(PIECE) {
        let rows = Rows::chain(piece);
        let work = Work { slot: 0, place: Place::End, rows: &rows, first_output: piece.len() - 1 };
        drop(session.forward(&[work]).greedy());
        session.keep(0, &(0..piece.len()).collect::<Vec<_>>());
    }
    session
}

fn tokens(model: &dyn LanguageModel, count: usize) -> Vec<u32> {
    (0..count as u32).map(|at| (at * 31 + 7) % model.vocab_size() as u32).collect()
}

/// Milliseconds per token.
fn token_by_token(bench: &Bench, model: &dyn LanguageModel, context: usize) -> Vec<f64> {
    let passes = bench.scale.passes;
    let mut session = behind(model, context, passes + 1);
    let seconds = bench.time(|| {
        session.truncate(0, context);
        let mut token = 5;
        for _ in 0..passes {
            let rows = Rows::chain(&[token]);
            let work = Work { slot: 0, place: Place::End, rows: &rows, first_output: 0 };
            token = session.forward(&[work]).greedy()[0];
            session.keep(0, &[0]);
        }
    });
    seconds.iter().map(|seconds| 1e3 * seconds / passes as f64).collect()
}

fn widths(bench: &Bench, sheet: &mut Sheet, shape: &Shape, model: &dyn LanguageModel) {
    let (context, passes) = (bench.scale.width_context, bench.scale.passes);
    let widest = bench.scale.widths.iter().copied().max().unwrap_or(1);
    let mut session = behind(model, context, widest);
    let draft = tokens(model, widest);
    let mut one = f64::NAN;
    for &width in bench.scale.widths {
        let rows = Rows::chain(&draft[..width]);
        let seconds = bench.time(|| {
            for _ in 0..passes {
                let work = Work { slot: 0, place: Place::End, rows: &rows, first_output: 0 };
                drop(session.forward(&[work]).greedy());
            }
        });
        let each: Vec<f64> = seconds.iter().map(|seconds| 1e3 * seconds / passes as f64).collect();
        let name = format!("{}: forward of {width}", shape.name);
        let ms = sheet.samples(&name, "ms", &each);
        bench.beside(sheet, &name, "ms", ms);
        one = if width == 1 { ms } else { one };
        match width {
            128 => sheet.bar(format!("{name} / of 1"), ms / one, Bound::AtMost(1.2)),
            256 => sheet.bar(format!("{name} / of 1"), ms / one, Bound::AtMost(1.7)),
            _ => {}
        }
    }
}

/// Of the first passes of a response: what is spent outside the model.
fn overhead(bench: &Bench, sheet: &mut Sheet, shape: &Shape, model: &dyn LanguageModel) {
    let passes = bench.scale.decoder_passes;
    for (name, tree_budget) in [("n = 16, K = 2, pool 4", 0), ("the same with a tree of 32", 32)] {
        let strategy = Strategy::MultiBlock(MultiBlockConfig { tree_budget, ..MultiBlockConfig::default() });
        let longest = bench.scale.width_context + passes * strategy.max_rows();
        let room = model.context_length() - bench.scale.width_context - 1;
        let stop = StopRules { max_new_tokens: longest.min(room), eos_token_ids: vec![] };
        let settings = Settings::greedy(strategy, stop);
        let prompt = tokens(model, bench.scale.width_context);
        let (mut shares, mut rates, mut best) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=bench.scale.rounds {
            let metered = Metered::new(model);
            let mut decoding = Decoding::new(&metered, &prompt, &settings);
            let before = metered.meter().seconds();
            decoding.by_ref().take(passes).for_each(drop);
            let (stats, inside) = (decoding.stats(), metered.meter().seconds() - before);
            // The first round records its passes.
            if round > 0 {
                shares.push(100.0 * (stats.decode_seconds - inside) / stats.decode_seconds);
                rates.push(1e3 * stats.decode_seconds / stats.forwards as f64);
                best.push(1e3 * metered.meter().top_seconds() / stats.forwards as f64);
            }
        }
        sheet.samples(format!("{}: multi-block, {name}: a pass", shape.name), "ms", &rates);
        sheet.samples(format!("{}: multi-block, {name}: of it for the best tokens", shape.name), "ms", &best);
        let name = format!("{}: multi-block, {name}: outside the model", shape.name);
        sheet.samples(&name, "%", &shares);
        sheet.bar(name, median(&shares), Bound::AtMost(3.0));
    }
}

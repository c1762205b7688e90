//! Converts passes to rows of text: the added tokens with their sources, the next draft, the rejected tokens.

use jacobi_datasets::Tokenizer;
use jacobi_decoder::{Pass, Source};
use jacobi_report::{Mark, PassRow, Span};

use super::text_stream::TextStream;

/// Converts the passes of one response, in order.
pub struct PassReader<'a> {
    tokenizer: &'a Tokenizer,
    text: TextStream<'a>,
}

impl<'a> PassReader<'a> {
    /// A reader before the first pass.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, text: TextStream::new(tokenizer) }
    }

    /// The row of the prefill.
    pub fn prompt(&mut self, prompt: &[u32], first: u32) -> PassRow {
        let mut accepted = Vec::new();
        add(&mut accepted, Mark::Model, self.text.push(first));
        PassRow { rows: prompt.len(), tokens: 1, accepted, ..PassRow::default() }
    }

    /// The row of a pass after the prefill.
    pub fn pass(&mut self, pass: &Pass) -> PassRow {
        let mut accepted = Vec::new();
        for (index, &token) in pass.tokens.iter().enumerate() {
            add(&mut accepted, mark_of(pass, index), self.text.push(token));
        }
        let mut draft = Vec::new();
        let mut draft_text = self.text.clone();
        for (token, mark) in next_draft(pass) {
            add(&mut draft, mark, draft_text.push(token));
        }
        add(&mut draft, Mark::Refined, draft_text.rest());
        let span = |run: Vec<u32>| Span { mark: Mark::Rejected, text: self.tokenizer.decode(&run) };
        PassRow {
            rows: pass.draft.width(),
            tokens: pass.tokens.len(),
            accepted,
            draft,
            rejected: rejected(pass).into_iter().map(span).collect(),
        }
    }

    /// The text of an incomplete character at the end.
    pub fn rest(&mut self) -> String {
        self.text.rest()
    }
}

/// Appends `text`, to the last span if that has the same mark.
fn add(spans: &mut Vec<Span>, mark: Mark, text: String) {
    match spans.last_mut() {
        _ if text.is_empty() => {}
        Some(last) if last.mark == mark => last.text += &text,
        _ => spans.push(Span { mark, text }),
    }
}

/// The mark of the source of `pass.tokens[index]`.
fn mark_of(pass: &Pass, index: usize) -> Mark {
    match pass.source(index) {
        None => Mark::Model,
        Some(Source::Own) => Mark::Own,
        Some(Source::Pseudo) => Mark::Pseudo,
        Some(Source::Recycled) => Mark::Recycled,
        Some(Source::Tree) => Mark::Tree,
    }
}

/// The draft after the tokens that the pass added.
fn next_draft(pass: &Pass) -> Vec<(u32, Mark)> {
    let mark = |place: (u32, Option<usize>)| {
        (place.0, if is_kept(pass, place) { Mark::Kept } else { Mark::Refined })
    };
    pass.next_draft().into_iter().map(mark).collect()
}

/// Whether the token was in the old draft too, in row `drafted`.
fn is_kept(pass: &Pass, (token, drafted): (u32, Option<usize>)) -> bool {
    drafted.is_some_and(|drafted| pass.draft.rows().tokens()[drafted] == token)
}

/// Rejected draft tokens, grouped into runs of parents and children. A pass that ended at a near-tie rejects nothing.
fn rejected(pass: &Pass) -> Vec<Vec<u32>> {
    if pass.path.is_empty() {
        return Vec::new();
    }
    let rows = pass.draft.rows();
    let kept: Vec<usize> = pass
        .next_draft()
        .into_iter()
        .filter(|&place| is_kept(pass, place))
        .filter_map(|(_, drafted)| drafted)
        .collect();
    let mut runs: Vec<Vec<u32>> = Vec::new();
    let mut last = None;
    for row in (1..rows.len()).filter(|row| !pass.path.contains(row) && !kept.contains(row)) {
        let token = rows.tokens()[row];
        match runs.last_mut() {
            Some(run) if rows.parent(row) == last => run.push(token),
            _ => runs.push(vec![token]),
        }
        last = Some(row);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoding::{Engine, tests::default_model};
    use jacobi_decoder::{Decoding, MultiBlockConfig, Settings, Strategy};
    use jacobi_model::Dtype;

    #[test]
    fn added_text_is_the_response_and_no_draft_token_is_lost() {
        let engine = Engine::load(&default_model(), Dtype::Float32).unwrap();
        let config = MultiBlockConfig { block_size: 8, tree_budget: 24, ..MultiBlockConfig::default() };
        let settings = Settings::greedy(Strategy::MultiBlock(config), engine.stop_rules(48));
        let prompt = engine.encode("Anna has 3 apples and buys 4.", false).unwrap();
        let mut decoding = Decoding::new(engine.model(), &prompt, &settings);
        let mut reader = PassReader::new(engine.tokenizer());
        let first = decoding.text()[prompt.len()];
        let mut rows = vec![reader.prompt(&prompt, first)];
        for pass in &mut decoding {
            let (next, gone) = (next_draft(&pass), rejected(&pass));
            let kept = next.iter().filter(|(_, mark)| *mark == Mark::Kept).count();
            let fed = pass.path.len() + kept + gone.iter().map(Vec::len).sum::<usize>();
            assert_eq!(fed, pass.draft.rows().len(), "{pass:?}");
            rows.push(reader.pass(&pass));
        }
        let text: String = rows.iter().flat_map(|row| &row.accepted).map(|span| span.text.as_str()).collect();
        assert_eq!(text + &reader.rest(), engine.tokenizer().decode(&decoding.text()[prompt.len()..]));
        let sources = decoding.stats().accepted_from;
        let marked = |mark| rows.iter().flat_map(|row| &row.accepted).any(|span| span.mark == mark);
        let marks = [Mark::Own, Mark::Pseudo, Mark::Recycled, Mark::Tree];
        for (mark, source) in marks.into_iter().zip(Source::ALL) {
            assert_eq!(marked(mark), sources.contains_key(&source), "{mark:?}");
        }
        assert!(sources.len() > 1, "{sources:?}");
    }
}

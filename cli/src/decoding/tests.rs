//! Tests of `decoding.rs`.

use jacobi_model::Dtype;

use super::*;
use jacobi_decoder::{Pass, Strategy};
use std::cell::RefCell;
use std::path::PathBuf;

/// The small model that ships with the project.
pub(super) fn default_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("datasets/default/model")
}

/// Writes down what it sees.
struct Witness<'a>(&'a RefCell<Vec<String>>);

impl View for Witness<'_> {
    fn begin(&mut self, prompt: &[u32], first: u32) -> anyhow::Result<()> {
        self.0.borrow_mut().push(format!("{} {first}", prompt.len()));
        Ok(())
    }

    fn pass(&mut self, pass: &Pass) -> anyhow::Result<()> {
        self.0.borrow_mut().push(format!("{:?}", pass.tokens));
        Ok(())
    }

    fn end(&mut self, decoded: &Decoded) -> anyhow::Result<()> {
        self.0.borrow_mut().push(format!("{:?}", decoded.response_tokens));
        Ok(())
    }
}

#[test]
fn views_see_a_response_from_prompt_to_end_and_a_stop_ends_it_early() {
    let engine = Engine::load(&default_model(), Dtype::Float32).unwrap();
    let prompt = engine.encode("Anna has 3 apples.", false).unwrap();
    let settings = Settings::greedy(Strategy::Autoregressive, engine.stop_rules(3));
    let seen = |stop: bool| {
        let log = RefCell::new(Vec::new());
        let mut views: Vec<Box<dyn View + '_>> = vec![Box::new(Witness(&log))];
        let decoded = respond(&engine, &prompt, &settings, &mut views, &AtomicBool::new(stop)).unwrap();
        drop(views);
        (decoded, log.into_inner())
    };
    let (decoded, log) = seen(false);
    let [a, b, c] = decoded.response_tokens[..] else { panic!("{decoded:?}") };
    let expected =
        [format!("{} {a}", prompt.len()), format!("[{b}]"), format!("[{c}]"), format!("[{a}, {b}, {c}]")];
    assert_eq!(log, expected);
    assert_eq!((decoded.stats.tokens, decoded.text), (2, engine.tokenizer().decode(&[a, b, c])));
    let (decoded, log) = seen(true);
    assert_eq!((decoded.response_tokens, decoded.finish_reason), (vec![a], None));
    assert_eq!(log.len(), 2);
}

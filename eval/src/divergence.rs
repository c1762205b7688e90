//! Where a response diverges from the autoregressive one, and how close the logits were there.

use jacobi_model::{LanguageModel, Place, Rows, Work};

/// Index of the first token in which two responses differ; if one is a prefix of the other, the length of the
/// shorter.
pub(crate) fn first_divergence(tokens: &[u32], reference: &[u32]) -> Option<usize> {
    if tokens == reference {
        return None;
    }
    let differs = tokens.iter().zip(reference).position(|(a, b)| a != b);
    Some(differs.unwrap_or_else(|| tokens.len().min(reference.len())))
}

/// The logit of `reference`'s token minus that of the other one where `tokens` diverges, computed by the passes of
/// autoregressive decoding: one over the prompt, then one over each token. `None` if one response ends there.
pub(crate) fn gap(
    model: &dyn LanguageModel,
    prompt: &[u32],
    tokens: &[u32],
    reference: &[u32],
) -> Option<f64> {
    let at = first_divergence(tokens, reference)?;
    let (expected, found) = (*reference.get(at)?, *tokens.get(at)?);
    let mut session = model.session(1, prompt.len() + at);
    let mut feed = |tokens: &[u32]| {
        let rows = Rows::chain(tokens);
        let predictions = session.forward(&[Work {
            slot: 0,
            place: Place::End,
            rows: &rows,
            first_output: rows.len() - 1,
        }]);
        session.keep(0, &(0..rows.len()).collect::<Vec<_>>());
        predictions
    };
    let prefill = feed(prompt);
    let logits = reference[..at].iter().fold(prefill, |_, &token| feed(&[token])).logits(0);
    Some(f64::from(logits[expected as usize]) - f64::from(logits[found as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_the_first_difference_or_the_early_end() {
        let rows: [(&[u32], &[u32], Option<usize>); 6] = [
            (&[], &[], None),
            (&[1, 2], &[1, 2], None),
            (&[1, 3, 3], &[1, 2, 3], Some(1)),
            (&[1], &[1, 2], Some(1)),
            (&[1, 2], &[1], Some(1)),
            (&[5], &[6], Some(0)),
        ];
        for (tokens, reference, expected) in rows {
            assert_eq!(first_divergence(tokens, reference), expected, "{tokens:?} {reference:?}");
        }
    }
}

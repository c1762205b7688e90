//! The samples of a report: the first few prompts that both sides answered, in file order, without selection.

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample};
use jacobi_datasets::schema::trajectory::FinishReason;

use crate::figures::Compared;

/// Maximum number of prompts in a report.
const SHOWN: usize = 3;

/// One prompt with the responses of two decoders.
pub(crate) struct Pair<'a> {
    /// The base model with autoregressive decoding.
    pub(crate) before: &'a EvalSample,
    /// The trained model with its fastest decoder.
    pub(crate) after: &'a EvalSample,
}

/// The pairs to show.
pub(crate) fn pairs<'a>(compared: &Compared, samples: &'a [EvalSample]) -> Vec<Pair<'a>> {
    let (Some(before), Some(after)) = (compared.base_ar.or(compared.after_ar), compared.after_parallel)
    else {
        return Vec::new();
    };
    let afters = samples.iter().filter(|sample| belongs(sample, after));
    let pair = |after_sample: &'a EvalSample| {
        let same = |s: &&EvalSample| s.sample_id == after_sample.sample_id && belongs(s, before);
        samples.iter().find(same).map(|before| Pair { before, after: after_sample })
    };
    afters.filter_map(pair).take(SHOWN).collect()
}

fn belongs(sample: &EvalSample, row: &EvalRow) -> bool {
    sample.model == row.model
        && sample.task == row.task
        && sample.model_role == row.model_role
        && sample.decoder == row.decoder
        && sample.decoder_settings == row.decoder_settings
}

/// Cost and correctness of a sample, in one line.
pub(crate) fn caption(sample: &EvalSample) -> String {
    let mut parts = vec![
        format!("{} tokens", sample.response_tokens),
        format!("{} passes", sample.forwards),
        format!("{} tokens per pass", crate::text::number(sample.tpf())),
    ];
    if sample.decode_seconds > 0.0 {
        let tps = sample.response_tokens.saturating_sub(1) as f64 / sample.decode_seconds;
        parts.push(format!("{} tokens/s", crate::text::number(Some(tps))));
    }
    if let Some(correct) = sample.correct {
        parts.push(if correct { "right".to_owned() } else { "wrong".to_owned() });
    }
    if sample.finish_reason == FinishReason::Length {
        parts.push("cut at the length limit".to_owned());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{rows, sample, samples};
    use jacobi_datasets::schema::eval_row::ModelRole;

    #[test]
    fn pairs_share_a_prompt_and_come_in_order() {
        let rows = rows();
        let mut samples = samples();
        samples.push(sample(ModelRole::Trained, "jacobi", "unpaired", &["x"]));
        for id in ["q2", "q3", "q4"] {
            samples.push(sample(ModelRole::Trained, "jacobi", id, &["x"]));
            samples.push(sample(ModelRole::Base, "ar", id, &["x"]));
        }
        let pairs = pairs(&Compared::by_task(&rows)[0], &samples);
        let ids: Vec<&str> = pairs.iter().map(|pair| pair.after.sample_id.as_str()).collect();
        assert_eq!(ids, ["q1", "q2", "q3"]);
        assert!(pairs.iter().all(|pair| pair.before.decoder == "ar" && pair.after.decoder == "jacobi"));
    }

    #[test]
    fn captions() {
        assert_eq!(caption(&samples()[1]), "8 tokens, 3 passes, 2.33 tokens per pass, 28.0 tokens/s, right");
    }
}

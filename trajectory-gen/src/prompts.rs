//! Reads the prompts and judges each: it becomes a candidate with tokens, key and seed for the engine, or is rejected.

use std::collections::{HashSet, VecDeque};

use jacobi_datasets::{
    BadRow, DatasetError, Matching, Prompt, PromptStream, PromptsConfig, Rank, Responses, Rng, Tokenizer,
    stream_prompts,
};
use rayon::prelude::*;

use crate::GenerateError;
use crate::config::{Choice, GenerateConfig, OutOfRange};
use crate::engine::Sample;
use crate::filters::Rule;
use crate::ledger::Rejected;

/// Prompts that are read and encoded at a time, on all cores.
const ENCODED_AHEAD: usize = 256;

/// A prompt to be answered.
pub(crate) struct Candidate {
    /// A hash of sample id and tokens.
    pub(crate) key: u128,
    pub(crate) sample_id: String,
    pub(crate) sample: Sample,
}

/// The outcome of a row of the prompt file.
pub(crate) enum Judged {
    /// The engine has to answer it.
    Candidate(Candidate),
    /// A rule or an error excludes it.
    Rejected(Rejected),
    /// It belongs to another rank.
    OtherRank,
}

/// The settings by which prompts are judged.
#[derive(Clone, Copy)]
pub(crate) struct PromptRules<'a> {
    pub(crate) prompts: &'a PromptsConfig,
    pub(crate) config: &'a GenerateConfig,
    pub(crate) tokenizer: &'a Tokenizer,
    /// Tokens of the model's context.
    pub(crate) context_length: usize,
    pub(crate) rank: Option<Rank>,
    pub(crate) seed: u64,
    /// Given responses: every prompt must have one.
    pub(crate) responses: Option<&'a Responses>,
}

/// An iterator over the rows of the prompt file, judged one by one in their order.
pub(crate) struct PromptJudge<'a> {
    rules: PromptRules<'a>,
    prompts: PromptStream,
    /// Rows that have been read and not judged.
    ahead: VecDeque<ReadRow>,
    given: Option<Matching<'a>>,
    /// Content hashes of earlier prompts.
    seen: HashSet<u128>,
}

/// A row of the prompt file, and the tokens of its prompt unless it belongs to another rank.
type ReadRow = (Result<Result<Prompt, BadRow>, DatasetError>, Option<Result<Vec<u32>, String>>);

impl PromptRules<'_> {
    fn is_ours(&self, content: u128) -> bool {
        self.rank.is_none_or(|rank| rank.owns(content))
    }

    fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, String> {
        let tokens = self.tokenizer.encode_chat(prompt).map_err(|error| {
            let source = std::error::Error::source(&error).map_or_else(String::new, |s| format!(": {s}"));
            format!("{error}{source}")
        })?;
        if tokens.is_empty() { Err("the chat template gives no token".to_owned()) } else { Ok(tokens) }
    }
}

impl<'a> PromptJudge<'a> {
    pub(crate) fn open(rules: PromptRules<'a>) -> Result<Self, GenerateError> {
        let given = rules.responses.map(Responses::matching);
        let prompts = stream_prompts(rules.prompts)?;
        Ok(Self { rules, prompts, ahead: VecDeque::new(), given, seen: HashSet::new() })
    }

    fn read_ahead(&mut self) {
        let rules = self.rules;
        let rows: Vec<_> = self.prompts.by_ref().take(ENCODED_AHEAD).collect();
        let encode = |row: &Result<Result<Prompt, BadRow>, DatasetError>| match row {
            Ok(Ok(prompt)) if rules.is_ours(prompt.content_hash()) => Some(rules.encode(prompt)),
            _ => None,
        };
        let tokens: Vec<_> = rows.par_iter().map(encode).collect();
        self.ahead.extend(rows.into_iter().zip(tokens));
    }

    fn judge(
        &mut self,
        row: Result<Prompt, BadRow>,
        tokens: Option<Result<Vec<u32>, String>>,
    ) -> Result<Judged, GenerateError> {
        let prompt = match row {
            Ok(prompt) => prompt,
            Err(bad) if !self.rules.is_ours(bad.at.number() as u128) => return Ok(Judged::OtherRank),
            Err(bad) => {
                return Ok(Judged::Rejected(Rejected::failed(bad.place(), bad.reason)));
            }
        };
        let Some(tokens) = tokens else { return Ok(Judged::OtherRank) };
        let is_new = self.seen.insert(prompt.content_hash());
        if !is_new && self.rules.config.duplicate_prompts == Choice::Drop {
            let reason = "the same prompt came before".to_owned();
            return Ok(skipped(Rule::DuplicatePrompt, prompt.id, reason));
        }
        match tokens {
            Ok(tokens) => self.check_lengths(prompt, tokens),
            Err(reason) => Ok(Judged::Rejected(Rejected::failed(prompt.id, reason))),
        }
    }

    /// Checks the length of a prompt and that of its given response.
    fn check_lengths(&mut self, prompt: Prompt, mut tokens: Vec<u32>) -> Result<Judged, GenerateError> {
        let PromptRules { config, context_length, .. } = self.rules;
        let longest = config.max_prompt_tokens.min(context_length - 1);
        let range = |reason: String| GenerateError::OutOfRange {
            sample_id: prompt.id.clone(),
            reason,
            setting: "prompts_out_of_range",
        };
        let found = tokens.len();
        if found < config.min_prompt_tokens {
            let reason = format!("{found} prompt tokens, at least {} are wanted", config.min_prompt_tokens);
            return match config.prompts_out_of_range {
                OutOfRange::Fail => Err(range(reason)),
                _ => Ok(skipped(Rule::PromptTooShort, prompt.id, reason)),
            };
        }
        if found > longest {
            let reason = format!("{found} prompt tokens, at most {longest} are taken");
            let cut = match config.prompts_out_of_range {
                OutOfRange::Fail => return Err(range(reason)),
                OutOfRange::Truncate => self.truncate(&prompt, longest),
                OutOfRange::Drop => None,
            };
            let Some(cut) = cut else { return Ok(skipped(Rule::PromptTooLong, prompt.id, reason)) };
            tokens = cut;
        }
        let response = match self.response(&prompt, &tokens)? {
            Ok(response) => response,
            Err(rejected) => return Ok(Judged::Rejected(rejected)),
        };
        let key = key_of(&prompt.id, &tokens);
        let seed = Rng::new(&[self.rules.seed, key as u64, (key >> 64) as u64]).next_u64();
        Ok(Judged::Candidate(Candidate {
            key,
            sample_id: prompt.id,
            sample: Sample { prompt: tokens, response, seed },
        }))
    }

    /// The given response of a prompt, if responses are given, or why the prompt is rejected.
    fn response(
        &mut self,
        prompt: &Prompt,
        tokens: &[u32],
    ) -> Result<Result<Option<Vec<u32>>, Rejected>, GenerateError> {
        let PromptRules { config, context_length, tokenizer, .. } = self.rules;
        let Some(given) = &mut self.given else { return Ok(Ok(None)) };
        let mut response = match given.take(prompt, tokens, tokenizer) {
            Ok(response) => response,
            Err(reason) => return Ok(Err(Rejected::failed(prompt.id.clone(), reason))),
        };
        let longest = config.max_new_tokens.min(context_length - tokens.len());
        if response.len() > longest {
            let reason = format!("{} given response tokens, at most {longest} are taken", response.len());
            let sample_id = prompt.id.clone();
            match config.responses_out_of_range {
                OutOfRange::Truncate => response.truncate(longest),
                OutOfRange::Drop => {
                    return Ok(Err(Rejected::skipped(Rule::ResponseTooLong, sample_id, reason, None)));
                }
                OutOfRange::Fail => {
                    let setting = "responses_out_of_range";
                    return Err(GenerateError::OutOfRange { sample_id, reason, setting });
                }
            }
        }
        Ok(Ok(Some(response)))
    }

    /// The prompt with its last message cut at the end, so that the whole template fits. `None` if the message
    /// is too short for that.
    fn truncate(&self, prompt: &Prompt, longest: usize) -> Option<Vec<u32>> {
        let mut prompt = prompt.clone();
        loop {
            let tokens = self.rules.encode(&prompt).ok()?;
            if tokens.len() <= longest {
                return Some(tokens);
            }
            let last = prompt.messages.last_mut()?;
            let text = last.text();
            let content = self.rules.tokenizer.encode(&text).ok()?;
            let kept = content.len().checked_sub(tokens.len() - longest).filter(|&kept| kept > 0)?;
            let shorter = self.rules.tokenizer.decode_with_special(&content[..kept]);
            // A cut inside a character can leave the text no shorter.
            if shorter.len() >= text.len() {
                return None;
            }
            last.set_text(shorter);
        }
    }
}

impl Iterator for PromptJudge<'_> {
    type Item = Result<Judged, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ahead.is_empty() {
            self.read_ahead();
        }
        match self.ahead.pop_front()? {
            (Ok(row), tokens) => Some(self.judge(row, tokens)),
            (Err(error), _) => Some(Err(error.into())),
        }
    }
}

fn skipped(rule: Rule, prompt: String, reason: String) -> Judged {
    Judged::Rejected(Rejected::skipped(rule, prompt, reason, None))
}

/// The key of a row: a hash of its sample id and prompt, which together with the directory's settings decide it.
pub(crate) fn key_of(sample_id: &str, prompt: &[u32]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(sample_id.len() as u64).to_le_bytes());
    hasher.update(sample_id.as_bytes());
    for token in prompt {
        hasher.update(&token.to_le_bytes());
    }
    u128::from_le_bytes(hasher.finalize().as_bytes()[..16].try_into().expect("16 of 32 bytes"))
}

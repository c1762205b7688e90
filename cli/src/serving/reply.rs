//! Replies: whole, or streamed as server-sent events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::{FinishReason, Tokenizer};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::engine::Event;
use super::error::ApiError;
use super::request::Extras;
use super::spans::{Span, Spans};

/// The fields that all parts of a reply share.
#[derive(Clone, Debug)]
pub struct Head {
    /// `chatcmpl-..` or `cmpl-..`.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The request is a chat request.
    pub is_chat: bool,
}

/// One answer of a reply.
struct Choice<'a> {
    spans: Spans<'a>,
    cancelled: Arc<AtomicBool>,
    tokens: usize,
    passes: usize,
    seconds: f64,
    finish_reason: Option<&'static str>,
}

/// The answers to a request while they are decoded.
pub struct Reply<'a> {
    head: Head,
    events: UnboundedReceiver<(usize, Event)>,
    choices: Vec<Choice<'a>>,
    prompt_tokens: usize,
}

/// A new piece of an answer.
struct Step {
    choice: usize,
    spans: Vec<Span>,
}

impl<'a> Reply<'a> {
    /// The answers whose events arrive on `events`, one for each of `cancel_flags`.
    pub fn new(
        head: Head,
        events: UnboundedReceiver<(usize, Event)>,
        cancel_flags: Vec<Arc<AtomicBool>>,
        (tokenizer, stops): (&'a Tokenizer, &[String]),
        prompt_tokens: usize,
    ) -> Self {
        let choice = |cancelled| Choice {
            spans: Spans::new(tokenizer, stops.to_vec()),
            cancelled,
            tokens: 0,
            passes: 0,
            seconds: 0.0,
            finish_reason: None,
        };
        Self { head, events, choices: cancel_flags.into_iter().map(choice).collect(), prompt_tokens }
    }

    /// The next piece of any answer; none when all are complete.
    async fn step(&mut self) -> Option<Result<Step, ApiError>> {
        while self.choices.iter().any(|choice| choice.finish_reason.is_none()) {
            let Some((at, event)) = self.events.recv().await else {
                return Some(Err(ApiError::engine_stopped()));
            };
            let choice = &mut self.choices[at];
            if choice.finish_reason.is_some() {
                continue;
            }
            let spans = choice.take_event(event);
            if !spans.is_empty() || choice.finish_reason.is_some() {
                return Some(Ok(Step { choice: at, spans }));
            }
        }
        None
    }

    /// The whole reply.
    ///
    /// # Errors
    /// If the model's thread has ended.
    pub async fn whole(mut self) -> Result<Value, ApiError> {
        let mut texts = vec![String::new(); self.choices.len()];
        while let Some(step) = self.step().await {
            let Step { choice, spans } = step?;
            texts[choice].extend(spans.iter().map(|span| span.text.as_str()));
        }
        let choices = self.choices.iter().zip(texts).enumerate().map(|(index, (choice, text))| {
            let mut fields = json!({"index": index, "finish_reason": choice.finish_reason, "logprobs": null});
            match self.head.is_chat {
                true => fields["message"] = json!({"role": "assistant", "content": text}),
                false => fields["text"] = text.into(),
            }
            fields
        });
        let mut whole = self.head.part(if self.head.is_chat { "chat.completion" } else { "text_completion" });
        whole.insert("choices".to_owned(), choices.collect());
        whole.insert("usage".to_owned(), self.usage());
        Ok(Value::Object(whole))
    }

    fn usage(&self) -> Value {
        let tokens: usize = self.choices.iter().map(|choice| choice.tokens).sum();
        let passes: usize = self.choices.iter().map(|choice| choice.passes).sum();
        // The first token of each answer comes from the prefill.
        let decoded = tokens.saturating_sub(self.choices.len());
        let per_pass = (passes > 0).then(|| decoded as f64 / passes as f64);
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
            "jacobi": {"passes": passes, "tokens_per_pass": per_pass},
        })
    }
}

impl Choice<'_> {
    /// Processes an event and returns the text that can be sent.
    fn take_event(&mut self, event: Event) -> Vec<Span> {
        match event {
            Event::Tokens { tokens, passes, seconds } => {
                (self.passes, self.seconds) = (passes, seconds);
                for (token, source) in tokens {
                    self.tokens += 1;
                    self.spans.push(token, source);
                    if self.spans.is_stopped() {
                        self.cancelled.store(true, Ordering::Relaxed);
                        self.finish_reason = Some("stop");
                        return self.spans.finish();
                    }
                }
                self.spans.take()
            }
            Event::Done(reason) => {
                let spans = self.spans.finish();
                let stopped = self.spans.is_stopped() || reason == FinishReason::Eos;
                self.finish_reason = Some(if stopped { "stop" } else { "length" });
                spans
            }
        }
    }
}

impl Head {
    fn part(&self, object: &str) -> Map<String, Value> {
        let fields = json!({"id": self.id, "object": object, "created": self.created, "model": self.model});
        fields.as_object().cloned().expect("an object was written")
    }
}

/// A reply as the data of server-sent events.
pub struct Chunks<'a> {
    reply: Reply<'a>,
    extras: Extras,
    /// Data to send before the next piece.
    ready: VecDeque<String>,
    ended: bool,
}

impl<'a> Chunks<'a> {
    /// The stream of a reply, with these extras.
    pub fn new(reply: Reply<'a>, extras: Extras) -> Self {
        let mut chunks = Self { reply, extras, ready: VecDeque::new(), ended: false };
        if chunks.reply.head.is_chat {
            for index in 0..chunks.reply.choices.len() {
                let delta = json!({"role": "assistant", "content": ""});
                let choice = json!({"index": index, "delta": delta, "finish_reason": null});
                chunks.ready.push_back(chunks.chunk(&json!([choice])).to_string());
            }
        }
        chunks
    }

    /// The next data; none when the stream ends.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            if self.ended {
                return None;
            }
            match self.reply.step().await {
                Some(Ok(step)) => self.push_step(step),
                Some(Err(error)) => {
                    self.ended = true;
                    self.ready.push_back(error.to_json().to_string());
                }
                None => self.end(),
            }
        }
    }

    fn push_step(&mut self, Step { choice: index, spans }: Step) {
        let choice = &self.reply.choices[index];
        let finish_reason = choice.finish_reason;
        if !spans.is_empty() {
            let text: String = spans.iter().map(|span| span.text.as_str()).collect();
            let mut chunk = self.chunk(&json!([self.piece(index, Some(text), None)]));
            if self.extras.spans {
                let spans: Vec<Value> = spans.iter().map(Span::to_json).collect();
                chunk["jacobi"] = json!({
                    "passes": choice.passes, "tokens": choice.tokens, "seconds": choice.seconds, "spans": spans,
                });
            }
            self.ready.push_back(chunk.to_string());
        }
        if finish_reason.is_some() {
            let chunk = self.chunk(&json!([self.piece(index, None, finish_reason)]));
            self.ready.push_back(chunk.to_string());
        }
    }

    fn piece(&self, index: usize, text: Option<String>, finish_reason: Option<&str>) -> Value {
        match self.reply.head.is_chat {
            true => {
                let delta = text.map_or(json!({}), |text| json!({"content": text}));
                json!({"index": index, "delta": delta, "finish_reason": finish_reason})
            }
            false => {
                json!({"index": index, "text": text.unwrap_or_default(), "finish_reason": finish_reason})
            }
        }
    }

    fn chunk(&self, choices: &Value) -> Value {
        let object = if self.reply.head.is_chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = self.reply.head.part(object);
        chunk.insert("choices".to_owned(), choices.clone());
        Value::Object(chunk)
    }

    fn end(&mut self) {
        self.ended = true;
        if self.extras.usage {
            let mut chunk = self.chunk(&json!([]));
            chunk["usage"] = self.reply.usage();
            self.ready.push_back(chunk.to_string());
        }
        self.ready.push_back("[DONE]".to_owned());
    }
}

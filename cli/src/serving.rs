//! `jacobi serve`: an HTTP server with OpenAI's API. Any number of connections; one thread owns the model and decodes
//! requests in a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event as SseEvent, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jacobi_datasets::Tokenizer;
use jacobi_decoder::{Request, Room, Sampling, Settings, StopRules, Strategy};
use serde_json::{Value, json};

mod engine;
mod error;
mod metrics;
mod reply;
mod request;
mod spans;

pub use engine::Engine;
pub use metrics::Metrics;

use engine::Job;
use error::ApiError;
use reply::{Chunks, Head, Reply};
use request::{ApiRequest, Prompt};

/// Settings of a server.
#[derive(Debug)]
pub struct Serving {
    /// The name that clients know the model by.
    pub model: String,
    /// The decoder's display name.
    pub label: String,
    /// The decoder's settings.
    pub decoder: Value,
    /// The decoder. Each request has its own sampling and stop rules.
    pub settings: Settings,
    /// Maximum tokens of a prompt and its answer together.
    pub context: usize,
    /// Number of token ids that have an embedding.
    pub vocabulary: usize,
    /// Limits of the batch.
    pub room: Room,
    /// Maximum number of answers that wait for a slot.
    pub max_queue: usize,
    /// Maximum bytes of a request's body.
    pub max_body: usize,
    /// API key that clients must send; `None` accepts everybody.
    pub api_key: Option<String>,
    /// The server listens on a loopback address.
    pub is_local: bool,
}

/// State shared by all requests.
struct App {
    serving: Serving,
    engine: Engine,
    tokenizer: &'static Tokenizer,
    metrics: Arc<Metrics>,
    /// Requests so far. Ids and default seeds are derived from it.
    serial: AtomicU64,
    started: u64,
}

/// The routes. `tokenizer` lives as long as the process.
pub fn router(
    serving: Serving,
    engine: Engine,
    tokenizer: &'static Tokenizer,
    metrics: Arc<Metrics>,
) -> Router {
    let max_body = serving.max_body;
    let app =
        Arc::new(App { serving, engine, tokenizer, metrics, serial: AtomicU64::new(0), started: now() });
    let guarded = Router::new()
        .route("/v1/chat/completions", post(|State(app), body| answer(app, true, body)))
        .route("/v1/completions", post(|State(app), body| answer(app, false, body)))
        .route("/v1/models", get(models))
        .route("/metrics", get(|State(app): State<Arc<App>>| async move { app.metrics.to_text() }))
        .route_layer(middleware::from_fn_with_state(app.clone(), admit));
    guarded
        .route("/", get(|| async { Html(include_str!("serving/page.html")) }))
        .route("/health", get(health))
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such endpoint") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this endpoint does not accept this method",
            )
        })
        .layer(DefaultBodyLimit::max(max_body))
        .with_state(app)
}

/// Checks the API key. A server on a loopback address without a key answers this machine only: it refuses the requests
/// that a foreign web page could make a browser send: with that page's Host header, or a body not declared as JSON.
async fn admit(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    request: HttpRequest,
    next: Next,
) -> Response {
    let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let given = header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    // Hashes are compared in constant time, so that the response time reveals nothing about the key.
    let hash = |key: &str| blake3::hash(key.as_bytes());
    let is_json = header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    let refusal = match &app.serving.api_key {
        Some(key) if given.is_none_or(|given| hash(given) != hash(key)) => Some((
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "the API key is missing or wrong: send it as `Authorization: Bearer KEY`",
        )),
        None if app.serving.is_local && !header(header::HOST).is_some_and(is_local_host) => Some((
            StatusCode::FORBIDDEN,
            "foreign_host",
            "without an API key this server answers requests to localhost only: start it with --api-key",
        )),
        _ if request.method() == Method::POST && !is_json => Some((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not_json",
            "send the body as `Content-Type: application/json`",
        )),
        _ => None,
    };
    match refusal {
        Some((status, code, message)) => ApiError::new(status, code, message).into_response(),
        None => next.run(request).await,
    }
}

/// Whether a Host header is a loopback name.
fn is_local_host(host: &str) -> bool {
    let port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    ["localhost", "127.0.0.1", "[::1]"].contains(&port.map_or(host, |(name, _)| name))
}

async fn health(State(app): State<Arc<App>>) -> Response {
    match app.engine.is_alive() {
        true => Json(json!({"status": "ok"})).into_response(),
        false => ApiError::engine_stopped().into_response(),
    }
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let Serving { model, label, decoder, context, .. } = &app.serving;
    Json(json!({"object": "list", "data": [{
        "id": model, "object": "model", "created": app.started, "owned_by": "jacobi", "max_model_len": context,
        "jacobi": {"label": label, "decoder": decoder},
    }]}))
}

async fn answer(app: Arc<App>, is_chat: bool, body: Result<Bytes, BytesRejection>) -> Response {
    app.metrics.requests.add(1);
    app.clone().answer(is_chat, body).await.unwrap_or_else(|error| {
        app.metrics.errors.add(1);
        error.into_response()
    })
}

impl App {
    async fn answer(
        self: Arc<Self>,
        is_chat: bool,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<Response, ApiError> {
        let body = body.map_err(|error| ApiError::new(error.status(), "body", error.body_text()))?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let asked = ApiRequest::read(&body, is_chat, serial ^ self.started.rotate_left(32))?;
        let served = &self.serving.model;
        if let Some(model) = asked.model.as_ref().filter(|model| *model != served) {
            let message = format!("the model {model} is not available; this server has {served}");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message));
        }
        let app = self.clone();
        // Tokenizing a long text must not delay other streams.
        let encoded = tokio::task::spawn_blocking(move || {
            let prompts =
                asked.prompts.iter().map(|prompt| app.encode(prompt)).collect::<Result<Vec<_>, _>>();
            prompts.map(|prompts| (asked, prompts))
        });
        let (asked, prompts) = encoded.await.map_err(|_| ApiError::engine_stopped())??;
        let reply = self.submit(&asked, prompts, is_chat, serial)?;
        let Some(extras) = asked.stream else {
            return Ok(Json(reply.whole().await?).into_response());
        };
        let chunks = Chunks::new(reply, extras);
        let events = futures_util::stream::unfold(chunks, |mut chunks| async move {
            let data = chunks.next().await?;
            Some((Ok::<_, std::convert::Infallible>(SseEvent::default().data(data)), chunks))
        });
        Ok(Sse::new(events).into_response())
    }

    /// Queues every answer of a request.
    fn submit(
        &self,
        asked: &ApiRequest,
        prompts: Vec<Vec<u32>>,
        is_chat: bool,
        serial: u64,
    ) -> Result<Reply<'static>, ApiError> {
        let prompt_tokens = prompts.iter().map(Vec::len).sum();
        let requests: Vec<Request> = prompts
            .into_iter()
            .flat_map(|prompt| (0..asked.choices).map(move |choice| (prompt.clone(), choice)))
            .map(|(prompt, choice)| self.request(asked, prompt, choice))
            .collect::<Result<_, _>>()?;
        let most = self.serving.room.slots + self.serving.max_queue;
        if requests.len() > most {
            let message =
                format!("{} answers were requested; this server accepts {most} at once", requests.len());
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", message));
        }
        let waiting = self.metrics.queue.get();
        let all = self.metrics.running.get() + waiting + requests.len();
        if all > most {
            let message = format!("{waiting} answers are already waiting: try again later");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message));
        }
        let (events, receiver) = tokio::sync::mpsc::unbounded_channel();
        let mut cancel_flags = Vec::new();
        for (choice, request) in requests.into_iter().enumerate() {
            let cancelled = Arc::new(AtomicBool::new(false));
            cancel_flags.push(cancelled.clone());
            self.metrics.queue.add(1);
            if !self.engine.submit(Job { request, choice, events: events.clone(), cancelled }) {
                return Err(ApiError::engine_stopped());
            }
        }
        let prefix = if is_chat { "chatcmpl" } else { "cmpl" };
        let head = Head {
            id: format!("{prefix}-{}-{serial}", self.started),
            created: now(),
            model: self.serving.model.clone(),
            is_chat,
        };
        Ok(Reply::new(head, receiver, cancel_flags, (self.tokenizer, &asked.stops), prompt_tokens))
    }

    fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, ApiError> {
        let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", message);
        let ids = match prompt {
            Prompt::Chat(messages, variables) => {
                let tokenizer = self.tokenizer.with_variables(variables.clone());
                tokenizer.encode_chat(messages).map_err(|error| bad(error.to_string()))?
            }
            Prompt::Text(text) => self.tokenizer.encode_raw(text).map_err(|error| bad(error.to_string()))?,
            Prompt::Ids(ids) => ids.clone(),
        };
        let vocabulary = self.serving.vocabulary;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(bad(format!("the prompt has the token id {id}; ids must be below {vocabulary}")));
        }
        match ids.len() {
            0 => Err(bad("the prompt is empty".to_owned())),
            _ => Ok(ids),
        }
    }

    fn request(&self, asked: &ApiRequest, prompt: Vec<u32>, choice: usize) -> Result<Request, ApiError> {
        let Serving { context, settings, .. } = &self.serving;
        let left = context.saturating_sub(prompt.len());
        let max_new_tokens = asked.max_tokens.unwrap_or(left);
        if left == 0 || max_new_tokens > left {
            let remedy = match left {
                0 => "shorten the prompt".to_owned(),
                _ => format!("max_tokens can be at most {left}"),
            };
            let message = format!(
                "the prompt has {} tokens and asks for up to {max_new_tokens} new ones, but the context holds {context}: \
                 {remedy}",
                prompt.len()
            );
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message));
        }
        let stop = StopRules { max_new_tokens, eos_token_ids: self.tokenizer.eos_token_ids().to_vec() };
        let mut sampling = asked.sampling.clone();
        if let Sampling::Random(random) = &mut sampling {
            random.seed = random.seed.wrapping_add(choice as u64);
        }
        let settings = match asked.autoregressive {
            true => Settings::greedy(Strategy::Autoregressive, stop),
            false => Settings { stop, ..settings.clone() },
        };
        Ok(Request::new(prompt, Settings { sampling, ..settings }))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

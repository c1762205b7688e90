//! `jacobi serve` over real connections, on the small model that ships here.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[path = "random_adapter.rs"]
mod random_adapter;

const BINARY: &str = env!("CARGO_BIN_EXE_jacobi");
const MODEL: &str = "datasets/default/model";
const JSON: &str = "Content-Type: application/json\r\n";
const QUESTION: &str = "Anna has 3 apples and buys 4 more. How many apples does Anna have now?";

/// A running server; it is killed when the test ends.
struct Server {
    process: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An HTTP response.
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The data of server-sent events.
    fn events(&self) -> Vec<&str> {
        self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }
}

impl Server {
    fn start(more: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut command = Command::new(BINARY);
        command.current_dir(root).args([
            "serve",
            "--model",
            MODEL,
            "--port",
            "0",
            "--decoder",
            "multi-block",
        ]);
        command.args(more).env_remove("JACOBI_API_KEY").stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.starts_with("serve: "))).unwrap();
        // Keeps reading its output, so that a full pipe does not block it.
        std::thread::spawn(move || lines.for_each(drop));
        let address = line.split("http://").nth(1).unwrap().split(',').next().unwrap().to_owned();
        Self { process, address }
    }

    /// Sends a request and leaves the connection open.
    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (length, host) = (body.len(), &self.address);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        // A server that refuses a body may close before it has read all of it.
        let _ = stream.write_all((head + body).as_bytes());
        stream
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        read(self.send(method, path, headers, body))
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, JSON, &body.to_string())
    }

    fn chat(&self, more: Value) -> Answer {
        self.post("/v1/chat/completions", &chat(more))
    }

    /// A figure of /metrics.
    fn figure(&self, name: &str) -> usize {
        let text = self.ask("GET", "/metrics", "", "").body;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("jacobi_{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !holds(self) {
            assert!(since.elapsed() < Duration::from_secs(60), "{what} does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A greedy chat request with further fields.
fn chat(more: Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 48});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A connection reset after a refusal does not lose the bytes read before.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    Answer { status, body: if chunked { unchunked(body) } else { body.to_owned() } }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole += &rest[..size];
        body = &rest[size + 2..];
        if size == 0 {
            break;
        }
    }
    whole
}

fn text(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// The response of `jacobi decode` to the question.
fn decoded(max_new_tokens: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let arguments = ["decode", "--model", MODEL, "--decoder", "ar", "--json", "--prompt", QUESTION];
    let output = Command::new(BINARY)
        .current_dir(root)
        .args(arguments)
        .args(["--max-new-tokens", max_new_tokens])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn answers_equal_those_of_decode_whole_or_streamed_under_either_decoder() {
    let server = Server::start(&[]);
    let expected = decoded("48");
    let whole = server.chat(json!({}));
    assert_eq!(text(&whole), expected["text"].as_str().unwrap());
    let usage = &whole.json()["usage"];
    assert_eq!(usage["completion_tokens"], expected["response_tokens"].as_array().unwrap().len());
    assert_eq!(usage["prompt_tokens"], expected["prompt_tokens"].as_array().unwrap().len());
    assert!(usage["jacobi"]["tokens_per_pass"].as_f64().unwrap() > 1.0, "{usage}");
    for (jacobi, sources) in
        [(json!({"spans": true}), true), (json!({"spans": true, "decoder": "ar"}), false)]
    {
        let more = json!({"stream": true, "stream_options": {"include_usage": true}, "jacobi": jacobi});
        let streamed = server.chat(more);
        let events = streamed.events();
        assert_eq!(events.last(), Some(&"[DONE]"));
        let events: Vec<Value> =
            events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let content: String =
            events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(content, expected["text"].as_str().unwrap());
        let spans: Vec<&Value> =
            events.iter().filter_map(|event| event["jacobi"]["spans"].as_array()).flatten().collect();
        let joined: String = spans.iter().map(|span| span["text"].as_str().unwrap()).collect();
        assert_eq!(joined, content);
        assert_eq!(spans.iter().any(|span| span["from"] != "model"), sources, "{spans:?}");
        let last = &events[events.len() - 1];
        assert_eq!(last["usage"]["completion_tokens"], usage["completion_tokens"]);
        assert_eq!(last["usage"]["jacobi"]["tokens_per_pass"].as_f64().unwrap() > 1.0, sources);
        assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn an_adapter_changes_no_answer_and_drafts_for_all_requests_of_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(MODEL);
    random_adapter::save(&model, model.to_str().unwrap(), directory.path());
    let (plain, drafting) =
        (Server::start(&[]), Server::start(&["--adapter", directory.path().to_str().unwrap()]));
    let bodies: Vec<Value> = (1..9)
        .map(|n| {
            let question = format!("Tom has {n} pens and gets 5 more. How many pens does Tom have?");
            let sampled = json!({"temperature": (n % 2) as f64, "seed": n, "max_tokens": 6 * n});
            let mut body = chat(json!({"messages": [{"role": "user", "content": question}]}));
            body.as_object_mut().unwrap().extend(sampled.as_object().unwrap().clone());
            body
        })
        .collect();
    let answers = |server: &Server| -> Vec<String> {
        let send = |body: &Value| server.send("POST", "/v1/chat/completions", JSON, &body.to_string());
        let streams: Vec<TcpStream> = bodies.iter().map(send).collect();
        streams.into_iter().map(|stream| text(&read(stream))).collect()
    };
    assert_eq!(answers(&drafting), answers(&plain));
    // After the prefill, of each answer by itself: how many share a pass depends on when they arrive.
    let rows = |server: &Server| {
        let decoded = server.figure("rows_total") - server.figure("prompt_tokens_total");
        decoded as f64 / server.figure("response_passes_total") as f64
    };
    assert!(rows(&drafting) > 1.2 * rows(&plain), "{} and {}", rows(&drafting), rows(&plain));
}

#[test]
fn stop_strings_lengths_choices_seeds_and_plain_completions_are_honoured() {
    let server = Server::start(&[]);
    let whole = text(&server.chat(json!({})));
    let stop = &whole[whole.char_indices().nth(9).unwrap().0..][..4];
    let stopped = server.chat(json!({"stop": [stop]}));
    assert_eq!(text(&stopped), whole[..whole.find(stop).unwrap()]);
    assert_eq!(stopped.json()["choices"][0]["finish_reason"], "stop");
    let short = server.chat(json!({"max_tokens": 3}));
    assert_eq!(short.json()["choices"][0]["finish_reason"], "length");
    assert_eq!(short.json()["usage"]["completion_tokens"], 3);
    // Each of several answers has its own noise, the same for the same seed.
    let drawn = |seed: i64, n: usize| {
        let answer = server.chat(json!({"temperature": 2.0, "seed": seed, "n": n, "max_tokens": 12})).json();
        let choices = answer["choices"].as_array().unwrap().clone();
        choices
            .iter()
            .map(|choice| choice["message"]["content"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let three = drawn(5, 3);
    assert_eq!(three, drawn(5, 3));
    assert_eq!(three[1..], [drawn(6, 1), drawn(7, 1)].concat());
    assert!(three[0] != three[1] || three[1] != three[2], "{three:?}");
    let ids = decoded("8")["prompt_tokens"].clone();
    let completion =
        server.post("/v1/completions", &json!({"prompt": ids, "temperature": 0, "max_tokens": 48}));
    assert_eq!(completion.json()["choices"][0]["text"], whole);
}

#[test]
fn refused_requests_have_a_status_and_a_reason() {
    let server =
        Server::start(&["--max-body", "2000", "--api-key", "secret", "--slots", "1", "--max-queue", "0"]);
    let key = "Authorization: Bearer secret\r\nContent-Type: application/json\r\n";
    let refused = |method: &str, path: &str, headers: &str, body: String, status: u16, part: &str| {
        let answer = server.ask(method, path, headers, &body);
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(part), "{message}");
        assert!(!message.contains("secret"), "{message}");
    };
    let path = "/v1/chat/completions";
    refused("POST", path, "", chat(json!({})).to_string(), 401, "API key");
    refused("POST", path, "Authorization: Bearer wrong\r\n", chat(json!({})).to_string(), 401, "API key");
    refused("GET", "/metrics", "", String::new(), 401, "API key");
    refused("POST", path, "Authorization: Bearer secret\r\n", "{}".to_owned(), 415, "application/json");
    refused("POST", path, key, "{".to_owned(), 400, "not a request");
    refused("POST", path, key, "[".repeat(1500), 400, "not a request");
    refused("POST", path, key, chat(json!({"tools": [{}]})).to_string(), 400, "tools");
    refused("POST", path, key, chat(json!({"max_tokens": 100_000})).to_string(), 400, "100000 new ones");
    refused("POST", path, key, chat(json!({"model": "other"})).to_string(), 404, "other is not available");
    refused("POST", path, key, " ".repeat(2001), 413, "length limit");
    refused("POST", "/v1/completions", key, r#"{"prompt": [999999]}"#.to_owned(), 400, "token id 999999");
    refused("POST", "/v1/completions", key, r#"{"prompt": ""}"#.to_owned(), 400, "empty");
    refused("GET", path, key, String::new(), 405, "does not accept this method");
    refused("GET", "/v1/nothing", key, String::new(), 404, "no such endpoint");
    refused("POST", path, key, chat(json!({"n": 2})).to_string(), 400, "accepts 1 at once");
    // One slot and no queue.
    let long = json!({"prompt": QUESTION, "temperature": 2.0, "max_tokens": 400, "stream": true}).to_string();
    let stream = server.send("POST", "/v1/completions", key, &long);
    let running = || server.ask("GET", "/metrics", key, "").body.contains("jacobi_running 1");
    while !running() {
        std::thread::sleep(Duration::from_millis(5));
    }
    refused("POST", path, key, chat(json!({})).to_string(), 429, "try again later");
    drop(stream);
    while running() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.ask("POST", path, key, &chat(json!({})).to_string()).status, 200);
    assert_eq!(server.ask("GET", "/health", "", "").status, 200);
    assert!(server.ask("GET", "/", "", "").body.to_lowercase().starts_with("<!doctype html>"));
    let models = server.ask("GET", "/v1/models", key, "").json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["jacobi"]["decoder"]["name"]),
        (&json!(MODEL), &json!("multi_block"))
    );
}

/// A web page elsewhere can have a browser here send requests: but not as JSON without being asked first, and not with a
/// Host header of this machine.
#[test]
fn without_a_key_the_server_answers_local_requests_only() {
    let server = Server::start(&[]);
    let body = chat(json!({})).to_string();
    for (headers, host, status) in [
        (JSON, "127.0.0.1", 200),
        (JSON, "localhost:8000", 200),
        (JSON, "[::1]:8000", 200),
        (JSON, "[::1]", 200),
        (JSON, "evil.example", 403),
        ("Content-Type: text/plain\r\n", "localhost", 415),
    ] {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let length = body.len();
        let start = "POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n";
        let head = format!("{start}Host: {host}\r\nContent-Length: {length}\r\n{headers}\r\n");
        stream.write_all((head + &body).as_bytes()).unwrap();
        assert_eq!(read(stream).status, status, "{host} {headers}");
    }
}

#[test]
fn concurrent_clients_get_the_same_answers_as_alone_and_disconnecting_frees_a_slot() {
    let server = Server::start(&["--slots", "3"]);
    let bodies: Vec<Value> = (1..13).map(|n| chat(json!({"max_tokens": n * 3, "messages": [{"role": "user", "content": format!("Tom has {n} pens and gets 5 more.")}]}))).collect();
    let alone: Vec<String> =
        bodies.iter().map(|body| text(&server.post("/v1/chat/completions", body))).collect();
    let streams: Vec<TcpStream> = bodies
        .iter()
        .map(|body| server.send("POST", "/v1/chat/completions", JSON, &body.to_string()))
        .collect();
    let together: Vec<String> = streams.into_iter().map(|stream| text(&read(stream))).collect();
    assert_eq!(together, alone);
    // Long answers whose readers go away.
    let long = json!({"prompt": QUESTION, "temperature": 2.0, "max_tokens": 400, "stream": true});
    let streams: Vec<TcpStream> =
        (0..5).map(|_| server.send("POST", "/v1/completions", JSON, &long.to_string())).collect();
    server.wait_for("a running answer", |server| server.figure("running") > 0);
    drop(streams);
    server.wait_for("the end of abandoned answers", |server| {
        server.figure("running") + server.figure("queue") == 0
    });
    // Three tokens take three passes at most, if no slot is still held by an answer of hundreds.
    let before = server.figure("passes_total");
    assert_eq!(text(&server.post("/v1/chat/completions", &bodies[0])), alone[0]);
    let passes = server.figure("passes_total") - before;
    assert!(passes <= 3, "{passes} passes");
}

#[test]
fn after_a_signal_answers_are_finished_and_the_server_ends() {
    let mut server = Server::start(&["--slots", "2"]);
    let long = json!({"prompt": QUESTION, "temperature": 2.0, "max_tokens": 300, "stream": true, "seed": 1});
    let streams: Vec<TcpStream> =
        (0..4).map(|_| server.send("POST", "/v1/completions", JSON, &long.to_string())).collect();
    server.wait_for("running answers", |server| server.figure("running") == 2);
    let killed = Command::new("kill").args(["-TERM", &server.process.id().to_string()]).status().unwrap();
    assert!(killed.success());
    for stream in streams {
        assert_eq!(read(stream).events().last(), Some(&"[DONE]"));
    }
    assert!(server.process.wait().unwrap().success());
    assert!(TcpStream::connect(&server.address).is_err(), "nobody listens any more");
}

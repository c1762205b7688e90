//! A local server that plays the Hugging Face hub for downloads: redirects, commits, tokens, lists; or gives the answers of
//! a test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

/// The commit of every revision.
pub const COMMIT: &str = "0123456789012345678901234567890123456789";
/// The store refuses files of this name, as it does when a link has expired.
pub const EXPIRED: &str = "expired.jsonl";

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// By names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    /// The header that carries the token.
    pub fn authorization(&self) -> Option<&str> {
        self.headers.get("authorization").map(String::as_str)
    }
}

/// Status, further headers and body.
pub type Answer = (&'static str, String, Vec<u8>);

/// The hub, until the process ends.
pub struct HubServer {
    /// Its address.
    pub endpoint: String,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl HubServer {
    /// Serves `files`, named `datasets/ORG/NAME/FILE` or `models/ORG/NAME/FILE`, through a redirect as large ones come.
    pub fn start<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let files: BTreeMap<String, Vec<u8>> =
            files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        Self::answering(move |request, endpoint, _| download(&request.path, endpoint, &files))
    }

    /// Gives the answers of `answer`, which sees the request, the address of this server and all requests so far.
    pub fn answering(answer: impl Fn(&Request, &str, &[Request]) -> Answer + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Request>>>::default();
        let (log, at) = (Arc::clone(&asked), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, at, answer) = (Arc::clone(&log), at.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(request) = read(&stream) else { return };
                    let (status, head, mut body) = {
                        let mut log = log.lock().unwrap();
                        let answer = answer(&request, &at, &log);
                        log.push(request.clone());
                        answer
                    };
                    let head = format!(
                        "HTTP/1.1 {status}\r\nConnection: close\r\n{head}Content-Length: {}\r\n\r\n",
                        body.len()
                    );
                    if request.method == "HEAD" {
                        body.clear();
                    }
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                });
            }
        });
        Self { endpoint, asked }
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
        .collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |bytes| bytes.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}

/// The answer to a request for a file, at the hub or in its store, or for a list.
fn download(path: &str, endpoint: &str, files: &BTreeMap<String, Vec<u8>>) -> Answer {
    if let Some(name) = resolved(path).filter(|name| files.contains_key(name)) {
        let (tag, bytes) = (name.replace('/', "-"), files[&name].len());
        let head = format!(
            "x-repo-commit: {COMMIT}\r\nx-linked-etag: \"{tag}\"\r\nx-linked-size: {bytes}\r\nLocation: {endpoint}/cdn/{name}\r\n"
        );
        return ("302 Found", head, Vec::new());
    }
    match path.strip_prefix("/cdn/").and_then(|name| files.get(name)) {
        Some(_) if path.ends_with(EXPIRED) => {
            ("403 Forbidden", String::new(), b"the link has expired".to_vec())
        }
        Some(bytes) => ("200 OK", String::new(), bytes.clone()),
        None => match listed(path, files) {
            Some(list) => ("200 OK", "Content-Type: application/json\r\n".to_owned(), list.into_bytes()),
            None => ("404 Not Found", String::new(), b"no such thing".to_vec()),
        },
    }
}

/// The file of `/[datasets/]ORG/NAME/resolve/REVISION/FILE`.
fn resolved(path: &str) -> Option<String> {
    let (repo, rest) = path.trim_start_matches('/').split_once("/resolve/")?;
    let (_, file) = rest.split_once('/')?;
    let kind = if repo.starts_with("datasets/") { "" } else { "models/" };
    Some(format!("{kind}{repo}/{file}"))
}

/// The list of `/api/KIND/ORG/NAME/tree/main`.
fn listed(path: &str, files: &BTreeMap<String, Vec<u8>>) -> Option<String> {
    let (path, _) = path.split_once('?')?;
    let repo = path.strip_prefix("/api/")?.strip_suffix("/tree/main")?;
    let name_of = |name: &String| Some(name.strip_prefix(repo)?.strip_prefix('/')?.to_owned());
    let entry = |(name, bytes): (&String, &Vec<u8>)| {
        Some(json!({"type": "file", "oid": COMMIT, "size": bytes.len(), "path": name_of(name)?}))
    };
    Some(json!(files.iter().filter_map(entry).collect::<Vec<_>>()).to_string())
}

//! A server on this machine that plays the Hugging Face hub for those who fetch: ranges, redirects, commits, tokens, lists.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What every revision points at.
pub const COMMIT: &str = "0123456789012345678901234567890123456789";

/// What was asked: path and token.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// Contents by `datasets/ORG/NAME/FILE` or `models/ORG/NAME/FILE`.
type Files = Arc<BTreeMap<String, Vec<u8>>>;

/// The hub, until the process ends.
pub struct HubServer {
    /// Its address.
    pub endpoint: String,
    asked: Asked,
}

impl HubServer {
    /// Serves `files`, named `datasets/ORG/NAME/FILE` or `models/ORG/NAME/FILE`, through a redirect as large ones come.
    pub fn start<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Asked::default();
        let files: Files =
            Arc::new(files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect());
        let (log, at) = (Arc::clone(&asked), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, at, files) = (Arc::clone(&log), at.clone(), Arc::clone(&files));
                std::thread::spawn(move || answer(stream.unwrap(), &at, &files, &log));
            }
        });
        Self { endpoint, asked }
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<(String, Option<String>)> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, endpoint: &str, files: &Files, asked: &Asked) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(path) = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)) else { return };
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
        .collect();
    asked.lock().unwrap().push((path.clone(), headers.get("authorization").cloned()));
    let mut head = "Connection: close\r\n".to_owned();
    let (status, body) = if let Some(name) = resolved(&path).filter(|name| files.contains_key(name)) {
        head += &format!("x-repo-commit: {COMMIT}\r\nx-linked-etag: \"{}\"\r\n", name.replace('/', "-"));
        head += &format!("Location: {endpoint}/cdn/{name}\r\n");
        ("302 Found", Vec::new())
    } else if let Some(bytes) = path.strip_prefix("/cdn/").and_then(|name| files.get(name)) {
        let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")).unwrap_or("0-");
        let (start, end) = range.split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(bytes.len(), |end: usize| (end + 1).min(bytes.len()));
        head += &format!("Content-Range: bytes {start}-{}/{}\r\n", end.saturating_sub(1), bytes.len());
        ("206 Partial Content", bytes[start..end].to_vec())
    } else if let Some(list) = listed(&path, files) {
        head += "Content-Type: application/json\r\n";
        ("200 OK", list.into_bytes())
    } else {
        ("404 Not Found", b"no such thing".to_vec())
    };
    let head = format!("HTTP/1.1 {status}\r\n{head}Content-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// Which file `/[datasets/]ORG/NAME/resolve/REVISION/FILE` means.
fn resolved(path: &str) -> Option<String> {
    let (repo, rest) = path.trim_start_matches('/').split_once("/resolve/")?;
    let (_, file) = rest.split_once('/')?;
    let kind = if repo.starts_with("datasets/") { "" } else { "models/" };
    Some(format!("{kind}{repo}/{file}"))
}

/// What `/api/KIND/ORG/NAME/revision/main` lists.
fn listed(path: &str, files: &Files) -> Option<String> {
    let repo = path.strip_prefix("/api/")?.strip_suffix("/revision/main")?;
    let names = files.keys().filter_map(|name| name.strip_prefix(repo)?.strip_prefix('/'));
    let siblings: Vec<String> = names.map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
    Some(format!("{{\"siblings\": [{}], \"sha\": \"{COMMIT}\"}}", siblings.join(", ")))
}

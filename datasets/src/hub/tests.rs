//! Against a server on this machine that speaks the hub's protocol: ranges, redirects, commits, tokens, file lists.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::*;
use crate::prompts::{PromptsConfig, read_prompts};

const COMMIT: &str = "0123456789012345678901234567890123456789";

/// What was asked: path and token.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

struct Server {
    endpoint: String,
    asked: Asked,
}

/// Serves `files` as `KIND/o/n`, through a redirect as the hub's large files come.
fn serve(kind: &'static str, files: &[(&str, &str)]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let files: BTreeMap<String, Vec<u8>> =
        files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
    let (log, at) = (Arc::clone(&asked), endpoint.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (log, at, files) = (Arc::clone(&log), at.clone(), files.clone());
            std::thread::spawn(move || answer(stream.unwrap(), kind, &at, &files, &log));
        }
    });
    Server { endpoint, asked }
}

fn answer(
    mut stream: TcpStream,
    kind: &str,
    endpoint: &str,
    files: &BTreeMap<String, Vec<u8>>,
    asked: &Asked,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(path) = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)) else { return };
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
        .collect();
    asked.lock().unwrap().push((path.clone(), headers.get("authorization").cloned()));
    let prefix = if kind == "models" { "/o/n/resolve/".to_owned() } else { format!("/{kind}/o/n/resolve/") };
    let resolved = path.strip_prefix(&prefix).and_then(|rest| rest.split_once('/'));
    let mut head = "Connection: close\r\n".to_owned();
    let (status, body) = if let Some((_, file)) = resolved.filter(|(_, file)| files.contains_key(*file)) {
        head += &format!("x-repo-commit: {COMMIT}\r\nx-linked-etag: \"{}\"\r\n", file.replace('/', "-"));
        head += &format!("Location: {endpoint}/cdn/{file}\r\n");
        ("302 Found", Vec::new())
    } else if let Some(bytes) = path.strip_prefix("/cdn/").and_then(|file| files.get(file)) {
        let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")).unwrap_or("0-");
        let (start, end) = range.split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(bytes.len(), |end: usize| (end + 1).min(bytes.len()));
        head += &format!("Content-Range: bytes {start}-{}/{}\r\n", end.saturating_sub(1), bytes.len());
        ("206 Partial Content", bytes[start..end].to_vec())
    } else if path == format!("/api/{kind}/o/n/revision/main") {
        let siblings: Vec<String> =
            files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
        head += "Content-Type: application/json\r\n";
        let text = format!("{{\"siblings\": [{}], \"sha\": \"{COMMIT}\"}}", siblings.join(", "));
        ("200 OK", text.into_bytes())
    } else {
        ("404 Not Found", b"no such thing".to_vec())
    };
    let head = format!("HTTP/1.1 {status}\r\n{head}Content-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn hub(server: &Server) -> (TempDir, Hub) {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint: server.endpoint.clone(),
        cache: dir.path().join("hub"),
        token: Some("secret".to_owned()),
        offline: false,
    };
    (dir, hub)
}

fn source(path: &str) -> (HubRepo, String) {
    dataset_file(Path::new(path)).unwrap().unwrap()
}

#[test]
fn a_dataset_file_is_downloaded_once_and_then_needs_no_network() {
    let server = serve("datasets", &[("data/a.jsonl", "{\"prompt\": \"one\"}\n")]);
    let (_dir, hub) = hub(&server);
    let (repo, file) = source("hf://datasets/o/n/data/a.jsonl");
    let path = hub.fetch(&repo, &file).unwrap();
    assert_eq!(fs_err::read_to_string(&path).unwrap(), "{\"prompt\": \"one\"}\n");
    assert!(path.ends_with(format!("datasets--o--n/snapshots/{COMMIT}/data/a.jsonl")), "{}", path.display());
    let asked = server.asked.lock().unwrap().clone();
    assert!(asked[0].0.contains("/resolve/main/"), "{asked:?}");
    assert_eq!(asked[0].1.as_deref(), Some("Bearer secret"));
    let offline = Hub { offline: true, ..hub.clone() };
    assert_eq!(offline.fetch(&repo, &file).unwrap(), path);
    assert_eq!(offline.list(&repo).unwrap(), ["data/a.jsonl"]);
    assert_eq!(server.asked.lock().unwrap().len(), asked.len());
    let message = offline.fetch(&repo, "data/b.jsonl").unwrap_err().to_string();
    for part in ["HF_HUB_OFFLINE", "data/b.jsonl", "o/n at main", "hub"] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named_with_the_way_out() {
    let server = serve("datasets", &[]);
    let (_dir, hub) = hub(&server);
    let (repo, file) = source("hf://datasets/o/n@v1/x.parquet");
    let message = hub.fetch(&repo, &file).unwrap_err().to_string();
    for part in ["x.parquet of o/n at v1", &server.endpoint, "HF_TOKEN"] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
}

#[test]
fn paths_of_the_hub_are_told_from_others_and_from_nonsense() {
    assert!(dataset_file(Path::new("data/a.jsonl")).unwrap().is_none());
    let (repo, file) = source("hf://datasets/o/n@refs%2Fconvert%2Fparquet/default/train/0000.parquet");
    assert_eq!((repo.name.as_str(), repo.revision.as_str()), ("o/n", "refs/convert/parquet"));
    assert_eq!(file, "default/train/0000.parquet");
    for path in [
        "hf://o/n/a.jsonl",
        "hf://datasets/o",
        "hf://datasets/o/n",
        "hf://datasets/o/n@/a",
        "hf://datasets/o/n/../a",
    ] {
        let message = dataset_file(Path::new(path)).unwrap_err().to_string();
        assert!(message.contains(path) && message.contains("hf://datasets/ORG/NAME"), "{message}");
    }
    for (path, expected) in [
        ("o/n", Some(("o/n", "main"))),
        ("o/n@v2", Some(("o/n", "v2"))),
        ("src/lib", None),
        ("./o/n", None),
        ("nowhere", None),
        ("a/b/c", None),
        ("../o", None),
    ] {
        let found = HubRepo::model(Path::new(path));
        let found = found.as_ref().map(|repo| (repo.name.as_str(), repo.revision.as_str()));
        assert_eq!(found, expected, "{path}");
    }
}

#[test]
fn a_model_arrives_with_the_files_it_needs_and_no_others() {
    let server = serve(
        "models",
        &[
            ("config.json", "{}"),
            ("model.safetensors", "weights"),
            ("tokenizer.json", "{}"),
            ("README.md", "words"),
            ("onnx/model.onnx", "no"),
        ],
    );
    let (_dir, hub) = hub(&server);
    let dir = fetch_model(&hub, &HubRepo::model(Path::new("o/n")).unwrap()).unwrap();
    let mut names: Vec<String> =
        fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
}

#[test]
fn prompts_come_from_the_hub_file_by_file() {
    let (first, second) = ("{\"prompt\": \"one\"}\n", "{\"prompt\": \"two\"}\n");
    let server =
        serve("datasets", &[("data/train-0.jsonl", first), ("data/train-1.jsonl", second), ("data/x", "")]);
    let (_dir, hub) = hub(&server);
    let path = PathBuf::from("hf://datasets/o/n/data/train-*.jsonl");
    let config = PromptsConfig { path, limit: Some(1), ..PromptsConfig::default() };
    let texts = |config: &PromptsConfig| -> Vec<String> {
        let stream = crate::prompts::stream_prompts_from(config, &hub).unwrap();
        stream.map(|row| row.unwrap().unwrap().messages[0].content.clone()).collect()
    };
    assert_eq!(texts(&PromptsConfig { limit: None, ..config.clone() }), ["one", "two"]);
    assert_eq!(texts(&config), ["one"]);
    assert!(read_prompts(&PromptsConfig { path: "hf://datasets/o".into(), ..config }).is_err());
}

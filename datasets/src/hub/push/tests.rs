//! Against a server on this machine that plays the hub, and against what its own client asks of one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::*;

const PART_BYTES: u64 = 16;

/// A request: method, path, token and body.
type Asked = Arc<Mutex<Vec<Value>>>;

/// How the hub misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// The store stumbles on the first attempt at each place.
    Store,
    /// The card is refused.
    Card,
    /// The token may not write.
    Token,
}

struct Server {
    endpoint: String,
    asked: Asked,
}

impl Server {
    fn start(trouble: Trouble) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Asked::default();
        let (log, at) = (Arc::clone(&asked), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, at) = (Arc::clone(&log), at.clone());
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while answer(&stream, &mut reader, &at, &log, trouble).is_some() {}
                });
            }
        });
        Self { endpoint, asked }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: &TcpStream,
    reader: &mut BufReader<TcpStream>,
    endpoint: &str,
    asked: &Asked,
    trouble: Trouble,
) -> Option<()> {
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
        .collect();
    // The store takes no chunks.
    let mut body = vec![0; headers.get("content-length")?.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let text = String::from_utf8(body).unwrap();
    let body: Value = match method.as_str() {
        "POST" => text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect(),
        _ => text.as_str().into(),
    };
    let is_first = {
        let mut asked = asked.lock().unwrap();
        let is_first = asked.iter().all(|before| before["path"] != path.as_str());
        let authorization = headers.get("authorization");
        asked.push(json!({"method": method, "path": path, "authorization": authorization, "body": body}));
        is_first
    };
    let (status, reply) = reply(&path, &body, endpoint);
    let (status, reply) = match trouble {
        Trouble::Store if method == "PUT" && is_first => ("500 Internal Server Error", json!({})),
        Trouble::Card if path.contains("/commit/") => {
            ("400 Bad Request", json!({"error": "Invalid metadata in README.md"}))
        }
        Trouble::Token => ("403 Forbidden", json!({"error": "no write access"})),
        _ => (status, reply),
    };
    let (reply, tag) = (reply.to_string(), &hex(text.as_bytes())[..8]);
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nETag: \"{tag}\"\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{reply}", reply.len()).ok()
}

fn reply(path: &str, body: &Value, endpoint: &str) -> (&'static str, Value) {
    let list = |key: &str| body[0][key].as_array().cloned().unwrap_or_default();
    let reply = if path == "/api/repos/create" {
        return ("409 Conflict", json!({"error": "You already created this model repo"}));
    } else if path.contains("/preupload/") {
        let mode = |path: &str| if path.ends_with(".safetensors") { "lfs" } else { "regular" };
        let said = |file: &Value| {
            let path = file["path"].as_str().unwrap();
            json!({"path": path, "uploadMode": mode(path), "shouldIgnore": path == "ignored.json"})
        };
        json!({"files": list("files").iter().map(said).collect::<Vec<_>>()})
    } else if path.ends_with("/info/lfs/objects/batch") {
        json!({"objects": list("objects").iter().map(|asked| place(asked, endpoint)).collect::<Vec<_>>()})
    } else if path.contains("/commit/") {
        json!({"commitUrl": format!("{endpoint}/o/n/commit/c0ffee"), "commitOid": "c0ffee"})
    } else {
        json!({})
    };
    ("200 OK", reply)
}

/// Where an object goes: nowhere if it is known, else in one piece or in parts.
fn place(asked: &Value, endpoint: &str) -> Value {
    let (oid, size) = (asked["oid"].as_str().unwrap(), asked["size"].as_u64().unwrap());
    if oid == hex(b"already in the store") {
        return json!({"oid": oid, "size": size});
    }
    let mut upload = json!({"href": format!("{endpoint}/store/{oid}")});
    if size > 2 * PART_BYTES {
        let mut header = json!({"chunk_size": PART_BYTES.to_string()});
        for part in 1..=size.div_ceil(PART_BYTES) {
            header[format!("{part:05}")] = format!("{endpoint}/store/{oid}/{part}").into();
        }
        upload = json!({"href": format!("{endpoint}/complete/{oid}"), "header": header});
    }
    json!({
        "oid": oid, "size": size,
        "actions": {"upload": upload, "verify": {"href": format!("{endpoint}/verify")}}
    })
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/hub_push.json");
    serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

fn files(golden: &Value) -> (TempDir, Vec<ExportFile>) {
    let dir = tempfile::tempdir().unwrap();
    let file = |(name, content): (&String, &Value)| {
        let (path, content) = (dir.path().join(name), content.as_str().unwrap());
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        ExportFile { name: name.clone(), path, bytes: content.len() as u64 }
    };
    let files = golden["files"].as_object().unwrap().iter().map(file).collect();
    (dir, files)
}

fn hub(server: &Server) -> Hub {
    Hub {
        endpoint: server.endpoint.clone(),
        cache: PathBuf::from("/nowhere/hub"),
        token: Some("secret".to_owned()),
        offline: false,
    }
}

fn push(hub: &Hub, files: &[ExportFile], sent: &mut Vec<String>) -> Result<String, DatasetError> {
    let repo = HubRepo::named("o/n").unwrap();
    let options = PushOptions { public: false, message: "Upload a model" };
    hub.push(files, &repo, options, &mut |file| sent.push(file.name.clone()))
}

#[test]
fn a_hub_is_asked_what_its_own_client_asks() {
    let (golden, server) = (golden(), Server::start(Trouble::None));
    let (_dir, files) = files(&golden);
    let mut sent = Vec::new();
    let url = push(&hub(&server), &files, &mut sent).unwrap();
    assert_eq!(url, format!("{}/o/n/commit/c0ffee", server.endpoint));
    assert_eq!(sent, ["model-1.safetensors", "model-2.safetensors"]);
    let (asked, expected) = (server.asked(), golden["requests"].as_array().unwrap());
    for (asked, expected) in asked.iter().zip(expected) {
        assert_eq!(asked, expected);
    }
    assert_eq!(asked.len(), expected.len());
}

#[test]
fn a_store_that_stumbles_is_asked_again() {
    let (golden, server) = (golden(), Server::start(Trouble::Store));
    let (_dir, files) = files(&golden);
    push(&hub(&server), &files, &mut Vec::new()).unwrap();
    let puts = server.asked().iter().filter(|asked| asked["method"] == "PUT").count();
    // One piece and three parts, each twice.
    assert_eq!(puts, 8);
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let golden = golden();
    let (_dir, files) = files(&golden);
    let message = |hub: &Hub| push(hub, &files, &mut Vec::new()).unwrap_err().to_string();
    let card = Server::start(Trouble::Card);
    let said = message(&hub(&card));
    assert!(
        said.contains("cannot commit at o/n") && said.contains("400 Bad Request: Invalid metadata"),
        "{said}"
    );
    let token = Server::start(Trouble::Token);
    let said = message(&hub(&token));
    assert!(
        said.contains("403 Forbidden: no write access") && said.contains("which files are large"),
        "{said}"
    );
    assert_eq!(token.asked().len(), 2);
    let said = message(&Hub { token: None, ..hub(&token) });
    assert!(said.contains("HF_TOKEN") && said.contains("/nowhere/token"), "{said}");
    assert!(message(&Hub { offline: true, ..hub(&token) }).contains("HF_HUB_OFFLINE"));
    assert_eq!(token.asked().len(), 2);
    let nobody = Hub { endpoint: "http://127.0.0.1:9".to_owned(), ..hub(&token) };
    assert!(message(&nobody).contains("cannot make the repository at o/n on http://127.0.0.1:9"));
}

#[test]
fn who_wants_it_public_says_so() {
    let golden = golden();
    let (_dir, files) = files(&golden);
    let server = Server::start(Trouble::None);
    let options = PushOptions { public: true, message: "m" };
    let repo = HubRepo::named("o/n@refs/pr/1").unwrap();
    hub(&server).push(&files[..2], &repo, options, &mut |_| ()).unwrap();
    let asked = server.asked();
    assert_eq!(asked[0]["body"][0]["visibility"], "public");
    assert_eq!(asked[1]["path"], "/api/models/o/n/preupload/refs%2Fpr%2F1");
    // Nothing large: nothing is asked of the store.
    assert_eq!(asked.len(), 3);
}

//! `jacobi hub push` against a local server that plays the hub and the store of its large files (Xet). Its requests are
//! compared with those of Hugging Face's own client in Python.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::hub_server::{Answer, HubServer, Request};
use super::{BINARY, root};

/// How the hub misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// Hub and store fail on the first attempt.
    Stumbles,
    /// The repository is new and the card is refused.
    Card,
    /// The token may not write.
    Token,
}

fn hub(trouble: Trouble) -> HubServer {
    HubServer::answering(move |request, endpoint, before| {
        let is_first = before.iter().all(|asked| asked.path != request.path);
        let path = request.path.as_str();
        let may_stumble = ["/preupload/", "/commit/", "/v1/xorbs/"].iter().any(|part| path.contains(part));
        let (status, reply) = match trouble {
            Trouble::Stumbles if may_stumble && is_first => ("503 Service Unavailable", json!({})),
            Trouble::Card if path == "/api/repos/create" => {
                ("200 OK", json!({"url": format!("{endpoint}/o/n")}))
            }
            Trouble::Card if path.contains("/commit/") => {
                ("400 Bad Request", json!({"error": "Invalid metadata in README.md"}))
            }
            Trouble::Token => ("403 Forbidden", json!({"error": "no write access"})),
            _ => reply(request, endpoint),
        };
        (status, "Content-Type: application/json\r\n".to_owned(), reply.to_string().into_bytes()) as Answer
    })
}

fn reply(request: &Request, endpoint: &str) -> (&'static str, Value) {
    let path = request.path.as_str();
    let reply = if path == "/api/repos/create" {
        return ("409 Conflict", json!({"error": "You already created this model repo"}));
    } else if path.contains("/preupload/") {
        let mode = |path: &str| if path.ends_with(".safetensors") { "lfs" } else { "regular" };
        let files = &lines(request)[0]["files"];
        let said =
            |file: &Value| json!({"path": file["path"], "uploadMode": mode(file["path"].as_str().unwrap())});
        json!({"files": files.as_array().unwrap().iter().map(said).collect::<Vec<_>>()})
    } else if path.ends_with("/info/lfs/objects/batch") {
        json!({"transfer": "xet", "objects": []})
    } else if path.contains("/xet-write-token/") {
        json!({"accessToken": "for-the-store", "exp": 4_102_444_800_u64, "casUrl": format!("{endpoint}/store")})
    } else if path.starts_with("/store/v1/xorbs/") {
        json!({"was_inserted": true})
    } else if path.starts_with("/store/v1/shards") {
        json!({"result": 1})
    } else if path.starts_with("/store/") {
        return ("404 Not Found", json!({}));
    } else {
        json!({"commitUrl": format!("{endpoint}/o/n/commit/c0ffee"), "commitOid": "c0ffee"})
    };
    ("200 OK", reply)
}

/// The lines of JSON of a body.
fn lines(request: &Request) -> Vec<Value> {
    String::from_utf8_lossy(&request.body).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn golden() -> Value {
    serde_json::from_str(&fs_err::read_to_string(root().join("tests/golden/hub_push.json")).unwrap()).unwrap()
}

/// The export of the golden, in `export` of a directory that is the home of tokens and caches too.
fn export() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in golden()["files"].as_object().unwrap() {
        let path = dir.path().join("export").join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content.as_str().unwrap()).unwrap();
    }
    dir
}

fn push(dir: &Path, endpoint: &str, set: impl Fn(&mut Command) -> &mut Command) -> Output {
    let mut command = Command::new(BINARY);
    command.current_dir(dir).args(["hub", "push", "export", "--upload", "--message", "Upload a model"]);
    for name in ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_XET_CACHE"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", dir.join("home")).env("HF_TOKEN", "secret");
    set(&mut command).output().unwrap()
}

fn to_main(command: &mut Command) -> &mut Command {
    command.arg("o/n")
}

/// What went wrong, without the token.
fn message(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && !message.contains("secret"), "{message}");
    message
}

fn asked_at<'a>(asked: &'a [Request], part: &str) -> Vec<&'a Request> {
    asked.iter().filter(|asked| asked.path.contains(part)).collect()
}

#[test]
fn a_push_sends_what_the_official_client_sends_and_large_files_to_the_store() {
    let (dir, hub) = (export(), hub(Trouble::None));
    let output = push(dir.path(), &hub.endpoint, to_main);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let url = format!("{}/o/n/commit/c0ffee\n", hub.endpoint);
    assert_eq!(String::from_utf8_lossy(&output.stdout), url);

    let asked = hub.asked();
    for expected in golden()["requests"].as_array().unwrap() {
        let path = expected["path"].as_str().unwrap();
        let [found] = asked_at(&asked, path)[..] else { panic!("{path} is to be asked for once: {asked:?}") };
        let found = json!({
            "method": found.method, "path": found.path, "authorization": found.authorization(), "body": lines(found)
        });
        assert_eq!(&found, expected);
    }
    let [create] = asked_at(&asked, "/api/repos/create")[..] else { panic!("{asked:?}") };
    assert_eq!(lines(create)[0], json!({"name": "n", "organization": "o", "private": true, "type": "model"}));
    let stored: Vec<u8> =
        asked_at(&asked, "/v1/xorbs/").iter().flat_map(|asked| asked.body.iter().copied()).collect();
    let stored = String::from_utf8_lossy(&stored).into_owned();
    for file in ["model-1.safetensors", "model.safetensors"] {
        assert!(stored.contains(golden()["files"][file].as_str().unwrap()), "{file}: {stored:?}");
    }
    // The store gets a token of its own, the hub's stays with the hub.
    assert!(
        asked_at(&asked, "/store/").iter().all(|asked| asked.authorization() == Some("Bearer for-the-store"))
    );

    // Files in the store are not sent again.
    let sent = asked_at(&asked, "/v1/xorbs/").len();
    assert!(push(dir.path(), &hub.endpoint, to_main).status.success());
    assert_eq!(asked_at(&hub.asked(), "/v1/xorbs/").len(), sent);
}

#[test]
fn a_push_retries_after_errors_of_hub_and_store() {
    let (dir, hub) = (export(), hub(Trouble::Stumbles));
    let output = push(dir.path(), &hub.endpoint, to_main);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["/preupload/", "/commit/", "/v1/xorbs/"] {
        assert_eq!(asked_at(&hub.asked(), part).len(), 2, "{part}");
    }
}

#[test]
fn a_refused_push_reports_the_reason_but_not_the_token() {
    let dir = export();
    let card = hub(Trouble::Card);
    let said = message(&push(dir.path(), &card.endpoint, to_main));
    assert!(
        said.contains("cannot upload the files at o/n") && said.contains("400 Bad Request: Invalid metadata"),
        "{said}"
    );
    let token = hub(Trouble::Token);
    let said = message(&push(dir.path(), &token.endpoint, to_main));
    assert!(said.contains("403 Forbidden: no write access"), "{said}");
    assert_eq!(token.asked().len(), 2);
    let said = message(&push(dir.path(), &token.endpoint, |c| to_main(c).env_remove("HF_TOKEN")));
    assert!(said.contains("HF_TOKEN") && said.contains("home/token"), "{said}");
    let said = message(&push(dir.path(), &token.endpoint, |c| to_main(c).env("HF_HUB_OFFLINE", "1")));
    assert!(said.contains("HF_HUB_OFFLINE"), "{said}");
    assert_eq!(token.asked().len(), 2);
    let said = message(&push(dir.path(), "http://127.0.0.1:9", to_main));
    assert!(said.contains("cannot create the repository at o/n on http://127.0.0.1:9"), "{said}");
    assert!(said.contains("onnection refused"), "{said}");
}

#[test]
fn a_push_reads_the_token_file_and_can_create_a_public_repository() {
    let (dir, hub) = (export(), hub(Trouble::Card));
    fs_err::create_dir_all(dir.path().join("home")).unwrap();
    fs_err::write(dir.path().join("home/token"), "secret\n").unwrap();
    let arguments = ["o/n@refs/pr/1", "--public"];
    message(&push(dir.path(), &hub.endpoint, |command| command.args(arguments).env_remove("HF_TOKEN")));
    let asked = hub.asked();
    assert_eq!(lines(&asked[0])[0]["private"], false);
    assert_eq!(asked[1].path, "/api/models/o/n/preupload/refs%2Fpr%2F1");
    assert_eq!(asked[1].authorization(), Some("Bearer secret"));
}

//! Against a server on this machine that plays the hub.

use tempfile::TempDir;

use super::*;
use crate::prompts::{PromptsConfig, read_prompts};

#[path = "../../../tests/hub_server.rs"]
mod hub_server;

use hub_server::{COMMIT, EXPIRED, HubServer};

/// Serves `files` of `KIND/o/n`.
fn serve(kind: &str, files: &[(&str, &str)]) -> HubServer {
    let named: Vec<(String, &str)> =
        files.iter().map(|(name, text)| (format!("{kind}/o/n/{name}"), *text)).collect();
    HubServer::start(named.iter().map(|(name, text)| (name.as_str(), text.as_bytes())))
}

fn hub(server: &HubServer) -> (TempDir, Hub) {
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
    let asked = server.asked();
    assert!(asked[0].path.contains("/resolve/main/"), "{asked:?}");
    assert_eq!(asked[0].authorization(), Some("Bearer secret"));
    let offline = Hub { offline: true, ..hub.clone() };
    assert_eq!(offline.fetch(&repo, &file).unwrap(), path);
    assert_eq!(offline.list(&repo).unwrap(), ["data/a.jsonl"]);
    assert_eq!(server.asked().len(), asked.len());
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
fn a_page_in_place_of_the_file_is_an_error_and_does_not_stay_in_the_cache() {
    let server = serve("datasets", &[(EXPIRED, "{\"prompt\": \"one\"}\n")]);
    let (_dir, hub) = hub(&server);
    let (repo, file) = source("hf://datasets/o/n/expired.jsonl");
    for _ in 0..2 {
        let DatasetError::Hub { source, .. } = hub.fetch(&repo, &file).unwrap_err() else { panic!() };
        assert!(source.to_string().contains("received 20 bytes instead of 18"), "{source}");
    }
    let offline = Hub { offline: true, ..hub };
    assert!(matches!(offline.fetch(&repo, &file), Err(DatasetError::HubOffline { .. })));
}

#[test]
fn a_commit_that_is_cached_is_found_by_its_hash() {
    let server = serve("datasets", &[("a.jsonl", "one")]);
    let (_dir, hub) = hub(&server);
    let (repo, file) = source("hf://datasets/o/n/a.jsonl");
    let path = hub.fetch(&repo, &file).unwrap();
    let (repo, file) = source(&format!("hf://datasets/o/n@{COMMIT}/a.jsonl"));
    assert_eq!(Hub { offline: true, ..hub }.fetch(&repo, &file).unwrap(), path);
}

#[test]
fn no_error_holds_the_token() {
    // Refused by the hub, unreachable, and an address that is none.
    let refused = HubServer::answering(|_, _, _| {
        let head = "x-repo-commit: c\r\netag: \"e\"\r\n".to_owned();
        ("403 Forbidden", head, b"this token may not read it".to_vec())
    });
    for endpoint in [&refused.endpoint, "http://127.0.0.1:9", "no address"] {
        let (_dir, hub) = hub(&refused);
        let hub = Hub { endpoint: endpoint.to_owned(), token: Some("hf_secret".to_owned()), ..hub };
        let (repo, file) = source("hf://datasets/o/n/a.jsonl");
        let export = [ExportFile { name: "README.md".into(), path: "Cargo.toml".into(), bytes: 1 }];
        let options = PushOptions { public: false, message: "m" };
        let errors = [hub.fetch(&repo, &file).unwrap_err(), hub.push(&export, &repo, options).unwrap_err()];
        for error in errors {
            let causes =
                std::iter::successors(Some(&error as &dyn std::error::Error), |cause| cause.source());
            let texts: Vec<String> = causes.map(|cause| format!("{cause} {cause:?}")).collect();
            assert!(!texts.concat().contains("hf_secret"), "{texts:?}");
        }
    }
    for asked in refused.asked() {
        assert_eq!(asked.authorization(), Some("Bearer hf_secret"));
        assert!(!String::from_utf8_lossy(&asked.body).contains("hf_secret"));
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
    // Whole as it is, nobody is asked for it again.
    let nowhere = Hub { endpoint: "http://127.0.0.1:9".to_owned(), ..hub };
    let source = HubRepo::model(Path::new("o/n")).unwrap();
    let dir = fetch_model(&nowhere, &source).unwrap();
    fs_err::remove_file(dir.join("model.safetensors")).unwrap();
    let message = fetch_model(&nowhere, &source).unwrap_err().to_string();
    assert!(message.contains("HF_HUB_OFFLINE=1"), "{message}");
}

#[test]
fn an_adapter_arrives_with_its_weights_and_its_tuned_decoder() {
    let server = serve(
        "models",
        &[
            ("adapter_config.json", "{}"),
            ("adapter_model.safetensors", "weights"),
            ("jacobi.json", "{}"),
            ("tokenizer.json", "{}"),
            ("README.md", "words"),
        ],
    );
    let (_dir, hub) = hub(&server);
    let source = HubRepo::model(Path::new("o/n")).unwrap();
    let dir = fetch_adapter(&hub, &source).unwrap();
    let mut names: Vec<String> =
        fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors", "jacobi.json"]);
    let nowhere = Hub { endpoint: "http://127.0.0.1:9".to_owned(), ..hub.clone() };
    let dir = fetch_adapter(&nowhere, &source).unwrap();
    fs_err::remove_file(dir.join("adapter_model.safetensors")).unwrap();
    assert!(fetch_adapter(&nowhere, &source).unwrap_err().to_string().contains("HF_HUB_OFFLINE=1"));
    // A model is no adapter.
    let server = serve("models", &[("config.json", "{}"), ("model.safetensors", "weights")]);
    let hub = Hub { endpoint: server.endpoint.clone(), cache: hub.cache.join("other"), ..hub };
    let message = fetch_adapter(&hub, &source).unwrap_err().to_string();
    assert!(message.contains("adapter_config.json of o/n"), "{message}");
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
        stream.map(|row| row.unwrap().unwrap().messages[0].text()).collect()
    };
    assert_eq!(texts(&PromptsConfig { limit: None, ..config.clone() }), ["one", "two"]);
    assert_eq!(texts(&config), ["one"]);
    assert!(read_prompts(&PromptsConfig { path: "hf://datasets/o".into(), ..config }).is_err());
}

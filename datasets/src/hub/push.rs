//! An exported model to the hub. hf-hub downloads only, so its protocol is spoken here: the repository is made if it is
//! missing, `preupload` says which files are large, those go to the store that Git LFS's batch call names, in one piece
//! or in parts, and one commit holds everything. What the store has is not sent again, so a push that broke off goes on.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ureq::http::Response;
use ureq::{Agent, Body, SendBody};

use super::export::ExportFile;
use super::{Hub, HubRepo};
use crate::error::DatasetError;

/// Of a file, what `preupload` judges by.
const SAMPLE_BYTES: u64 = 512;
/// A store that stumbles is asked so many times.
const ATTEMPTS: u32 = 3;
const LFS: &str = "application/vnd.git-lfs+json";
const JSON: &str = "application/json";

/// How a new repository is made, and what the commit says.
#[derive(Clone, Copy, Debug)]
pub struct PushOptions<'a> {
    /// Whether everybody may see a repository that is made; one that is there stays as it is.
    pub public: bool,
    /// First line of the commit.
    pub message: &'a str,
}

impl Hub {
    /// Sends `files` to the repository `to`, and says where the commit is. `progress` hears of each large file that is
    /// about to be sent.
    ///
    /// # Errors
    /// `HubPush`, `HubNoToken`, `HubPushOffline`, `Io`.
    pub fn push(
        &self,
        files: &[ExportFile],
        to: &HubRepo,
        options: PushOptions,
        progress: &mut dyn FnMut(&ExportFile),
    ) -> Result<String, DatasetError> {
        if self.offline {
            return Err(DatasetError::HubPushOffline);
        }
        let token = self.token.clone().ok_or_else(|| DatasetError::HubNoToken { path: self.token_file() })?;
        let push = Push::to(to, self.endpoint.trim_end_matches('/'), &token);
        push.create(options.public)?;
        let planned = push.plan(files)?;
        push.store(&planned, progress)?;
        push.commit(&planned, options.message)
    }
}

/// A file and the way it goes.
struct Planned<'a> {
    file: &'a ExportFile,
    /// SHA-256 of one that goes to the store; others lie in the commit.
    large: Option<String>,
}

struct Push<'a> {
    agent: Agent,
    repo: &'a HubRepo,
    endpoint: &'a str,
    authorization: String,
}

impl<'a> Push<'a> {
    fn to(repo: &'a HubRepo, endpoint: &'a str, token: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .user_agent(concat!("jacobi/", env!("CARGO_PKG_VERSION")));
        Self { agent: config.build().into(), repo, endpoint, authorization: format!("Bearer {token}") }
    }

    /// Makes the repository, unless it is there.
    fn create(&self, public: bool) -> Result<(), DatasetError> {
        let (organization, name) = self.repo.name.split_once('/').unwrap_or_default();
        let visibility = if public { "public" } else { "private" };
        let body =
            json!({"name": name, "organization": organization, "visibility": visibility, "type": "model"});
        let what = "make the repository";
        let answer =
            self.post(what, &format!("{}/api/repos/create", self.endpoint), JSON, &body.to_string())?;
        // That it is there, or that this token may write to it but make none: the next call says whether it is.
        let may_be_there = [401, 403, 409].contains(&answer.status().as_u16());
        if may_be_there { Ok(()) } else { self.accepted(what, answer).map(drop) }
    }

    /// Asks the hub which files are large, and which it would ignore.
    fn plan<'f>(&self, files: &'f [ExportFile]) -> Result<Vec<Planned<'f>>, DatasetError> {
        let mut described = Vec::new();
        for file in files {
            let mut sample = Vec::new();
            let opened = fs_err::File::open(&file.path).map_err(DatasetError::io("read", &file.path))?;
            opened
                .take(SAMPLE_BYTES)
                .read_to_end(&mut sample)
                .map_err(DatasetError::io("read", &file.path))?;
            described.push(json!({"path": file.name, "sample": BASE64.encode(sample), "size": file.bytes}));
        }
        let what = "ask which files are large";
        let body = json!({"files": described}).to_string();
        let answer = self.json(what, &self.api("preupload"), JSON, &body)?;
        let mut planned = Vec::new();
        for file in files {
            let listed = answer["files"].as_array().into_iter().flatten();
            let Some(said) = listed.into_iter().find(|said| said["path"] == file.name.as_str()) else {
                return Err(self.failed(what, format!("the answer does not tell of {}", file.name)));
            };
            if said["shouldIgnore"] == true {
                continue;
            }
            // The store takes no empty file.
            let is_large = said["uploadMode"] == "lfs" && file.bytes > 0;
            let large = is_large.then(|| sha256(file)).transpose()?;
            planned.push(Planned { file, large });
        }
        Ok(planned)
    }

    /// Sends what the store lacks.
    fn store(&self, planned: &[Planned], progress: &mut dyn FnMut(&ExportFile)) -> Result<(), DatasetError> {
        let large: Vec<(&ExportFile, &str)> =
            planned.iter().filter_map(|p| Some((p.file, p.large.as_deref()?))).collect();
        if large.is_empty() {
            return Ok(());
        }
        let what = "ask where large files go";
        let objects: Vec<Value> =
            large.iter().map(|(file, oid)| json!({"oid": oid, "size": file.bytes})).collect();
        let body = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256",
            "ref": {"name": self.repo.revision}
        });
        let url = format!("{}/{}.git/info/lfs/objects/batch", self.endpoint, self.repo.name);
        let answer = self.json(what, &url, LFS, &body.to_string())?;
        for (file, oid) in large {
            let said = answer["objects"].as_array().into_iter().flatten().find(|said| said["oid"] == oid);
            let said = said.ok_or_else(|| self.failed(what, format!("the answer lacks {}", file.name)))?;
            if let Some(reason) = said["error"]["message"].as_str() {
                return Err(self.failed(&format!("send {}", file.name), reason.to_owned()));
            }
            let upload = &said["actions"]["upload"];
            let Some(url) = upload["href"].as_str() else { continue };
            progress(file);
            self.send(file, oid, url, &upload["header"])?;
            if let Some(url) = said["actions"]["verify"]["href"].as_str() {
                let body = json!({"oid": oid, "size": file.bytes}).to_string();
                self.json(&format!("have {} verified", file.name), url, JSON, &body)?;
            }
        }
        Ok(())
    }

    /// One file to `url`; in parts if `header` has a size for them and a place for each.
    fn send(&self, file: &ExportFile, oid: &str, url: &str, header: &Value) -> Result<(), DatasetError> {
        let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let Some(part_bytes) = number(&header["chunk_size"]).filter(|&bytes| bytes > 0) else {
            return self.put(file, url, 0, file.bytes).map(drop);
        };
        let places = header.as_object().into_iter().flatten();
        let mut places: Vec<(u64, &str)> =
            places.filter_map(|(part, url)| Some((part.parse().ok()?, url.as_str()?))).collect();
        places.sort_unstable();
        let what = format!("send {}", file.name);
        if places.len() as u64 != file.bytes.div_ceil(part_bytes) {
            return Err(self.failed(&what, format!("{} places for its parts do not fit it", places.len())));
        }
        let mut parts = Vec::new();
        for ((part, place), start) in places.into_iter().zip((0..).map(|index| index * part_bytes)) {
            let tag = self.put(file, place, start, part_bytes.min(file.bytes - start))?;
            let tag =
                tag.ok_or_else(|| self.failed(&what, format!("part {part} came back without an ETag")))?;
            parts.push(json!({"partNumber": part, "etag": tag}));
        }
        let answer = self.post_openly(&what, url, &json!({"oid": oid, "parts": parts}).to_string())?;
        self.accepted(&what, answer).map(drop)
    }

    /// A stretch of a file to an address that needs no token, and the tag it got there.
    fn put(
        &self,
        file: &ExportFile,
        url: &str,
        start: u64,
        bytes: u64,
    ) -> Result<Option<String>, DatasetError> {
        let what = format!("send {}", file.name);
        let once = || -> Result<Response<Body>, DatasetError> {
            let mut opened = fs_err::File::open(&file.path).map_err(DatasetError::io("read", &file.path))?;
            opened.seek(SeekFrom::Start(start)).map_err(DatasetError::io("read", &file.path))?;
            let request = self.agent.put(url).header("Content-Length", bytes.to_string());
            let sent = request.send(SendBody::from_reader(&mut opened.take(bytes)));
            self.accepted(&what, sent.map_err(|error| self.failed(&what, error.to_string()))?)
        };
        let answer = (1..ATTEMPTS).find_map(|_| once().ok()).map_or_else(once, Ok)?;
        Ok(answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned))
    }

    /// Everything in one commit; where it is.
    fn commit(&self, planned: &[Planned], message: &str) -> Result<String, DatasetError> {
        let mut lines =
            format!("{}\n", json!({"key": "header", "value": {"summary": message, "description": ""}}));
        for Planned { file, large } in planned {
            let line = match large {
                Some(oid) => {
                    let value = json!({"path": file.name, "algo": "sha256", "oid": oid, "size": file.bytes});
                    json!({"key": "lfsFile", "value": value})
                }
                None => {
                    let content = fs_err::read(&file.path).map_err(DatasetError::io("read", &file.path))?;
                    let value =
                        json!({"content": BASE64.encode(content), "path": file.name, "encoding": "base64"});
                    json!({"key": "file", "value": value})
                }
            };
            lines += &format!("{line}\n");
        }
        let answer = self.json("commit", &self.api("commit"), "application/x-ndjson", &lines)?;
        let page = format!("{}/{}", self.endpoint, self.repo.name);
        Ok(answer["commitUrl"].as_str().map_or(page, str::to_owned))
    }

    fn api(&self, call: &str) -> String {
        let revision = self.repo.revision.replace('/', "%2F");
        format!("{}/api/models/{}/{call}/{revision}", self.endpoint, self.repo.name)
    }

    fn json(&self, what: &str, url: &str, kind: &str, body: &str) -> Result<Value, DatasetError> {
        let mut answer = self.accepted(what, self.post(what, url, kind, body)?)?;
        let text =
            answer.body_mut().read_to_string().map_err(|error| self.failed(what, error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| self.failed(what, error.to_string()))
    }

    fn post(&self, what: &str, url: &str, kind: &str, body: &str) -> Result<Response<Body>, DatasetError> {
        let request = self.agent.post(url).header("Authorization", &self.authorization);
        let request =
            request.header("Content-Type", kind).header("Accept", if kind == LFS { LFS } else { JSON });
        request.send(body).map_err(|error| self.failed(what, error.to_string()))
    }

    /// Without the token: the address is for whoever knows it.
    fn post_openly(&self, what: &str, url: &str, body: &str) -> Result<Response<Body>, DatasetError> {
        let request = self.agent.post(url).header("Content-Type", LFS).header("Accept", LFS);
        request.send(body).map_err(|error| self.failed(what, error.to_string()))
    }

    /// The answer, unless it is a refusal; the hub gives its reason in a header or as JSON.
    fn accepted(&self, what: &str, mut answer: Response<Body>) -> Result<Response<Body>, DatasetError> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        let said =
            answer.headers().get("x-error-message").and_then(|said| said.to_str().ok()).map(str::to_owned);
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let reason = said.or_else(|| json["error"].as_str().map(str::to_owned)).unwrap_or(text);
        Err(self.failed(what, format!("{}: {}", answer.status(), reason.trim())))
    }

    fn failed(&self, what: &str, reason: String) -> DatasetError {
        DatasetError::HubPush {
            what: what.to_owned(),
            repo: self.repo.name.clone(),
            endpoint: self.endpoint.to_owned(),
            reason,
        }
    }
}

fn sha256(file: &ExportFile) -> Result<String, DatasetError> {
    let mut opened = fs_err::File::open(&file.path).map_err(DatasetError::io("read", &file.path))?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = opened.read(&mut piece).map_err(DatasetError::io("read", &file.path))?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;

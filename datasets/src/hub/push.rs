//! Pushes an exported model to the hub, in one commit. hf-hub sends large files through Xet, which sends only
//! the parts that the hub lacks, so an interrupted push resumes.

use std::error::Error;

use hf_hub::HFError;
use hf_hub::repository::CommitOperation;

use super::export::ExportFile;
use super::{Hub, HubRepo, Transfer, token_file, without_url};
use crate::error::DatasetError;

/// Visibility of a new repository, and the commit message.
#[derive(Clone, Copy, Debug)]
pub struct PushOptions<'a> {
    /// Whether a new repository is public; an existing one does not change.
    pub public: bool,
    /// First line of the commit.
    pub message: &'a str,
}

impl Hub {
    /// Sends `files` to the repository `to`, which is created if it does not exist. Returns the URL of the commit.
    ///
    /// # Errors
    /// `HubPush`, `HubNoToken`, `HubPushOffline`.
    pub fn push(
        &self,
        files: &[ExportFile],
        to: &HubRepo,
        options: PushOptions,
    ) -> Result<String, DatasetError> {
        if self.offline {
            return Err(DatasetError::HubPushOffline);
        }
        if self.token.is_none() {
            return Err(DatasetError::HubNoToken { path: token_file() });
        }
        let failed = |what: &str, error: HFError| DatasetError::HubPush {
            what: what.to_owned(),
            repo: to.name.clone(),
            endpoint: self.endpoint.clone(),
            reason: reason(error),
        };
        let client = self.client().map_err(|error| failed("create the repository", error))?;
        let create = client.create_repository().repo_id(&to.name).repo_type(to.kind).exist_ok(true);
        match create.private(!options.public).send() {
            // A token with access to an existing repository only is refused here; the commit shows whether it
            // may write.
            Ok(_) | Err(HFError::AuthRequired { .. } | HFError::Forbidden { .. }) => (),
            Err(error) => return Err(failed("create the repository", error)),
        }
        let operations = files.iter().map(|file| CommitOperation::add_file(&file.name, &file.path)).collect();
        let repository = to.of(&client);
        let commit = repository.create_commit().operations(operations).commit_message(options.message);
        let commit = commit.revision(&to.revision).progress(Transfer::new("upload")).send();
        let commit = commit.map_err(|error| failed("upload the files", error))?;
        Ok(commit.commit_url.unwrap_or_else(|| format!("{}/{}", self.endpoint, to.name)))
    }
}

/// The hub's answer, or why there was none.
fn reason(error: HFError) -> String {
    match &error {
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context }
        | HFError::Conflict { context }
        | HFError::RateLimited { context, .. }
        | HFError::RepoNotFound { context: Some(context), .. } => {
            let said = context.server_message.as_deref().unwrap_or(&context.body);
            format!("{}: {}", context.status, said.trim())
        }
        _ => {
            let error = without_url(error);
            let causes = std::iter::successors(error.source(), |&cause| cause.source());
            causes.last().map_or_else(|| error.to_string(), |root| format!("{error}: {root}"))
        }
    }
}

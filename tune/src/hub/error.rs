//! Why a model of the hub cannot be had.

use std::io;
use std::path::PathBuf;

use super::HubModel;
use crate::weights::WeightsError;

/// An error of the cache, the network, or the hub's answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// No name of a model.
    #[error("`hub:{name}` names no model: {what}, as in hub:org/name or hub:org/name@revision")]
    Name {
        /// The name as given, without `hub:`.
        name: String,
        /// What it should be.
        what: &'static str,
    },
    /// A setting from the environment cannot be used.
    #[error("{variable} is `{value}`, and {what}")]
    Setting {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        what: &'static str,
    },
    /// No place for the cache is known.
    #[error("no folder is known for downloaded models: set HF_HOME or HF_HUB_CACHE")]
    NoHome,
    /// Files are missing, and the network is switched off.
    #[error(
        "HF_HUB_OFFLINE is set and {model} is not complete in {}: {} missing; unset it to fetch what is missing, or give a folder",
        cache.display(), listing(missing)
    )]
    Offline {
        /// The model.
        model: HubModel,
        /// The files.
        missing: Vec<String>,
        /// The cache looked in.
        cache: PathBuf,
    },
    /// No connection, or it broke off too often.
    #[error(
        "cannot fetch {url}: {reason}; check the network (HTTPS_PROXY, HF_ENDPOINT), or fetch the model elsewhere and give its folder; what has arrived is kept"
    )]
    Network {
        /// The address.
        url: String,
        /// What the client says.
        reason: String,
    },
    /// The hub refuses access: the model is gated, private, or does not exist.
    #[error(
        "the hub refuses access to {model} ({status}): check the name; for a gated or private model accept its terms on its page and {}",
        if *token { "check that the token in HF_TOKEN may read it" } else { "set HF_TOKEN to a token that may read it" }
    )]
    Refused {
        /// The model.
        model: HubModel,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// The hub knows no such model, revision or file.
    #[error("the hub has no {what} of {model} (404): check the name and the revision")]
    NotFound {
        /// The model.
        model: HubModel,
        /// What was asked for.
        what: String,
    },
    /// The repository has no such files.
    #[error("{model} has no {what} on the hub: it is no model that this program can read")]
    NoFiles {
        /// The model.
        model: HubModel,
        /// What it lacks.
        what: String,
    },
    /// Any other status.
    #[error("{url} answers {status}: try again later, or set HF_ENDPOINT to another server")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// An answer that is not what the hub gives.
    #[error("{url} answers something else than the hub does ({what}): check HF_ENDPOINT and the proxy")]
    Answer {
        /// The address.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// What arrived is not the file.
    #[error("{file} arrived damaged ({what}) and was removed: try again")]
    Damaged {
        /// The file.
        file: String,
        /// Size or checksum.
        what: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot {action} {} in the cache: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A small file of the cache cannot be written.
    #[error(transparent)]
    Write(#[from] WeightsError),
}

impl HubError {
    /// Wraps the system's answer with what was tried on which path.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

fn listing(files: &[String]) -> String {
    let verb = if files.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", files.join(", "))
}

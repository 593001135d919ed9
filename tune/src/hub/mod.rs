//! Models of the Hugging Face hub: the local cache, and fetching what is missing in it.
//!
//! `hub:org/name` or `hub:org/name@revision` names a model. Its files lie in the cache that Hugging Face's own programs use, in their layout (`cache`), so that
//! both share one copy. A socket is opened only for such a name, only where the cache lacks something, and never with `HF_HUB_OFFLINE=1`. Only what
//! this program reads is fetched (`files`): configuration, tokenizer, weights; never code. Requests are in `client`, blobs that grow over several
//! attempts in `download`, environment variables in `settings`.
//!
//! Left to others: what the files say (`model`, `data`, `weights`), and which commands take such names (`run`).

mod cache;
mod client;
mod download;
mod error;
mod files;
mod name;
mod settings;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use cache::Repository;
use client::Client;
pub use error::HubError;
use files::Missing;
pub use name::HubModel;
pub use settings::Settings;

/// How much of a model is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Configuration and tokenizer: what planning and inspecting take.
    Description,
    /// The weights too.
    Weights,
}

/// A file on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its name in the repository.
    pub file: String,
    /// Bytes that have arrived.
    pub done: u64,
    /// Its size, where the server says it.
    pub size: Option<u64>,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder, as Hugging Face's programs have it.
    pub folder: PathBuf,
    /// The model at the commit that the folder holds.
    pub model: HubModel,
}

/// The folder of a model in the cache, after fetching what is needed and missing.
///
/// A cache that has everything is used as it is; nobody is asked whether there is something newer.
///
/// # Errors
/// [`HubError`]; what has arrived of a file is kept, so that the next attempt continues there.
pub fn fetch(
    model: &HubModel,
    need: Need,
    settings: &Settings,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Snapshot, HubError> {
    let repository = Repository::new(&settings.cache, model);
    let known = repository.commit_of(&model.revision)?;
    let missing = known.as_ref().map(|commit| files::missing(&repository, commit, need)).transpose()?;
    if let (Some(commit), Some(missing)) = (&known, &missing)
        && (missing.is_empty() || (settings.offline && missing.required.is_empty()))
    {
        return Ok(repository.at(model, commit));
    }
    if settings.offline {
        let missing = missing.unwrap_or_else(Missing::everything).required;
        return Err(HubError::Offline { model: model.clone(), missing, cache: settings.cache.clone() });
    }
    let client = Client::new(settings);
    let listing = match (client.listing(model), &known, &missing) {
        // without a network, what may be missing is as good as not there: the rest is a whole model
        (Err(HubError::Network { .. }), Some(commit), Some(missing)) if missing.required.is_empty() => {
            return Ok(repository.at(model, commit));
        }
        (listing, ..) => listing?,
    };
    let target = files::Target { repository: &repository, client: &client, model, listing: &listing };
    target.fetch(need, progress)?;
    repository.write_reference(&model.revision, &listing.commit)?;
    Ok(repository.at(model, &listing.commit))
}

/// The folder of a model that the cache has complete; nothing is fetched.
pub fn cached(model: &HubModel, settings: &Settings) -> Option<Snapshot> {
    let offline = Settings { offline: true, ..settings.clone() };
    fetch(model, Need::Weights, &offline, &mut |_| {}).ok()
}

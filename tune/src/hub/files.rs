//! Which files of a repository this program reads, which of them a snapshot lacks, and fetching those.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::cache::Repository;
use super::client::{Client, Listing};
use super::{HubError, HubModel, Need, Progress, download};

/// The file without which nothing is a model.
const CONFIG: &str = "config.json";
/// Small files that a model may have.
const OPTIONAL: [&str; 5] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];
/// The forms of a tokenizer; the first that there is counts.
const TOKENIZERS: [&[&str]; 3] = [&["tokenizer.json"], &["tokenizer.model"], &["vocab.json", "merges.txt"]];
/// The forms of weights, a whole file and the index of shards; the first that there is counts.
const WEIGHTS: [(&str, &str); 2] =
    [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")];
/// Largest index read, in bytes.
const LARGEST_INDEX: u64 = 64 << 20;

/// What a snapshot lacks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Without these there is no model.
    pub(super) required: Vec<String>,
    /// Of these it is not known whether the repository has them.
    unknown: Vec<&'static str>,
}

impl Missing {
    pub(super) fn is_empty(&self) -> bool {
        self.required.is_empty() && self.unknown.is_empty()
    }

    /// Of a model that the cache does not have at all.
    pub(super) fn everything() -> Self {
        Self { required: [CONFIG, WEIGHTS[0].0].map(str::to_owned).into(), unknown: Vec::new() }
    }
}

/// What a snapshot lacks of what is needed.
pub(super) fn missing(repository: &Repository, commit: &str, need: Need) -> Result<Missing, HubError> {
    let folder = repository.snapshot(commit);
    let is_there = |file: &str| folder.join(file).exists();
    let tree = repository.tree(commit);
    let is_listed = |file: &str| tree.as_ref().is_none_or(|files| files.contains(file));
    let is_open = |file: &&'static str| !is_there(file) && !repository.is_absent(commit, file) && is_listed(file);
    let mut missing = Missing::default();
    if !is_there(CONFIG) {
        missing.required.push(CONFIG.to_owned());
    }
    missing.unknown.extend(OPTIONAL.into_iter().filter(is_open));
    for form in TOKENIZERS {
        if form.iter().all(|file| is_there(file)) {
            break;
        }
        missing.unknown.extend(form.iter().copied().filter(is_open));
    }
    if need < Need::Weights {
        return Ok(missing);
    }
    for (single, index) in WEIGHTS {
        if is_there(single) {
            return Ok(missing);
        }
        if is_there(index) {
            missing.required.extend(shards(&folder.join(index))?.into_iter().filter(|shard| !is_there(shard)));
            return Ok(missing);
        }
    }
    missing.required.push(WEIGHTS[0].0.to_owned());
    Ok(missing)
}

/// A repository on the hub and its place in the cache.
pub(super) struct Target<'a> {
    pub(super) repository: &'a Repository,
    pub(super) client: &'a Client,
    pub(super) model: &'a HubModel,
    pub(super) listing: &'a Listing,
}

impl Target<'_> {
    /// Fetches what is needed and not there, and marks what the repository does not have.
    pub(super) fn fetch(&self, need: Need, progress: &mut dyn FnMut(&Progress)) -> Result<(), HubError> {
        let none = |what: &str| HubError::NoFiles { model: self.model.clone(), what: what.to_owned() };
        if !self.has(CONFIG) {
            return Err(none(CONFIG));
        }
        self.fetch_file(CONFIG, progress)?;
        for file in OPTIONAL {
            self.fetch_or_mark(file, progress)?;
        }
        for form in TOKENIZERS {
            for file in form {
                self.fetch_or_mark(file, progress)?;
            }
            if form.iter().all(|file| self.has(file)) {
                break;
            }
        }
        if need < Need::Weights {
            return Ok(());
        }
        for (single, index) in WEIGHTS {
            if self.has(single) {
                return self.fetch_file(single, progress);
            }
            if self.has(index) {
                self.fetch_file(index, progress)?;
                let shards = shards(&self.repository.snapshot(&self.listing.commit).join(index))?;
                if let Some(absent) = shards.iter().find(|shard| !self.has(shard)) {
                    return Err(none(absent));
                }
                return shards.iter().try_for_each(|shard| self.fetch_file(shard, progress));
            }
        }
        Err(none("model.safetensors or pytorch_model.bin"))
    }

    fn has(&self, file: &str) -> bool {
        self.listing.files.contains(file)
    }

    fn fetch_or_mark(&self, file: &str, progress: &mut dyn FnMut(&Progress)) -> Result<(), HubError> {
        if self.has(file) {
            return self.fetch_file(file, progress);
        }
        self.repository.mark_absent(&self.listing.commit, file)
    }

    fn fetch_file(&self, file: &str, progress: &mut dyn FnMut(&Progress)) -> Result<(), HubError> {
        let commit = &self.listing.commit;
        if self.repository.snapshot(commit).join(file).exists() {
            return Ok(());
        }
        let pinned = HubModel { repository: self.model.repository.clone(), revision: commit.clone() };
        let head = self.client.head(&pinned, file)?;
        let lock = self.repository.lock(&head.etag)?;
        download::blob(self.client, &pinned, file, &head, self.repository.blob(&head.etag), progress)?;
        self.repository.link(commit, file, &head.etag)?;
        drop(lock);
        Ok(())
    }
}

/// The shards that an index names: weights files of the repository's top folder only.
fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let wrong = |what: String| HubError::Answer { url: index.display().to_string(), what };
    let size = std::fs::metadata(index).map_err(HubError::io("read", index))?.len();
    if size > LARGEST_INDEX {
        return Err(wrong(format!("an index of {size} bytes")));
    }
    let text = std::fs::read(index).map_err(HubError::io("read", index))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    let plain = |shard: &String| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        shard.chars().all(known)
            && !shard.starts_with('.')
            && [".safetensors", ".bin"].iter().any(|end| shard.ends_with(end))
    };
    match shards.iter().find(|shard| !plain(shard)) {
        Some(shard) => Err(wrong(format!("{shard:?} as the name of a shard"))),
        None => Ok(shards),
    }
}

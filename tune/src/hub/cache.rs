//! The cache's layout, as `huggingface_hub` has it.
//!
//! A repository is `models--org--name`. In it, `refs/REVISION` holds the commit that a branch or tag was at; `snapshots/COMMIT/FILE` are symbolic links to
//! `blobs/ETAG`, so that commits share files; `.no_exist/COMMIT/FILE` marks what a commit is known not to have, and `trees/COMMIT.json`, which newer versions
//! write, lists all that it has. Beside the repositories,
//! `.locks/models--org--name/ETAG.lock` is held while a blob is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::name::is_commit;
use super::{HubError, HubModel, Snapshot};
use crate::weights::write_file;

/// Largest listing read, in bytes.
const LARGEST_TREE: u64 = 64 << 20;

/// One repository in the cache.
#[derive(Debug)]
pub(super) struct Repository {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repository {
    pub(super) fn new(cache: &Path, model: &HubModel) -> Self {
        let name = format!("models--{}", model.repository.replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that a revision was at when it was fetched; none if the cache does not know it.
    pub(super) fn commit_of(&self, revision: &str) -> Result<Option<String>, HubError> {
        if is_commit(revision) {
            return Ok(self.folder.join("snapshots").join(revision).is_dir().then(|| revision.to_owned()));
        }
        let path = self.folder.join("refs").join(revision);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(HubError::Io { action: "read", path, source }),
        };
        // what is no commit must not become part of a path
        Ok(Some(text.trim().to_owned()).filter(|commit| is_commit(commit)))
    }

    pub(super) fn write_reference(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        create_parent(&path)?;
        Ok(write_file(&path, commit.as_bytes())?)
    }

    pub(super) fn at(&self, model: &HubModel, commit: &str) -> Snapshot {
        let model = HubModel { repository: model.repository.clone(), revision: commit.to_owned() };
        Snapshot { folder: self.snapshot(commit), model }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where a blob lies, and where it grows.
    pub(super) fn blob(&self, etag: &str) -> (PathBuf, PathBuf) {
        let blobs = self.folder.join("blobs");
        (blobs.join(etag), blobs.join(format!("{etag}.incomplete")))
    }

    /// All files of a commit, where its listing is in the cache.
    pub(super) fn tree(&self, commit: &str) -> Option<BTreeSet<String>> {
        #[derive(Deserialize)]
        struct Tree {
            format_version: u32,
            files: BTreeMap<String, IgnoredAny>,
        }
        let path = self.folder.join("trees").join(format!("{commit}.json"));
        let size = fs::metadata(&path).ok()?.len();
        // a listing that cannot be read says nothing: the hub is asked then
        let text = (size <= LARGEST_TREE).then(|| fs::read(&path).ok()).flatten()?;
        let tree: Tree = serde_json::from_slice(&text).ok()?;
        (tree.format_version == 1).then(|| tree.files.into_keys().collect())
    }

    /// Whether a commit is known not to have a file.
    pub(super) fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.folder.join(".no_exist").join(commit).join(file).exists()
    }

    pub(super) fn mark_absent(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.folder.join(".no_exist").join(commit).join(file);
        create_parent(&path)?;
        File::create(&path).map(drop).map_err(HubError::io("create", path))
    }

    /// Waits until no other process writes this blob; the lock falls with the file.
    pub(super) fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(HubError::io("open", &path))?;
        file.lock().map_err(HubError::io("lock", path))?;
        Ok(file)
    }

    /// Makes a blob appear in a snapshot.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        create_parent(&path)?;
        if path.exists() {
            return Ok(());
        }
        // a link whose blob is gone stands in the way
        let _ = fs::remove_file(&path);
        match place(&self.blob(etag).0, etag, &path) {
            // another process was quicker
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(HubError::io("create", path)),
        }
    }
}

#[cfg(unix)]
fn place(_: &Path, etag: &str, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), path)
}

/// Elsewhere links take rights that users do not have: a copy, as `huggingface_hub` makes it then.
#[cfg(not(unix))]
fn place(blob: &Path, _: &str, path: &Path) -> std::io::Result<()> {
    fs::copy(blob, path).map(drop)
}

pub(super) fn create_parent(path: &Path) -> Result<(), HubError> {
    // every path here is below the cache
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io("create", parent))
}

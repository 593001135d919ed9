//! `quanta import`: a checkpoint of the paper's authors becomes an adapter folder.

use std::path::{Path, PathBuf};

use super::RunError;
use super::hub::model_folder;
use crate::checkpoint::{AuthorsCheckpoint, Comparison};
use crate::hub::{HubModel, Need};
use crate::model::{read_folder_config, resolve};
use crate::weights::Staging;

/// One entry of the folder written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedEntry {
    /// The method's settings in words: labels and texts.
    pub description: Vec<(&'static str, String)>,
    /// How many sites it has.
    pub sites: usize,
    /// Trainable parameters of all of them.
    pub parameters: usize,
}

/// What importing found.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportReport {
    /// The adapter folder.
    pub out: PathBuf,
    /// Its entries.
    pub entries: Vec<ImportedEntry>,
    /// How the checkpoint's other weights compare with the base model's.
    pub comparison: Comparison,
}

/// Reads T and S from `from` (their `pytorch_model.bin`, or its folder), compares all other weights with `base`, and writes an adapter of `base` to `out`,
/// which must not exist.
///
/// # Errors
/// When something cannot be read or written, the gates make no circuit, do not fit the model, or were trained on another one.
pub fn import(from: &Path, base: &Path, out: &Path) -> Result<ImportReport, RunError> {
    Staging::refuse_existing(out)?;
    let (named, base) = (base, &model_folder(base, Need::Weights)?);
    let config = read_folder_config(base).map_err(|error| RunError::Load(error.into()))?;
    let checkpoint = AuthorsCheckpoint::open(from)?;
    let attachments = checkpoint.attachments(&config)?;
    let chosen = resolve(&attachments, &config)
        .map_err(|errors| RunError::Attach { origin: from.display().to_string(), errors })?;
    let comparison = checkpoint.compare(base, &config)?;
    let staging = Staging::create(out)?;
    let name = match named.to_str().and_then(HubModel::from_path) {
        Some(model) => model?.repository,
        None => std::path::absolute(base).unwrap_or_else(|_| base.to_owned()).display().to_string(),
    };
    let modules = config.modules();
    let mut entries = Vec::new();
    for (entry, (attachment, list)) in attachments.iter().zip(&chosen).enumerate() {
        let part = match attachments.len() {
            1 => staging.path().to_owned(),
            _ => staging.path().join(entry.to_string()),
        };
        std::fs::create_dir_all(&part).map_err(RunError::io("create", &part))?;
        let sites: Vec<_> = list.iter().map(|&index| &modules[index]).collect();
        checkpoint.write_entry(&part, attachment, &sites, &name)?;
        let method = &attachment.method;
        entries.push(ImportedEntry {
            description: sites.first().map(|site| method.describe(site)).unwrap_or_default(),
            sites: sites.len(),
            parameters: sites.iter().map(|site| method.parameters(site)).sum(),
        });
    }
    staging.commit()?;
    Ok(ImportReport { out: out.to_owned(), entries, comparison })
}

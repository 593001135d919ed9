//! What a folder's files call the tensors of a model: their names, or, where a folder was saved without the part that holds its head, the names below
//! the model's root.

use super::config::ModelConfig;
use crate::weights::TensorFiles;

/// How names in files follow from names in the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileNames {
    /// What every name in the files lacks at its beginning.
    missing: Option<&'static str>,
}

impl FileNames {
    /// Finds out from the embedding's name.
    pub fn of(files: &TensorFiles, config: &ModelConfig) -> Self {
        let embedding = format!("{}.weight", config.names.embedding);
        let missing = config.names.root.filter(|root| {
            let below = embedding.strip_prefix(root).unwrap_or(&embedding);
            files.get(&embedding).is_none() && files.get(below).is_some()
        });
        Self { missing }
    }

    /// The name in the files of a tensor of the model.
    pub fn in_files<'a>(&self, tensor: &'a str) -> &'a str {
        self.missing.and_then(|root| tensor.strip_prefix(root)).unwrap_or(tensor)
    }

    /// The name in the model of a tensor of the files.
    pub fn in_model(&self, tensor: &str) -> String {
        format!("{}{tensor}", self.missing.unwrap_or(""))
    }
}

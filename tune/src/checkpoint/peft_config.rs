//! `adapter_config.json`: the keys every method shares, in PEFT's spelling; the method's own come from the method.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::CheckpointError;
use crate::adapter::{Layers, Selection, Sites, methods};
use crate::config::{Problems, Section, nearest, read_json};
use crate::model::Attachment;
use crate::weights::Dtype;

/// Version of what this program adds to PEFT's layout.
const FORMAT: usize = 1;

/// Name of the file.
pub const FILE: &str = "adapter_config.json";

/// What an `adapter_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The method and its sites.
    pub attachment: Attachment,
    /// Folder or hub name of the base model.
    pub base: Option<String>,
}

impl AdapterConfig {
    /// The file's text beside tensors of type `dtype`: keys sorted, two spaces of indentation, as PEFT writes it.
    pub fn text(&self, dtype: Dtype) -> String {
        let Attachment { method, selection } = &self.attachment;
        let mut map = method.write_peft();
        let own = methods().iter().any(|info| info.peft_type == method.peft_type() && info.extends_peft);
        for (key, value) in [
            ("peft_type", json!(method.peft_type())),
            ("task_type", json!("CAUSAL_LM")),
            ("base_model_name_or_path", json!(self.base)),
            ("revision", Value::Null),
            ("inference_mode", json!(true)),
            ("bias", json!("none")),
            ("target_modules", selection.sites.to_value()),
            ("layers_to_transform", json!(selection.layers.list())),
            ("layers_pattern", Value::Null),
            ("modules_to_save", Value::Null),
        ] {
            map.insert(key.to_owned(), value);
        }
        if own {
            map.insert("quanta_format".to_owned(), json!(FORMAT));
            map.insert("dtype".to_owned(), json!(dtype.config_name()));
        }
        let mut text = serde_json::to_string_pretty(&sorted(map)).expect("a map with text keys is JSON");
        text.push('\n');
        text
    }

    /// Reads `adapter_config.json` of `folder`.
    ///
    /// # Errors
    /// When it is missing, is not JSON, names an unknown method, or holds anything this program would have to ignore; all problems at once.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Err(CheckpointError::NoAdapter { path: folder.to_owned() });
        }
        let problems = Problems::new();
        let mut section = Section::new("", read_json(&path)?, &problems);
        let config = Self::read_section(&mut section);
        // of an unknown type no key is known
        if config.is_some() {
            section.finish();
        }
        problems.check(&path.display().to_string())?;
        // the reader gives a configuration whenever it found no problem
        Ok(config.expect("a configuration without problems"))
    }

    fn read_section(section: &mut Section) -> Option<Self> {
        let peft_type = section.string("peft_type").must("must not be empty", |text| !text.is_empty()).required();
        let Some(info) = methods().iter().find(|info| info.peft_type == peft_type) else {
            if !peft_type.is_empty() {
                let known: Vec<&str> = methods().iter().map(|info| info.peft_type).collect();
                let near = nearest(&peft_type, known.iter().copied());
                let near = near.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default();
                let message = format!("`{peft_type}` is not one of {}{near}", known.join(", "));
                section.problem("peft_type", message);
            }
            return None;
        };
        let method = info.read_peft(section);
        let version = section.usize("quanta_format").or(FORMAT);
        if version > FORMAT {
            section.problem(
                "quanta_format",
                format!("{version} is newer than {FORMAT}, which this program knows: update it"),
            );
        }
        let sites = match section.strings_or_string("target_modules").required() {
            (texts, false) => Sites::from_text(texts.first().map_or("", String::as_str)),
            (names, true) => Sites::Names(names),
        };
        let layers = Layers::from_value(section.value("layers_to_transform")).unwrap_or_else(|message| {
            section.problem("layers_to_transform", message);
            Layers::default()
        });
        for key in
            ["modules_to_save", "exclude_modules", "layer_replication", "target_parameters", "trainable_token_indices"]
        {
            section.only(key, &[]);
        }
        section.only("layers_pattern", &[json!("layers"), json!(["layers"])]);
        section.only("bias", &[json!("none")]);
        section.only("task_type", &[json!("CAUSAL_LM")]);
        section.ignore(&["auto_mapping", "dtype", "inference_mode", "peft_version", "revision"]);
        let base = section.string("base_model_name_or_path").optional();
        Some(Self { attachment: Attachment { method, selection: Selection { sites, layers } }, base })
    }
}

fn sorted(map: Map<String, Value>) -> Map<String, Value> {
    let mut entries: Vec<(String, Value)> = map.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries.into_iter().collect()
}

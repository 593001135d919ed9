//! `adapter_config.json`: the keys every method shares, in PEFT's spelling; the method's own come from the method.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::CheckpointError;
use crate::adapter::{Layers, Selection, Sites, Target, methods};
use crate::config::{Problems, Section, nearest, read_json};
use crate::model::Attachment;
use crate::weights::Dtype;

/// Version of what this program adds to PEFT's layout.
const FORMAT: usize = 1;

/// PEFT's `task_type` of models that predict tokens, and of those that classify sequences.
const PREDICTS: &str = "CAUSAL_LM";
const CLASSIFIES: &str = "SEQ_CLS";

/// Name of the file.
pub const FILE: &str = "adapter_config.json";

/// What an `adapter_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The method and its sites; behind it, where the file says `modules_to_save`, those modules as an entry that trains them.
    pub attachments: Vec<Attachment>,
    /// Folder or hub name of the base model.
    pub base: Option<String>,
    /// Whether the model's head is one over whole sequences, which PEFT wraps in another class.
    pub classifies: bool,
}

/// How many of the leading entries go into one folder: a method that PEFT knows takes modules that train themselves along, as `modules_to_save`.
pub fn together(attachments: &[Attachment]) -> usize {
    let joins = |saved: &Attachment| {
        let named = matches!(saved.selection.sites, Sites::Names(_)) && saved.selection.layers == Layers::default();
        saved.method.unfreezes() && named
    };
    match attachments {
        [first, saved, ..] if !first.method.extends_peft() && !first.method.unfreezes() && joins(saved) => 2,
        list => list.len().min(1),
    }
}

impl AdapterConfig {
    /// The file's text beside tensors of type `dtype`: keys sorted, two spaces of indentation, as PEFT writes it.
    pub fn text(&self, dtype: Dtype) -> String {
        // a configuration is of at least one entry
        let Attachment { method, selection } = &self.attachments[0];
        let saved = self.attachments.get(1).map(|saved| saved.selection.sites.to_value());
        let mut map = method.write_peft();
        if method.target() != Target::Attention {
            map.insert("target_modules".to_owned(), selection.sites.to_value());
        }
        for (key, value) in [
            ("peft_type", json!(method.peft_type())),
            ("task_type", json!(if self.classifies { CLASSIFIES } else { PREDICTS })),
            ("base_model_name_or_path", json!(self.base)),
            ("revision", Value::Null),
            ("inference_mode", json!(true)),
            ("modules_to_save", json!(saved)),
        ] {
            map.insert(key.to_owned(), value);
        }
        if method.target() != Target::Attention {
            map.insert("bias".to_owned(), json!("none"));
            map.insert("layers_to_transform".to_owned(), json!(selection.layers.list()));
            map.insert("layers_pattern".to_owned(), Value::Null);
        }
        if method.extends_peft() {
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
        let Some(info) = methods().iter().find(|info| info.claims(&peft_type, section)) else {
            if !peft_type.is_empty() {
                let mut known: Vec<&str> = methods().iter().map(|info| info.peft_type).collect();
                known.dedup();
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
        let sites = match info.target {
            Target::Attention => Sites::Attention,
            _ => match section.strings_or_string("target_modules").required() {
                (texts, false) => Sites::from_text(texts.first().map_or("", String::as_str)),
                (names, true) => Sites::Names(names),
            },
        };
        let layers = Layers::from_value(section.value("layers_to_transform")).unwrap_or_else(|message| {
            section.problem("layers_to_transform", message);
            Layers::default()
        });
        for key in ["exclude_modules", "layer_replication", "target_parameters", "trainable_token_indices"] {
            section.only(key, &[]);
        }
        let classifies = section.one_of("task_type", &[(PREDICTS, false), (CLASSIFIES, true)]).or(false);
        let mut saved = section.strings("modules_to_save").or_default();
        // PEFT adds the two names that classes give their heads, whichever the model has, to those that are there
        if classifies && saved.iter().any(|name| name == "classifier") {
            saved.retain(|name| name != "score");
            saved.sort_unstable();
            saved.dedup();
        }
        section.only("layers_pattern", &[json!("layers"), json!(["layers"])]);
        section.only("bias", &[json!("none")]);
        section.ignore(&["auto_mapping", "dtype", "inference_mode", "peft_version", "revision"]);
        let base = section.string("base_model_name_or_path").optional();
        let mut attachments = vec![Attachment { method, selection: Selection { sites, layers } }];
        if !saved.is_empty() {
            let training =
                methods().iter().find(|info| info.unfreezes()).expect("a method that trains modules themselves");
            let method = training.read(&mut Section::new("", Map::new(), &Problems::new()));
            let selection = Selection { sites: Sites::Names(saved), layers: Layers::default() };
            attachments.push(Attachment { method, selection });
        }
        Some(Self { attachments, base, classifies })
    }
}

fn sorted(map: Map<String, Value>) -> Map<String, Value> {
    let mut entries: Vec<(String, Value)> = map.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries.into_iter().collect()
}

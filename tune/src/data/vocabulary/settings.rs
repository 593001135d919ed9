//! What the files beside a vocabulary say: `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, and the model type in `config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Vocabulary;
use crate::data::tokenizer::{TokenizerError, read_objects};

/// The roles of special tokens, in the order in which Hugging Face gives numbers to those that a vocabulary lacks.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Lists of further special tokens.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// A token that is looked for in a text before the vocabulary is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl Added {
    /// A token that takes nothing around it with it and is found in the text as it is.
    pub(super) fn new(content: impl Into<String>, special: bool) -> Self {
        Self { content: content.into(), single_word: false, lstrip: false, rstrip: false, normalized: false, special }
    }

    /// The same token, taking the blanks in front of it with it.
    pub(super) fn with_left_blank(self) -> Self {
        Self { lstrip: true, ..self }
    }

    /// Reads a text, or an object as `tokenizer_config.json` has it.
    fn from_value(value: &Value, special: bool) -> Option<Self> {
        if let Some(content) = value.as_str() {
            return Some(Self::new(content, special));
        }
        let flag = |key: &str, default: bool| value.get(key).and_then(Value::as_bool).unwrap_or(default);
        let special = flag("special", special);
        Some(Self {
            content: value.get("content")?.as_str()?.to_owned(),
            single_word: flag("single_word", false),
            lstrip: flag("lstrip", false),
            rstrip: flag("rstrip", false),
            normalized: flag("normalized", !special),
            special,
        })
    }

    /// As `tokenizer.json` writes it.
    pub(super) fn to_value(&self, id: u32) -> Value {
        json!({
            "id": id, "content": self.content, "single_word": self.single_word, "lstrip": self.lstrip,
            "rstrip": self.rstrip, "normalized": self.normalized, "special": self.special,
        })
    }
}

/// The settings of a folder.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Name of the tokenizer's class, without `Fast`, in lower case; where no file names one, the model type with `tokenizer` behind it.
    class: Option<String>,
    /// Whether the class was named, rather than inferred.
    names_class: bool,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    pub(super) legacy: Option<bool>,
    /// Special tokens by role.
    roles: BTreeMap<&'static str, Added>,
    listed: Vec<Added>,
    /// Tokens with numbers.
    numbered: BTreeMap<u32, Added>,
}

impl Settings {
    /// Reads those of the four files that exist.
    pub(super) fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let names = ["tokenizer_config.json", "special_tokens_map.json"].map(|name| folder.join(name));
        let named: Vec<Map<String, Value>> = read_objects(&names)?.into_iter().map(|(_, object)| object).collect();
        let mut settings = Self::of(&named);
        for (path, object) in read_objects(&[folder.join("added_tokens.json")])? {
            for (content, id) in object {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let reason = format!("the number of token {content:?} is none");
                let id = id.ok_or_else(|| TokenizerError::Malformed { path: path.clone(), reason })?;
                let special = settings.roles.values().chain(&settings.listed).any(|added| added.content == content);
                let mut added = Added::new(content, special);
                added.normalized = !special;
                settings.numbered.entry(id).or_insert(added);
            }
        }
        if settings.class.is_none() {
            let config = read_objects(&[folder.join("config.json")])?;
            let kind = config.iter().find_map(|(_, object)| object.get("model_type")).and_then(Value::as_str);
            settings.class = kind.map(|kind| format!("{}tokenizer", kind.to_lowercase()));
        }
        Ok(settings)
    }

    /// The settings in these objects, the first that has a key counting.
    fn of(objects: &[Map<String, Value>]) -> Self {
        let find = |key: &str| objects.iter().find_map(|object| object.get(key).filter(|value| !value.is_null()));
        let flag = |key: &str| find(key).and_then(Value::as_bool);
        let class = find("tokenizer_class").and_then(Value::as_str);
        let class = class.map(|class| class.strip_suffix("Fast").unwrap_or(class).to_lowercase());
        let role = |&role: &&'static str| Some((role, Added::from_value(find(role)?, true)?));
        let lists = LISTS.iter().filter_map(|list| find(list));
        let listed = lists.flat_map(|list| match list {
            Value::Array(items) => items.iter().collect::<Vec<_>>(),
            Value::Object(items) => items.values().collect(),
            _ => Vec::new(),
        });
        let numbered = find("added_tokens_decoder").and_then(Value::as_object);
        let number = |(id, token): (&String, &Value)| Some((id.parse().ok()?, Added::from_value(token, false)?));
        Self {
            names_class: class.is_some(),
            class,
            add_bos: flag("add_bos_token"),
            add_eos: flag("add_eos_token"),
            add_prefix_space: flag("add_prefix_space"),
            legacy: flag("legacy"),
            roles: ROLES.iter().filter_map(role).collect(),
            listed: listed.filter_map(|token| Added::from_value(token, true)).collect(),
            numbered: numbered.into_iter().flatten().filter_map(number).collect(),
        }
    }

    /// The special token of a role.
    pub(super) fn special(&self, role: &str) -> Option<String> {
        self.roles.get(role).map(|added| added.content.clone())
    }

    /// Whether any file lists tokens with numbers.
    pub(super) fn lists_tokens(&self) -> bool {
        !self.numbered.is_empty()
    }

    /// Which of these classes the folder's is; compared without `Fast` and in lower case.
    pub(super) fn one_of<T: Copy>(&self, classes: &[(&str, T)]) -> Option<T> {
        let class = self.class.as_ref()?;
        classes.iter().find(|(name, _)| name.to_lowercase() == *class).map(|(_, value)| *value)
    }

    /// The class that a file names, if a file does.
    pub(super) fn named_class(&self) -> Option<&str> {
        self.class.as_deref().filter(|_| self.names_class)
    }

    /// The class, or that there is none, for a message.
    pub(super) fn class_words(&self) -> String {
        self.class.as_ref().map_or_else(|| "no file says which".to_owned(), |class| format!("`{class}` is another"))
    }

    /// All added tokens with their numbers, in the order of these: the files' own, those listed with numbers, then special ones by role and list. What the
    /// vocabulary lacks and no file numbers follows behind it, as Hugging Face adds it.
    ///
    /// # Errors
    /// A number that contradicts the vocabulary, or that leaves a hole.
    pub(super) fn place<'a>(
        &self,
        vocabulary: &Vocabulary,
        own: Vec<Added>,
        defaults: impl Iterator<Item = &'a String>,
    ) -> Result<Vec<(u32, Added)>, String> {
        let mut placed: BTreeMap<u32, Added> = BTreeMap::new();
        for (&id, added) in &self.numbered {
            if let Some(&known) = vocabulary.get(&added.content)
                && known != id
            {
                return Err(format!(
                    "token `{}` has number {known} in the vocabulary and {id} beside it",
                    added.content
                ));
            }
            placed.insert(id, added.clone());
        }
        let mut next = vocabulary.values().chain(placed.keys()).max().map_or(0, |last| last.saturating_add(1));
        let roles = ROLES.iter().filter_map(|role| self.roles.get(role));
        // what a role says of a token counts more than what its kind of file does
        let said =
            |added: Added| self.roles.values().find(|role| role.content == added.content).cloned().unwrap_or(added);
        let defaults = defaults.map(|token| Added::new(token.clone(), true));
        let rest = own.into_iter().map(said).chain(roles.cloned()).chain(defaults).chain(self.listed.iter().cloned());
        for added in rest {
            if placed.values().any(|known| known.content == added.content) {
                continue;
            }
            let id = *vocabulary.get(&added.content).unwrap_or(&next);
            if id == next {
                next = next.saturating_add(1);
            }
            placed.insert(id, added);
        }
        // the reader numbers new tokens from the vocabulary's size on
        let new = placed.iter().filter(|(_, added)| !vocabulary.contains_key(&added.content));
        for ((id, added), expected) in new.zip(vocabulary.len()..) {
            if *id as usize != expected {
                return Err(format!("token `{}` has number {id} where {expected} is the next one", added.content));
            }
        }
        Ok(placed.into_iter().collect())
    }
}

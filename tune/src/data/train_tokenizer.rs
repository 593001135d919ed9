//! A byte-level BPE tokenizer from text, for models that start from nothing.
//!
//! The `tokenizers` crate does the work; what is decided here is the form: GPT-2's splitting, all 256 bytes in the vocabulary, so that any text can be
//! encoded and gives itself back, and a begin token that the template puts in front. The files are those that every Hugging Face tool reads.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::tokenizer::TokenizerError;

/// The begin-of-text token, with id 0.
pub const BEGIN: &str = "<s>";
/// The end-of-text token, with id 1.
pub const END: &str = "</s>";

/// Smallest vocabulary: the two special tokens and the bytes.
pub const SMALLEST_VOCABULARY: usize = 258;

/// A trained tokenizer as the files of a model folder.
#[derive(Clone, Debug)]
pub struct TrainedTokenizer {
    /// Tokens, the special ones included; fewer than asked for where the text has no more pairs to merge.
    pub vocab_size: usize,
    files: [(&'static str, Value); 3],
}

impl TrainedTokenizer {
    /// Name and text of each file.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, String)> {
        // a value is JSON
        self.files.iter().map(|(name, value)| (*name, serde_json::to_string_pretty(value).unwrap_or_default() + "\n"))
    }
}

/// Trains a tokenizer of at most `vocab_size` tokens on the text of `files`.
///
/// # Errors
/// [`TokenizerError`] when a file cannot be read or holds no UTF-8 text.
///
/// # Panics
/// When `vocab_size` is below [`SMALLEST_VOCABULARY`].
pub fn train_tokenizer(files: &[impl AsRef<Path>], vocab_size: usize) -> Result<TrainedTokenizer, TokenizerError> {
    assert!(vocab_size >= SMALLEST_VOCABULARY, "a vocabulary of {vocab_size} tokens cannot hold all bytes");
    let failed = |error: tokenizers::Error| TokenizerError::Train { reason: error.to_string() };
    let mut texts = Vec::new();
    for file in files {
        let path = file.as_ref();
        texts.push(
            std::fs::read_to_string(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })?,
        );
    }
    let special = [BEGIN, END].map(|token| AddedToken::from(token, true).normalized(false));
    let trainer = BpeTrainer::builder().show_progress(false).vocab_size(vocab_size).min_frequency(2);
    let trainer =
        trainer.special_tokens(special.to_vec()).initial_alphabet(ByteLevel::alphabet().into_iter().collect()).build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let lines = texts.iter().flat_map(|text| text.split_inclusive('\n'));
    tokenizer.train(&mut TrainerWrapper::from(trainer), lines).map_err(failed)?;
    let template = TemplateProcessing::builder()
        .try_single(format!("{BEGIN} $A"))
        .map_err(|reason| TokenizerError::Train { reason })?
        .special_tokens(vec![(BEGIN, 0)])
        .build()
        .map_err(|error| TokenizerError::Train { reason: error.to_string() })?;
    tokenizer.with_post_processor(Some(template));
    let text = tokenizer.to_string(false).map_err(failed)?;
    let tokenizer_json = serde_json::from_str(&text).map_err(|e| TokenizerError::Train { reason: e.to_string() })?;
    let names = json!({ "bos_token": BEGIN, "eos_token": END });
    let mut config = names.clone();
    config["tokenizer_class"] = json!("PreTrainedTokenizerFast");
    config["clean_up_tokenization_spaces"] = json!(false);
    Ok(TrainedTokenizer {
        vocab_size: tokenizer.get_vocab_size(true),
        files: [
            ("tokenizer.json", tokenizer_json),
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", names),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenizer::Tokenizer;

    #[test]
    fn a_trained_tokenizer_gives_any_text_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        std::fs::write(&path, "the cat and the hat and 12 apples\n".repeat(20)).unwrap();
        let trained = train_tokenizer(&[&path], 300).unwrap();
        assert!((SMALLEST_VOCABULARY..=300).contains(&trained.vocab_size), "{}", trained.vocab_size);
        for (name, text) in trained.files() {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), Some(1)));
        for text in ["the cat", " the  12 apples\n", "é 漢 \u{1f600} zebra"] {
            let tokens = tokenizer.encode(text).unwrap();
            assert_eq!(tokens[0], 0);
            assert_eq!(tokenizer.decode(&tokens[1..], false).unwrap(), text);
        }
        assert_eq!(tokenizer.encode("the cat").unwrap().len(), 3, "words of the text are one token");
        let again = train_tokenizer(&[&path], 300).unwrap();
        assert!(trained.files().eq(again.files()), "training is deterministic");
    }

    #[test]
    fn unreadable_text_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(matches!(train_tokenizer(&[&path], 300), Err(TokenizerError::Read { .. })));
    }
}

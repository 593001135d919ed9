//! A byte-level BPE tokenizer from text, for models that start from nothing.
//!
//! The `tokenizers` crate does the work; what is decided here is the form: GPT-2's splitting, all 256 bytes in the vocabulary, so that any text can be
//! encoded and gives itself back, and a begin token that the template puts in front; for encoders the template of RoBERTa, which parts two sentences. The files are those that every Hugging Face tool reads.

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
/// The end-of-text token, with id 1, of an encoder's tokenizer with id 2.
pub const END: &str = "</s>";
/// The padding of an encoder's tokenizer, with id 1: RoBERTa gives that id no position, so nothing that is read may have it.
const PADDING: &str = "<pad>";

/// What stands around a text, and between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// The begin token in front.
    Begin,
    /// As RoBERTa: `<s> a </s>`, and `<s> a </s></s> b </s>`.
    Sentences,
}

impl Marks {
    /// Smallest vocabulary: the special tokens and the bytes.
    pub fn smallest_vocabulary(self) -> usize {
        self.tokens().len() + 256
    }

    /// The special tokens, from id 0.
    fn tokens(self) -> &'static [&'static str] {
        match self {
            Self::Begin => &[BEGIN, END],
            Self::Sentences => &[BEGIN, PADDING, END],
        }
    }

    fn template(self) -> Result<TemplateProcessing, TokenizerError> {
        let failed = |reason: String| TokenizerError::Train { reason };
        let mut builder = TemplateProcessing::builder();
        let named =
            (0..).zip(self.tokens()).map(|(id, token)| ((*token).to_owned(), id)).collect::<Vec<(String, u32)>>();
        match self {
            Self::Begin => {
                builder.try_single(format!("{BEGIN} $A")).map_err(failed)?;
            }
            Self::Sentences => {
                builder.try_single(format!("{BEGIN} $A {END}")).map_err(failed)?;
                builder.try_pair(format!("{BEGIN} $A {END} {END} $B:0 {END}")).map_err(failed)?;
            }
        }
        builder.special_tokens(named);
        builder.build().map_err(|error| failed(error.to_string()))
    }
}

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
/// When `vocab_size` is below [`Marks::smallest_vocabulary`].
pub fn train_tokenizer(
    files: &[impl AsRef<Path>],
    vocab_size: usize,
    marks: Marks,
) -> Result<TrainedTokenizer, TokenizerError> {
    assert!(vocab_size >= marks.smallest_vocabulary(), "a vocabulary of {vocab_size} tokens cannot hold all bytes");
    let failed = |error: tokenizers::Error| TokenizerError::Train { reason: error.to_string() };
    let mut texts = Vec::new();
    for file in files {
        let path = file.as_ref();
        texts.push(
            std::fs::read_to_string(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })?,
        );
    }
    let special = marks.tokens().iter().map(|token| AddedToken::from(*token, true).normalized(false));
    let trainer = BpeTrainer::builder().show_progress(false).vocab_size(vocab_size).min_frequency(2);
    let trainer =
        trainer.special_tokens(special.collect()).initial_alphabet(ByteLevel::alphabet().into_iter().collect()).build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let lines = texts.iter().flat_map(|text| text.split_inclusive('\n'));
    tokenizer.train(&mut TrainerWrapper::from(trainer), lines).map_err(failed)?;
    tokenizer.with_post_processor(Some(marks.template()?));
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
        let trained = train_tokenizer(&[&path], 300, Marks::Begin).unwrap();
        assert!((Marks::Begin.smallest_vocabulary()..=300).contains(&trained.vocab_size), "{}", trained.vocab_size);
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
        let again = train_tokenizer(&[&path], 300, Marks::Begin).unwrap();
        assert!(trained.files().eq(again.files()), "training is deterministic");
    }

    #[test]
    fn an_encoder_s_tokenizer_parts_two_sentences() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        std::fs::write(&path, "the cat and the hat\n".repeat(9)).unwrap();
        for (name, text) in train_tokenizer(&[&path], 280, Marks::Sentences).unwrap().files() {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.parts_pairs()), (Some(0), Some(2), true));
        let tokens = tokenizer.encode_sentences("cat", Some("é"), 99).unwrap().0;
        assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "<s>cat</s></s>é</s>");
        let tokens = tokenizer.encode_sentences("the hat", None, 99).unwrap().0;
        assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "<s>the hat</s>");
    }

    #[test]
    fn unreadable_text_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(matches!(train_tokenizer(&[&path], 300, Marks::Begin), Err(TokenizerError::Read { .. })));
    }
}

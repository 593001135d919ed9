//! The samples of a configuration, encoded the same way for every command that uses them.

use super::{DataSettings, RunConfig, RunError};
use crate::data::chat::{Chat, ChatTemplate};
use crate::data::dataset::Dataset;
use crate::data::encode::Form;
use crate::data::tokenizer::Tokenizer;
use crate::model::{ModelConfig, head_entry};

/// Reads, chooses and encodes the data of `config`, whose length limit is at most the model's (see [`within`]). Samples
/// of a task whose answers are generated leave room for them, in training too.
///
/// # Errors
/// When the data cannot be read or encoded, or holds tokens that the model has no embedding for.
pub fn load(config: &RunConfig, model: &ModelConfig, tokenizer: &Tokenizer) -> Result<Dataset, RunError> {
    read(config.data()?, chat(config)?.as_ref(), model, tokenizer)
}

/// As [`load`], of data that no configuration stands around; `chat` is for conversations.
///
/// # Errors
/// As [`load`].
pub fn read(
    data: &DataSettings,
    chat: Option<&Chat>,
    model: &ModelConfig,
    tokenizer: &Tokenizer,
) -> Result<Dataset, RunError> {
    let mut options = data.options;
    if data.task.generates && !data.objective.is_of_whole_rows() {
        options.max_length = options.max_length.saturating_sub(data.max_new_tokens);
    }
    let dataset = Dataset::load(data.task, &data.path, data.counts, tokenizer, &options, chat, data.objective)?;
    let vocab_size = model.vocab_size;
    let beyond = [&dataset.train, &dataset.dev, &dataset.test]
        .into_iter()
        .flat_map(|part| part.encoded.iter().chain(part.candidates.iter().flatten()))
        .flat_map(|sample| &sample.tokens)
        .find(|&&token| token as usize >= vocab_size)
        .copied();
    beyond.map_or(Ok(dataset), |token| Err(RunError::Vocabulary { token, vocab_size }))
}

/// The model's chat template and the roles to train, where the task's rows are conversations.
///
/// # Errors
/// When the model's folder has no valid template.
pub fn chat(config: &RunConfig) -> Result<Option<Chat>, RunError> {
    let data = config.data()?;
    if data.task.form != Form::Chat {
        return Ok(None);
    }
    let template = ChatTemplate::from_folder(&config.model)?;
    Ok(Some(Chat { template, roles: data.roles.clone() }))
}

/// The configuration as it is for the model: its length limit lowered to the model's, and behind its entries the one that trains a head over whole sequences.
pub fn within(config: &RunConfig, model: &ModelConfig) -> RunConfig {
    let mut config = config.clone();
    if let Some(data) = &mut config.data {
        data.options.max_length = data.options.max_length.min(model.max_length);
    }
    config.attachments.extend(head_entry(model, &config.attachments));
    config
}

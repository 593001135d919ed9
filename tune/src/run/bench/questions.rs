//! The batches of `quanta bench train --data`: questions with candidates, read and encoded as `quanta train` does under the objective `choice`, each as one tree, or
//! with its prompt again for every candidate.
//!
//! How much sharing a prompt saves depends on how long prompts are beside their answers, and on how many candidates a question has: on the data.

use std::path::PathBuf;

use super::samples::{CHOICE_HEAD, Work};
use crate::data::encode::Options;
use crate::data::objective::Objective;
use crate::data::question::{Question, pack_questions};
use crate::data::sample::Counts;
use crate::data::samples::Samples;
use crate::data::task;
use crate::data::tokenizer::Tokenizer;
use crate::model::ModelConfig;
use crate::ops::Batch;
use crate::run::examination::Answers;
use crate::run::{DataSettings, RunError, samples};

/// Questions on disk.
#[derive(Clone, Debug)]
pub struct QuestionSource {
    /// File or folder of the rows.
    pub path: PathBuf,
    /// The task's name.
    pub task: String,
    /// Folder of the tokenizer.
    pub tokenizer: PathBuf,
    /// Whether candidates share their prompt's tokens instead of each repeating it.
    pub shared: bool,
}

/// Questions in the order that training draws rows.
pub(super) struct Questions {
    list: Vec<Question>,
    batch: usize,
    shared: bool,
    drawn: usize,
}

impl Questions {
    /// Reads and encodes the first `count` rows that a configuration with the default seed draws for training, for micro-batches of `batch`.
    ///
    /// # Errors
    /// When data or tokenizer cannot be read or do not fit `model`, or rows have no candidates.
    pub(super) fn read(
        source: &QuestionSource,
        model: &ModelConfig,
        batch: usize,
        count: usize,
    ) -> Result<Self, RunError> {
        let task = task::find(&source.task)?;
        let data = DataSettings {
            task,
            path: source.path.clone(),
            counts: Counts { train: Some(count), dev: 0, test: Some(0), seed: 42 },
            options: Options { max_length: model.max_length, ..Options::default() },
            objective: Objective::Choice,
            answers: Answers::default(),
            max_new_tokens: task.max_new_tokens,
            roles: Vec::new(),
        };
        let tokenizer = Tokenizer::from_folder(&source.tokenizer)?;
        let dataset = samples::read(&data, None, model, &tokenizer)?;
        match Samples::new(&dataset.train, data.objective) {
            Some(Samples::Questions(list)) if !list.is_empty() => {
                Ok(Self { list, batch, shared: source.shared, drawn: 0 })
            }
            _ => Err(RunError::Usage(format!(
                "--data needs candidates in every row, and this data of task `{}` has rows without: choose other data",
                task.name
            ))),
        }
    }

    /// Most tokens of a micro-batch, and of a candidate with its prompt.
    pub(super) fn most_tokens(&self) -> (usize, usize) {
        let length = self.list.iter().map(Question::length).max().unwrap_or(1);
        (self.most(|question| self.tokens(question)), length)
    }

    /// Most labelled rows of a micro-batch.
    pub(super) fn most_labels(&self) -> usize {
        self.most(Question::labels)
    }

    fn most(&self, of: impl Fn(&Question) -> usize) -> usize {
        let mut sizes: Vec<usize> = self.list.iter().map(of).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        // fewer questions than a micro-batch has come round again
        (0..self.batch).map(|index| sizes[index % sizes.len()]).sum()
    }

    fn tokens(&self, question: &Question) -> usize {
        let each = || question.candidates.iter().map(|candidate| candidate.tokens.len());
        if self.shared { question.tokens() } else { each().sum() }
    }

    /// The next micro-batch, and what it adds to `work`.
    pub(super) fn draw(&mut self, work: &mut Work) -> Batch {
        let chosen: Vec<&Question> =
            (self.drawn..self.drawn + self.batch).map(|index| &self.list[index % self.list.len()]).collect();
        let batch = pack_questions(&chosen, self.shared);
        self.drawn += self.batch;
        work.take(&batch, batch.tokens.len(), CHOICE_HEAD);
        batch
    }
}

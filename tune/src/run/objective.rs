//! What a run's objective asks of its model: an encoder with a head of as many outputs as the task has, or a decoder.
//!
//! A configuration is settled with its model when it is read, so that the run folder's copy says all of it.

use super::config::DataSettings;
use super::{RunConfig, RunError};
use crate::config::Section;
use crate::data::encode::Truncation;
use crate::data::objective::Objective;
use crate::data::task::{TASKS, Task};
use crate::model::{ModelConfig, WantedHead, read_folder_config};

/// The objective and the truncation of the section `[data]`; what it leaves out follows from the task and the model, where that can be read.
pub(super) fn read(section: &mut Section, task: &Task, model: Option<&ModelConfig>) -> (Objective, Truncation) {
    let is_encoder = model.is_some_and(|model| model.labels.is_some());
    let given = section.one_of("objective", &Objective::NAMES).optional();
    let of_whole_rows = task.outcome.map(|outcome| outcome.objective());
    let default = of_whole_rows.filter(|_| is_encoder).unwrap_or(task.objective);
    let objective = given.unwrap_or(default);
    let whole = objective.is_of_whole_rows();
    if whole && of_whole_rows != Some(objective) {
        let other = of_whole_rows.map_or("lm", Objective::name);
        section.problem("objective", format!("`{}` is not for task `{}`: set {other}", objective.name(), task.name));
    } else if whole && model.is_some() && !is_encoder {
        let (name, other) = (objective.name(), task.objective.name());
        section.problem("objective", format!("`{name}` is for encoders, and the model is a decoder: set {other}"));
    } else if is_encoder && !whole && given.is_some() {
        let message = format!("`{}` is for decoders, and the model is an encoder{}", objective.name(), instead(task));
        section.problem("objective", message);
    }
    let truncation = section.one_of("truncation", &Truncation::NAMES).optional();
    if whole && !matches!(truncation, None | Some(Truncation::LongestFirst | Truncation::Refuse)) {
        section.problem("truncation", "an encoder's sentences are cut `longest-first`, or `refuse`d");
    }
    let default = if whole { Truncation::LongestFirst } else { Truncation::Left };
    (objective, truncation.unwrap_or(default))
}

/// What an encoder can do with a task.
fn instead(task: &Task) -> String {
    match task.outcome {
        Some(outcome) => format!(": set {}", outcome.objective().name()),
        None => format!(": choose a task with classes or numbers, such as {}", tasks_of_encoders()),
    }
}

/// Names of the tasks that an encoder can be trained on.
pub(super) fn tasks_of_encoders() -> String {
    let names: Vec<&str> = TASKS.iter().filter(|task| task.outcome.is_some()).map(|task| task.name).collect();
    names.join(", ")
}

/// The model with the head that the data asks for, if any.
pub(super) fn with_head(mut model: ModelConfig, data: Option<&DataSettings>) -> ModelConfig {
    let wanted = data.and_then(DataSettings::head_outputs);
    // a decoder has no head to change
    model.labels = model.labels.map(|own| wanted.unwrap_or(own));
    model
}

impl RunConfig {
    /// The shape of the model folder with the head that the task wants.
    ///
    /// # Errors
    /// When `config.json` cannot be read.
    pub fn model_config(&self) -> Result<ModelConfig, RunError> {
        let model = read_folder_config(&self.model).map_err(|error| RunError::Load(error.into()))?;
        Ok(with_head(model, self.data.as_ref()))
    }

    /// The head over whole rows that the task wants; a folder without one gets it from the run's seed.
    pub fn wanted_head(&self) -> Option<WantedHead> {
        let labels = self.data.as_ref().and_then(DataSettings::head_outputs)?;
        Some(WantedHead { labels, seed: self.fit.seed })
    }
}

impl DataSettings {
    /// Outputs of the head that the objective asks for; none where it predicts tokens.
    pub fn head_outputs(&self) -> Option<usize> {
        self.task.outcome.filter(|_| self.objective.is_of_whole_rows()).map(|outcome| outcome.outputs())
    }
}

//! The adapter of a benchmark: a method by name with its settings, on q and v of every layer, with axes that fit the shape. Which steps it takes is left to the
//! benchmark.

use serde_json::{Map, Value, json};

use super::shapes::Shape;
use crate::adapter::{Layers, Method, MethodInfo, Selection, Sites, method_named};
use crate::config::{ConfigError, Problems, Section};
use crate::model::Attachment;
use crate::run::RunError;

/// The method `name` on q and v of every layer. To its settings come the shape's axes, where the method takes and they name none.
///
/// # Errors
/// When there is no such method, or the settings are not its own.
pub(super) fn attachment(name: &str, settings: &Map<String, Value>, shape: &Shape) -> Result<Attachment, RunError> {
    let info = method_named(name).ok_or_else(|| {
        RunError::Usage(format!("there is no adapter `{name}`: see `quanta methods`, or choose none"))
    })?;
    let mut with_axes = settings.clone();
    if !["dims", "plan"].iter().any(|key| settings.contains_key(*key)) {
        with_axes.insert("dims".to_owned(), json!(shape.dims));
    }
    // a method that knows no axes refuses them; what is said then is what the settings themselves are told
    let method = read(info, with_axes).or_else(|axes| {
        read(info, settings.clone()).map_err(|plain| if problems(&plain) < problems(&axes) { plain } else { axes })
    });
    let selection = Selection { sites: sites(&["q_proj", "v_proj"]), layers: Layers::default() };
    Ok(Attachment { method: method.map_err(RunError::Config)?, selection })
}

/// Sites of these names.
pub(super) fn sites(names: &[&str]) -> Sites {
    Sites::Names(names.iter().map(|&name| name.to_owned()).collect())
}

/// A method with settings as a config entry has them.
pub(super) fn read(info: &MethodInfo, settings: Map<String, Value>) -> Result<Method, ConfigError> {
    let problems = Problems::new();
    let mut section = Section::new("adapter", settings, &problems);
    let method = info.read(&mut section);
    section.finish();
    problems.check("bench").map(|()| method)
}

/// How much is wrong with a configuration.
fn problems(error: &ConfigError) -> usize {
    if let ConfigError::Invalid { problems, .. } = error { problems.len() } else { usize::MAX }
}

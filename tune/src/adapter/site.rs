//! Sites, the modules a method can attach to, and the rules by which a config or a PEFT folder names them.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Value, json};
use thiserror::Error;

/// What a site computes, and so which parameters it has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A linear layer of a decoder layer: `y = W x + b`, `W [d_out, d_in]`. Every method can attach to it.
    Linear {
        /// Whether it has a bias.
        bias: bool,
    },
    /// A norm with a weight of length d_out.
    Norm {
        /// Whether it has a bias.
        bias: bool,
    },
    /// An embedding or output head, `[d_out, d_in]` = `[vocab, hidden]`.
    Table,
    /// The attention of all layers together, without parameters of its own: d_in is the width of one layer's keys, d_out that of all layers' keys and values.
    Attention,
}

/// A module of a model: mostly a linear layer; also a norm, the embedding or the head, for methods that train a module's own parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Module path in the Hugging Face model, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Index of the layer it belongs to; none for the embedding, the final norm and the head.
    pub layer: Option<usize>,
    /// What it computes.
    pub kind: Kind,
    /// Input features.
    pub d_in: usize,
    /// Output features.
    pub d_out: usize,
}

/// Modules whose output is added to the residual stream, by the endings of Hugging Face's names.
const WRITERS: [&str; 3] = ["o_proj", "down_proj", "output.dense"];

impl Site {
    /// A linear without bias in a decoder layer.
    pub fn linear(name: impl Into<String>, layer: usize, d_out: usize, d_in: usize) -> Self {
        Self { name: name.into(), layer: Some(layer), kind: Kind::Linear { bias: false }, d_in, d_out }
    }

    /// Whether it is a linear whose output is added to the residual stream.
    pub fn writes_residual(&self) -> bool {
        matches!(self.kind, Kind::Linear { .. }) && WRITERS.iter().any(|writer| named(self, writer))
    }

    /// Names and shapes of the module's own parameters, as in the model's files.
    pub fn own(&self) -> Vec<(&'static str, Vec<usize>)> {
        match self.kind {
            Kind::Linear { bias: true } => vec![("weight", vec![self.d_out, self.d_in]), ("bias", vec![self.d_out])],
            Kind::Linear { bias: false } | Kind::Table => vec![("weight", vec![self.d_out, self.d_in])],
            Kind::Norm { bias: true } => vec![("weight", vec![self.d_out]), ("bias", vec![self.d_out])],
            Kind::Norm { bias: false } => vec![("weight", vec![self.d_out])],
            Kind::Attention => Vec::new(),
        }
    }

    /// Last component of the path: `q_proj`.
    pub fn module(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// Which sites, as PEFT's `target_modules` says it.
#[derive(Clone, Debug, PartialEq)]
pub enum Sites {
    /// A site whose whole name, or whose name's ending after a dot, is in the list; a linear of a head also by its parent's name.
    Names(Vec<String>),
    /// A site whose whole name matches the regular expression.
    Pattern(String),
    /// Every linear of the layers: not those of an output head.
    AllLinear,
    /// Every module: linears, norms, embedding and head.
    All,
    /// Every norm.
    Norms,
    /// The attention of all layers together, for methods that stand there: nothing to choose.
    Attention,
}

impl Sites {
    /// Reads the string form: `all-linear`, `all`, `norms`, or a regular expression.
    pub fn from_text(text: &str) -> Self {
        match text {
            "all-linear" => Self::AllLinear,
            "all" => Self::All,
            "norms" => Self::Norms,
            pattern => Self::Pattern(pattern.to_owned()),
        }
    }

    /// As a configuration and PEFT write it: a list of names, or text for [`Self::from_text`].
    pub fn to_value(&self) -> Value {
        match self {
            Self::Names(names) => json!(names),
            Self::Pattern(pattern) => json!(pattern),
            Self::AllLinear => json!("all-linear"),
            Self::All => json!("all"),
            Self::Norms => json!("norms"),
            Self::Attention => Value::Null,
        }
    }
}

/// Which decoder layers: all, or a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers(Option<BTreeSet<usize>>);

impl Layers {
    /// Only the given layers.
    pub fn only(layers: impl IntoIterator<Item = usize>) -> Self {
        Self(Some(layers.into_iter().collect()))
    }

    /// Reads `0-15,20`: indices and inclusive ranges.
    ///
    /// # Errors
    /// With the piece that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut layers = BTreeSet::new();
        for piece in text.split(',').map(str::trim) {
            let wrong = || format!("`{piece}` is no layer and no range such as 0-15");
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            let first: usize = first.trim().parse().map_err(|_| wrong())?;
            let last: usize = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last > 100_000 {
                return Err(wrong());
            }
            layers.extend(first..=last);
        }
        Ok(Self(Some(layers)))
    }

    /// Reads what a configuration holds: nothing (all layers), a layer, a list of layers, or text for [`Self::parse`].
    ///
    /// # Errors
    /// With what was expected.
    pub fn from_value(value: Option<Value>) -> Result<Self, String> {
        match value {
            None => Ok(Self::default()),
            Some(Value::String(text)) => Self::parse(&text),
            Some(Value::Number(layer)) if layer.is_u64() => Ok(Self::only(layer.as_u64().map(|layer| layer as usize))),
            Some(other) => serde_json::from_value::<Vec<usize>>(other)
                .map(Self::only)
                .map_err(|_| "is a layer, a list of layers, or text such as \"0-15,20\"".to_owned()),
        }
    }

    /// The chosen layers in ascending order, or none for all.
    pub fn list(&self) -> Option<Vec<usize>> {
        self.0.as_ref().map(|set| set.iter().copied().collect())
    }

    /// A module outside the layers belongs to a choice of all layers only.
    fn contains(&self, layer: Option<usize>) -> bool {
        self.0.as_ref().is_none_or(|set| layer.is_some_and(|layer| set.contains(&layer)))
    }
}

/// A choice of sites: names and layers together.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Which linears.
    pub sites: Sites,
    /// In which layers.
    pub layers: Layers,
}

/// Why a choice of sites cannot be resolved against a model.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelectionError {
    /// A listed name matches no site.
    #[error("no site is called `{name}`{} (this model has {})", near(.nearest), .modules.join(", "))]
    UnknownName {
        /// The name as given.
        name: String,
        /// The most similar module name.
        nearest: Option<String>,
        /// Module names of the model.
        modules: Vec<String>,
    },
    /// The pattern is not a regular expression.
    #[error("`{pattern}` is not a regular expression: {reason}")]
    Pattern {
        /// The pattern as given.
        pattern: String,
        /// What the parser says.
        reason: String,
    },
    /// The pattern matches nothing.
    #[error(
        "the pattern `{pattern}` matches none of the model's sites as a whole, such as `{example}`; modules are named in a list, [\"q_proj\"]"
    )]
    NoMatch {
        /// The pattern as given.
        pattern: String,
        /// The name of the first site.
        example: String,
    },
    /// A layer beyond the last.
    #[error("layer {layer} does not exist: the model has layers 0 to {last}")]
    Layer {
        /// The layer as given.
        layer: usize,
        /// The model's last layer.
        last: usize,
    },
    /// Nothing is left.
    #[error("no site is left: name at least one site and one layer")]
    Empty,
}

fn near(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(", did you mean `{name}`?")).unwrap_or_default()
}

impl Selection {
    /// Indices of the chosen sites, in the model's order.
    ///
    /// # Errors
    /// Every [`SelectionError`] there is, not only the first.
    pub fn resolve(&self, sites: &[Site]) -> Result<Vec<usize>, Vec<SelectionError>> {
        let mut errors = Vec::new();
        let matches: Box<dyn Fn(&Site) -> bool> = match &self.sites {
            Sites::AllLinear => Box::new(|site| site.layer.is_some() && matches!(site.kind, Kind::Linear { .. })),
            Sites::All => Box::new(|_| true),
            Sites::Norms => Box::new(|site| matches!(site.kind, Kind::Norm { .. })),
            Sites::Attention => Box::new(|site| site.kind == Kind::Attention),
            Sites::Names(names) => {
                errors.extend(names.iter().filter(|name| !sites.iter().any(|site| named(site, name))).map(|name| {
                    let mut modules: Vec<String> = Vec::new();
                    for site in sites {
                        if !modules.iter().any(|module| module == site.module()) {
                            modules.push(site.module().to_owned());
                        }
                    }
                    let nearest = modules
                        .iter()
                        .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
                    let nearest = nearest.filter(|module| strsim::jaro_winkler(module, name) > 0.7).cloned();
                    SelectionError::UnknownName { name: name.clone(), nearest, modules }
                }));
                Box::new(|site| names.iter().any(|name| named(site, name)))
            }
            Sites::Pattern(pattern) => match Regex::new(&format!("^(?:{pattern})$")) {
                Ok(regex) => {
                    if !sites.iter().any(|site| regex.is_match(&site.name)) {
                        let example = sites.first().map(|site| site.name.clone()).unwrap_or_default();
                        errors.push(SelectionError::NoMatch { pattern: pattern.clone(), example });
                    }
                    Box::new(move |site| regex.is_match(&site.name))
                }
                Err(error) => {
                    let reason = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
                    errors.push(SelectionError::Pattern { pattern: pattern.clone(), reason });
                    Box::new(|_| false)
                }
            },
        };
        let last = sites.iter().filter_map(|site| site.layer).max().unwrap_or(0);
        let beyond = self.layers.0.iter().flatten().filter(|&&layer| layer > last);
        errors.extend(beyond.map(|&layer| SelectionError::Layer { layer, last }));
        let chosen: Vec<usize> =
            (0..sites.len()).filter(|&i| matches(&sites[i]) && self.layers.contains(sites[i].layer)).collect();
        if chosen.is_empty() && errors.is_empty() {
            errors.push(SelectionError::Empty);
        }
        if errors.is_empty() { Ok(chosen) } else { Err(errors) }
    }
}

fn named(site: &Site, name: &str) -> bool {
    // the linears of a head are chosen by their parent, too, as PEFT names what is saved whole
    let head = site.layer.is_none() && matches!(site.kind, Kind::Linear { .. });
    site.name == name
        || site.name.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
        || (head && site.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites() -> Vec<Site> {
        let site = |layer, name: &str| Site::linear(format!("model.layers.{layer}.{name}"), layer, 4, 4);
        (0..12)
            .flat_map(|layer| ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"].map(|n| site(layer, n)))
            .collect()
    }

    fn resolve(choice: Sites, layers: Layers) -> Result<Vec<usize>, Vec<SelectionError>> {
        Selection { sites: choice, layers }.resolve(&sites())
    }

    #[test]
    fn names_patterns_and_all_select_as_peft_does() {
        let names = |list: &[&str]| Sites::Names(list.iter().map(|s| (*s).to_owned()).collect());
        let only = Layers::only([1]);
        assert_eq!(resolve(names(&["v_proj", "q_proj"]), only.clone()), Ok(vec![3, 4]));
        assert_eq!(resolve(names(&["self_attn.q_proj"]), only.clone()), Ok(vec![3]));
        assert_eq!(resolve(names(&["model.layers.1.mlp.up_proj"]), Layers::default()), Ok(vec![5]));
        assert_eq!(resolve(Sites::from_text("all-linear"), Layers::parse("0, 10-11").unwrap()).unwrap().len(), 9);
        assert_eq!(resolve(Sites::from_text(r".*\.1\..*q_proj"), Layers::default()), Ok(vec![3]));
        // a suffix counts only after a dot, a pattern only as a whole
        assert!(resolve(names(&["_proj"]), Layers::default()).is_err());
        assert!(resolve(Sites::from_text("q_proj"), Layers::default()).is_err());
    }

    #[test]
    fn every_wrong_name_and_layer_is_reported() {
        let names = Sites::Names(vec!["q_prj".into(), "zzz".into(), "v_proj".into()]);
        let errors = resolve(names, Layers::parse("3,12").unwrap()).unwrap_err();
        assert_eq!(errors.len(), 3);
        assert!(errors[0].to_string().contains("did you mean `q_proj`?"), "{}", errors[0]);
        assert!(!errors[1].to_string().contains("did you mean"));
        assert_eq!(errors[2], SelectionError::Layer { layer: 12, last: 11 });
        assert!(Layers::parse("5-3").is_err() && Layers::parse("x").is_err() && Layers::parse("").is_err());
        assert!(resolve(Sites::from_text("("), Layers::default()).is_err());
    }
}

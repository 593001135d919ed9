//! Attaching methods to a model: which entries go to which sites, whether they fit, and in which slots their gradients lie.

use thiserror::Error;

use super::linear::Linear;
use super::{Decoder, Learned, ModelConfig, Unfrozen};
use crate::adapter::{Method, Parameters, Selection, SelectionError, Site, Target, Tensor};
use crate::tensor::Real;

/// One `[[adapter]]` entry: a method and the sites it goes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Attachment {
    /// The method with its settings.
    pub method: Method,
    /// The sites.
    pub selection: Selection,
}

/// Why an entry cannot be attached.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// The choice of sites does not fit the model.
    #[error("adapter.{entry}: {error}")]
    Selection {
        /// Index of the entry.
        entry: usize,
        /// What is wrong with it.
        error: SelectionError,
    },
    /// The method's settings do not fit a site.
    #[error("adapter.{entry}: {reason}{}", more(*.others))]
    Settings {
        /// Index of the entry.
        entry: usize,
        /// What does not fit, at the first such site.
        reason: String,
        /// How many further sites it does not fit either.
        others: usize,
    },
    /// Two entries share a site, and one of them trains the site's own weight.
    #[error(
        "adapter.{entry}: {site} is also chosen by adapter.{other}, and a weight that trains itself takes no second entry: choose other sites"
    )]
    Unfrozen {
        /// Index of the entry.
        entry: usize,
        /// Index of the entry before it.
        other: usize,
        /// The site.
        site: String,
    },
    /// Two entries bring what a site can have only once.
    #[error("adapter.{entry}: {site} already has a {what}, from adapter.{other}: it takes one")]
    Twice {
        /// Index of the entry.
        entry: usize,
        /// Index of the entry before it.
        other: usize,
        /// The site.
        site: String,
        /// What there is twice.
        what: &'static str,
    },
}

impl AttachError {
    /// What is wrong, without the entry it is wrong with.
    pub fn reason(&self) -> String {
        match self {
            Self::Selection { error, .. } => error.to_string(),
            Self::Settings { reason, others, .. } => format!("{reason}{}", more(*others)),
            Self::Unfrozen { other, site, .. } => format!("{site} is also chosen by adapter.{other}"),
            Self::Twice { other, site, what, .. } => format!("{site} already has a {what}, from adapter.{other}"),
        }
    }
}

fn more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more sites)") }
}

/// For each entry the indices of its sites among [`ModelConfig::attachable`], in the model's order: by its method's target linears, modules with parameters, or
/// the attention.
///
/// # Errors
/// Everything that does not fit, over all entries.
pub fn resolve(attachments: &[Attachment], config: &ModelConfig) -> Result<Vec<Vec<usize>>, Vec<AttachError>> {
    let modules = config.attachable();
    let (linears, attention) = (config.layers * config.layer_linears(), modules.len() - 1);
    let mut errors = Vec::new();
    let mut chosen: Vec<Vec<usize>> = Vec::new();
    for (entry, attachment) in attachments.iter().enumerate() {
        let chosen_sites = match attachment.method.target() {
            Target::Linears => attachment.selection.resolve(&modules[..linears]),
            Target::Modules => attachment.selection.resolve(&modules[..attention]),
            Target::Attention => Ok(vec![attention]),
        };
        let sites = &modules;
        match chosen_sites {
            Ok(list) => {
                let problems: Vec<String> =
                    list.iter().flat_map(|&index| attachment.method.problems(&sites[index])).collect();
                if let Some(reason) = problems.first() {
                    let (reason, others) = (reason.clone(), problems.len() - 1);
                    errors.push(AttachError::Settings { entry, reason, others });
                }
                errors.extend(clash(attachments, &chosen, entry, &list, &modules));
                chosen.push(list);
            }
            Err(list) => {
                errors.extend(list.into_iter().map(|error| AttachError::Selection { entry, error }));
                chosen.push(Vec::new());
            }
        }
    }
    if errors.is_empty() { Ok(chosen) } else { Err(errors) }
}

/// Why an entry cannot share a site with one before it: what is attached beside a weight that moves would be folded into it and lost, a weight has one magnitude,
/// and attention one learned prefix.
fn clash(
    attachments: &[Attachment],
    before: &[Vec<usize>],
    entry: usize,
    list: &[usize],
    modules: &[Site],
) -> Option<AttachError> {
    let method = &attachments[entry].method;
    before.iter().enumerate().find_map(|(other, theirs)| {
        let index = *list.iter().find(|index| theirs.contains(index))?;
        let (theirs, site) = (&attachments[other].method, modules[index].name.clone());
        let twice = |what| Some(AttachError::Twice { entry, other, site: site.clone(), what });
        if method.unfreezes() || theirs.unfreezes() {
            Some(AttachError::Unfrozen { entry, other, site })
        } else if method.has_magnitude() && theirs.has_magnitude() {
            twice("magnitude")
        } else if method.target() == Target::Attention {
            twice("learned prefix")
        } else {
            None
        }
    })
}

impl<T: Real> Decoder<T> {
    /// Attaches every entry to the sites of `chosen` (from [`resolve`]), with initial parameters from the streams named by `seed`; `fill(entry, site,
    /// parameters)` may replace them, as loading does. Slots are given entry by entry, site by site. A method that unfreezes attaches nothing: the module's own
    /// parameters train from where they are.
    ///
    /// # Errors
    /// The first error of `fill`.
    pub fn attach<E>(
        &mut self,
        attachments: &[Attachment],
        chosen: &[Vec<usize>],
        seed: u64,
        mut fill: impl FnMut(usize, &Site, &mut Parameters<T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let modules = self.config().attachable();
        let pairs = attachments.iter().zip(chosen).enumerate();
        let all =
            pairs.flat_map(|(entry, (attachment, list))| list.iter().map(move |&index| (entry, attachment, index)));
        for (slot, (entry, attachment, index)) in all.enumerate() {
            let site = &modules[index];
            if attachment.method.unfreezes() {
                self.unfreeze(&site.name, Unfrozen { slot, entry });
                self.refill(slot, attachment.method.layout(site), |parameters| fill(entry, site, parameters))?;
                continue;
            }
            if let Some(mut prefix) = attachment.method.prefix(site, seed, entry) {
                fill(entry, site, prefix.parameters_mut())?;
                self.learned = Some(Learned { prefix, site: site.clone(), slot, entry });
                continue;
            }
            // sites of methods that wrap are linears, which come first
            let linear = self.linears_mut().nth(index).expect("a linear of the model");
            if let Some(mut adapter) = attachment.method.attach(site, linear.weight(), seed, entry) {
                fill(entry, site, adapter.parameters_mut())?;
                linear.attach(adapter, slot, entry);
            }
        }
        // every adapter saw the file's W0; the folds follow together
        self.linears_mut().filter(|linear| !linear.attached().is_empty()).for_each(Linear::fold);
        self.prepare();
        Ok(())
    }

    /// Merges what is attached into the weights in memory, one site after another, where [`Linear::merge`] does: for passes that only run forward. Returns the
    /// number of sites that were merged; the others keep their adapters beside the weight.
    pub fn merge(&mut self) -> usize {
        // adapters stand at linears of the layers alone; embedding and heads train themselves
        self.linears_mut().filter_map(|linear| linear.merge().then_some(())).count()
    }

    /// Brings what follows from the parameters up to date, after they were changed.
    pub fn prepare(&mut self) {
        self.linears_mut().for_each(Linear::prepare);
        if let Some(learned) = &mut self.learned {
            learned.prefix.prepare();
        }
    }

    /// Offers the own parameters of an unfrozen module to `fill` under their names on disk.
    fn refill<E>(
        &mut self,
        slot: usize,
        layout: Vec<Tensor>,
        fill: impl FnOnce(&mut Parameters<T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut slots = self.trained_mut();
        let (_, pieces) = slots.iter_mut().find(|(at, _)| *at == slot).expect("a slot that was just given");
        let mut parameters = Parameters::new(layout, pieces.concat(), Vec::new());
        fill(&mut parameters)?;
        let mut from = parameters.trainable();
        for piece in pieces {
            let (now, later) = from.split_at(piece.len());
            piece.copy_from_slice(now);
            from = later;
        }
        Ok(())
    }
}

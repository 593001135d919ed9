//! Attaching methods to a model: which entries go to which sites, whether they fit, and in which slots their gradients lie.

use thiserror::Error;

use super::Decoder;
use super::linear::Linear;
use crate::adapter::{Method, Parameters, Selection, SelectionError, Site};
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
}

impl AttachError {
    /// What is wrong, without the entry it is wrong with.
    pub fn reason(&self) -> String {
        match self {
            Self::Selection { error, .. } => error.to_string(),
            Self::Settings { reason, others, .. } => format!("{reason}{}", more(*others)),
        }
    }
}

fn more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more sites)") }
}

/// Indices of the sites of each entry, in the model's order.
///
/// # Errors
/// Everything that does not fit, over all entries.
pub fn resolve(attachments: &[Attachment], sites: &[Site]) -> Result<Vec<Vec<usize>>, Vec<AttachError>> {
    let mut errors = Vec::new();
    let mut chosen = Vec::new();
    for (entry, attachment) in attachments.iter().enumerate() {
        match attachment.selection.resolve(sites) {
            Ok(list) => {
                let problems: Vec<String> =
                    list.iter().flat_map(|&index| attachment.method.problems(&sites[index])).collect();
                if let Some(reason) = problems.first() {
                    let (reason, others) = (reason.clone(), problems.len() - 1);
                    errors.push(AttachError::Settings { entry, reason, others });
                }
                chosen.push(list);
            }
            Err(list) => errors.extend(list.into_iter().map(|error| AttachError::Selection { entry, error })),
        }
    }
    if errors.is_empty() { Ok(chosen) } else { Err(errors) }
}

impl<T: Real> Decoder<T> {
    /// Attaches every entry to the sites of `chosen` (from [`resolve`]), with initial parameters from the streams named by `seed`; `fill(entry, site,
    /// parameters)` may replace them, as loading does. Slots are given entry by entry, site by site.
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
        let mut linears: Vec<&mut Linear<T>> = self.linears_mut().collect();
        let mut slot = 0;
        for (entry, (attachment, list)) in attachments.iter().zip(chosen).enumerate() {
            for &index in list {
                let linear = &mut linears[index];
                let mut adapter = attachment.method.attach(linear.site(), linear.weight(), seed, entry);
                fill(entry, linear.site(), adapter.parameters_mut())?;
                linear.attach(adapter, slot, entry);
                slot += 1;
            }
        }
        // every adapter saw the file's W0; the folds follow together
        linears.into_iter().filter(|linear| linear.trains()).for_each(Linear::fold);
        Ok(())
    }
}

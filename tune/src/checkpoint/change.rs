//! What an adapter folder makes of a model's weights, tensor by tensor, in f64 and without loading the model: what merging and exporting are made of.

use std::collections::HashMap;

use super::{AdapterFolder, CheckpointError};
use crate::adapter::{Parameters, Site};
use crate::model::{Attachment, Linear};
use crate::ops::{Storage, Weight};

/// The changes of one adapter folder.
pub struct Change {
    folder: AdapterFolder,
    attachments: Vec<Attachment>,
    /// By the weight's name: its site, and the entries that are attached to it.
    adapted: HashMap<String, (Site, Vec<usize>)>,
    /// By the tensor's name: the site and the entry that trained it.
    own: HashMap<String, (Site, usize)>,
}

impl Change {
    /// The changes of `folder` for a model with these `modules`, its entries at the sites of `chosen`.
    ///
    /// # Errors
    /// When the folder does not hold what its entries ask for, or an entry is no matrix.
    pub fn new(folder: AdapterFolder, modules: &[Site], chosen: &[Vec<usize>]) -> Result<Self, CheckpointError> {
        folder.check(modules, chosen)?;
        let attachments = folder.attachments();
        let (mut adapted, mut own) = (HashMap::<String, (Site, Vec<usize>)>::new(), HashMap::new());
        for (entry, (attachment, list)) in attachments.iter().zip(chosen).enumerate() {
            if !attachment.method.mergeable() {
                return Err(CheckpointError::NotMergeable { method: attachment.method.name() });
            }
            for site in list.iter().map(|&index| &modules[index]) {
                if attachment.method.unfreezes() {
                    own.extend(
                        site.own().iter().map(|(name, _)| (format!("{}.{name}", site.name), (site.clone(), entry))),
                    );
                } else {
                    let at = adapted.entry(format!("{}.weight", site.name));
                    at.or_insert_with(|| (site.clone(), Vec::new())).1.push(entry);
                }
            }
        }
        Ok(Self { folder, attachments, adapted, own })
    }

    /// Whether the tensor of this name is another afterwards.
    pub fn touches(&self, tensor: &str) -> bool {
        self.adapted.contains_key(tensor) || self.own.contains_key(tensor)
    }

    /// Sites with adapters, in the order of their names.
    pub fn sites(&self) -> Vec<&Site> {
        let mut sites: Vec<&Site> = self.adapted.values().map(|(site, _)| site).collect();
        sites.sort_by(|a, b| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
        sites
    }

    /// Modules whose own parameters were trained.
    pub fn own_sites(&self) -> Vec<&Site> {
        self.own.values().map(|(site, _)| site).collect()
    }

    /// Number of modules that change.
    pub fn modules(&self) -> usize {
        let own: std::collections::BTreeSet<&str> = self.own.values().map(|(site, _)| site.name.as_str()).collect();
        self.adapted.len() + own.len()
    }

    /// The linear of an adapted weight with everything attached: `w0` row-major, nothing folded yet.
    ///
    /// # Errors
    /// When a tensor of the folder cannot be read.
    pub fn linear(&self, tensor: &str, w0: Vec<f64>) -> Result<Option<Linear<f64>>, CheckpointError> {
        let Some((site, entries)) = self.adapted.get(tensor) else { return Ok(None) };
        let base = Weight::new(Storage::Dense(w0), site.d_out, site.d_in);
        let mut adapters = Vec::new();
        for &entry in entries {
            // methods that attach to no linear are not among these
            let adapter = self.attachments[entry].method.attach(site, &base, 0, entry);
            let mut adapter = adapter.expect("an adapter of a method that wraps");
            self.folder.fill(entry, site, adapter.parameters_mut())?;
            adapters.push((entry, adapter));
        }
        let mut linear = Linear::new(site.clone(), base, None);
        adapters.into_iter().for_each(|(entry, adapter)| linear.attach(adapter, 0, entry));
        Ok(Some(linear))
    }

    /// The tensor of this name after the change, from its `w0`; `w0` itself where nothing changes.
    ///
    /// # Errors
    /// When a tensor of the folder cannot be read.
    pub fn apply(&self, tensor: &str, w0: Vec<f64>) -> Result<Vec<f64>, CheckpointError> {
        if let Some((site, entry)) = self.own.get(tensor) {
            let layout = self.attachments[*entry].method.layout(site);
            let elements = layout.iter().map(crate::adapter::Tensor::elements).sum();
            let mut parameters = Parameters::new(layout, vec![0.0; elements], Vec::new());
            self.folder.fill(*entry, site, &mut parameters)?;
            let own = parameters.tensors().iter().find(|own| format!("{}.{}", site.name, own.name) == tensor);
            return Ok(own.map_or(w0, |own| parameters.values(own).to_vec()));
        }
        match self.linear(tensor, w0.clone())? {
            None => Ok(w0),
            Some(linear) => Ok(linear.merged(w0).expect("an update of a method that can be merged is a matrix")),
        }
    }
}

//! Checkpoints of the paper's authors, read: T and S become an adapter folder, everything else is compared with the base model.
//!
//! Their file is the whole model. A site's weight in it is W0 - S, formed from gates that were rounded to the weight's type and rounded again at each of
//! their evaluations, so it is only near what the gates say; all other tensors are the base model's own, in the file's type. T and S are taken from the
//! file, W0 never is: it comes from the base model. Which tensors are gates is known to `adapter`.

use std::path::Path;

use quanta_circuit::operator;

use super::adapter_folder::{TENSORS, tensor_name};
use super::peft_config::FILE as CONFIG;
use super::{AdapterConfig, CheckpointError};
use crate::adapter::{AuthorsSite, Layers, Selection, Site, Sites, authors_name, authors_sites};
use crate::model::{Attachment, ModelConfig, is_harmless_extra};
use crate::weights::{
    Dtype, TensorFiles, TensorSpec, TensorWriter, WeightsError, check_inventory, default_metadata, write_file,
};

/// Largest root mean square of `weight - (W0 - S)` that rounding explains, relative to that of `W0 - S`: every gate and every intermediate product
/// of theirs has 2^-9, six of each add up to about 1 %, and some dozens of evaluations to as much again. Another base model differs by about 100 %.
const SITE_TOLERANCE: f64 = 0.05;
/// The same for a tensor without a circuit, for each element: it was rounded to the file's type once, at most to 2^-8 of its value.
const PLAIN_TOLERANCE: f64 = 1.0 / 128.0;
/// The smallest difference of f16 numbers, which narrower values than that are rounded to.
const PLAIN_FLOOR: f64 = 6e-8;

/// A checkpoint of the authors' program, opened.
#[derive(Debug)]
pub struct AuthorsCheckpoint {
    files: TensorFiles,
    sites: Vec<AuthorsSite>,
}

/// How a checkpoint's other weights compare with the base model's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Tensors compared.
    pub tensors: usize,
    /// Largest root mean square of `weight - (W0 - S)` over the sites, relative to that of `W0 - S`.
    pub difference: f64,
}

impl AuthorsCheckpoint {
    /// Opens a checkpoint: a file, or a folder of shards.
    ///
    /// # Errors
    /// When nothing can be read, there are no gates or they make no circuit, or T was merged into the weights.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let files = if path.is_dir() { TensorFiles::open_folder(path)? } else { TensorFiles::open_file(path)? };
        let named = files.names().filter_map(|name| Some((name, &files.get(name)?.shape[..])));
        let owner = || path.to_owned();
        let sites = authors_sites(named).map_err(|problems| CheckpointError::Gates { path: owner(), problems })?;
        if sites.is_empty() {
            return Err(CheckpointError::NoGates { path: owner() });
        }
        if let Some(site) = sites.iter().find(|site| files.flag(&site.merged_flag()) == Some(true)) {
            return Err(CheckpointError::Merged { path: owner(), flag: site.merged_flag() });
        }
        Ok(Self { files, sites })
    }

    /// The entries of an adapter folder: sites of one circuit together.
    ///
    /// # Errors
    /// When a site is none of the model's; whether a circuit fits its site is left to the caller.
    pub fn attachments(&self, config: &ModelConfig) -> Result<Vec<Attachment>, CheckpointError> {
        let modules = config.sites();
        let index = |site: &AuthorsSite| {
            modules.iter().position(|module| module.name == site.name).ok_or_else(|| WeightsError::UnknownTensor {
                path: self.files.path().to_owned(),
                tensor: format!("{}.weight", site.name),
            })
        };
        let mut groups: Vec<(&AuthorsSite, Vec<usize>)> = Vec::new();
        for site in &self.sites {
            let index = index(site)?;
            match groups.iter_mut().find(|(first, _)| first.plan == site.plan) {
                Some((_, list)) => list.push(index),
                None => groups.push((site, vec![index])),
            }
        }
        groups.iter_mut().for_each(|(_, list)| list.sort_unstable());
        groups.sort_by_key(|(_, list)| list[0]);
        let attachment = |(first, list): (&AuthorsSite, Vec<usize>)| Attachment {
            method: first.method(),
            selection: selection(&modules, &list),
        };
        Ok(groups.into_iter().map(attachment).collect())
    }

    /// Compares everything but T with the base model.
    ///
    /// # Errors
    /// [`CheckpointError::OtherBase`] with the tensor that differs most; tensors that belong to no such model; errors of reading.
    pub fn compare(&self, base: &Path, config: &ModelConfig) -> Result<Comparison, CheckpointError> {
        let ours = TensorFiles::open_folder(base)?;
        check_inventory(&ours, &config.inventory(), |name| is_harmless_extra(name, name, config))?;
        let mut found = Comparison::default();
        let mut worst: Option<(f64, String, String)> = None;
        for theirs in self.files.names() {
            let (name, own) = authors_name(theirs);
            if own || (ours.get(name).is_none() && is_harmless_extra(name, name, config)) {
                continue;
            }
            let (expected, got) = (ours.info(name).map_err(|_| self.unknown(theirs))?, self.files.info(theirs)?);
            let site = name.strip_suffix(".weight").and_then(|path| self.sites.iter().find(|site| site.name == path));
            let (excess, words) = if expected.shape != got.shape {
                (f64::INFINITY, format!("has shape {:?} there and {:?} here", got.shape, expected.shape))
            } else {
                let (base, weight) = (ours.read::<f64>(name)?, self.files.read::<f64>(theirs)?);
                let (measure, tolerance) = match site {
                    Some(site) => (self.site_difference(site, &expected.shape, base, &weight)?, SITE_TOLERANCE),
                    None => (plain_difference(&base, &weight), PLAIN_TOLERANCE),
                };
                if site.is_some() {
                    found.difference = found.difference.max(measure);
                }
                let part = if site.is_some() { "W0 - S in root mean square" } else { "an element" };
                (measure / tolerance, format!("differs by {measure:.1e} of {part} (rounding explains {tolerance:.0e})"))
            };
            found.tensors += 1;
            // a NaN is worse than any number
            if (excess > 1.0 || excess.is_nan()) && worst.as_ref().is_none_or(|(most, _, _)| excess > *most) {
                worst = Some((excess, name.to_owned(), words));
            }
        }
        let Some((_, tensor, difference)) = worst else { return Ok(found) };
        let (path, base) = (self.files.path().to_owned(), base.to_owned());
        Err(CheckpointError::OtherBase { path, base, tensor, difference })
    }

    /// Writes one entry to `folder`, which exists and is empty: the configuration, and the gates in the file's type, f32 at least.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn write_entry(
        &self,
        folder: &Path,
        attachment: &Attachment,
        sites: &[&Site],
        base: &str,
    ) -> Result<(), CheckpointError> {
        let mut tensors = Vec::new();
        for site in sites {
            let theirs = self.sites.iter().find(|theirs| theirs.name == site.name);
            let gates = theirs.into_iter().flat_map(|theirs| &theirs.gates);
            let layout = attachment.method.layout(site);
            tensors.extend(
                layout.into_iter().zip(gates).map(|(tensor, gate)| (tensor_name(site, &tensor), tensor.shape, gate)),
            );
        }
        let wide = |(_, _, gate): &(String, Vec<usize>, &String)| {
            self.files.get(gate).is_some_and(|info| info.dtype == Dtype::F64)
        };
        let dtype = if tensors.iter().any(wide) { Dtype::F64 } else { Dtype::F32 };
        let config =
            AdapterConfig { attachments: vec![attachment.clone()], base: Some(base.to_owned()), classifies: false };
        write_file(&folder.join(CONFIG), config.text(dtype).as_bytes())?;
        let specs =
            tensors.iter().map(|(name, shape, _)| TensorSpec::new(name.clone(), dtype, shape.clone())).collect();
        let mut writer = TensorWriter::create(&folder.join(TENSORS), &default_metadata(), specs)?;
        for (name, _, gate) in &tensors {
            writer.write_values(name, &self.files.read::<f64>(gate)?)?;
        }
        Ok(writer.finish()?)
    }

    /// Root mean square of `weight - (W0 - S)`, relative to that of `W0 - S`; S counts only where the file says that it was subtracted, or does not say.
    fn site_difference(
        &self,
        site: &AuthorsSite,
        shape: &[usize],
        mut expected: Vec<f64>,
        weight: &[f64],
    ) -> Result<f64, CheckpointError> {
        if self.files.flag(&site.frozen_flag()) != Some(false) {
            let mut gates = Vec::with_capacity(site.plan.parameters());
            for gate in &site.gates[site.plan.gates().len()..] {
                gates.extend(self.files.read::<f64>(gate)?);
            }
            let (full, wide) = (operator(&site.plan, &gates), site.plan.in_len());
            // the site sees the circuit's first rows and columns; what it has beyond them is W0 alone
            for (row, own) in full.chunks(wide).zip(expected.chunks_mut(shape[1])) {
                own.iter_mut().zip(row).for_each(|(w, s)| *w -= s);
            }
        }
        let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let difference = squares(&mut expected.iter().zip(weight).map(|(a, b)| a - b));
        Ok((difference / squares(&mut expected.iter().copied())).sqrt())
    }

    fn unknown(&self, tensor: &str) -> WeightsError {
        let problems = crate::weights::InventoryProblems { surplus: vec![tensor.to_owned()], ..Default::default() };
        WeightsError::Inventory { path: self.files.path().to_owned(), problems: Box::new(problems) }
    }
}

/// Largest difference of two elements relative to the first, up to what the narrowest type cannot hold.
fn plain_difference(base: &[f64], weight: &[f64]) -> f64 {
    let one = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { ((a - b).abs() - PLAIN_FLOOR).max(0.0) / a.abs() };
    // max would drop NaN
    base.iter().zip(weight).map(one).fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
}

/// The shortest words for these sites: module names in all layers or in some, else whole names.
fn selection(modules: &[Site], chosen: &[usize]) -> Selection {
    let mut names: Vec<String> = Vec::new();
    for &index in chosen {
        if !names.iter().any(|name| name == modules[index].module()) {
            names.push(modules[index].module().to_owned());
        }
    }
    let layers = Layers::only(chosen.iter().filter_map(|&index| modules[index].layer));
    let whole = chosen.iter().map(|&index| modules[index].name.clone()).collect();
    let short = [Layers::default(), layers].map(|layers| Selection { sites: Sites::Names(names.clone()), layers });
    let exact = |selection: &Selection| selection.resolve(modules).is_ok_and(|list| list == chosen);
    short.into_iter().find(exact).unwrap_or(Selection { sites: Sites::Names(whole), layers: Layers::default() })
}

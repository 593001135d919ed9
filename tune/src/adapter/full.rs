//! Full fine-tuning of chosen modules: their own parameters train, in the compute type.
//!
//! Before: `y = W0 x + b0`. Attached: the same module with W and b as variables that start at W0 and b0. Masters are f32 (or f64) whatever the file holds: in
//! bf16 a step of 1e-5 of a weight's size is lost in rounding, which is what the authors' program does. Nothing wraps the module, so there is no forward or
//! backward here; the model owns both. Chosen modules may be linears, norms, the embedding and the head.

use serde_json::{Map, Value};

use super::{Adapter, Settings, Site, Target, Tensor, lay_out};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::Real;

/// Settings of full fine-tuning: there are none.
#[derive(Clone, Debug, PartialEq)]
pub struct Full;

impl Settings for Full {
    const NAME: &'static str = "full";
    const PEFT_TYPE: &'static str = "FULL";
    const FORMULA: &'static str = "W";
    const EXTENDS_PEFT: bool = true;
    const TARGET: Target = Target::Modules;

    fn read(_: &mut Section) -> Self {
        Self
    }

    fn write(&self) -> Map<String, Value> {
        Map::new()
    }

    fn problems(&self, _: &Site) -> Vec<String> {
        Vec::new()
    }

    fn parameters(&self, site: &Site) -> usize {
        self.layout(site).iter().map(Tensor::elements).sum()
    }

    /// The module itself, which costs nothing more.
    fn flops_per_token(&self, _: &Site) -> u64 {
        0
    }

    /// The weight's gradient.
    fn backward_flops_per_token(&self, site: &Site) -> u64 {
        2 * self.parameters(site) as u64
    }

    fn describe(&self, _: &Site) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        lay_out(site.own().into_iter().map(|(name, shape)| (name.to_owned(), shape, true)))
    }

    fn attach<T: Real>(&self, _: &Site, _: &Weight<T>, _: u64, _: usize) -> Option<Box<dyn Adapter<T>>> {
        None
    }
}

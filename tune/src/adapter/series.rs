//! Series adapters: a bottleneck in the stream of activations, `x' = x + up(f(down(x)))`.
//!
//! Houlsby et al. 2019 (arXiv 1902.00751), in the form of LLM-Adapters (arXiv 2304.01933), which the paper compares with: before a linear that reads the
//! stream (gate_proj, up_proj), at the width of its input; after one that writes to it (down_proj, o_proj), at the width of its output. tanh, no bias, no
//! scale. Not mergeable.

use serde_json::{Map, Value};

use super::dense_bottleneck::DenseBottleneck;
use super::{Adapter, Place, Settings, Site, Tensor};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::Real;

/// Settings of series adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct Series(pub DenseBottleneck);

/// Where it stands at a site, and the width there.
fn place(site: &Site) -> (Place, [usize; 2]) {
    if site.writes_residual() { (Place::Output, [site.d_out; 2]) } else { (Place::Input, [site.d_in; 2]) }
}

impl Settings for Series {
    const NAME: &'static str = "series";
    const PEFT_TYPE: &'static str = "SERIES";
    const FORMULA: &'static str = "W0 (x + up(f(down(x)))), or after W0: y + up(f(down(y)))";
    const EXTENDS_PEFT: bool = true;
    const MERGEABLE: bool = false;

    fn read(section: &mut Section) -> Self {
        Self(DenseBottleneck::read(section, false))
    }

    fn write(&self) -> Map<String, Value> {
        self.0.write(false)
    }

    fn read_peft(section: &mut Section) -> Self {
        Self::read(section)
    }

    fn write_peft(&self) -> Map<String, Value> {
        self.write()
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        self.0.problems(site, place(site).1)
    }

    fn parameters(&self, site: &Site) -> usize {
        self.0.parameters(place(site).1)
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        2 * self.parameters(site) as u64
    }

    fn kept_per_token(&self, site: &Site) -> usize {
        self.0.bottleneck + place(site).1[0]
    }

    fn scratch_per_token(&self, site: &Site) -> usize {
        3 * self.0.bottleneck + 2 * place(site).1[0]
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        let (place, widths) = place(site);
        let mut description = self.0.describe(widths);
        description
            .push(("where", if place == Place::Input { "before the linear" } else { "after the linear" }.into()));
        description
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        self.0.layout(place(site).1)
    }

    fn attach<T: Real>(&self, site: &Site, _: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        let (place, widths) = place(site);
        Some(self.0.attach(widths, place, seed, &format!("{}.{entry}.series", site.name)))
    }
}

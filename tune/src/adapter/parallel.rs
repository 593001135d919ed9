//! Parallel adapters: a bottleneck beside a linear, `y = W0 x + b + s up(f(down(x)))`.
//!
//! He et al. 2022 (arXiv 2110.04366), in the form of LLM-Adapters (arXiv 2304.01933), which the paper compares with. tanh, no bias, s = 1 by default. Not
//! mergeable.

use serde_json::{Map, Value};

use super::dense_bottleneck::DenseBottleneck;
use super::{Adapter, Place, Settings, Site, Tensor};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::Real;

/// Settings of parallel adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct Parallel(pub DenseBottleneck);

fn widths(site: &Site) -> [usize; 2] {
    [site.d_in, site.d_out]
}

impl Settings for Parallel {
    const NAME: &'static str = "parallel";
    const PEFT_TYPE: &'static str = "PARALLEL";
    const FORMULA: &'static str = "W0 x + s up(f(down(x)))";
    const EXTENDS_PEFT: bool = true;
    const MERGEABLE: bool = false;

    fn read(section: &mut Section) -> Self {
        Self(DenseBottleneck::read(section, true))
    }

    fn write(&self) -> Map<String, Value> {
        self.0.write(true)
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        self.0.problems(site, widths(site))
    }

    fn parameters(&self, site: &Site) -> usize {
        self.0.parameters(widths(site))
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        2 * self.parameters(site) as u64
    }

    fn kept_per_token(&self, _: &Site) -> usize {
        self.0.bottleneck
    }

    fn scratch_per_token(&self, _: &Site) -> usize {
        3 * self.0.bottleneck
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        self.0.describe(widths(site))
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        self.0.layout(widths(site))
    }

    fn attach<T: Real>(&self, site: &Site, _: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        Some(self.0.attach(widths(site), Place::Beside, seed, &format!("{}.{entry}.parallel", site.name)))
    }
}

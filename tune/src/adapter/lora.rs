//! LoRA: a low-rank update `dW = (alpha / r) B A`.
//!
//! Hu et al. 2022 (arXiv 2106.09685); in the paper's tables the method QuanTA is compared with. Before: `y = W0 x`. Attached:
//! `y = W0 x + s B (A dropout(x))`. With `rslora = true` the scale is alpha / sqrt(r). All of it is in [`super::low_rank`]; here are the names.

use serde_json::{Map, Value, json};

use super::low_rank::LowRank;
use super::pattern::Pattern;
use super::{Adapter, Settings, Site, Tensor};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::Real;

/// Settings of LoRA.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora(pub LowRank);

impl Settings for Lora {
    const NAME: &'static str = "lora";
    const PEFT_TYPE: &'static str = "LORA";
    const FORMULA: &'static str = "W0 + (alpha/r) B A";

    fn read(section: &mut Section) -> Self {
        Self(LowRank::read(section))
    }

    fn write(&self) -> Map<String, Value> {
        self.0.write()
    }

    fn claims(peft_type: &str, section: &Section) -> bool {
        peft_type == Self::PEFT_TYPE && section.peek("use_dora") != Some(&json!(true))
    }

    fn read_peft(section: &mut Section) -> Self {
        section.only("use_dora", &[]);
        Self(LowRank::read_peft(section))
    }

    fn write_peft(&self) -> Map<String, Value> {
        self.0.write_peft(false)
    }

    fn of_factors(rank: usize, ranks: &[(String, usize)]) -> Option<Self> {
        Some(Self(LowRank {
            r: rank,
            alpha: rank as f64,
            dropout: 0.0,
            rslora: false,
            rank_pattern: Pattern::of_names(ranks.iter().cloned()),
            // the scale alpha / r stays 1 at every rank
            alpha_pattern: Pattern::of_names(ranks.iter().map(|(name, rank)| (name.clone(), *rank as f64))),
        }))
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        self.0.problems(site)
    }

    fn parameters(&self, site: &Site) -> usize {
        self.0.parameters(site)
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        2 * self.0.parameters(site) as u64
    }

    fn kept_per_token(&self, site: &Site) -> usize {
        self.0.rank(site)
    }

    fn scratch_per_token(&self, site: &Site) -> usize {
        self.0.scratch_per_token(site)
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        self.0.describe(site)
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        self.0.layout(site, false)
    }

    fn attach<T: Real>(&self, site: &Site, _: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        Some(self.0.attach(site, None, seed, format!("{}.{entry}.lora", site.name)))
    }
}

//! KronA: an update that is a Kronecker product, `dW = s (A kron B)`.
//!
//! Edalati et al. 2022 (arXiv 2212.10650). With x as a matrix X `[a_in, b_in]`, `dW x = s A X B^T`: a circuit of two gates on one axis each, which is how it is
//! computed here (SPEC: KronA is a special case of a circuit). A `[a_out, a_in]` starts kaiming-uniform, B `[d_out / a_out, d_in / a_in]` at zero.
//!
//! The sides come from one of two keys: `decompose_factor`, by PEFT's rule for LoKr, which makes a folder that PEFT reads as LoKr with full factors; or
//! `factor`, A's two sides, for products that the rule does not give, such as a rectangular A.

use quanta_circuit::{self as circuit, Plan};
use serde_json::{Map, Value, json};

use super::circuits::Circuits;
use super::low_rank::{kaiming, wide};
use super::method::{number, object};
use super::{Adapter, Parameters, Pass, Saved, Settings, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::{Matrix, Real};

/// A rank so large that LoKr decomposes neither factor.
const FULL: usize = 1_000_000;

/// How the sides of the two factors are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factors {
    /// A's sides `[a_out, a_in]`.
    Given([usize; 2]),
    /// By PEFT's LoKr: A's side is the factor where it divides the site's, else the largest divisor up to the root of the site's (and up to the factor, if
    /// positive). Beside it LoKr's rank, which has to be large enough for full factors.
    Lokr {
        /// The wanted divisor, or -1.
        factor: i64,
        /// LoKr's r.
        rank: usize,
    },
}

/// Settings of KronA.
#[derive(Clone, Debug, PartialEq)]
pub struct Krona {
    /// The sides.
    pub factors: Factors,
    /// The factor s.
    pub scale: f64,
}

/// PEFT's split of a side into A's and B's part.
fn split(side: usize, factor: i64) -> [usize; 2] {
    let wanted = usize::try_from(factor).ok().filter(|factor| *factor > 0);
    if let Some(factor) = wanted.filter(|&factor| side.is_multiple_of(factor)) {
        return [factor, side / factor];
    }
    let most = wanted.unwrap_or(side);
    let small = (1..=side.isqrt()).rev().find(|&m| side.is_multiple_of(m) && m <= most).unwrap_or(1);
    [small, side / small]
}

impl Krona {
    /// `([a_out, a_in], [b_out, b_in])` at a site; none when the sides are not divisible.
    fn sides(&self, site: &Site) -> Option<([usize; 2], [usize; 2])> {
        match self.factors {
            Factors::Given([a_out, a_in]) => (site.d_out.is_multiple_of(a_out) && site.d_in.is_multiple_of(a_in))
                .then(|| ([a_out, a_in], [site.d_out / a_out, site.d_in / a_in])),
            Factors::Lokr { factor, .. } => {
                let ([a_out, b_out], [a_in, b_in]) = (split(site.d_out, factor), split(site.d_in, factor));
                Some(([a_out, a_in], [b_out, b_in]))
            }
        }
    }

    /// The sides at a site that [`Settings::problems`] let through.
    fn fitting(&self, site: &Site) -> ([usize; 2], [usize; 2]) {
        self.sides(site).unwrap_or(([1, 1], [site.d_out, site.d_in]))
    }

    /// The circuit: B on the inner axis, then A on the outer one.
    fn plan(&self, site: &Site) -> Plan {
        let ([a_out, a_in], [b_out, b_in]) = self.fitting(site);
        let text = format!("{a_in}-{b_in} -> {a_out}-{b_out}: (-1) (-2)");
        text.parse().expect("two axes with a gate each make a circuit")
    }
}

impl Settings for Krona {
    const NAME: &'static str = "krona";
    const PEFT_TYPE: &'static str = "KRONA";
    const FORMULA: &'static str = "W0 + s (A kron B)";

    fn read(section: &mut Section) -> Self {
        let given = section.usize_list("factor").must("must be A's two sides, [out, in], each at least 1", |sides| {
            sides.len() == 2 && sides.iter().all(|side| *side > 0)
        });
        let given = given.optional();
        let lokr = section.value("decompose_factor");
        let rank = section.usize("rank").at_least(1).or(FULL);
        let factors = match (given, lokr) {
            (Some(_), Some(_)) => {
                section.problem("decompose_factor", "stands beside factor: say the sides in one of them");
                Factors::Given([1, 1])
            }
            (Some(sides), None) => Factors::Given([sides[0], sides[1]]),
            (None, lokr) => Factors::Lokr { factor: read_factor(section, lokr), rank },
        };
        Self { factors, scale: section.f64("scale").positive().or(1.0) }
    }

    fn write(&self) -> Map<String, Value> {
        match self.factors {
            Factors::Given(sides) => object(json!({ "factor": sides, "scale": self.scale })),
            Factors::Lokr { factor, rank } => {
                object(json!({ "decompose_factor": factor, "rank": rank, "scale": self.scale }))
            }
        }
    }

    fn claims(peft_type: &str, _: &Section) -> bool {
        [Self::PEFT_TYPE, "LOKR"].contains(&peft_type)
    }

    fn read_peft(section: &mut Section) -> Self {
        if section.peek("peft_type") != Some(&json!("LOKR")) {
            return Self::read(section);
        }
        let rank = section.usize("r").at_least(1).or(8);
        let alpha = section.f64("alpha").positive().or(8.0);
        for key in ["decompose_both", "use_effective_conv2d", "rank_pattern", "alpha_pattern", "rank_dropout_scale"] {
            section.only(key, &[]);
        }
        for key in ["rank_dropout", "module_dropout"] {
            section.only(key, &[json!(0.0)]);
        }
        section.ignore(&["init_weights"]);
        let factor = section.value("decompose_factor");
        let factor = read_factor(section, factor);
        Self { factors: Factors::Lokr { factor, rank }, scale: alpha / rank as f64 }
    }

    fn peft_type(&self) -> &'static str {
        if matches!(self.factors, Factors::Given(_)) { Self::PEFT_TYPE } else { "LOKR" }
    }

    fn extends_peft(&self) -> bool {
        matches!(self.factors, Factors::Given(_))
    }

    fn write_peft(&self) -> Map<String, Value> {
        let Factors::Lokr { factor, rank } = self.factors else { return self.write() };
        object(json!({
            "r": rank,
            "alpha": number(self.scale * rank as f64),
            "decompose_factor": factor,
            "decompose_both": false,
            "use_effective_conv2d": false,
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "init_weights": "lycoris",
            "rank_pattern": {},
            "alpha_pattern": {},
        }))
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        let Site { name, d_in, d_out, .. } = site;
        let Some((_, [b_out, b_in])) = self.sides(site) else {
            return vec![format!("the sides of {name} [{d_out}, {d_in}] are no multiples of factor: choose divisors")];
        };
        match self.factors {
            Factors::Lokr { rank, .. } if 2 * rank < b_out.max(b_in) => vec![format!(
                "rank {rank} would decompose the larger factor [{b_out}, {b_in}] of {name}, which is not handled: at least {} keeps it whole",
                b_out.max(b_in).div_ceil(2)
            )],
            _ => Vec::new(),
        }
    }

    fn parameters(&self, site: &Site) -> usize {
        let ([a_out, a_in], [b_out, b_in]) = self.fitting(site);
        a_out * a_in + b_out * b_in
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        self.plan(site).cost(site.d_in, site.d_out, size_of::<f32>()).forward_flops
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        let (a, b) = self.fitting(site);
        vec![("update", format!("{} A kron B, A {a:?}, B {b:?}", self.scale))]
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        let (a, b) = self.fitting(site);
        let [first, second] = if self.extends_peft() { ["krona_B", "krona_A"] } else { ["lokr_w2", "lokr_w1"] };
        // in the order in which the circuit applies them
        lay_out([(first.to_owned(), b.to_vec(), true), (second.to_owned(), a.to_vec(), true)])
    }

    fn attach<T: Real>(&self, site: &Site, base: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        let ([a_out, a_in], [b_out, b_in]) = self.fitting(site);
        let mut values = vec![T::ZERO; b_out * b_in];
        values.extend(kaiming::<T>(a_out * a_in, a_in, seed, &format!("{}.{entry}.krona", site.name)));
        let parameters = Parameters::new(self.layout(site), values, Vec::new());
        Some(Box::new(Attached {
            plan: self.plan(site),
            scale: self.scale,
            widths: [site.d_in, site.d_out],
            bf16: base.is_bf16(),
            parameters,
        }))
    }
}

fn read_factor(section: &Section, value: Option<Value>) -> i64 {
    let Some(value) = value else { return -1 };
    value.as_i64().filter(|factor| *factor == -1 || *factor > 0).unwrap_or_else(|| {
        section.problem("decompose_factor", "must be a divisor of the sides, or -1 for the most even split");
        -1
    })
}

struct Attached<T> {
    plan: Plan,
    scale: f64,
    /// d_in and d_out.
    widths: [usize; 2],
    /// Whether the weight that it stands at is held as bf16.
    bf16: bool,
    parameters: Parameters<T>,
}

impl<T: Real> Adapter<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn circuits(&self, rows: usize, pass: &Pass<'_, T>) -> Option<Circuits<'_, T>> {
        let terms = vec![(self.parameters.trainable(), T::from_f64(self.scale))];
        Some(Circuits { unit: pass.unit(self.bf16, rows), plan: &self.plan, terms })
    }

    fn forward(&self, x: &Matrix<T>, y: &mut Matrix<T>, pass: &Pass<'_, T>) -> Saved<T> {
        if let Some(circuits) = self.circuits(x.rows(), pass) {
            circuits.add(x, y);
        }
        Saved::default()
    }

    fn backward(
        &self,
        x: &Matrix<T>,
        dy: &Matrix<T>,
        _: Saved<T>,
        dx: Option<&mut Matrix<T>>,
        gradient: &mut [T],
        pass: &Pass<'_, T>,
    ) {
        let ([d_in, d_out], scale) = (self.widths, T::from_f64(self.scale));
        let (gates, dx) = (self.parameters.trainable(), dx.map(Matrix::data_mut));
        let unit = pass.gradient_unit(self.bf16, x.rows());
        circuit::backward_on(unit, &self.plan, gates, x.data(), d_in, dy.data(), d_out, scale, dx, Some(gradient));
    }

    fn update(&self) -> Option<Vec<f64>> {
        let mut update = circuit::operator(&self.plan, &wide(self.parameters.trainable()));
        update.iter_mut().for_each(|value| *value *= self.scale);
        Some(update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_split_as_peft_splits_them() {
        assert_eq!(split(4096, 8), [8, 512]);
        assert_eq!(split(4096, 512), [512, 8]);
        assert_eq!(split(4096, -1), [64, 64]);
        assert_eq!(split(24, -1), [4, 6]);
        assert_eq!(split(23, -1), [1, 23]);
        assert_eq!(split(24, 5), [4, 6]);
        assert_eq!(split(36, 5), [4, 9]);
    }
}

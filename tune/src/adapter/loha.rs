//! LoHa: an update that is the element-wise product of two low-rank matrices, `dW = (alpha / r) (B1 A1) * (B2 A2)`.
//!
//! Hyeon-Woo et al. 2022 (FedPara, arXiv 2108.06098), in LyCORIS' and PEFT's form. Twice LoRA's parameters at the same r, and a rank of up to r^2. The product
//! has no shorter form than the matrix itself, so it is formed once in each pass and costs a dense layer beside W0. A2 starts at zero and the others kaiming-uniform, as in PEFT: the
//! start is the base. PEFT's names are `hada_w1_a` for B1, `hada_w1_b` for A1, `hada_w2_a` for B2, `hada_w2_b` for A2.

use serde_json::{Map, Value, json};

use super::low_rank::{kaiming, product, rank_problem, read_patterns, wide};
use super::method::{number, object};
use super::pattern::Pattern;
use super::{Adapter, Parameters, Pass, Saved, Settings, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::{MatMut, MatRef, Matrix, Real, matmul};

/// Settings of LoHa.
#[derive(Clone, Debug, PartialEq)]
pub struct Loha {
    /// The rank r of both factors.
    pub r: usize,
    /// The update is scaled by `alpha / r`.
    pub alpha: f64,
    /// Ranks of the sites that patterns match.
    pub rank_pattern: Pattern<usize>,
    /// Alphas of the sites that patterns match.
    pub alpha_pattern: Pattern<f64>,
}

impl Loha {
    fn rank(&self, site: &Site) -> usize {
        self.rank_pattern.at(&site.name).copied().unwrap_or(self.r)
    }

    fn read_with(section: &mut Section, alpha: Option<f64>, r: usize) -> Self {
        let (rank_pattern, alpha_pattern) = read_patterns(section);
        Self { r, alpha: alpha.unwrap_or(2.0 * r as f64), rank_pattern, alpha_pattern }
    }
}

impl Settings for Loha {
    const NAME: &'static str = "loha";
    const PEFT_TYPE: &'static str = "LOHA";
    const FORMULA: &'static str = "W0 + (alpha/r) (B1 A1) * (B2 A2), element by element";

    fn read(section: &mut Section) -> Self {
        let r = section.usize("r").at_least(1).or(8);
        let alpha = section.f64("alpha").positive().optional();
        Self::read_with(section, alpha, r)
    }

    fn write(&self) -> Map<String, Value> {
        object(json!({
            "r": self.r, "alpha": self.alpha,
            "rank_pattern": self.rank_pattern.to_value(), "alpha_pattern": self.alpha_pattern.to_value(),
        }))
    }

    fn read_peft(section: &mut Section) -> Self {
        let r = section.usize("r").at_least(1).or(8);
        let alpha = section.f64("alpha").positive().or(8.0);
        section.only("use_effective_conv2d", &[]);
        for key in ["rank_dropout", "module_dropout"] {
            section.only(key, &[json!(0.0)]);
        }
        section.ignore(&["init_weights"]);
        Self::read_with(section, Some(alpha), r)
    }

    fn write_peft(&self) -> Map<String, Value> {
        object(json!({
            "r": self.r, "alpha": number(self.alpha), "rank_dropout": 0.0, "module_dropout": 0.0,
            "use_effective_conv2d": false, "init_weights": true,
            "rank_pattern": self.rank_pattern.to_value(), "alpha_pattern": self.alpha_pattern.to_value(),
        }))
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        rank_problem(self.rank(site), site).into_iter().collect()
    }

    fn parameters(&self, site: &Site) -> usize {
        2 * self.rank(site) * (site.d_in + site.d_out)
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        2 * (site.d_in * site.d_out) as u64
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        vec![("update", format!("two factors of rank {}, formed whole", self.rank(site)))]
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        let (r, Site { d_in, d_out, .. }) = (self.rank(site), site);
        let side = |name: &str, shape: [usize; 2]| (name.to_owned(), shape.to_vec(), true);
        lay_out([
            side("hada_w1_a", [*d_out, r]),
            side("hada_w1_b", [r, *d_in]),
            side("hada_w2_a", [*d_out, r]),
            side("hada_w2_b", [r, *d_in]),
        ])
    }

    fn attach<T: Real>(&self, site: &Site, _: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        let (r, Site { name, d_in, d_out, .. }) = (self.rank(site), site);
        let draw = |part: &str, len, fan| kaiming::<T>(len, fan, seed, &format!("{name}.{entry}.loha.{part}"));
        let mut values = draw("w1_a", d_out * r, r);
        values.extend(draw("w1_b", r * d_in, *d_in));
        values.extend(draw("w2_a", d_out * r, r));
        values.resize(self.parameters(site), T::ZERO);
        let parameters = Parameters::new(self.layout(site), values, Vec::new());
        let scale = self.alpha_pattern.at(name).copied().unwrap_or(self.alpha) / r as f64;
        Some(Box::new(Attached { r, scale, widths: [*d_in, *d_out], parameters }))
    }
}

struct Attached<T> {
    r: usize,
    scale: f64,
    /// d_in and d_out.
    widths: [usize; 2],
    parameters: Parameters<T>,
}

/// The factors of both matrices: `[d_out, r]`, `[r, d_in]`, twice.
fn cut<T>(flat: &[T], r: usize, [d_in, d_out]: [usize; 2]) -> [&[T]; 4] {
    let (first, second) = flat.split_at(r * (d_in + d_out));
    let ((a, b), (c, d)) = (first.split_at(r * d_out), second.split_at(r * d_out));
    [a, b, c, d]
}

impl<T: Real> Attached<T> {
    /// The two low-rank matrices, `[d_out, d_in]`.
    fn matrices(&self) -> [Vec<T>; 2] {
        let ([d_in, d_out], r) = (self.widths, self.r);
        let [a, b, c, d] = cut(self.parameters.trainable(), r, self.widths);
        [(a, b), (c, d)].map(|(left, right)| {
            let mut out = vec![T::ZERO; d_out * d_in];
            let (left, right) = (MatRef::new(left, d_out, r), MatRef::new(right, r, d_in));
            matmul(MatMut::new(&mut out, d_out, d_in), false, left, right, T::ONE);
            out
        })
    }
}

impl<T: Real> Adapter<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn forward(&self, x: &Matrix<T>, y: &mut Matrix<T>, _: &Pass<'_, T>) -> Saved<T> {
        let ([d_in, d_out], [mut first, second]) = (self.widths, self.matrices());
        first.iter_mut().zip(&second).for_each(|(first, &second)| *first *= second);
        matmul(y.view_mut(), true, x.view(), MatRef::new(&first, d_out, d_in).t(), T::from_f64(self.scale));
        Saved::default()
    }

    fn backward(
        &self,
        x: &Matrix<T>,
        dy: &Matrix<T>,
        _: Saved<T>,
        dx: Option<&mut Matrix<T>>,
        gradient: &mut [T],
        _: &Pass<'_, T>,
    ) {
        let ([d_in, d_out], r, [first, second]) = (self.widths, self.r, self.matrices());
        let scale = T::from_f64(self.scale);
        if let Some(dx) = dx {
            let both: Vec<T> = first.iter().zip(&second).map(|(&first, &second)| first * second).collect();
            matmul(dx.view_mut(), true, dy.view(), MatRef::new(&both, d_out, d_in), scale);
        }
        let mut d_both = vec![T::ZERO; d_out * d_in];
        matmul(MatMut::new(&mut d_both, d_out, d_in), false, dy.view().t(), x.view(), scale);
        let factors = cut(self.parameters.trainable(), r, self.widths);
        let halves = gradient.split_at_mut(r * (d_in + d_out));
        let parts = [(halves.0, &second, factors[0], factors[1]), (halves.1, &first, factors[2], factors[3])];
        for (gradient, other, left, right) in parts {
            // the gradient of one matrix is that of the product times the other
            let d: Vec<T> = d_both.iter().zip(other).map(|(&d, &other)| d * other).collect();
            let d = MatRef::new(&d, d_out, d_in);
            let (d_left, d_right) = gradient.split_at_mut(r * d_out);
            matmul(MatMut::new(d_left, d_out, r), true, d, MatRef::new(right, r, d_in).t(), T::ONE);
            matmul(MatMut::new(d_right, r, d_in), true, MatRef::new(left, d_out, r).t(), d, T::ONE);
        }
    }

    fn update(&self) -> Option<Vec<f64>> {
        let [d_in, d_out] = self.widths;
        let values = wide(self.parameters.trainable());
        let [a, b, c, d] = cut(&values, self.r, self.widths);
        let mut update = product(a, b, [d_out, self.r, d_in], self.scale);
        update.iter_mut().zip(product(c, d, [d_out, self.r, d_in], 1.0)).for_each(|(first, second)| *first *= second);
        Some(update)
    }
}

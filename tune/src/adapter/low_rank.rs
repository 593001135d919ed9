//! A low-rank update `s B A`: what the methods that are built on one share.
//!
//! `y += s B (A dropout(x))`, `A [r, d_in]`, `B [d_out, r]`, s = alpha / r, or alpha / sqrt(r) with `rslora` (Kalajdzievski 2023, arXiv 2312.03732, which
//! keeps the update's size the same at every rank). A starts kaiming-uniform, B at zero, so the start is the base. Names, shapes and per-site ranks are
//! PEFT's. A magnitude (see [`super::Dora`]) may lie behind the factors in the same vector.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::method::{number, object};
use super::pattern::Pattern;
use super::{Adapter, Parameters, Pass, Saved, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::{Weight, dropout};
use crate::tensor::{MatMut, MatRef, Matrix, Real, Stream, matmul};

/// Settings of a low-rank update.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// The rank r of the update.
    pub r: usize,
    /// The update is scaled by `alpha / r`.
    pub alpha: f64,
    /// Probability with which an input element of the adapter is zeroed while training.
    pub dropout: f64,
    /// Whether the scale is `alpha / sqrt(r)` instead.
    pub rslora: bool,
    /// Ranks of the sites that patterns match.
    pub rank_pattern: Pattern<usize>,
    /// Alphas of the sites that patterns match.
    pub alpha_pattern: Pattern<f64>,
}

impl LowRank {
    /// The rank at a site.
    pub(super) fn rank(&self, site: &Site) -> usize {
        self.rank_pattern.at(&site.name).copied().unwrap_or(self.r)
    }

    /// The scale s at a site.
    pub(super) fn scale(&self, site: &Site) -> f64 {
        let (alpha, r) = (self.alpha_pattern.at(&site.name).copied().unwrap_or(self.alpha), self.rank(site) as f64);
        alpha / if self.rslora { r.sqrt() } else { r }
    }

    pub(super) fn read(section: &mut Section) -> Self {
        let r = section.usize("r").at_least(1).or(8);
        let (rank_pattern, alpha_pattern) = read_patterns(section);
        Self {
            r,
            alpha: section.f64("alpha").positive().or(2.0 * r as f64),
            dropout: section.f64("dropout").at_least(0.0).at_most(0.99).or(0.0),
            rslora: section.bool("rslora").or(false),
            rank_pattern,
            alpha_pattern,
        }
    }

    pub(super) fn write(&self) -> Map<String, Value> {
        let mut map = object(json!({
            "r": self.r, "alpha": self.alpha, "dropout": self.dropout, "rslora": self.rslora,
        }));
        for (key, empty, value) in [
            ("rank_pattern", self.rank_pattern.is_empty(), self.rank_pattern.to_value()),
            ("alpha_pattern", self.alpha_pattern.is_empty(), self.alpha_pattern.to_value()),
        ] {
            if !empty {
                map.insert(key.to_owned(), value);
            }
        }
        map
    }

    pub(super) fn read_peft(section: &mut Section) -> Self {
        let r = section.usize("r").at_least(1).or(8);
        // variants that PEFT keeps in the same configuration; each would be another update
        for key in [
            "alora_invocation_tokens",
            "arrow_config",
            "ensure_weight_tying",
            "fan_in_fan_out",
            "kasa_config",
            "lora_bias",
            "megatron_config",
            "monteclora_config",
            "use_bdlora",
            "use_qalora",
            "velora_config",
        ] {
            section.only(key, &[]);
        }
        // other initialisations change the base's weights, so that the factors alone would give another model
        section.only("init_lora_weights", &[json!(true), json!("gaussian"), json!("eva")]);
        // these count only with the variants above
        section.ignore(&[
            "corda_config",
            "eva_config",
            "loftq_config",
            "lora_ga_config",
            "megatron_core",
            "qalora_group_size",
            "runtime_config",
        ]);
        let (rank_pattern, alpha_pattern) = read_patterns(section);
        Self {
            r,
            alpha: section.f64("lora_alpha").positive().or(8.0),
            dropout: section.f64("lora_dropout").at_least(0.0).at_most(0.99).or(0.0),
            rslora: section.bool("use_rslora").or(false),
            rank_pattern,
            alpha_pattern,
        }
    }

    pub(super) fn write_peft(&self, magnitude: bool) -> Map<String, Value> {
        object(json!({
            "r": self.r,
            "lora_alpha": number(self.alpha),
            "lora_dropout": self.dropout,
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "rank_pattern": self.rank_pattern.to_value(),
            "alpha_pattern": self.alpha_pattern.to_value(),
            "use_rslora": self.rslora,
            "use_dora": magnitude,
        }))
    }

    pub(super) fn problems(&self, site: &Site) -> Vec<String> {
        rank_problem(self.rank(site), site).into_iter().collect()
    }

    /// Parameters of the two factors.
    pub(super) fn parameters(&self, site: &Site) -> usize {
        self.rank(site) * (site.d_in + site.d_out)
    }

    /// The gradient of the small product, and with dropout the input and its gradient before the mask.
    pub(super) fn scratch_per_token(&self, site: &Site) -> usize {
        self.rank(site) + if self.dropout > 0.0 { 2 * site.d_in } else { 0 }
    }

    pub(super) fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        let (r, s) = (self.rank(site), self.scale(site));
        vec![("update", format!("{s} B A, A [{r}, {}], B [{}, {r}]", site.d_in, site.d_out))]
    }

    /// The factors, and the magnitude behind them.
    pub(super) fn layout(&self, site: &Site, magnitude: bool) -> Vec<Tensor> {
        let r = self.rank(site);
        let factors = [
            ("lora_A.weight".to_owned(), vec![r, site.d_in], true),
            ("lora_B.weight".to_owned(), vec![site.d_out, r], true),
        ];
        let magnitude = magnitude.then(|| ("lora_magnitude_vector".to_owned(), vec![site.d_out], true));
        lay_out(factors.into_iter().chain(magnitude))
    }

    /// Attaches under the name `owner`, with `base`'s row lengths as the magnitude where there is one.
    pub(super) fn attach<T: Real>(
        &self,
        site: &Site,
        base: Option<&Weight<T>>,
        seed: u64,
        owner: String,
    ) -> Box<dyn Adapter<T>> {
        let mut values = kaiming(self.rank(site) * site.d_in, site.d_in, seed, &owner);
        values.resize(self.parameters(site), T::ZERO);
        let factors = values.len();
        values.extend(base.iter().flat_map(|base| base.row_lengths()).map(T::from_f64));
        let magnitude = base.map(|_| factors..values.len());
        let parameters = Parameters::new(self.layout(site, base.is_some()), values, Vec::new());
        let (r, scale, dropout) = (self.rank(site), self.scale(site), self.dropout);
        Box::new(Attached { r, scale, dropout, site: site.clone(), owner, parameters, magnitude })
    }
}

/// Why factors of rank `r` are larger than a site's weight can use.
pub(super) fn rank_problem(r: usize, site: &Site) -> Option<String> {
    let Site { name, d_in, d_out, .. } = site;
    let most = *d_in.min(d_out);
    (r > most)
        .then(|| format!("r = {r} is more than the smaller side of {name} [{d_out}, {d_in}]: choose r up to {most}"))
}

/// Ranks and alphas of the sites that patterns match.
pub(super) fn read_patterns(section: &mut Section) -> (Pattern<usize>, Pattern<f64>) {
    let ranks = Pattern::read(section, "rank_pattern", "a whole number from 1", |r| *r > 0);
    let alphas = Pattern::read(section, "alpha_pattern", "a positive number", |a| *a > 0.0);
    (ranks, alphas)
}

/// `kaiming_uniform(a = sqrt 5)` over the given fan-in: U(-1/sqrt(fan), 1/sqrt(fan)), from the stream of `owner`.
pub(super) fn kaiming<T: Real>(len: usize, fan_in: usize, seed: u64, owner: &str) -> Vec<T> {
    let mut stream = Stream::new(seed, "init", owner);
    let bound = 1.0 / (fan_in as f64).sqrt();
    (0..len).map(|_| T::from_f64(bound * (2.0 * stream.uniform() - 1.0))).collect()
}

struct Attached<T> {
    r: usize,
    scale: f64,
    dropout: f64,
    site: Site,
    /// Names its random streams.
    owner: String,
    parameters: Parameters<T>,
    magnitude: Option<Range<usize>>,
}

impl<T: Real> Attached<T> {
    /// A and B, flat.
    fn flat(&self) -> (&[T], &[T]) {
        let (r, Site { d_in, d_out, .. }) = (self.r, &self.site);
        self.parameters.trainable()[..r * (d_in + d_out)].split_at(r * d_in)
    }

    fn factors(&self) -> (MatRef<'_, T>, MatRef<'_, T>) {
        let ((a, b), r) = (self.flat(), self.r);
        (MatRef::new(a, r, self.site.d_in), MatRef::new(b, self.site.d_out, r))
    }

    fn stream(&self, pass: &Pass<'_, T>) -> Option<Stream> {
        pass.draw.filter(|_| self.dropout > 0.0).map(|draw| draw.dropout(&self.owner))
    }

    fn dropped(&self, x: &Matrix<T>, pass: &Pass<'_, T>) -> Option<Matrix<T>> {
        self.stream(pass).map(|stream| dropout::forward(x, self.dropout, stream, pass.workspace))
    }
}

impl<T: Real> Adapter<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn magnitude(&self) -> Option<Range<usize>> {
        self.magnitude.clone()
    }

    fn forward(&self, x: &Matrix<T>, y: &mut Matrix<T>, pass: &Pass<'_, T>) -> Saved<T> {
        let (a, b) = self.factors();
        let dropped = self.dropped(x, pass);
        let mut h = pass.workspace.matrix(x.rows(), self.r);
        matmul(h.view_mut(), false, dropped.as_ref().unwrap_or(x).view(), a.t(), T::ONE);
        matmul(y.view_mut(), true, h.view(), b.t(), T::from_f64(self.scale));
        Saved(vec![h])
    }

    fn backward(
        &self,
        x: &Matrix<T>,
        dy: &Matrix<T>,
        saved: Saved<T>,
        dx: Option<&mut Matrix<T>>,
        gradient: &mut [T],
        pass: &Pass<'_, T>,
    ) {
        let (r, Site { d_in, d_out, .. }) = (self.r, &self.site);
        let (a, b) = self.factors();
        let scale = T::from_f64(self.scale);
        let (grad_a, grad_b) = gradient[..r * (d_in + d_out)].split_at_mut(r * d_in);
        let dropped = self.dropped(x, pass);
        for h in &saved.0 {
            matmul(MatMut::new(grad_b, *d_out, r), true, dy.view().t(), h.view(), scale);
        }
        let mut dh = pass.workspace.matrix(dy.rows(), r);
        matmul(dh.view_mut(), false, dy.view(), b, scale);
        matmul(MatMut::new(grad_a, r, *d_in), true, dh.view().t(), dropped.as_ref().unwrap_or(x).view(), T::ONE);
        let Some(dx) = dx else { return };
        if let Some(stream) = self.stream(pass) {
            let mut part = pass.workspace.matrix(dx.rows(), dx.cols());
            matmul(part.view_mut(), false, dh.view(), a, T::ONE);
            dropout::mask(&mut part, self.dropout, stream);
            dx.add(&part);
        } else {
            matmul(dx.view_mut(), true, dh.view(), a, T::ONE);
        }
    }

    fn update(&self) -> Option<Vec<f64>> {
        let (a, b) = self.flat();
        Some(product(&wide(b), &wide(a), [self.site.d_out, self.r, self.site.d_in], self.scale))
    }
}

/// Numbers in f64.
pub(super) fn wide<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

/// `scale B A` in f64, `B [d_out, r]`, `A [r, d_in]`, for the shape `[d_out, r, d_in]`.
pub(super) fn product(b: &[f64], a: &[f64], [d_out, r, d_in]: [usize; 3], scale: f64) -> Vec<f64> {
    let mut update = vec![0.0; d_out * d_in];
    let (a, b) = (MatRef::new(a, r, d_in), MatRef::new(b, d_out, r));
    matmul(MatMut::new(&mut update, d_out, d_in), false, b, a, scale);
    update
}

//! LoRA: a low-rank update `dW = (alpha / r) B A`.
//!
//! Hu et al. 2022 (arXiv 2106.09685); in the paper's tables the method QuanTA is compared with. Before: `y = W0 x`. Attached:
//! `y = W0 x + s B (A dropout(x))`, `A [r, d_in]`, `B [d_out, r]`, s = alpha / r. B starts at zero, so the start is the base model's output exactly. Names
//! and shapes on disk are PEFT's.

use serde_json::{Map, Value, json};

use super::{Adapter, Parameters, Pass, Saved, Settings, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::{Weight, dropout};
use crate::tensor::{MatMut, MatRef, Matrix, Real, Stream, matmul};

/// Settings of LoRA.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The rank r of the update.
    pub r: usize,
    /// The update is scaled by `alpha / r`.
    pub alpha: f64,
    /// Probability with which an input element of the adapter is zeroed while training.
    pub dropout: f64,
}

impl Lora {
    fn scale(&self) -> f64 {
        self.alpha / self.r as f64
    }
}

impl Settings for Lora {
    const NAME: &'static str = "lora";
    const PEFT_TYPE: &'static str = "LORA";
    const FORMULA: &'static str = "W0 + (alpha/r) B A";

    fn read(section: &mut Section) -> Self {
        let r = section.usize("r").at_least(1).or(8);
        Self {
            r,
            alpha: section.f64("alpha").positive().or(2.0 * r as f64),
            dropout: section.f64("dropout").at_least(0.0).at_most(0.99).or(0.0),
        }
    }

    fn write(&self) -> Map<String, Value> {
        settings(json!({ "r": self.r, "alpha": self.alpha, "dropout": self.dropout }))
    }

    fn read_peft(section: &mut Section) -> Self {
        let r = section.usize("r").at_least(1).or(8);
        // variants of LoRA that PEFT keeps in the same configuration; each would be another update
        for key in [
            "alora_invocation_tokens",
            "alpha_pattern",
            "arrow_config",
            "ensure_weight_tying",
            "fan_in_fan_out",
            "kasa_config",
            "lora_bias",
            "megatron_config",
            "monteclora_config",
            "rank_pattern",
            "use_bdlora",
            "use_dora",
            "use_qalora",
            "use_rslora",
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
        Self {
            r,
            alpha: section.f64("lora_alpha").positive().or(8.0),
            dropout: section.f64("lora_dropout").at_least(0.0).at_most(0.99).or(0.0),
        }
    }

    fn write_peft(&self) -> Map<String, Value> {
        settings(json!({
            "r": self.r,
            "lora_alpha": number(self.alpha),
            "lora_dropout": self.dropout,
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "rank_pattern": {},
            "alpha_pattern": {},
            "use_rslora": false,
            "use_dora": false,
        }))
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        let most = site.d_in.min(site.d_out);
        if self.r <= most {
            return Vec::new();
        }
        vec![format!(
            "r = {} is more than the smaller side of {} [{}, {}]: choose r up to {most}",
            self.r, site.name, site.d_out, site.d_in
        )]
    }

    fn parameters(&self, site: &Site) -> usize {
        self.r * (site.d_in + site.d_out)
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        2 * self.parameters(site) as u64
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        vec![("update", format!("{} B A, A [{r}, {}], B [{}, {r}]", self.scale(), site.d_in, site.d_out, r = self.r))]
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        lay_out([
            ("lora_A.weight".to_owned(), vec![self.r, site.d_in], true),
            ("lora_B.weight".to_owned(), vec![site.d_out, self.r], true),
        ])
    }

    fn attach<T: Real>(&self, site: &Site, _base: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        let owner = format!("{}.{entry}.lora", site.name);
        let mut stream = Stream::new(seed, "init", &owner);
        // kaiming_uniform(a = sqrt 5) over fan-in d_in: U(-1/sqrt(d_in), 1/sqrt(d_in))
        let bound = 1.0 / (site.d_in as f64).sqrt();
        let mut values: Vec<T> =
            (0..self.r * site.d_in).map(|_| T::from_f64(bound * (2.0 * stream.uniform() - 1.0))).collect();
        values.resize(self.parameters(site), T::ZERO);
        let parameters = Parameters::new(self.layout(site), values, Vec::new());
        Some(Box::new(Attached { settings: self.clone(), site: site.clone(), owner, parameters }))
    }
}

fn settings(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

/// PEFT writes integral alphas as integers.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

struct Attached<T> {
    settings: Lora,
    site: Site,
    /// Names its random streams.
    owner: String,
    parameters: Parameters<T>,
}

impl<T: Real> Attached<T> {
    fn factors(&self) -> (MatRef<'_, T>, MatRef<'_, T>) {
        let (r, Site { d_in, d_out, .. }) = (self.settings.r, &self.site);
        let (a, b) = self.parameters.trainable().split_at(r * d_in);
        (MatRef::new(a, r, *d_in), MatRef::new(b, *d_out, r))
    }

    fn stream(&self, pass: &Pass<'_, T>) -> Option<Stream> {
        pass.draw.filter(|_| self.settings.dropout > 0.0).map(|draw| draw.dropout(&self.owner))
    }

    fn dropped(&self, x: &Matrix<T>, pass: &Pass<'_, T>) -> Option<Matrix<T>> {
        self.stream(pass).map(|stream| dropout::forward(x, self.settings.dropout, stream, pass.workspace))
    }
}

impl<T: Real> Adapter<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn forward(&self, x: &Matrix<T>, y: &mut Matrix<T>, pass: &Pass<'_, T>) -> Saved<T> {
        let (a, b) = self.factors();
        let dropped = self.dropped(x, pass);
        let mut h = pass.workspace.matrix(x.rows(), self.settings.r);
        matmul(h.view_mut(), false, dropped.as_ref().unwrap_or(x).view(), a.t(), T::ONE);
        matmul(y.view_mut(), true, h.view(), b.t(), T::from_f64(self.settings.scale()));
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
        let (r, Site { d_in, d_out, .. }) = (self.settings.r, &self.site);
        let (a, b) = self.factors();
        let scale = T::from_f64(self.settings.scale());
        let (grad_a, grad_b) = gradient.split_at_mut(r * d_in);
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
            dropout::mask(&mut part, self.settings.dropout, stream);
            dx.add(&part);
        } else {
            matmul(dx.view_mut(), true, dh.view(), a, T::ONE);
        }
    }

    fn update(&self) -> Vec<f64> {
        let (r, Site { d_in, d_out, .. }) = (self.settings.r, &self.site);
        let wide: Vec<f64> = self.parameters.trainable().iter().map(|v| v.to_f64()).collect();
        let (a, b) = wide.split_at(r * d_in);
        let mut update = vec![0.0; d_out * d_in];
        let (a, b) = (MatRef::new(a, r, *d_in), MatRef::new(b, *d_out, r));
        matmul(MatMut::new(&mut update, *d_out, *d_in), false, b, a, self.settings.scale());
        update
    }
}

//! QuanTA: a full-rank update by a tensor circuit, `dW = T - S`.
//!
//! Paper, section 5, Eq. 8: before, `y = W0 x`; attached, `y = W0 x + T(dropout(x)) - S(x)` with T a circuit of trainable gates and S a frozen copy of its
//! initial gates, so that the start is the base model. There is no alpha. Where S is applied is a choice by name: `folded` subtracts its operator once from
//! the working copy of the weight (Eq. 9; the paper prints a plus there, the authors' program subtracts), `circuit` applies it beside T, which makes the
//! start bit-exact. With every gate the identity, S(x) = x costs one subtraction, but on a matrix unit, where both are computed.

use std::borrow::Cow;

use quanta_circuit::unit::Unit;
use quanta_circuit::{self as circuit, Gate, Plan, PlanError};
use serde_json::{Map, Value, json};

use super::axes::Axes;
use super::circuits::Circuits;
use super::method::object;
use super::pattern::Pattern;
use super::{Adapter, Parameters, Pass, Saved, Settings, Site, Tensor, lay_out};
use crate::config::{Problems, Section};
use crate::ops::{Weight, dropout};
use crate::tensor::{Matrix, Real, Stream};

/// Where the frozen copy S of the initial circuit is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    /// In the working copy of the weight, `W0 - S`, rounded once to the weight's type.
    Folded,
    /// As a circuit beside T: a bit-exact start, forward and input gradient of the circuit cost twice.
    Circuit,
    /// As the authors' program has it: `W0 - S` rounded to bf16, whatever the weight's type, so that the start is the base only to 2^-9.
    Reference,
}

const FROZEN: [(&str, Frozen); 3] =
    [("folded", Frozen::Folded), ("circuit", Frozen::Circuit), ("reference", Frozen::Reference)];

/// The initial value of the gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// U(-sqrt(3/K), sqrt(3/K)), K the gate's columns: the paper's.
    Uniform,
    /// Every gate the identity.
    Identity,
}

/// Settings of QuanTA.
#[derive(Clone, Debug, PartialEq)]
pub struct Quanta {
    /// Axes and gates.
    pub axes: Axes,
    /// Axes of the sites that patterns match, with a gate on every pair.
    pub dims_pattern: Pattern<Vec<usize>>,
    /// Where S is applied; none: `circuit` on a bf16 base, `folded` otherwise.
    pub s: Option<Frozen>,
    /// Initial value of the gates.
    pub init: Initial,
    /// Probability with which an input element of T is zeroed while training.
    pub dropout: f64,
}

impl Quanta {
    /// Where S is applied on a base held as bf16 or not.
    fn frozen(&self, bf16: bool) -> Frozen {
        self.s.unwrap_or(if bf16 { Frozen::Circuit } else { Frozen::Folded })
    }

    /// Settings with the paper's plan (every pair of axes once) and initialisation.
    ///
    /// # Errors
    /// When the axes make no circuit.
    pub fn new(dims: &[usize]) -> Result<Self, PlanError> {
        let axes = Axes::Plan(Plan::all_pairs(dims)?);
        Ok(Self { axes, dims_pattern: Pattern::default(), s: None, init: Initial::Uniform, dropout: 0.0 })
    }

    /// The plan at a site.
    pub fn plan(&self, site: &Site) -> Cow<'_, Plan> {
        // patterns were read only where their axes make a circuit
        let own = self.dims_pattern.at(&site.name).and_then(|dims| Plan::all_pairs(dims).ok());
        own.map_or_else(|| self.axes.at(site), Cow::Owned)
    }

    /// Reads what stands beside the plan.
    fn read_with(section: &mut Section, axes: Option<Axes>) -> Self {
        let s = section.one_of("s", &FROZEN).optional();
        let init = section.one_of("init", &[("uniform", Initial::Uniform), ("identity", Initial::Identity)]);
        let (init, dropout) = (init.or(Initial::Uniform), section.f64("dropout").at_least(0.0).at_most(0.99).or(0.0));
        if let Some(Axes::Plan(plan)) = &axes {
            if init == Initial::Identity && !plan.gates().iter().all(Gate::is_square) {
                section.problem("init", "a rectangular gate has no identity: use \"uniform\"");
            }
            if plan.gates().is_empty() {
                section.problem("plan", "has no gate, so that nothing would train: add gates such as (-1,-2)");
            }
        }
        let dims_pattern = Pattern::read(section, "dims_pattern", "axes such as [16, 8, 8, 4]", |dims: &Vec<usize>| {
            Plan::all_pairs(dims).is_ok()
        });
        // a missing or broken plan has been reported; the reader's caller drops what is returned then
        let axes = axes.unwrap_or(Axes::Auto { parameters: None });
        Self { axes, dims_pattern, s, init, dropout }
    }

    /// `dims = "auto"`, and its budget; none where the key holds something else.
    fn read_auto(section: &mut Section) -> Option<Axes> {
        if section.peek("dims") != Some(&json!("auto")) {
            return None;
        }
        section.value("dims");
        Some(Axes::Auto { parameters: section.usize("parameters").at_least(1).optional() })
    }

    /// The axes as a config writes them: dims where every pair has a gate, else the plan.
    fn write_axes(&self, map: &mut Map<String, Value>) {
        match &self.axes {
            Axes::Auto { parameters } => {
                map.insert("dims".into(), json!("auto"));
                map.extend(parameters.iter().map(|parameters| ("parameters".to_owned(), json!(parameters))));
            }
            Axes::Plan(plan) => {
                match Plan::all_pairs(plan.in_dims()) {
                    Ok(pairs) if pairs == *plan => map.insert("dims".into(), json!(plan.in_dims())),
                    _ => map.insert("plan".into(), json!(plan.to_string())),
                };
            }
        }
    }

    fn write_beside_plan(&self, map: &mut Map<String, Value>) {
        if let Some(s) = self.s {
            map.insert("s".into(), json!(FROZEN.iter().find(|(_, kind)| *kind == s).map(|(name, _)| name)));
        }
        if !self.dims_pattern.is_empty() {
            map.insert("dims_pattern".into(), self.dims_pattern.to_value());
        }
        map.insert("init".into(), json!(if self.init == Initial::Uniform { "uniform" } else { "identity" }));
        map.insert("dropout".into(), json!(self.dropout));
    }
}

/// The plan a text spells; a text that spells none is a problem.
fn parse_plan(section: &mut Section, text: &str) -> Option<Plan> {
    text.parse().map_err(|error: quanta_circuit::TextError| section.problem("plan", error.to_string())).ok()
}

impl Settings for Quanta {
    const NAME: &'static str = "quanta";
    const PEFT_TYPE: &'static str = "QUANTA";
    const EXTENDS_PEFT: bool = true;
    const FORMULA: &'static str = "W0 + T - S, T a circuit of gates on pairs of axes";

    fn example() -> Self {
        Self::read(&mut Section::new("", object(json!({ "dims": "auto" })), &Problems::new()))
    }

    fn read(section: &mut Section) -> Self {
        if let Some(auto) = Self::read_auto(section) {
            return Self::read_with(section, Some(auto));
        }
        let (dims, text) = (section.usize_list("dims").optional(), section.string("plan").optional());
        let plan = match (dims, text) {
            (Some(dims), None) => {
                Plan::all_pairs(&dims).map_err(|error| section.problem("dims", error.to_string())).ok()
            }
            (None, Some(text)) => parse_plan(section, &text),
            (Some(_), Some(_)) => {
                section.problem("plan", "stands beside dims: a plan says its dims itself");
                None
            }
            (None, None) => {
                if !section.has("dims") && !section.has("plan") {
                    let message =
                        "is missing: the sizes of the axes, such as [16, 8, 8, 4], whose product is the hidden size";
                    section.problem("dims", message);
                }
                None
            }
        };
        Self::read_with(section, plan.map(Axes::Plan))
    }

    fn write(&self) -> Map<String, Value> {
        let mut map = Map::new();
        self.write_axes(&mut map);
        self.write_beside_plan(&mut map);
        map
    }

    fn read_peft(section: &mut Section) -> Self {
        if let Some(auto) = Self::read_auto(section) {
            return Self::read_with(section, Some(auto));
        }
        let text = section.string("plan").required();
        let plan = if text.is_empty() { None } else { parse_plan(section, &text) };
        let dims = section.usize_list("dims").optional();
        if let (Some(dims), Some(plan)) = (dims, &plan)
            && dims != plan.in_dims()
        {
            section.problem("dims", format!("{dims:?} are not the dims of the plan `{plan}`"));
        }
        Self::read_with(section, plan.map(Axes::Plan))
    }

    fn write_peft(&self) -> Map<String, Value> {
        let mut map = Map::new();
        self.write_axes(&mut map);
        if let Axes::Plan(plan) = &self.axes {
            map.insert("dims".into(), json!(plan.in_dims()));
            map.insert("plan".into(), json!(plan.to_string()));
        }
        self.write_beside_plan(&mut map);
        map
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        // padding and truncation bridge small differences; a circuit that misses most of the site, or is mostly padding, is a slip in dims
        let plan = self.plan(site);
        if self.init == Initial::Identity && !plan.gates().iter().all(Gate::is_square) {
            return vec![format!(
                "the circuit {plan} at {} has a rectangular gate, which has no identity: use init = \"uniform\"",
                site.name
            )];
        }
        let square = plan.in_len() == plan.out_len();
        let fits = if square {
            let (small, large) = (site.d_in.min(site.d_out), site.d_in.max(site.d_out));
            (small..=2 * large).contains(&plan.in_len())
        } else {
            let near = |size: usize, side: usize| (side.div_ceil(2)..=2 * side).contains(&size);
            near(plan.in_len(), site.d_in) && near(plan.out_len(), site.d_out)
        };
        if fits {
            return Vec::new();
        }
        let Site { name, d_in, d_out, .. } = site;
        vec![format!(
            "the circuit {} takes {} numbers to {}, which does not fit {name} [{d_out}, {d_in}]: choose axes whose product is {}",
            plan,
            plan.in_len(),
            plan.out_len(),
            d_in.max(d_out)
        )]
    }

    fn parameters(&self, site: &Site) -> usize {
        self.plan(site).parameters()
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        self.plan(site).cost(site.d_in, site.d_out, size_of::<f32>()).forward_flops
    }

    fn backward_flops_per_token(&self, site: &Site) -> u64 {
        self.plan(site).cost(site.d_in, site.d_out, size_of::<f32>()).backward_flops
    }

    fn frozen_flops_per_token(&self, site: &Site, bf16: bool) -> u64 {
        let computed = self.frozen(bf16) == Frozen::Circuit && self.init == Initial::Uniform;
        if computed { self.flops_per_token(site) } else { 0 }
    }

    fn copies_bf16(&self) -> bool {
        self.frozen(true) != Frozen::Circuit
    }

    fn scratch_per_token(&self, site: &Site) -> usize {
        if self.dropout > 0.0 { 2 * site.d_in } else { 0 }
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        let plan = self.plan(site);
        let gates: Vec<String> = plan
            .gates()
            .iter()
            .map(|gate| {
                let axes: Vec<String> = gate.axes().iter().map(isize::to_string).collect();
                format!("({}) {}x{}", axes.join(","), gate.rows(), gate.cols())
            })
            .collect();
        let mut description =
            vec![("plan", plan.to_string()), ("gates", gates.join(", ")), ("einsum", plan.einsum_apply())];
        // counting walks every gate and every feature once: only for circuits that a machine could train
        let countable = plan.parameters().max(plan.in_len()).max(plan.out_len()) <= 1 << 24;
        let live = || plan.live_parameters(site.d_in, site.d_out).into_iter().filter(|live| *live).count();
        let dead = if countable { plan.parameters() - live() } else { 0 };
        if dead > 0 {
            let module = site.module();
            let text = format!(
                "{dead} parameters of each {module} never receive a gradient: the site is smaller than the circuit"
            );
            description.push(("unused", text));
        }
        description
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        let plan = self.plan(site);
        let gates = |letter: char, trainable: bool| {
            let gates = plan.gates().iter().enumerate();
            gates.map(move |(index, gate)| (format!("quanta_{letter}.{index}"), gate.shape(), trainable))
        };
        lay_out(gates('T', true).chain(gates('S', false)))
    }

    fn attach<T: Real>(&self, site: &Site, base: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        let owner = format!("{}.{entry}.quanta", site.name);
        let (mut stream, plan) = (Stream::new(seed, "init", &owner), self.plan(site).into_owned());
        let gates: Vec<T> = match self.init {
            Initial::Uniform => circuit::init::uniform(&plan, &mut || stream.uniform()),
            // a rectangular gate, the only one without an identity, was refused when the settings were read
            Initial::Identity => circuit::init::identity(&plan).expect("square gates have an identity"),
        };
        let parameters = Parameters::new(self.layout(site), gates.clone(), gates);
        let (settings, bf16, site) = (self.clone(), base.is_bf16(), site.clone());
        let frozen = self.frozen(bf16);
        Some(Box::new(Attached { settings, plan, frozen, bf16, site, owner, parameters }))
    }
}

struct Attached<T> {
    settings: Quanta,
    plan: Plan,
    frozen: Frozen,
    /// Whether the weight that it stands at is held as bf16.
    bf16: bool,
    site: Site,
    /// Names its random streams.
    owner: String,
    parameters: Parameters<T>,
}

impl<T: Real> Attached<T> {
    fn stream(&self, pass: &Pass<'_, T>) -> Option<Stream> {
        pass.draw.filter(|_| self.settings.dropout > 0.0).map(|draw| draw.dropout(&self.owner))
    }

    fn dropped(&self, x: &Matrix<T>, pass: &Pass<'_, T>) -> Option<Matrix<T>> {
        self.stream(pass).map(|stream| dropout::forward(x, self.settings.dropout, stream, pass.workspace))
    }

    /// The operator of `gates` as the site sees it, `[d_out, d_in]` in f64: cut or zero-padded on both sides.
    fn operator(&self, gates: &[T]) -> Vec<f64> {
        let wide: Vec<f64> = gates.iter().map(|v| v.to_f64()).collect();
        let (plan, Site { d_in, d_out, .. }) = (&self.plan, &self.site);
        let full = circuit::operator(plan, &wide);
        if (plan.in_len(), plan.out_len()) == (*d_in, *d_out) {
            return full;
        }
        let mut out = vec![0.0; d_out * d_in];
        let cols = plan.in_len().min(*d_in);
        for row in 0..plan.out_len().min(*d_out) {
            out[row * d_in..][..cols].copy_from_slice(&full[row * plan.in_len()..][..cols]);
        }
        out
    }

    /// Whether S x is x without a circuit. A unit gives x but for a rounding, of T and of S alike, so that there both are computed.
    fn is_plain(&self, unit: Option<Unit>) -> bool {
        self.settings.init == Initial::Identity && unit.is_none()
    }

    /// Number of leading features that the identity circuit passes through.
    fn passed(&self) -> usize {
        self.plan.in_len().min(self.site.d_in).min(self.site.d_out)
    }
}

impl<T: Real> Adapter<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn fold(&self) -> Option<Vec<f64>> {
        (self.frozen != Frozen::Circuit)
            .then(|| self.operator(self.parameters.frozen()).into_iter().map(|v| -v).collect())
    }

    fn folds_to_bf16(&self) -> bool {
        self.frozen == Frozen::Reference
    }

    fn circuits(&self, rows: usize, pass: &Pass<'_, T>) -> Option<Circuits<'_, T>> {
        let (beside, unit) = (self.frozen == Frozen::Circuit, pass.unit(self.bf16, rows));
        // T of dropped inputs and S of all of them are not circuits of one x
        if self.stream(pass).is_some() || beside && self.is_plain(unit) {
            return None;
        }
        let mut terms = vec![(self.parameters.trainable(), T::ONE)];
        if beside {
            terms.push((self.parameters.frozen(), -T::ONE));
        }
        Some(Circuits { unit, plan: &self.plan, terms })
    }

    fn forward(&self, x: &Matrix<T>, y: &mut Matrix<T>, pass: &Pass<'_, T>) -> Saved<T> {
        if let Some(circuits) = self.circuits(x.rows(), pass) {
            circuits.add(x, y);
            return Saved::default();
        }
        let (plan, Site { d_in, d_out, .. }) = (&self.plan, &self.site);
        let unit = pass.unit(self.bf16, x.rows());
        let dropped = self.dropped(x, pass);
        let input = dropped.as_ref().unwrap_or(x).data();
        if self.frozen != Frozen::Circuit {
            circuit::apply_on(unit, plan, self.parameters.trainable(), input, *d_in, y.data_mut(), *d_out, T::ONE);
            return Saved::default();
        }
        // T - S is formed before W0 x joins, so that equal circuits cancel exactly
        let mut difference = pass.workspace.zeros(y.rows(), y.cols());
        let to = difference.data_mut();
        circuit::apply_on(unit, plan, self.parameters.trainable(), input, *d_in, to, *d_out, T::ONE);
        if self.is_plain(unit) {
            let passed = self.passed();
            for row in 0..x.rows() {
                let out = &mut difference.row_mut(row)[..passed];
                out.iter_mut().zip(x.row(row)).for_each(|(out, &x)| *out -= x);
            }
        } else {
            circuit::apply_on(unit, plan, self.parameters.frozen(), x.data(), *d_in, to, *d_out, -T::ONE);
        }
        y.add(&difference);
        Saved::default()
    }

    fn backward(
        &self,
        x: &Matrix<T>,
        dy: &Matrix<T>,
        _saved: Saved<T>,
        mut dx: Option<&mut Matrix<T>>,
        gradient: &mut [T],
        pass: &Pass<'_, T>,
    ) {
        let (plan, Site { d_in, d_out, .. }) = (&self.plan, &self.site);
        let (gates, unit) = (self.parameters.trainable(), pass.gradient_unit(self.bf16, x.rows()));
        match (self.stream(pass), &mut dx) {
            (Some(stream), Some(dx)) => {
                let dropped = dropout::forward(x, self.settings.dropout, stream.clone(), pass.workspace);
                let mut part = pass.workspace.zeros(dx.rows(), dx.cols());
                let input = dropped.data();
                circuit::backward_on(
                    unit,
                    plan,
                    gates,
                    input,
                    *d_in,
                    dy.data(),
                    *d_out,
                    T::ONE,
                    Some(part.data_mut()),
                    Some(gradient),
                );
                dropout::mask(&mut part, self.settings.dropout, stream);
                dx.add(&part);
            }
            (_, dx) => {
                let dropped = self.dropped(x, pass);
                let input = dropped.as_ref().unwrap_or(x).data();
                let dx = dx.as_mut().map(|dx| dx.data_mut());
                circuit::backward_on(unit, plan, gates, input, *d_in, dy.data(), *d_out, T::ONE, dx, Some(gradient));
            }
        }
        let Some(dx) = dx.filter(|_| self.frozen == Frozen::Circuit) else { return };
        if self.is_plain(unit) {
            for row in 0..x.rows() {
                let passed = self.passed();
                let out = &mut dx.row_mut(row)[..passed];
                out.iter_mut().zip(dy.row(row)).for_each(|(out, &dy)| *out -= dy);
            }
        } else {
            let gates = self.parameters.frozen();
            let dx = Some(dx.data_mut());
            circuit::backward_on(unit, plan, gates, x.data(), *d_in, dy.data(), *d_out, -T::ONE, dx, None);
        }
    }

    fn update(&self) -> Option<Vec<f64>> {
        let mut update = self.operator(self.parameters.trainable());
        for (t, s) in update.iter_mut().zip(self.operator(self.parameters.frozen())) {
            *t -= s;
        }
        Some(update)
    }

    fn applied(&self) -> Option<Vec<f64>> {
        // the same as the update less the fold, with one operator instead of three
        if self.frozen == Frozen::Circuit { self.update() } else { Some(self.operator(self.parameters.trainable())) }
    }
}

//! The table of methods: one row each, and the settings they share a shape of.
//!
//! [`Method`] is the settings of one `[[adapter]]` entry. The `methods!` table below is the only place outside a method's own file that names it; it makes
//! the enum and forwards every call.

use serde_json::{Map, Value, json};

use super::prefix::Prefix as PrefixTuning;
use super::{
    Adapter, Dora, Full, Krona, Loha, Lora, LorettaAdp, LorettaRep, Magnitude, Miss, Mora, Parallel, Prefix, Quanta,
    Series, Site, Tensor,
};
use crate::config::{Problems, Section};
use crate::ops::Weight;
use crate::tensor::Real;

/// What every method's settings can do before anything is attached.
pub trait Settings: Sized {
    /// Name in configs (`type = "..."`).
    const NAME: &'static str;
    /// Name in a PEFT folder (`peft_type`).
    const PEFT_TYPE: &'static str;
    /// What the key `variant` says there, for methods that share a type.
    const VARIANT: Option<&'static str> = None;
    /// The adapted weight, as printed by `quanta methods`.
    const FORMULA: &'static str;
    /// Whether PEFT itself does not know the method: the folder then carries this program's format version.
    const EXTENDS_PEFT: bool = false;
    /// What it attaches to.
    const TARGET: Target = Target::Linears;
    /// Whether what is trained can be merged into the weights.
    const MERGEABLE: bool = true;
    /// Whether it has a magnitude, of which a site takes one.
    const MAGNITUDE: bool = false;

    /// Reads the settings from a config entry; problems are recorded in the section.
    fn read(section: &mut Section) -> Self;
    /// Settings to show the method by: what an entry with nothing but a type and sites means.
    fn example() -> Self {
        Self::read(&mut Section::new("", Map::new(), &Problems::new()))
    }
    /// The settings as a config entry holds them: reading them back gives the same settings.
    fn write(&self) -> Map<String, Value>;
    /// Whether an `adapter_config.json` of this `peft_type` is this method's: some types hold several.
    fn claims(peft_type: &str, section: &Section) -> bool {
        let variant = |variant| section.peek("variant") == Some(&json!(variant));
        peft_type == Self::PEFT_TYPE && Self::VARIANT.is_none_or(variant)
    }
    /// Reads the settings from an `adapter_config.json`: the keys of a config entry, for a method that PEFT has no keys of its own for.
    fn read_peft(section: &mut Section) -> Self {
        if let Some(variant) = Self::VARIANT {
            section.only("variant", &[json!(variant)]);
        }
        Self::read(section)
    }
    /// Name in a PEFT folder with these settings, where they decide.
    fn peft_type(&self) -> &'static str {
        Self::PEFT_TYPE
    }
    /// Whether PEFT itself does not know the method with these settings.
    fn extends_peft(&self) -> bool {
        Self::EXTENDS_PEFT
    }
    /// The method's own keys of an `adapter_config.json`: reading them back gives the same settings.
    fn write_peft(&self) -> Map<String, Value> {
        let mut map = self.write();
        map.extend(Self::VARIANT.map(|variant| ("variant".to_owned(), json!(variant))));
        map
    }
    /// Why these settings do not fit a site; empty when they do.
    fn problems(&self, site: &Site) -> Vec<String>;
    /// Trainable parameters at a site.
    fn parameters(&self, site: &Site) -> usize;
    /// Floating-point operations of one application to one token.
    fn flops_per_token(&self, site: &Site) -> u64;
    /// Operations of backward for one token: the input's gradient and the parameters'. Two products for each of forward's unless a method knows better.
    fn backward_flops_per_token(&self, site: &Site) -> u64 {
        2 * self.flops_per_token(site)
    }
    /// Operations of one application to one token of what stands frozen beside the parameters, on a base held as bf16 or not. Backward takes as many, for the
    /// input's gradient.
    fn frozen_flops_per_token(&self, _site: &Site, _bf16: bool) -> u64 {
        0
    }
    /// Whether the base's weight is copied with something folded into it, where it is held as bf16.
    fn copies_bf16(&self) -> bool {
        false
    }
    /// Numbers that forward keeps for backward for one token, copies of the site's rows included.
    fn kept_per_token(&self, _site: &Site) -> usize {
        0
    }
    /// Numbers that backward takes for one token while it runs, beyond what it is given.
    fn scratch_per_token(&self, _site: &Site) -> usize {
        0
    }
    /// What `quanta plan` says of a site: labels and texts.
    fn describe(&self, site: &Site) -> Vec<(&'static str, String)>;
    /// Names and shapes of all parameters at a site, trainable and frozen, as written to disk.
    fn layout(&self, site: &Site) -> Vec<Tensor>;
    /// Attaches to a site. Initial parameters and dropout come from streams named by `seed`, the site and `entry`, the index of the configuration's entry,
    /// so that two entries on one site are independent. None for a method that does not attach to linears.
    fn attach<T: Real>(&self, site: &Site, base: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>>;
    /// The settings under which factors `B A` of rank `rank`, or of the ranks listed by site, are the whole update. None for a method that is not made of two
    /// factors.
    fn of_factors(_rank: usize, _ranks: &[(String, usize)]) -> Option<Self> {
        None
    }
    /// What attention is given, for a method whose target it is; streams as in [`Self::attach`].
    fn prefix<T: Real>(&self, _site: &Site, _seed: u64, _entry: usize) -> Option<Box<dyn Prefix<T>>> {
        None
    }
}

/// What a method attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The linears of the layers: it wraps them.
    Linears,
    /// Any module with parameters: it lets them train.
    Modules,
    /// The attention of all layers together.
    Attention,
}

/// The fields of a JSON object that is written out in the code.
pub(super) fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

/// A number as PEFT writes it: integral ones as integers.
pub(super) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// A row of the table of methods.
#[derive(Clone, Copy, Debug)]
pub struct MethodInfo {
    /// Name in configs.
    pub name: &'static str,
    /// Name in a PEFT folder.
    pub peft_type: &'static str,
    /// The adapted weight.
    pub formula: &'static str,
    /// Whether PEFT itself does not know the method.
    pub extends_peft: bool,
    /// What it attaches to.
    pub target: Target,
    /// Whether what is trained can be merged into the weights.
    pub mergeable: bool,
    claims: fn(&str, &Section) -> bool,
    example: fn() -> Method,
    read: fn(&mut Section) -> Method,
    read_peft: fn(&mut Section) -> Method,
    of_factors: OfFactors,
}

/// See [`Settings::of_factors`].
type OfFactors = fn(usize, &[(String, usize)]) -> Option<Method>;

impl MethodInfo {
    /// Whether it trains modules' own parameters instead of attaching something.
    pub fn unfreezes(&self) -> bool {
        self.target == Target::Modules
    }

    /// Settings to show the method by.
    pub fn example(&self) -> Method {
        (self.example)()
    }

    /// Whether an `adapter_config.json` of this `peft_type` is this method's.
    pub fn claims(&self, peft_type: &str, section: &Section) -> bool {
        (self.claims)(peft_type, section)
    }

    /// The settings under which factors `B A` of rank `rank`, or of the ranks listed by site, are the whole update, for a method made of two factors.
    pub fn of_factors(&self, rank: usize, ranks: &[(String, usize)]) -> Option<Method> {
        (self.of_factors)(rank, ranks)
    }

    /// Reads the method's settings from a config entry.
    pub fn read(&self, section: &mut Section) -> Method {
        (self.read)(section)
    }

    /// Reads the method's settings from an `adapter_config.json`.
    pub fn read_peft(&self, section: &mut Section) -> Method {
        (self.read_peft)(section)
    }
}

macro_rules! methods {
    ($($method:ident),* $(,)?) => {
        /// The settings of one method.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Method {
            $(#[doc = concat!("[`", stringify!($method), "`].")] $method($method),)*
        }

        /// All methods, in the order in which they are listed to the user.
        pub const fn methods() -> &'static [MethodInfo] {
            &[$(MethodInfo {
                name: <$method as Settings>::NAME,
                peft_type: <$method as Settings>::PEFT_TYPE,
                formula: <$method as Settings>::FORMULA,
                extends_peft: <$method as Settings>::EXTENDS_PEFT,
                target: <$method as Settings>::TARGET,
                mergeable: <$method as Settings>::MERGEABLE,
                claims: <$method as Settings>::claims,
                example: || Method::$method(<$method as Settings>::example()),
                read: |section| Method::$method(<$method as Settings>::read(section)),
                of_factors: |rank, ranks| <$method as Settings>::of_factors(rank, ranks).map(Method::$method),
                read_peft: |section| Method::$method(<$method as Settings>::read_peft(section)),
            }),*]
        }

        impl Method {
            /// Name in configs.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$method(_) => <$method as Settings>::NAME),* }
            }
            /// What it attaches to.
            pub fn target(&self) -> Target {
                match self { $(Self::$method(_) => <$method as Settings>::TARGET),* }
            }
            /// Whether it trains the module's own parameters.
            pub fn unfreezes(&self) -> bool {
                self.target() == Target::Modules
            }
            /// Whether what is trained can be merged into the weights.
            pub fn mergeable(&self) -> bool {
                match self { $(Self::$method(_) => <$method as Settings>::MERGEABLE),* }
            }
            /// Whether it has a magnitude, of which a site takes one.
            pub fn has_magnitude(&self) -> bool {
                match self { $(Self::$method(_) => <$method as Settings>::MAGNITUDE),* }
            }
            /// Whether PEFT itself does not know the method with these settings.
            pub fn extends_peft(&self) -> bool {
                match self { $(Self::$method(settings) => settings.extends_peft()),* }
            }
            /// Name in a PEFT folder.
            pub fn peft_type(&self) -> &'static str {
                match self { $(Self::$method(settings) => settings.peft_type()),* }
            }
            /// See [`Settings::write`].
            pub fn write(&self) -> Map<String, Value> {
                match self { $(Self::$method(settings) => settings.write()),* }
            }
            /// See [`Settings::write_peft`].
            pub fn write_peft(&self) -> Map<String, Value> {
                match self { $(Self::$method(settings) => settings.write_peft()),* }
            }
            /// See [`Settings::problems`].
            pub fn problems(&self, site: &Site) -> Vec<String> {
                match self { $(Self::$method(settings) => settings.problems(site)),* }
            }
            /// See [`Settings::parameters`].
            pub fn parameters(&self, site: &Site) -> usize {
                match self { $(Self::$method(settings) => settings.parameters(site)),* }
            }
            /// See [`Settings::flops_per_token`].
            pub fn flops_per_token(&self, site: &Site) -> u64 {
                match self { $(Self::$method(settings) => settings.flops_per_token(site)),* }
            }
            /// See [`Settings::backward_flops_per_token`].
            pub fn backward_flops_per_token(&self, site: &Site) -> u64 {
                match self { $(Self::$method(settings) => settings.backward_flops_per_token(site)),* }
            }
            /// See [`Settings::frozen_flops_per_token`].
            pub fn frozen_flops_per_token(&self, site: &Site, bf16: bool) -> u64 {
                match self { $(Self::$method(settings) => settings.frozen_flops_per_token(site, bf16)),* }
            }
            /// See [`Settings::copies_bf16`].
            pub fn copies_bf16(&self) -> bool {
                match self { $(Self::$method(settings) => settings.copies_bf16()),* }
            }
            /// See [`Settings::kept_per_token`].
            pub fn kept_per_token(&self, site: &Site) -> usize {
                match self { $(Self::$method(settings) => settings.kept_per_token(site)),* }
            }
            /// See [`Settings::scratch_per_token`].
            pub fn scratch_per_token(&self, site: &Site) -> usize {
                match self { $(Self::$method(settings) => settings.scratch_per_token(site)),* }
            }
            /// See [`Settings::describe`].
            pub fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
                match self { $(Self::$method(settings) => settings.describe(site)),* }
            }
            /// See [`Settings::layout`].
            pub fn layout(&self, site: &Site) -> Vec<Tensor> {
                match self { $(Self::$method(settings) => settings.layout(site)),* }
            }
            /// See [`Settings::attach`].
            pub fn attach<T: Real>(&self, site: &Site, base: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
                match self { $(Self::$method(settings) => settings.attach(site, base, seed, entry)),* }
            }
            /// See [`Settings::prefix`].
            pub fn prefix<T: Real>(&self, site: &Site, seed: u64, entry: usize) -> Option<Box<dyn Prefix<T>>> {
                match self { $(Self::$method(settings) => settings.prefix(site, seed, entry)),* }
            }
        }
    };
}

methods!(
    Quanta,
    Lora,
    Dora,
    Mora,
    Krona,
    LorettaRep,
    LorettaAdp,
    Series,
    Parallel,
    PrefixTuning,
    Magnitude,
    Full,
    Loha,
    Miss,
);

/// The method with this name in configs.
pub fn method_named(name: &str) -> Option<&'static MethodInfo> {
    methods().iter().find(|method| method.name == name)
}

//! The table of methods: one row each, and the settings they share a shape of.
//!
//! [`Method`] is the settings of one `[[adapter]]` entry. The `methods!` table below is the only place outside a method's own file that names it; it makes
//! the enum and forwards every call.

use serde_json::{Map, Value};

use super::{Adapter, Full, Lora, Quanta, Site, Tensor};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::Real;

/// What every method's settings can do before anything is attached.
pub trait Settings: Sized {
    /// Name in configs (`type = "..."`).
    const NAME: &'static str;
    /// Name in a PEFT folder (`peft_type`).
    const PEFT_TYPE: &'static str;
    /// The adapted weight, as printed by `quanta methods`.
    const FORMULA: &'static str;
    /// Whether PEFT itself does not know the method: the folder then carries this program's format version.
    const EXTENDS_PEFT: bool = false;
    /// Whether the method trains the module's own parameters instead of attaching something to it.
    const UNFREEZES: bool = false;

    /// Reads the settings from a config entry; problems are recorded in the section.
    fn read(section: &mut Section) -> Self;
    /// The settings as a config entry holds them: reading them back gives the same settings.
    fn write(&self) -> Map<String, Value>;
    /// Reads the settings from an `adapter_config.json`.
    fn read_peft(section: &mut Section) -> Self;
    /// The method's own keys of an `adapter_config.json`.
    fn write_peft(&self) -> Map<String, Value>;
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
    /// What `quanta plan` says of a site: labels and texts.
    fn describe(&self, site: &Site) -> Vec<(&'static str, String)>;
    /// Names and shapes of all parameters at a site, trainable and frozen, as written to disk.
    fn layout(&self, site: &Site) -> Vec<Tensor>;
    /// Attaches to a site. Initial parameters and dropout come from streams named by `seed`, the site and `entry`, the index of the configuration's entry,
    /// so that two entries on one site are independent. None for a method that unfreezes.
    fn attach<T: Real>(&self, site: &Site, base: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>>;
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
    /// Whether it trains modules' own parameters instead of attaching something.
    pub unfreezes: bool,
    read: fn(&mut Section) -> Method,
    read_peft: fn(&mut Section) -> Method,
}

impl MethodInfo {
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
                unfreezes: <$method as Settings>::UNFREEZES,
                read: |section| Method::$method(<$method as Settings>::read(section)),
                read_peft: |section| Method::$method(<$method as Settings>::read_peft(section)),
            }),*]
        }

        impl Method {
            /// Name in configs.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$method(_) => <$method as Settings>::NAME),* }
            }
            /// Whether it trains the module's own parameters.
            pub fn unfreezes(&self) -> bool {
                match self { $(Self::$method(_) => <$method as Settings>::UNFREEZES),* }
            }
            /// Name in a PEFT folder.
            pub fn peft_type(&self) -> &'static str {
                match self { $(Self::$method(_) => <$method as Settings>::PEFT_TYPE),* }
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
        }
    };
}

methods!(Quanta, Lora, Full);

/// The method with this name in configs.
pub fn method_named(name: &str) -> Option<&'static MethodInfo> {
    methods().iter().find(|method| method.name == name)
}

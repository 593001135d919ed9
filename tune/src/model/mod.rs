//! Transformers: the parts written once, a thin file for each family, loading from a Hugging Face folder.
//!
//! A decoder is layers of linears, norms and attention from [`crate::ops`]; its linears are the sites that adapters attach to. The schedule of a pass is
//! explicit: forward returns what backward needs by value, and backward stops below the lowest layer that trains. Nothing here knows a method by name,
//! and nothing outside `family` knows a family by name.

mod activations;
mod assemble;
mod attach;
mod attention;
mod cache;
mod config;
mod cost;
mod decoder;
mod embedding;
mod family;
mod file_names;
mod head;
mod layer;
mod learned;
mod linear;
mod load;
mod mlp;
mod norm;
mod residual;
mod rows;
mod trained;

pub use assemble::{initial_values, random};
pub use attach::{AttachError, Attachment, resolve};
pub use attention::Attention;
pub use cache::{Continuation, Prefix, cache_bytes};
pub use config::{AddedNames, AddedRows, Dropouts, HeadNames, LayerKind, ModelConfig, Names, Place, Role};
pub use cost::{Cost, Training, beside_bytes};
pub use decoder::Decoder;
pub use embedding::{Added, Embedding};
pub use family::{families, read_config};
pub use file_names::FileNames;
pub use head::{Classifier, Head, head_entry};
pub use layer::Layer;
pub use learned::{Learned, VirtualTokens};
pub use linear::{Attached, InputGradient, Linear, Saved as LinearSaved};
pub(crate) use load::is_harmless_extra;
pub use load::{LoadError, StoredAs, WantedHead, load, load_with_head, read_folder_config};
pub use mlp::Mlp;
pub use norm::Norm;
pub use residual::Residual;
pub use trained::{Table, Trained, Unfrozen};

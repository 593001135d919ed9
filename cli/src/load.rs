//! How a run, an adapter or a model is loaded: the arguments that evaluation, scoring and generation share.

use std::path::PathBuf;

use clap::ValueEnum;
use quanta_tune::run::ModelDtype;

/// Where the base lies, in which type, and on how many threads.
#[derive(clap::Args)]
pub struct Load {
    /// Where an adapter's base model lies, if not where the adapter says
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Type of compute and of the weights in memory; without it a run's own, `auto` otherwise. Adapters are merged into weights in f32 and f64, and stay beside
    /// those in bf16
    #[arg(long, value_enum)]
    dtype: Option<Type>,
    /// Threads; 0: one for each processor
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    /// Compute in f32, keep bf16 weights as they are
    Auto,
    /// Everything in f32
    F32,
    /// Everything in f64
    F64,
    /// Compute in f32, weights rounded to bf16
    Bf16,
}

impl Load {
    /// The type that was asked for.
    pub fn dtype(&self) -> Option<ModelDtype> {
        self.dtype.map(|dtype| match dtype {
            Type::Auto => ModelDtype::Auto,
            Type::F32 => ModelDtype::F32,
            Type::F64 => ModelDtype::F64,
            Type::Bf16 => ModelDtype::Bf16,
        })
    }
}

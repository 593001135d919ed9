//! Data: from files of text to token sequences that know which of their tokens are trained.
//!
//! The path of a row is file -> [`task`] -> [`example::Example`] -> [`encode`] -> [`example::Encoded`]; [`sample`]
//! chooses which rows, [`dataset`] walks the whole path for a run, [`statistics`] says what came out, [`metric`] how right
//! a prediction is. The room knows
//! no model: it hands over token ids, and what is computed from them is left to the rooms above.

pub mod batch;
pub mod chat;
pub mod dataset;
pub mod demo;
pub mod encode;
pub mod example;
pub mod metric;
pub mod objective;
mod python;
pub mod question;
pub mod sample;
pub mod samples;
pub mod statistics;
pub mod task;
pub mod tokenizer;
pub mod train_tokenizer;
mod vocabulary;
pub mod whole;

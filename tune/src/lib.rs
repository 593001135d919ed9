//! Fine-tuning of Hugging Face model folders with QuanTA (arXiv 2406.00132) and the methods it is compared with.
//!
//! Rooms, lowest first; a room imports only from rooms before it: [`config`] reads settings and collects their problems, [`tensor`] holds numbers,
//! [`weights`] reads and writes tensor files, [`hub`] finds and fetches models of the Hugging Face hub, [`ops`] are the forward/backward pairs, [`adapter`] holds the methods, [`model`] the transformers,
//! [`data`] turns text into packed batches, [`checkpoint`] writes what a run leaves behind, [`eval`] scores and generates, [`train`] steps, [`analysis`] shows
//! what runs came to, [`run`] is one function a command.

pub mod adapter;
pub mod analysis;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod eval;
pub mod hub;
pub mod model;
pub mod ops;
pub mod run;
pub mod tensor;
pub mod train;
pub mod weights;

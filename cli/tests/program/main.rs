//! The program `quanta` as a user meets it: started as a process, judged by its exit code, its two outputs and the files it leaves.
//!
//! One binary for all of these tests, because linking costs more than running them. `fixture` makes model folders and data in a temporary folder; the
//! mathematics is tested where it lives.

mod bench;
mod broken_config;
mod broken_files;
mod circuit;
mod demo;
mod encoder;
mod fixture;
mod generate;
mod glue;
mod hub;
mod methods;
mod peft;
mod plan;
mod report;
mod resume;
mod rounded;
mod selection;
mod vertical;

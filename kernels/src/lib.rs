//! Operators of a transformer decoder on flat buffers. Knows no model, no request, no file.
//!
//! | to read | what it holds |
//! |---|---|
//! | [`backend`] | the contract: what a device must be able to do |
//! | [`metadata`] | the geometry of one step over a ragged batch |
//! | [`parts`], [`activation`] | what a layer's operators are given: norms, products with their biases, functions |
//! | [`mixture`], [`lora`] | mixtures of experts, adapters: what each backend must be able to do for them |
//! | [`group`] | ranks that compute one model together |
//! | [`formats`] | stored weights: blocks of integers to codes, scales and minimums |
//! | [`cpu`] | the CPU: vectors as wide as the machine has, one pool of threads |
//! | [`cuda`] | GPUs: our kernels over a small device interface, real or emulated |
//! | [`selftest`] | whether a device computes what the reference does |
//! | [`mod@bench`] | how long each operator takes, and how long it would have to |
//! | [`mod@reference`] | the truth: each operator written plainly, in f32 with sums in f64 |
//!
//! Beneath them, shared by the backends that live in host memory: `checks` (who refuses what, and in which words),
//! `host_step` (a step's metadata, checked and owned), `narrow` (f32 to a cache's elements) and `rope_table`; and, for
//! callers too, [`widen`] (bytes of a file to f32) and [`allocate`].

pub mod activation;
pub mod allocate;
pub mod backend;
pub mod bench;
pub mod cpu;
pub mod cuda;
pub mod formats;
pub mod group;
pub mod lora;
pub mod metadata;
pub mod mixture;
pub mod parts;
pub mod reference;
pub mod selftest;
pub mod threads;
pub mod widen;

mod checks;
mod dtype;
mod error;
mod host_step;
mod narrow;
mod rope_table;

pub use crate::host_step::HostStep;
pub use crate::rope_table::RopeTable;

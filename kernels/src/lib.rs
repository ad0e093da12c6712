//! Operators of a transformer decoder on flat buffers: the truth, the CPU, later CUDA. Knows no model.

pub mod backend;
pub mod metadata;

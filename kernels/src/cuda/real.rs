//! A real GPU.

//! The emulated GPU.

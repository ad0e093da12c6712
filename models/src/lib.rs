//! Decoder-only architectures as values, run by one layer loop over a [`kernels`] backend. Knows no request.

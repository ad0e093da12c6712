//! The terms of a feed-forward part: what its function is applied to, and what that is multiplied with.

use crate::activation::Activation;
use crate::cpu::linear::{Epilogue, Term};
use crate::cpu::matrix::CpuMatrix;

/// Matrices of a term, and their bias.
pub(crate) type Half<'a> = (&'a [CpuMatrix], Option<&'a [f32]>);

/// Returns the term of `activation(x Gᵀ + g)`.
pub(crate) fn activated(activation: Activation, (matrices, bias): Half<'_>) -> Term<'_> {
    let epilogue = bias.map_or(Epilogue::Store, Epilogue::Bias);
    Term { matrices, epilogue, activation: Some(activation) }
}

/// Returns the terms of `activation(x Gᵀ + g) * (x Uᵀ + u)`.
pub(crate) fn gated<'a>(activation: Activation, gate: Half<'a>, up: Half<'a>) -> [Term<'a>; 2] {
    let gate = activated(activation, gate);
    let (matrices, bias) = up;
    let up = |epilogue| Term { matrices, epilogue, activation: None };
    match (activation, bias) {
        // The function is the end of the second product.
        (Activation::Silu, None) => [Term { activation: None, ..gate }, up(Epilogue::SiluMul)],
        (Activation::GeluTanh | Activation::GeluErf, None) => [gate, up(Epilogue::Mul)],
        (Activation::Silu | Activation::GeluTanh | Activation::GeluErf, Some(bias)) => {
            [gate, up(Epilogue::MulBias(bias))]
        }
    }
}

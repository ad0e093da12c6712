//! The functions that stand in the middle of a feed-forward part.

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// `x Φ(x)`, with the distribution function of the normal distribution by a hyperbolic tangent:
    /// `x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    ///
    /// # Source
    /// Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv 1606.08415.
    GeluTanh,
    /// `x Φ(x)`, by the error function.
    GeluErf,
}

/// The factor of the cube in the hyperbolic form.
pub(crate) const GELU_CUBE: f64 = 0.044_715;

/// Terms of the series of the error function: at 6 the last is below 1e-17 of the sum.
const ERF_TERMS: u32 = 150;

impl Activation {
    /// Every function.
    pub const ALL: [Self; 3] = [Self::Silu, Self::GeluTanh, Self::GeluErf];

    /// Returns the function's value: the truth that backends are held to.
    pub(crate) fn of(self, x: f64) -> f64 {
        match self {
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::GeluTanh => {
                let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + GELU_CUBE * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Self::GeluErf => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        }
    }
}

/// Returns the error function by `2/√π e^(-x²) x Σ (2x²)^n / (2n+1)!!`, whose terms are all of one sign.
fn erf(x: f64) -> f64 {
    // The error function of 6 differs from 1 by less than f64 can say.
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..ERF_TERMS {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_the_values_of_the_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (5.9, 1.0),
            (7.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 1e-10, "{x}: {}", erf(x));
            assert!((erf(-x) + expected).abs() < 1e-10, "-{x}: {}", erf(-x));
        }
    }

    #[test]
    fn the_functions_have_the_values_that_a_hand_computes() {
        for (activation, x, expected) in [
            (Activation::Silu, 1.0, 0.731_058_578_6),
            (Activation::GeluTanh, 1.0, 0.841_191_990_6),
            (Activation::GeluErf, 1.0, 0.841_344_746_1),
            (Activation::GeluErf, -2.0, -0.045_500_263_9),
        ] {
            assert!((activation.of(x) - expected).abs() < 1e-9, "{activation:?} {x}");
        }
        for activation in Activation::ALL {
            assert_eq!(activation.of(0.0).to_bits(), 0);
            assert!((activation.of(40.0) - 40.0).abs() < 1e-9);
            assert!(activation.of(-40.0).abs() < 1e-9);
        }
    }
}

//! Rotary positions: the frequencies of a head, and what is done to them for long contexts.

mod read;

use std::f64::consts::TAU;

/// How positions become angles.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric row of frequencies.
    pub theta: f64,
    /// What is done to that row for longer contexts.
    pub kind: RopeKind,
}

/// What is done to the frequencies for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeKind {
    /// Nothing: as trained. The dynamic form is this too, as long as no text is longer than the context.
    Default,
    /// All are divided, as if positions lay closer.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Low frequencies are divided, high ones kept, with a ramp between.
    Yarn(Yarn),
    /// The same with another ramp.
    Llama3(Llama3),
}

/// The setting of `YaRN`.
///
/// # Source
/// Peng et al., `YaRN`: Efficient Context Window Extension of Large Language Models, arXiv 2309.00071.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// Divides low frequencies.
    pub factor: f64,
    /// Context of the training before.
    pub original_context: usize,
    /// Frequencies that turn more often than this over that context are kept.
    pub beta_fast: f64,
    /// Frequencies that turn less often than this are divided.
    pub beta_slow: f64,
    /// Whether the ends of the ramp are whole pairs.
    pub truncate: bool,
    /// Factor on cosines and sines.
    pub amplitude: f64,
}

/// The setting of Llama 3.1.
///
/// # Source
/// `rope_type` "llama3" in transformers' `modeling_rope_utils.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3 {
    /// Divides low frequencies.
    pub factor: f64,
    /// Frequencies that turn less often than this over the context before are divided.
    pub low_freq_factor: f64,
    /// Frequencies that turn more often are kept.
    pub high_freq_factor: f64,
    /// Context of the training before.
    pub original_context: usize,
}

impl Rope {
    /// Returns the frequency of each pair of a head, `theta^(-2i / head_dim)` and what its kind makes of it, rounded once to
    /// f32.
    ///
    /// # Shapes
    /// `[head_dim / 2]`
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f32> {
        let pairs = (0..head_dim as u32 / 2).map(f64::from);
        let plain = |index: f64| self.theta.powf(-2.0 * index / head_dim as f64);
        match &self.kind {
            RopeKind::Default => pairs.map(|i| plain(i) as f32).collect(),
            RopeKind::Linear { factor } => pairs.map(|i| (plain(i) / factor) as f32).collect(),
            RopeKind::Yarn(yarn) => {
                let ramp = yarn.ramp(self.theta, head_dim);
                pairs.map(|i| mixed(plain(i), yarn.factor, ramp.kept(i)) as f32).collect()
            }
            RopeKind::Llama3(llama) => {
                pairs.map(plain).map(|f| mixed(f, llama.factor, llama.kept(f)) as f32).collect()
            }
        }
    }

    /// Returns the factor on cosines and sines.
    pub fn amplitude(&self) -> f32 {
        match &self.kind {
            RopeKind::Default | RopeKind::Linear { .. } | RopeKind::Llama3(_) => 1.0,
            RopeKind::Yarn(yarn) => yarn.amplitude as f32,
        }
    }

    /// Returns the longest context that the positions were made for, given what `max_position_embeddings` says: with
    /// `YaRN` that often is the context before.
    pub fn context(&self, max_position_embeddings: usize) -> usize {
        match &self.kind {
            RopeKind::Default | RopeKind::Linear { .. } | RopeKind::Llama3(_) => {
                max_position_embeddings
            }
            RopeKind::Yarn(yarn) => {
                max_position_embeddings.max((yarn.original_context as f64 * yarn.factor) as usize)
            }
        }
    }
}

/// Keeps a share of a frequency and divides the rest.
fn mixed(frequency: f64, factor: f64, kept: f64) -> f64 {
    frequency * kept + frequency / factor * (1.0 - kept)
}

/// Pairs between which the share that is kept falls from 1 to 0.
struct Ramp {
    low: f64,
    high: f64,
}

impl Ramp {
    fn kept(&self, pair: f64) -> f64 {
        1.0 - ((pair - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

impl Yarn {
    fn ramp(&self, theta: f64, head_dim: usize) -> Ramp {
        // The pair that turns so often over the context before.
        let pair = |turns: f64| {
            let context = self.original_context as f64;
            head_dim as f64 * (context / (turns * TAU)).ln() / (2.0 * theta.ln())
        };
        let (low, high) = (pair(self.beta_fast), pair(self.beta_slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        // The upper bound is that of transformers, though there are half as many pairs.
        let (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
        // A ramp of no width would divide by 0.
        Ramp { low, high: if low >= high { low + 0.001 } else { high } }
    }
}

impl Llama3 {
    fn kept(&self, frequency: f64) -> f64 {
        let turns = self.original_context as f64 * frequency / TAU;
        let span = self.high_freq_factor - self.low_freq_factor;
        ((turns - self.low_freq_factor) / span).clamp(0.0, 1.0)
    }
}

//! The rotation of every position, computed once when a model is loaded.

use crate::allocate;
use crate::backend::BackendError;

/// Cosines and sines of the rotary embedding, `[num_positions, head_dim / 2]` each, in host memory.
///
/// As Hugging Face computes them: `angle = position * inv_freq` in f32, then the f32 cosine and sine. An angle in
/// f64 would be closer to the idea and further from the weights, which were trained with the f32 one.
#[derive(Debug)]
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half_dim: usize,
    num_positions: usize,
}

impl RopeTable {
    /// Computes the table; `amplitude` scales cosines and sines alike.
    pub(crate) fn new(
        inv_freq: &[f32],
        num_positions: usize,
        amplitude: f32,
        device: &'static str,
    ) -> Result<Self, BackendError> {
        let len = num_positions.saturating_mul(inv_freq.len());
        let mut cos = allocate::reserved(len, device)?;
        let mut sin = allocate::reserved(len, device)?;
        for position in 0..num_positions {
            for &frequency in inv_freq {
                let angle = position as f32 * frequency;
                cos.push(angle.cos() * amplitude);
                sin.push(angle.sin() * amplitude);
            }
        }
        Ok(Self { cos, sin, half_dim: inv_freq.len(), num_positions })
    }

    /// Returns how many elements of a head turn against their partner: `head_dim / 2`.
    pub fn half_dim(&self) -> usize {
        self.half_dim
    }

    /// Returns the number of positions in the table.
    pub fn num_positions(&self) -> usize {
        self.num_positions
    }

    /// Returns the cosines and sines of a position, `[head_dim / 2]` each.
    ///
    /// # Panics
    /// Where `position` is not in the table.
    pub fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half_dim..(position + 1) * self.half_dim;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angle_is_rounded_to_f32_before_the_cosine() {
        let inv_freq = [1.0, 0.013_335_214];
        let table = RopeTable::new(&inv_freq, 4000, 2.0, "test").unwrap();
        let (cos, sin) = table.row(3999);
        let angle = f64::from(3999.0_f32 * inv_freq[1]);
        assert!((f64::from(cos[1]) - 2.0 * angle.cos()).abs() < 3e-7);
        assert!((f64::from(sin[1]) - 2.0 * angle.sin()).abs() < 3e-7);
        assert_eq!(table.row(0), (&[2.0_f32, 2.0][..], &[0.0_f32, 0.0][..]));
    }
}

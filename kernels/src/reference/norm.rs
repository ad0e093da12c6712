//! Norms of a row.

use crate::reference::dot;

pub(super) fn rms_norm(row: &mut [f32], weight: &[f32], eps: f32) {
    let scale = (dot(row, row) / row.len() as f64 + f64::from(eps)).sqrt().recip();
    for (value, &weight) in row.iter_mut().zip(weight) {
        *value = (f64::from(*value) * scale * f64::from(weight)) as f32;
    }
}

pub(super) fn layer_norm(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let len = row.len() as f64;
    let mean = row.iter().map(|&value| f64::from(value)).sum::<f64>() / len;
    let variance = row.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / len;
    let scale = (variance + f64::from(eps)).sqrt().recip();
    for ((value, &weight), &bias) in row.iter_mut().zip(weight).zip(bias) {
        let normed = (f64::from(*value) - mean) * scale;
        *value = (normed * f64::from(weight) + f64::from(bias)) as f32;
    }
}

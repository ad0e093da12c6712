//! `quantization_config`: in which form a checkpoint that was quantised stores its matrices.

use crate::{config::Fields, error::ConfigError};

/// How a checkpoint stores the matrices that it quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantization {
    /// Four bits with zero points, columns packed in AWQ's order.
    Awq,
    /// Four bits, rows packed.
    Gptq {
        /// Whether every zero point is 8.
        is_symmetric: bool,
        /// Whether zero points are stored less one, as all but `gptq_v2` do.
        are_zeros_less_one: bool,
    },
    /// E4M3 with scales for the tensor, its rows or its squares.
    Fp8,
}

/// The field that says so.
pub(crate) const QUANTIZATION_FIELD: &str = "quantization_config";

impl Quantization {
    /// Returns the word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Awq => "awq",
            Self::Gptq { .. } => "gptq",
            Self::Fp8 => "fp8",
        }
    }
}

/// Reads `quantization_config`, where there is one.
///
/// # Errors
/// [`ConfigError`] where it is of a method, or asks for a form, that we do not compute.
pub(crate) fn read_quantization(fields: &Fields<'_>) -> Result<Option<Quantization>, ConfigError> {
    let Some(fields) = fields.optional_object(QUANTIZATION_FIELD)? else { return Ok(None) };
    let Some(method) = fields.value("quant_method") else {
        return Err(fields.missing("quant_method"));
    };
    match method.as_str() {
        Some("awq") => read_awq(&fields).map(Some),
        Some("gptq") => read_gptq(&fields).map(Some),
        Some("fp8") => Ok(Some(Quantization::Fp8)),
        // What else the tool writes would need its activations rounded too, or other bits.
        Some("compressed-tensors") => {
            must_be(&fields, "format", &["float-quantized", "naive-quantized"])?;
            Ok(Some(Quantization::Fp8))
        }
        _ => {
            let rule = "awq, gptq, fp8 or compressed-tensors of fp8; else take the model unquantised, or as GGUF";
            Err(fields.invalid("quant_method", rule, method))
        }
    }
}

fn read_awq(fields: &Fields<'_>) -> Result<Quantization, ConfigError> {
    must_be_four_bits(fields)?;
    must_be(fields, "version", &["gemm", "GEMM"])?;
    must_have_no_act_order(fields)?;
    if let Some(value) = fields.value("zero_point").filter(|value| value.as_bool() == Some(false)) {
        return Err(fields.invalid("zero_point", "true", value));
    }
    Ok(Quantization::Awq)
}

fn read_gptq(fields: &Fields<'_>) -> Result<Quantization, ConfigError> {
    must_be_four_bits(fields)?;
    must_have_no_act_order(fields)?;
    must_be(fields, "checkpoint_format", &["gptq", "gptq_v2"])?;
    let format = fields.value("checkpoint_format").and_then(|value| value.as_str());
    Ok(Quantization::Gptq {
        is_symmetric: fields.optional_flag("sym")?.unwrap_or(false),
        are_zeros_less_one: format != Some("gptq_v2"),
    })
}

fn must_be_four_bits(fields: &Fields<'_>) -> Result<(), ConfigError> {
    for field in ["bits", "w_bit"] {
        if let Some(value) = fields.value(field).filter(|value| value.as_u64() != Some(4)) {
            return Err(fields.invalid(field, "4", value));
        }
    }
    Ok(())
}

/// Columns sorted by their activations belong to groups in no order, and a row could not be read from its start to its end.
fn must_have_no_act_order(fields: &Fields<'_>) -> Result<(), ConfigError> {
    match fields.value("desc_act").filter(|value| value.as_bool() != Some(false)) {
        Some(value) => {
            let rule =
                "false: columns in the order of their activations (act-order) are not supported";
            Err(fields.invalid("desc_act", rule, value))
        }
        None => Ok(()),
    }
}

/// Refuses a value that is none of these; absent is as good as the first.
fn must_be(fields: &Fields<'_>, field: &str, known: &[&str]) -> Result<(), ConfigError> {
    match fields.value(field) {
        Some(value) if !known.iter().any(|known| value.as_str() == Some(known)) => {
            Err(fields.invalid(field, &format!("one of {}", known.join(", ")), value))
        }
        _ => Ok(()),
    }
}

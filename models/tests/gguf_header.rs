//! Headers of GGUF files: read as candle reads them, and refused where they are damaged.

use std::{collections::BTreeMap, io::Cursor};

use candle_core::quantized::gguf_file::{Content, Value as CandleValue};
use models::gguf::{Gguf, GgufValue};

use crate::{
    gguf_writer::{self, BF16, Edit, F32, Value, Writer},
    support::random_ids,
};

/// A file with each kind of value and three tensors.
fn sample() -> Writer {
    let mut writer = Writer::new();
    writer.set("a.u8", Value::Raw(0, vec![200]));
    writer.set("a.i8", Value::Raw(1, vec![200]));
    writer.set("a.u16", Value::U16(60_000));
    writer.set("a.i16", Value::Raw(3, (-5_i16).to_le_bytes().to_vec()));
    writer.set("a.u32", Value::U32(4_000_000_000));
    writer.set("a.i32", Value::I32(-7));
    writer.set("a.f32", Value::F32(0.1));
    writer.set("a.flag", Value::Flag(true));
    writer.set("a.text", "héllo".into());
    writer.set("a.u64", Value::Raw(10, u64::MAX.to_le_bytes().to_vec()));
    writer.set("a.i64", Value::Raw(11, i64::MIN.to_le_bytes().to_vec()));
    writer.set("a.f64", Value::Raw(12, 0.1_f64.to_le_bytes().to_vec()));
    writer.set("a.texts", Value::texts(["", "two", "drei"]));
    writer.set("a.numbers", Value::Array(vec![Value::I32(1), Value::I32(-2)]));
    writer.set("a.none", Value::Array(Vec::new()));
    writer.set("a.nested", Value::Array(vec![Value::texts(["x"]), Value::texts(["y", "z"])]));
    writer.add("one", &[3], F32, vec![1; 12]);
    writer.add("two", &[2, 5], BF16, vec![2; 20]);
    writer.add("three", &[2, 64], 8, vec![3; 2 * 2 * 34]);
    writer
}

#[test]
fn reads_what_candle_reads() {
    let demo = gguf_writer::demo_bf16();
    for (mut writer, version) in [(sample(), 2), (sample(), 3), (demo, 3)] {
        writer.version = version;
        let bytes = writer.finish();
        let expected = Content::read(&mut Cursor::new(&bytes)).unwrap();
        let found = Gguf::parse("sample.gguf", &bytes).unwrap();
        assert_eq!(found.metadata().len(), expected.metadata.len());
        for (key, value) in found.metadata() {
            assert!(is_same(*value, &expected.metadata[*key]), "`{key}`: {value:?}");
        }
        assert_eq!(found.tensors().len(), expected.tensor_infos.len());
        for (tensor, written) in found.tensors().iter().zip(&writer.tensors) {
            let info = &expected.tensor_infos[tensor.name];
            assert_eq!(tensor.shape, info.shape.dims(), "{}", tensor.name);
            assert_eq!(tensor.range.start as u64, expected.tensor_data_offset + info.offset);
            assert_eq!(bytes[tensor.range.clone()], written.bytes, "{}", tensor.name);
            let dtype = format!("{:?}", tensor.dtype).to_uppercase();
            assert_eq!(dtype, format!("{:?}", info.ggml_dtype).to_uppercase());
        }
    }
}

/// Compares values by their meaning: ours are widened.
fn is_same(found: GgufValue<'_>, expected: &CandleValue) -> bool {
    match (found, expected) {
        (GgufValue::Unsigned(found), CandleValue::U8(value)) => found == u64::from(*value),
        (GgufValue::Unsigned(found), CandleValue::U16(value)) => found == u64::from(*value),
        (GgufValue::Unsigned(found), CandleValue::U32(value)) => found == u64::from(*value),
        (GgufValue::Unsigned(found), CandleValue::U64(value)) => found == *value,
        (GgufValue::Signed(found), CandleValue::I8(value)) => found == i64::from(*value),
        (GgufValue::Signed(found), CandleValue::I16(value)) => found == i64::from(*value),
        (GgufValue::Signed(found), CandleValue::I32(value)) => found == i64::from(*value),
        (GgufValue::Signed(found), CandleValue::I64(value)) => found == *value,
        (GgufValue::Float(found), CandleValue::F32(value)) => {
            found.to_bits() == f64::from(*value).to_bits()
        }
        (GgufValue::Float(found), CandleValue::F64(value)) => found.to_bits() == value.to_bits(),
        (GgufValue::Flag(found), CandleValue::Bool(value)) => found == *value,
        (GgufValue::Text(found), CandleValue::String(value)) => found == value.as_bytes(),
        // Arrays in arrays are walked and left alone.
        (GgufValue::Array(found), CandleValue::Array(values)) => {
            let is_same = |(found, value): (Option<GgufValue<'_>>, &CandleValue)| match found {
                Some(found) => is_same(found, value),
                None => matches!(value, CandleValue::Array(_)),
            };
            found.len() == values.len()
                && found.is_empty() == values.is_empty()
                && found.values().zip(values).all(is_same)
        }
        _ => false,
    }
}

#[test]
fn the_alignment_is_the_files_own() {
    for alignment in [1, 8, 32, 4096] {
        let mut writer = sample();
        writer.alignment = alignment;
        writer.set("general.alignment", Value::U32(alignment as u32));
        let bytes = writer.finish();
        let found = Gguf::parse("aligned.gguf", &bytes).unwrap();
        for (tensor, written) in found.tensors().iter().zip(&writer.tensors) {
            assert_eq!(bytes[tensor.range.clone()], written.bytes, "{}, {alignment}", tensor.name);
        }
    }
}

/// Returns what is wrong with the sample after an edit.
fn error_after(edit: impl FnOnce(&mut Writer)) -> String {
    let mut writer = sample();
    edit(&mut writer);
    error_of(&writer.finish())
}

fn error_of(bytes: &[u8]) -> String {
    Gguf::parse("m.gguf", bytes).err().map(|error| error.to_string()).unwrap_or_default()
}

/// Metadata that breaks a rule.
const BROKEN_METADATA: [Edit; 8] = [
    ("m.gguf: the version must be 2 or 3, got 1", |w| w.version = 1),
    ("m.gguf: the version must be little-endian, got a big-endian file", |w| {
        w.version = 3_u32.swap_bytes();
    }),
    ("m.gguf: `general.alignment` must be a power of two, got 24", |w| {
        w.set("general.alignment", Value::U32(24));
    }),
    ("m.gguf: `general.alignment` must be a power of two, got \"32\"", |w| {
        w.set("general.alignment", "32".into());
    }),
    ("m.gguf: `a.u8` must be of a kind from 0 to 12, got 13", |w| {
        w.set("a.u8", Value::Raw(13, vec![0]));
    }),
    ("m.gguf: `a.flag` must be 0 or 1, being a truth value, got [2]", |w| {
        w.set("a.flag", Value::Raw(7, vec![2]));
    }),
    ("m.gguf: `a.nested` must be nested 4 deep at most, got more", |w| {
        let deep = (0..5).fold(Value::U32(1), |inner, _| Value::Array(vec![inner]));
        w.set("a.nested", deep);
    }),
    ("m.gguf: key 16 of the metadata must be new, got `a.u8` again", |w| {
        w.entries.push(("a.u8".to_owned(), Value::U32(1)));
    }),
];

/// Tables of tensors that break a rule.
const BROKEN_TENSORS: [Edit; 10] = [
    ("m.gguf: the name of tensor 1 must be new, got `one` again", |w| {
        "one".clone_into(&mut w.tensors[1].name);
    }),
    ("m.gguf: the shape of tensor `two` must be of 1 to 4 axes, got 0", |w| {
        w.tensor("two").shape.clear();
    }),
    ("m.gguf: the shape of tensor `two` must be of 1 to 4 axes, got 5", |w| {
        w.tensor("two").shape = vec![1; 5];
    }),
    ("m.gguf: the shape of tensor `two` must be of sizes from 1, got 0", |w| {
        w.tensor("two").shape[0] = 0;
    }),
    (
        "m.gguf: the element type of tensor `two` must be one of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, \
         Q3_K, Q4_K, Q5_K, Q6_K, BF16, got IQ4_XS",
        |w| w.tensor("two").kind = 23,
    ),
    (
        "m.gguf: the element type of tensor `two` must be one of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, \
         Q3_K, Q4_K, Q5_K, Q6_K, BF16, got number 99",
        |w| w.tensor("two").kind = 99,
    ),
    (
        "m.gguf: the shape of tensor `three` must be of rows of whole blocks of 32, got [2, 65]",
        |w| w.tensor("three").shape[1] = 65,
    ),
    ("m.gguf: the offset of tensor `two` must be a multiple of the alignment, 32, got 33", |w| {
        w.tensor("two").offset = Some(33);
    }),
    ("m.gguf: the offset of tensor `two` must be behind tensor `one`, got byte ", |w| {
        w.tensor("two").offset = Some(0);
    }),
    ("m.gguf: the offset of tensor `three` must be behind tensor `two`, got byte ", |w| {
        w.tensor("two").shape[0] = 8;
    }),
];

#[test]
fn a_broken_rule_is_named_with_its_value() {
    let huge = u64::MAX;
    for (expected, edit) in BROKEN_METADATA.into_iter().chain(BROKEN_TENSORS) {
        let error = error_after(edit);
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
    }
    for (name, offset, size) in [("two", 1 << 20, 5), ("two", huge - 31, 5), ("three", 64, 1 << 60)]
    {
        let error = error_after(|w| {
            w.tensor(name).offset = Some(offset);
            w.tensor(name).shape[0] = size;
        });
        let expected = format!("m.gguf: tensor `{name}` needs ");
        assert!(error.starts_with(&expected) && error.contains("the file ends at byte"), "{error}");
    }
    assert_eq!(
        error_of(b"PK\x03\x04"),
        "m.gguf: the first four bytes must be \"GGUF\", got \"PK\\u{3}\\u{4}\""
    );
}

#[test]
fn a_length_that_lies_takes_no_memory_and_ends_with_the_file() {
    // Each length of the header in turn becomes huge: the counts, a text's, an array's, an axis.
    let bytes = sample().finish();
    let lens: BTreeMap<&str, usize> = [
        ("the tensor count", 8),
        ("the entry count", 16),
        ("the first key", 24),
        ("a text", find(&bytes, b"a.text") + 6 + 4),
        ("an array of texts", find(&bytes, b"a.texts") + 7 + 8),
        ("an array of numbers", find(&bytes, b"a.numbers") + 9 + 8),
        ("an array of arrays", find(&bytes, b"a.nested") + 8 + 8),
        ("an axis", find(&bytes, b"three") + 5 + 4),
    ]
    .into();
    for (what, place) in lens {
        for huge in [u64::MAX, u64::MAX / 2, 1 << 62, 1 << 40] {
            let mut damaged = bytes.clone();
            damaged[place..place + 8].copy_from_slice(&huge.to_le_bytes());
            let error = error_of(&damaged);
            assert!(error.starts_with("m.gguf: "), "{what} of {huge}: {error}");
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).unwrap()
}

#[test]
fn every_cut_is_refused() {
    let bytes = sample().finish();
    let last = Gguf::parse("m.gguf", &bytes).unwrap().tensors()[2].range.end;
    for len in 0..last {
        let error = error_of(&bytes[..len]);
        let is_clear = error.starts_with("m.gguf: ") && error.contains("and the file ends at byte");
        assert!(is_clear, "{len} bytes: {error}");
    }
}

#[test]
fn a_start_is_cut_until_the_header_is_in_it() {
    let bytes = sample().finish();
    let tensors = Gguf::parse("m.gguf", &bytes).unwrap();
    let data = tensors.tensors()[0].range.start;
    assert!((0..24).all(|len| Gguf::is_cut(&bytes[..len])));
    let is_cut: Vec<bool> = (0..=data).map(|len| Gguf::is_cut(&bytes[..len])).collect();
    let header_bytes = is_cut.iter().position(|is_cut| !is_cut).unwrap();
    assert!(is_cut[header_bytes..].iter().all(|is_cut| !is_cut), "no tensor is needed");
    assert!(data - header_bytes < 32, "all but the room for the alignment is");
    assert!(!Gguf::is_cut(b"PK\x03\x04"), "more of what is no header is none");
}

#[test]
fn damage_is_an_error_or_another_header_but_never_a_panic() {
    let whole = sample().finish();
    let header_len = whole.len() - 300;
    let mut num_refused = 0;
    for seed in 1..4000_u64 {
        let mut damaged = whole.clone();
        for place in random_ids(1 + (seed % 4) as usize, header_len, seed) {
            damaged[place as usize] = (seed * 37 / 3) as u8;
        }
        damaged.truncate(damaged.len() - (seed % 7) as usize * 10);
        match Gguf::parse("m.gguf", &damaged) {
            Err(error) => {
                num_refused += 1;
                assert!(error.to_string().len() < 1000, "{error}");
            }
            Ok(gguf) => {
                assert!(gguf.tensors().iter().all(|tensor| tensor.range.end <= damaged.len()));
                // Whatever the lists hold now, they are walked without a panic.
                let lens = gguf.metadata().values().map(|value| match value {
                    GgufValue::Array(array) => array.values().flatten().count(),
                    _ => 1,
                });
                assert!(lens.sum::<usize>() <= damaged.len());
            }
        }
    }
    assert!((1000..3999).contains(&num_refused), "{num_refused} of 3999 refused");
}

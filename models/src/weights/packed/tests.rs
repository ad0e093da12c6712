//! Which tensors make a matrix, and what is refused.

use super::*;

const GPTQ: Quantization = Quantization::Gptq { is_symmetric: false, are_zeros_less_one: true };

fn stored(dtype: Result<DType, &str>, shape: &[usize]) -> StoredTensor {
    let (shape, dtype) = (shape.to_vec(), dtype.map_err(str::to_owned));
    StoredTensor { file: 0, shape, dtype, range: 0..0 }
}

fn collected(
    form: Quantization,
    tensors: &[(&str, StoredTensor)],
) -> Result<BTreeMap<String, Packed>, String> {
    let named = tensors.iter().map(|(name, tensor)| (format!("a.{name}"), tensor.clone()));
    let mut all: BTreeMap<String, StoredTensor> = named.collect();
    let packed = collect(&mut all, form).map_err(|error| error.to_string())?;
    assert!(all.keys().all(|name| name == "a.bias"), "{all:?}");
    Ok(packed)
}

#[test]
fn tensors_of_a_matrix_become_one() {
    let scales = || stored(Ok(DType::F16), &[2, 16]);
    let int4 = [
        ("qweight", stored(Err("I32"), &[8, 16])),
        ("qzeros", stored(Err("I32"), &[2, 2])),
        ("scales", scales()),
        ("g_idx", stored(Err("I32"), &[64])),
        ("bias", stored(Ok(DType::F16), &[16])),
    ];
    let packed = &collected(GPTQ, &int4).unwrap()["a.weight"];
    assert_eq!((packed.rows, packed.cols, packed.dtype()), (16, 64, DType::Q4_1));
    let mut awq = int4.clone();
    awq[0].1.shape = vec![64, 2];
    let packed = &collected(Quantization::Awq, &awq).unwrap()["a.weight"];
    assert_eq!((packed.rows, packed.cols), (16, 64));
    let fp8 = [
        ("weight", stored(Err("F8_E4M3"), &[130, 256])),
        ("weight_scale_inv", stored(Ok(DType::F32), &[2, 2])),
        ("input_scale", stored(Ok(DType::F32), &[])),
    ];
    let packed = &collected(Quantization::Fp8, &fp8).unwrap()["a.weight"];
    assert_eq!((packed.rows, packed.cols, packed.dtype()), (130, 256, DType::F8));
}

#[test]
fn tensors_that_do_not_fit_are_refused_with_their_rule() {
    let codes = || stored(Err("I32"), &[8, 16]);
    let (zeros, scales) = (stored(Err("I32"), &[2, 2]), stored(Ok(DType::F16), &[2, 16]));
    let rows: [(Quantization, &[(&str, StoredTensor)], &str); 8] = [
        (GPTQ, &[("qweight", codes())], "`a`: its scales are missing"),
        (GPTQ, &[("qweight", codes()), ("scales", scales.clone())], "its zero points are missing"),
        (
            GPTQ,
            &[("qweight", codes()), ("scales", stored(Ok(DType::F16), &[3, 16]))],
            "group of a multiple of 32 of 64 columns",
        ),
        (
            GPTQ,
            &[
                ("qweight", codes()),
                ("scales", scales.clone()),
                ("qzeros", stored(Err("I32"), &[2, 3])),
            ],
            "must have shape [2, 2], got [2, 3]",
        ),
        (
            GPTQ,
            &[
                ("qweight", stored(Ok(DType::F16), &[8, 16])),
                ("scales", scales.clone()),
                ("qzeros", zeros.clone()),
            ],
            "must be I32",
        ),
        (GPTQ, &[("qweight", stored(Err("I32"), &[8])), ("scales", scales)], "must be a matrix"),
        (
            Quantization::Fp8,
            &[
                ("weight", stored(Err("F8_E4M3"), &[4, 130])),
                ("weight_scale", stored(Ok(DType::F32), &[1])),
            ],
            "must be a multiple of 128 long, got 130",
        ),
        (
            Quantization::Fp8,
            &[
                ("weight", stored(Err("F8_E4M3"), &[4, 256])),
                ("weight_scale", stored(Ok(DType::F32), &[3])),
            ],
            "got the shape [3]",
        ),
    ];
    for (form, tensors, expected) in rows {
        let error = collected(form, tensors).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn act_order_and_zeros_that_are_not_symmetric_are_seen_in_the_tensors() {
    let symmetric = Quantization::Gptq { is_symmetric: true, are_zeros_less_one: true };
    let tensors = [
        ("qweight", stored(Err("I32"), &[8, 8])),
        ("qzeros", stored(Err("I32"), &[2, 1])),
        ("scales", stored(Ok(DType::F16), &[2, 8])),
        ("g_idx", stored(Err("I32"), &[64])),
    ];
    let packed = &collected(symmetric, &tensors).unwrap()["a.weight"];
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let check = |groups: &dyn Fn(u32) -> u32, zeros: u32| {
        let read = |tensor: &StoredTensor| {
            let bytes: Vec<u8> = match tensor.shape[..] {
                [8, 8] => words(&[0; 64]),
                [2, 1] => words(&[zeros; 2]),
                [64] => words(&(0..64).map(groups).collect::<Vec<_>>()),
                _ => vec![0; 32],
            };
            Ok(View::Owned(bytes))
        };
        packed.blocks("a", 0..8, read).map_err(|error| error.to_string())
    };
    assert_eq!(check(&|col| col / 32, 0x7777_7777).unwrap().len(), 8 * 2 * 18);
    let error = check(&|col| col % 2, 0x7777_7777).unwrap_err();
    assert!(error.contains("column 1 belongs to group 1"), "{error}");
    let error = check(&|col| col / 32, 0x7777_6777).unwrap_err();
    assert!(error.contains("row 3 has the zero point 7, though `sym` says 8"), "{error}");
}

/// Where rows have 16384 columns, squares are as many as rows: [48, 128] of 6144 in Codestral.
#[test]
fn a_scale_of_e4m3_is_for_what_its_shape_says() {
    let rows: [(&[usize], [usize; 2], fn(usize, usize) -> usize); 5] = [
        (&[1], [256, 256], |_, _| 0),
        (&[256], [256, 256], |row, _| row),
        (&[256, 1], [256, 256], |row, _| row),
        (&[2, 3], [256, 384], |row, block| row / 128 * 3 + block),
        (&[2, 128], [256, 16_384], |row, block| row / 128 * 128 + block),
    ];
    for (shape, [num_rows, cols], scale_of) in rows {
        let tensors = [
            ("weight", stored(Err("F8_E4M3"), &[num_rows, cols])),
            ("weight_scale_inv", stored(Ok(DType::F32), shape)),
        ];
        let packed = &collected(Quantization::Fp8, &tensors).unwrap()["a.weight"];
        let num_scales: usize = shape.iter().product();
        let read = |tensor: &StoredTensor| {
            let scales = (0..num_scales).flat_map(|index| (index as f32).to_le_bytes());
            let codes = || vec![0x38; num_rows * cols];
            Ok(View::Owned(if tensor.shape == shape { scales.collect() } else { codes() }))
        };
        // Not from the first row on, as of a rank.
        let blocks = packed.blocks("a", 100..140, read).unwrap();
        for (index, block) in blocks.chunks_exact(132).enumerate() {
            let (row, block_of_row) = (100 + index / (cols / 128), index % (cols / 128));
            let scale = Fp8Block::from_bytes(block.try_into().unwrap()).scale;
            let expected = scale_of(row, block_of_row) as f32;
            assert!((scale - expected).abs() <= 0.0, "{shape:?}, row {row}: {scale}");
        }
    }
}

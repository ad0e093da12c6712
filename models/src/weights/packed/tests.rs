//! Which tensors make a matrix, and what is refused.

use kernels::widen::for_each_widened;

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

/// A form, the tensors of a matrix, and what is said of them.
type Refused<'a> = (Quantization, &'a [(&'a str, StoredTensor)], &'a str);

#[test]
fn tensors_that_do_not_fit_are_refused_with_their_rule() {
    let codes = || stored(Err("I32"), &[8, 16]);
    let (zeros, scales) = (stored(Err("I32"), &[2, 2]), stored(Ok(DType::F16), &[2, 16]));
    let rows: [Refused<'_>; 9] = [
        (
            GPTQ,
            &[
                ("qweight", codes()),
                ("scales", scales.clone()),
                ("weight", stored(Ok(DType::F16), &[16, 64])),
            ],
            "it is stored twice",
        ),
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
    // The shape of the scales, that of the matrix, and which scale is for a row and a block.
    type Row<'a> = (&'a [usize], [usize; 2], fn(usize, usize) -> usize);
    let rows: [Row<'_>; 5] = [
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

/// Random words by the definition of each form: groups of 128, as most are published.
#[test]
fn groups_of_four_bits_are_read_by_their_definition() {
    const ROWS: usize = 16;
    const COLS: usize = 256;
    const PLAIN: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
    const AWQ: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let mut state = 1_u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 28
    };
    let code: Vec<Vec<u32>> = (0..ROWS).map(|_| (0..COLS).map(|_| draw()).collect()).collect();
    let zero: Vec<Vec<u32>> = (0..ROWS).map(|_| (0..2).map(|_| draw()).collect()).collect();
    let scale = |row: usize, group: usize| 0.25 * (1 + row % 3 + group) as f32;
    let along: Vec<u32> = (0..COLS / 8)
        .flat_map(|word| code.iter().map(move |row| (word, row)))
        .map(|(word, row)| (0..8).map(|i| row[8 * word + i] << (4 * i)).sum())
        .collect();
    let across: Vec<u32> = (0..COLS).flat_map(|col| words_across(&code, col, AWQ)).collect();
    let zeros =
        |order| (0..2).flat_map(|col| words_across(&zero, col, order)).collect::<Vec<u32>>();
    let less_one = zeros(PLAIN).iter().map(|word| word.wrapping_sub(0x1111_1111)).collect();
    let gptq = |are_zeros_less_one| Quantization::Gptq { is_symmetric: false, are_zeros_less_one };
    let forms = [
        (gptq(true), [COLS / 8, ROWS], &along, less_one),
        (gptq(false), [COLS / 8, ROWS], &along, zeros(PLAIN)),
        (Quantization::Awq, [COLS, ROWS / 8], &across, zeros(AWQ)),
    ];
    for (form, shape, codes, zeros) in forms {
        let tensors = [
            ("qweight", stored(Err("I32"), &shape)),
            ("qzeros", stored(Err("I32"), &[2, ROWS / 8])),
            ("scales", stored(Ok(DType::F32), &[2, ROWS])),
        ];
        let packed = &collected(form, &tensors).unwrap()["a.weight"];
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let read = |tensor: &StoredTensor| {
            let scales = (0..2).flat_map(|group| (0..ROWS).map(move |row| scale(row, group)));
            Ok(View::Owned(match tensor.dtype {
                Ok(_) => scales.flat_map(f32::to_le_bytes).collect(),
                Err(_) if tensor.shape == shape => bytes(codes),
                Err(_) => bytes(&zeros),
            }))
        };
        // Not from the first row on, as of a rank.
        let blocks = packed.blocks("a", 3..ROWS, read).unwrap();
        let part = MatrixData { rows: ROWS - 3, cols: COLS, dtype: DType::Q4_1, bytes: &blocks };
        let (mut values, mut expected) = (Vec::new(), Vec::new());
        for_each_widened(&part, |value| values.push(value));
        for row in 3..ROWS {
            expected.extend((0..COLS).map(|col| {
                let group = col / 128;
                scale(row, group) * (code[row][col] as f32 - zero[row][group] as f32)
            }));
        }
        assert_eq!(values, expected, "{form:?}");
    }
}

/// Words of eight rows of a column, lowest nibble first in this order.
fn words_across(of: &[Vec<u32>], col: usize, order: [usize; 8]) -> Vec<u32> {
    of.chunks(8)
        .map(|rows| {
            order.iter().enumerate().map(|(place, &row)| rows[row][col] << (4 * place)).sum()
        })
        .collect()
}

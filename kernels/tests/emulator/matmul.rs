//! The large product against plain loops.

use half::bf16;
use kernels::cuda::device::{Device, DeviceMemory, Matmul, Store};
use kernels::cuda::emulated::EmulatedDevice;

use crate::rig::{assert_says, download, noise, upload};

fn rounded(count: usize, seed: u64) -> Vec<bf16> {
    noise(count, seed).into_iter().map(bf16::from_f32).collect()
}

#[test]
fn products_match_plain_loops() {
    let mut device = EmulatedDevice::new(1);
    for (num_rows, cols, rows) in [(1, 8, 1), (3, 64, 5), (4, 520, 2), (17, 136, 33), (64, 8, 7)] {
        let (x, w) = (rounded(num_rows * cols, 1), rounded(rows * cols, 2));
        let bits = |values: &[bf16]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let (x_memory, w_memory) = (upload(&device, &bits(&x)), upload(&device, &bits(&w)));
        let out = device.allocate(num_rows * rows * 4).unwrap();
        let mut product = Matmul {
            x: x_memory.address(),
            weights: w_memory.address(),
            out: out.address(),
            num_rows,
            cols,
            rows,
            store: Store::Replace,
        };
        for times in [1.0, 2.0] {
            device.matmul(&product).unwrap();
            product.store = Store::Add;
            let found = download::<f32>(&device, &out);
            for (i, value) in found.iter().enumerate() {
                let (x, w) = (&x[i / rows * cols..][..cols], &w[i % rows * cols..][..cols]);
                let dot: f64 = x.iter().zip(w).map(|(x, w)| x.to_f64() * w.to_f64()).sum();
                assert!((f64::from(*value) - times * dot).abs() < 1e-4, "{value} {dot}");
            }
        }
    }
}

#[test]
fn products_are_refused_as_by_a_gpu() {
    let mut device = EmulatedDevice::new(1);
    let memory = upload(&device, &[0.0_f32; 64]);
    let at = memory.address();
    let good = Matmul {
        x: at,
        weights: at,
        out: at,
        num_rows: 2,
        cols: 8,
        rows: 2,
        store: Store::Replace,
    };
    device.matmul(&good).unwrap();
    let rows = [
        (Matmul { cols: 12, ..good }, "`cols` must be a multiple of 8, got 12"),
        (Matmul { x: at + 8, ..good }, "`x` must be a multiple of 16"),
        (Matmul { num_rows: 0, ..good }, "no dimension may be 0"),
        (Matmul { rows: 64, ..good }, "`weights` at"),
        (Matmul { out: at + 256, ..good }, "`out` at"),
        (Matmul { num_rows: usize::MAX, ..good }, "`x` at"),
    ];
    for (product, what) in rows {
        assert_says(device.matmul(&product), &[what]);
    }
}

//! Adapters of the embedded model, made on the spot.

use std::{
    fs,
    path::{Path, PathBuf},
};

use models::{Source, read_spec};
use safetensors::{Dtype, tensor::TensorView};

const RANK: usize = 4;

/// A folder with an adapter of the embedded model, removed with it.
pub(crate) struct Trained(PathBuf);

impl Trained {
    /// Random matrices: of queries and of the way down.
    pub(crate) fn new(seed: u32) -> Self {
        let name = format!("adapter-{}-{seed}", std::process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let config = format!(r#"{{"peft_type": "LORA", "r": {RANK}, "lora_alpha": 8}}"#);
        fs::write(folder.join("adapter_config.json"), config).unwrap();
        let spec = read_spec(Source::Demo).unwrap();
        let mut state = seed;
        let mut tensors = Vec::new();
        for layer in 0..spec.num_layers {
            for (module, rows, cols) in [
                ("self_attn.q_proj", spec.query_width(), spec.hidden_size),
                ("mlp.down_proj", spec.hidden_size, spec.ffn_size),
            ] {
                for (which, shape) in [("A", [RANK, cols]), ("B", [rows, RANK])] {
                    let mut value = || {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.3
                    };
                    let len = shape[0] * shape[1];
                    let data: Vec<u8> = (0..len).flat_map(|_| value().to_le_bytes()).collect();
                    let name = format!("base_model.model.model.layers.{layer}.{module}");
                    tensors.push((format!("{name}.lora_{which}.weight"), shape, data));
                }
            }
        }
        let views = tensors.iter().map(|(name, shape, data)| {
            (name.clone(), TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Trained {
    fn drop(&mut self) {
        // What is left behind lies in the build folder and harms nothing.
        let _ = fs::remove_dir_all(&self.0);
    }
}

//! The embedded model as a folder, whole or as a test needs it broken.

use std::{path::PathBuf, process::Command};

/// A folder with the embedded model's files.
pub(crate) struct DemoModel(pub(crate) PathBuf);

impl DemoModel {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("lacuna-cli-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::os::unix::fs::symlink(format!("{demo}/{file}"), folder.join(file)).unwrap();
        }
        Self(folder)
    }

    /// Makes a model that loads for ever: its tokenizer is a pipe that nobody writes.
    pub(crate) fn endless(name: &str) -> Self {
        let model = Self::new(name);
        let tokenizer = model.0.join("tokenizer.json");
        std::fs::remove_file(&tokenizer).unwrap();
        assert!(Command::new("mkfifo").arg(tokenizer).status().unwrap().success());
        model
    }

    /// Lets an endless model be read, once.
    pub(crate) fn end(&self) {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/tokenizer.json");
        std::fs::write(self.0.join("tokenizer.json"), std::fs::read(demo).unwrap()).unwrap();
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for DemoModel {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

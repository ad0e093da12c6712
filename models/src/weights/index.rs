//! `model.safetensors.index.json`: which shard holds which tensor.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;

use crate::error::WeightsError;

/// The part of the index that we use; its `metadata` repeats the size.
#[derive(Debug, Deserialize)]
pub struct ShardIndex {
    /// Tensor to file name.
    pub(super) weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Parses an index, whose name in errors is `file`. A shard is a plain file name: an index must not reach out of its
    /// folder.
    ///
    /// # Errors
    /// [`WeightsError::Index`].
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, WeightsError> {
        let broken = |what: String| WeightsError::Index { file: file.to_owned(), what };
        let index: Self =
            serde_json::from_slice(text).map_err(|error| broken(error.to_string()))?;
        if index.weight_map.is_empty() {
            return Err(broken("`weight_map` is empty".to_owned()));
        }
        for shard in index.shards() {
            if Path::new(shard).file_name().is_none_or(|name| name != shard) {
                return Err(broken(format!("a shard must be a plain file name, got {shard:?}")));
            }
        }
        Ok(index)
    }

    /// Returns each file once, in order.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

//! Stored tensors: one safetensors file, several behind an index, or the bytes of the embedded model.
//!
//! A [`WeightPlan`] says what should be there. [`Weights::check`] compares the two from the headers alone, so that a
//! wrong file is refused before memory is taken; after it, reading cannot fail but for the device.

mod index;
mod plan;
mod random;
mod reader;

pub use plan::{LayerPlan, TensorSpec, WeightPlan};
pub use random::random_weights;
pub use reader::Progress;
pub(crate) use reader::WeightReader;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use candle_core::safetensors::{BufferedSafetensors, MmapedSafetensors, SliceSafetensors};
use kernels::backend::{DType, MatrixData};
use safetensors::{Dtype as StoredDtype, tensor::TensorView};

use crate::error::{ModelError, WeightsError};

/// The only file of a small model.
const SINGLE_FILE: &str = "model.safetensors";
/// The list of the files of a large one.
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Named tensors in one or more files. They are copied into the device's own layout, so this is dropped after loading.
pub struct Weights {
    files: Vec<WeightFile>,
    /// Where each tensor is, an index into `files`.
    places: BTreeMap<String, usize>,
}

struct WeightFile {
    name: String,
    tensors: Tensors,
}

enum Tensors {
    Mapped(MmapedSafetensors),
    Static(SliceSafetensors<'static>),
    Owned(BufferedSafetensors),
}

/// One stored tensor, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredTensor<'a> {
    pub(crate) dtype: DType,
    pub(crate) bytes: &'a [u8],
}

impl<'a> StoredTensor<'a> {
    /// Views all elements as one row.
    fn as_row(&self) -> MatrixData<'a> {
        let cols = self.bytes.len() / self.dtype.block_bytes() * self.dtype.block_len();
        MatrixData { rows: 1, cols, dtype: self.dtype, bytes: self.bytes }
    }
}

impl Weights {
    /// Opens the safetensors of a folder: the single file where there is one, else the shards of the index.
    ///
    /// # Errors
    /// [`ModelError::Read`], or [`ModelError::Weights`] naming the file or the tensor.
    pub fn open_directory(directory: &Path) -> Result<Self, ModelError> {
        let single = directory.join(SINGLE_FILE);
        if single.is_file() {
            return Self::from_files(vec![map_file(&single)?]);
        }
        let path = directory.join(INDEX_FILE);
        if !path.is_file() {
            return Err(WeightsError::None { directory: directory.to_owned() }.into());
        }
        let text =
            fs::read(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
        let index = index::parse(INDEX_FILE, &text)?;
        let mut files = Vec::new();
        for shard in index.shards() {
            let path = directory.join(shard);
            if !path.is_file() {
                let (index, shard) = (INDEX_FILE.to_owned(), shard.to_owned());
                return Err(WeightsError::MissingShard { index, shard }.into());
            }
            files.push(map_file(&path)?);
        }
        let weights = Self::from_files(files)?;
        for (tensor, shard) in &index.weight_map {
            if weights.file_of(tensor).is_none_or(|file| file.name != *shard) {
                let (shard, tensor) = (shard.clone(), tensor.clone());
                return Err(WeightsError::NotInShard { shard, tensor }.into());
            }
        }
        Ok(weights)
    }

    /// Opens safetensors that lie in memory for good.
    ///
    /// # Errors
    /// [`WeightsError::Format`].
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, ModelError> {
        let tensors = SliceSafetensors::new(bytes).map_err(|source| format_error(name, source))?;
        Self::from_files(vec![WeightFile {
            name: name.to_owned(),
            tensors: Tensors::Static(tensors),
        }])
    }

    /// Opens safetensors in a buffer.
    ///
    /// # Errors
    /// [`WeightsError::Format`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, ModelError> {
        let tensors =
            BufferedSafetensors::new(bytes).map_err(|source| format_error(name, source))?;
        Self::from_files(vec![WeightFile {
            name: name.to_owned(),
            tensors: Tensors::Owned(tensors),
        }])
    }

    /// Compares what is stored with what should be.
    ///
    /// # Errors
    /// The first tensor, by name, that is missing, misshapen, of an unsupported element type, or of no use.
    pub fn check(&self, plan: &WeightPlan) -> Result<(), WeightsError> {
        let wanted: BTreeMap<&str, &TensorSpec> =
            plan.tensors().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for tensor in wanted.values() {
            self.tensor(tensor)?;
        }
        let is_unused = |name: &&String| !wanted.contains_key(name.as_str()) && !plan.ignores(name);
        let mut unused = self.places.keys().filter(is_unused);
        let first = unused.next().and_then(|name| Some((name.clone(), self.view(name)?)));
        let Some((tensor, (file, view))) = first else { return Ok(()) };
        let (file, found, num_unused) =
            (file.name.clone(), view.shape().to_vec(), 1 + unused.count());
        Err(WeightsError::Unused { file, tensor, found, num_unused })
    }

    /// Returns a stored tensor of the expected shape.
    ///
    /// # Errors
    /// The tensor is missing, misshapen or of an unsupported element type.
    pub(crate) fn tensor(&self, spec: &TensorSpec) -> Result<StoredTensor<'_>, WeightsError> {
        let (tensor, expected) = (spec.name.clone(), spec.shape.clone());
        let Some((file, view)) = self.view(&spec.name) else {
            return Err(WeightsError::Missing { tensor, expected });
        };
        let file = file.name.clone();
        if view.shape() != expected {
            let found = view.shape().to_vec();
            return Err(WeightsError::Shape { file, tensor, expected, found });
        }
        let Some(dtype) = dtype_of(view.dtype()) else {
            let found = format!("{:?}", view.dtype());
            return Err(WeightsError::Dtype { file, tensor, found });
        };
        Ok(StoredTensor { dtype, bytes: view.data() })
    }

    fn from_files(files: Vec<WeightFile>) -> Result<Self, ModelError> {
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for (place, file) in files.iter().enumerate() {
            for tensor in file.tensors.names() {
                if let Some(first) = places.insert(tensor.clone(), place) {
                    let (first, second) = (files[first].name.clone(), file.name.clone());
                    return Err(WeightsError::Duplicate { tensor, first, second }.into());
                }
            }
        }
        Ok(Self { files, places })
    }

    fn file_of(&self, name: &str) -> Option<&WeightFile> {
        self.places.get(name).map(|&place| &self.files[place])
    }

    fn view(&self, name: &str) -> Option<(&WeightFile, TensorView<'_>)> {
        let file = self.file_of(name)?;
        let view = match &file.tensors {
            Tensors::Mapped(tensors) => tensors.get(name),
            Tensors::Static(tensors) => tensors.get(name),
            Tensors::Owned(tensors) => tensors.get(name),
        };
        view.ok().map(|view| (file, view))
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        f.debug_struct("Weights")
            .field("files", &files)
            .field("num_tensors", &self.places.len())
            .finish()
    }
}

impl Tensors {
    fn names(&self) -> Vec<String> {
        let tensors = match self {
            Self::Mapped(tensors) => tensors.tensors(),
            Self::Static(tensors) => tensors.tensors(),
            Self::Owned(tensors) => tensors.tensors(),
        };
        tensors.into_iter().map(|(name, _)| name).collect()
    }
}

/// Maps one file: a large model is read once, page by page, without a second copy of it in memory.
#[expect(unsafe_code, reason = "the one memory map of the workspace")]
fn map_file(path: &Path) -> Result<WeightFile, ModelError> {
    let name = file_name(path);
    // Opened first for a plain message where the file cannot be read; the mapping would fold it into its own.
    fs::File::open(path)
        .map_err(|source| ModelError::Read { path: PathBuf::from(path), source })?;
    // SAFETY: the bytes must not change while they are mapped. We never write them, and the mapping lives only as
    // long as the model loads; that nobody else rewrites the file in place meanwhile is the operator's to keep, as
    // it is for any program that maps a file (the hub's cache and package managers replace files, not contents).
    let tensors = unsafe { MmapedSafetensors::new(path) };
    let tensors = tensors.map_err(|source| format_error(&name, source))?;
    Ok(WeightFile { name, tensors: Tensors::Mapped(tensors) })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn format_error(file: &str, source: candle_core::Error) -> WeightsError {
    WeightsError::Format { file: file.to_owned(), source: Box::new(source) }
}

fn dtype_of(stored: StoredDtype) -> Option<DType> {
    match stored {
        StoredDtype::F32 => Some(DType::F32),
        StoredDtype::BF16 => Some(DType::Bf16),
        StoredDtype::F16 => Some(DType::F16),
        _ => None,
    }
}

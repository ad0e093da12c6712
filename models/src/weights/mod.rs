//! Stored tensors: safetensors or GGUF, in one file or several, or the bytes of the embedded model.
//!
//! A [`WeightPlan`] says what should be there. [`Weights::check`] compares the two from the headers alone, so that a
//! wrong file is refused before memory is taken; after it, reading cannot fail but for the disk and the device.

mod feed_forward;
mod file;
mod index;
mod packed;
mod plan;
mod random;
mod reader;
#[cfg(test)]
mod tests;

pub(crate) use feed_forward::Role;
pub use feed_forward::{DensePlan, FeedForwardPlan, MixturePlan};
pub(crate) use file::WeightBytes;
pub use index::ShardIndex;
pub use plan::{Kept, LayerPlan, NormPlan, Stack, Stored, TensorSpec, WeightPlan};
pub use random::random_weights;
pub use reader::Progress;
pub(crate) use reader::{WeightReader, exact};

use std::{collections::BTreeMap, fmt, fs, ops::Range, path::Path};

use kernels::{
    allocate,
    backend::{DType, MatrixData},
};
use safetensors::{Dtype as StoredDtype, SafeTensors};

use crate::{
    arch,
    config::{CONFIG_FILE, DecoderSpec, QUANTIZATION_FIELD, read_quantization_config},
    error::{ConfigError, ModelError, WeightsError},
    gguf::{self, Gguf},
    shown::escape,
    weights::{file::View, packed::Packed},
};

/// The only file of a small model.
const SINGLE_FILE: &str = "model.safetensors";
/// The list of the files of a large one.
const INDEX_FILE: &str = "model.safetensors.index.json";
/// Bytes before a safetensors header, its length.
const SAFETENSORS_LENGTH_BYTES: usize = 8;

/// Named tensors in one or more files. They are copied into the device's own layout, so this is dropped after loading.
pub struct Weights {
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, StoredTensor>,
    /// Matrices that several tensors make up, which are not among the others.
    packed: BTreeMap<String, Packed>,
    naming: Naming,
}

/// What the tensors of an architecture are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// As Hugging Face's transformers name them.
    Safetensors,
    /// As llama.cpp names them.
    Gguf,
}

struct WeightFile {
    name: String,
    bytes: WeightBytes,
}

/// Where a tensor is and what.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    /// An index into the files.
    file: usize,
    shape: Vec<usize>,
    /// `Err` names a type that we do not compute with.
    dtype: Result<DType, String>,
    range: Range<usize>,
}

/// Bytes of a tensor, read from their file while this lives.
pub(crate) struct TensorView<'a> {
    rows: usize,
    cols: usize,
    dtype: DType,
    bytes: View<'a>,
}

impl TensorView<'_> {
    /// Views a matrix, or a vector as one row.
    pub(crate) fn as_matrix(&self) -> MatrixData<'_> {
        let Self { rows, cols, dtype, .. } = *self;
        MatrixData { rows, cols, dtype, bytes: &self.bytes }
    }
}

impl<'a> TensorView<'a> {
    /// Gathers columns of `tensor` row by row: they lie apart in the file, and a device takes them together.
    fn cut(self, tensor: &str, range: &Range<usize>) -> Result<TensorView<'a>, ModelError> {
        let Self { rows, cols, dtype, bytes } = self;
        let Range { start, end } = *range;
        let ends = dtype.num_bytes(start).zip(dtype.num_bytes(end)).zip(dtype.num_bytes(cols));
        let Some(((first, last), row_bytes)) = ends.filter(|_| end <= cols) else {
            let (tensor, dtype) = (tensor.to_owned(), dtype.name());
            return Err(WeightsError::CutBlock { tensor, start, end, dtype }.into());
        };
        let mut kept = allocate::reserved(rows * (last - first), "the host")?;
        for row in bytes.chunks_exact(row_bytes) {
            kept.extend_from_slice(&row[first..last]);
        }
        Ok(TensorView { rows, cols: end - start, dtype, bytes: View::Owned(kept) })
    }
}

impl Weights {
    /// Opens the safetensors of a folder: the single file where there is one, else the shards of the index. What its
    /// `config.json` says of their quantisation holds.
    ///
    /// # Errors
    /// [`ModelError::Read`], [`ModelError::Config`], or [`ModelError::Weights`] naming the file or the tensor.
    pub fn open_directory(directory: &Path) -> Result<Self, ModelError> {
        let mut weights = Self::open_files(directory)?;
        let config = directory.join(CONFIG_FILE);
        if config.is_file() {
            let text = fs::read(&config)
                .map_err(|source| ModelError::Read { path: config.clone(), source })?;
            if let Some(form) = read_quantization_config(&text)? {
                weights.packed = packed::collect(&mut weights.tensors, form)?;
                if weights.packed.is_empty() {
                    // Of another model, or plain now and the field forgotten: either is a memory other than was reckoned with.
                    let rule = "left out where no matrix is stored so: take the weights that it is of, or remove it";
                    return Err(ConfigError::Invalid {
                        file: CONFIG_FILE.to_owned(),
                        field: QUANTIZATION_FIELD.to_owned(),
                        rule: rule.to_owned(),
                        value: form.name().to_owned(),
                    }
                    .into());
                }
            }
        }
        Ok(weights)
    }

    fn open_files(directory: &Path) -> Result<Self, ModelError> {
        let single = directory.join(SINGLE_FILE);
        let mut weights = Self::none(Naming::Safetensors);
        if single.is_file() {
            weights.add_safetensors(&single)?;
            return Ok(weights);
        }
        let path = directory.join(INDEX_FILE);
        if !path.is_file() {
            return Err(WeightsError::None { directory: directory.to_owned() }.into());
        }
        let text =
            fs::read(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
        let index = ShardIndex::parse(INDEX_FILE, &text)?;
        for shard in index.shards() {
            let path = directory.join(shard);
            if !path.is_file() {
                let (index, shard) = (INDEX_FILE.to_owned(), shard.to_owned());
                return Err(WeightsError::MissingShard { index, shard }.into());
            }
            weights.add_safetensors(&path)?;
        }
        for (tensor, shard) in &index.weight_map {
            let found = weights.tensors.get(tensor);
            if found.is_none_or(|found| weights.files[found.file].name != *shard) {
                let (shard, tensor) = (shard.clone(), tensor.clone());
                return Err(WeightsError::NotInShard { shard, tensor }.into());
            }
        }
        Ok(weights)
    }

    /// Opens a GGUF file, and those that follow it where the model is split.
    ///
    /// # Errors
    /// [`ModelError::Read`], [`ModelError::Config`] where the file is not the first of its model, or
    /// [`ModelError::Gguf`] naming the file and what is wrong with it.
    pub fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let files = {
            let (name, bytes) = (file_name(path), WeightBytes::open(path)?);
            let bytes = bytes.whole()?;
            gguf::files_of(path, &Gguf::parse(&name, &bytes)?)?
        };
        let mut weights = Self::none(Naming::Gguf);
        for file in files {
            let file = WeightFile { name: file_name(&file), bytes: WeightBytes::open(&file)? };
            weights.add(file, read_gguf)?;
        }
        Ok(weights)
    }

    /// Opens one file of safetensors.
    ///
    /// # Errors
    /// [`ModelError::Read`] or [`WeightsError::Format`].
    pub(crate) fn open_file(path: &Path) -> Result<Self, ModelError> {
        let mut weights = Self::none(Naming::Safetensors);
        weights.add_safetensors(path)?;
        Ok(weights)
    }

    /// Returns the names of all tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns a stored tensor's shape; `None` where there is no such tensor.
    pub(crate) fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.shape.as_slice())
    }

    /// Returns the number of elements of all tensors.
    pub(crate) fn num_stored_elements(&self) -> u64 {
        let elements = |stored: &StoredTensor| stored.shape.iter().product::<usize>() as u64;
        self.tensors.values().map(elements).sum()
    }

    /// Opens safetensors that lie in memory for good.
    ///
    /// # Errors
    /// [`WeightsError::Format`].
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, ModelError> {
        Self::from_file(WeightFile { name: name.to_owned(), bytes: WeightBytes::Static(bytes) })
    }

    /// Opens safetensors in a buffer.
    ///
    /// # Errors
    /// [`WeightsError::Format`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, ModelError> {
        Self::from_file(WeightFile { name: name.to_owned(), bytes: WeightBytes::Owned(bytes) })
    }

    /// Returns the tensors that a model of this spec is made of, by the names that these files have for them.
    ///
    /// # Errors
    /// As [`arch::plan`].
    pub fn plan(&self, spec: &DecoderSpec) -> Result<WeightPlan, ConfigError> {
        match self.naming {
            Naming::Safetensors => arch::plan(spec),
            Naming::Gguf => arch::gguf_plan(spec),
        }
    }

    /// Compares what is stored with what should be.
    ///
    /// # Errors
    /// The first tensor, by name, that is missing, misshapen, of an unsupported element type, or of no use.
    pub fn check(&self, plan: &WeightPlan) -> Result<(), WeightsError> {
        let wanted: BTreeMap<&str, &TensorSpec> =
            plan.tensors().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for tensor in wanted.values() {
            self.find(tensor)?;
        }
        let packed = self.packed.iter().map(|(name, packed)| (name, &packed.codes));
        let mut unused = self
            .tensors
            .iter()
            .chain(packed)
            .filter(|(name, _)| !wanted.contains_key(name.as_str()) && !plan.ignores(name));
        let Some((tensor, stored)) = unused.next() else { return Ok(()) };
        let (file, found) = (self.files[stored.file].name.clone(), stored.shape.clone());
        let num_unused = 1 + unused.count();
        Err(WeightsError::Unused { file, tensor: escape(tensor), found, num_unused })
    }

    /// Returns a stored tensor's size and element type.
    ///
    /// # Errors
    /// The tensor is missing, misshapen or of an unsupported element type.
    pub(crate) fn find(&self, spec: &TensorSpec) -> Result<(&StoredTensor, DType), WeightsError> {
        let (tensor, expected) = (spec.name.clone(), spec.stored_shape());
        if let Some(packed) = self.packed.get(&spec.name) {
            let found = vec![packed.rows, packed.cols];
            if found != expected {
                let file = self.files[packed.codes.file].name.clone();
                return Err(WeightsError::Shape { file, tensor, expected, found });
            }
            return Ok((&packed.codes, packed.dtype()));
        }
        let Some(stored) = self.tensors.get(&spec.name) else {
            return Err(WeightsError::Missing { tensor, expected });
        };
        let file = self.files[stored.file].name.clone();
        if stored.shape != expected {
            let found = stored.shape.clone();
            return Err(WeightsError::Shape { file, tensor, expected, found });
        }
        match &stored.dtype {
            Ok(dtype) => Ok((stored, *dtype)),
            Err(found) => Err(WeightsError::Dtype { file, tensor, found: found.clone() }),
        }
    }

    /// Returns the size in the file of what is loaded of a tensor.
    ///
    /// # Units
    /// bytes
    pub(crate) fn kept_bytes(&self, spec: &TensorSpec) -> Result<u64, WeightsError> {
        let (_, dtype) = self.find(spec)?;
        Ok((spec.num_kept() / dtype.block_len() * dtype.block_bytes()) as u64)
    }

    /// Returns what is loaded of a tensor of the expected shape, read from its file: of rows no others are looked at.
    ///
    /// # Errors
    /// [`ModelError::Read`]; [`ModelError::Weights`] where the tensor is not as expected or columns cut a block.
    ///
    /// # Panics
    /// Where rows are not inside the tensor.
    pub(crate) fn views(&self, spec: &TensorSpec) -> Result<Vec<TensorView<'_>>, ModelError> {
        let (stored, dtype) = self.find(spec)?;
        if let Some(packed) = self.packed.get(&spec.name) {
            return self.packed_views(spec, packed);
        }
        let file = &self.files[stored.file].bytes;
        let (len, rest) = (spec.shape[0], spec.shape.get(1).copied());
        let Stack { index, len: num_stacked } = spec.stack.unwrap_or(Stack { index: 0, len: 1 });
        let num_bytes = stored.range.len() / num_stacked;
        let first = stored.range.start + index * num_bytes;
        // A vector is one row, and each of its elements what a row is to a matrix.
        let shape = |len: usize| rest.map_or((1, len), |cols| (len, cols));
        let row_bytes = num_bytes / len;
        let view = |range: Range<usize>| -> Result<TensorView<'_>, ModelError> {
            assert!(range.end <= len, "`{}` has no rows {range:?}", spec.name);
            let (rows, cols) = shape(range.len());
            let bytes = first + range.start * row_bytes..first + range.end * row_bytes;
            Ok(TensorView { rows, cols, dtype, bytes: file.view(bytes)? })
        };
        match &spec.kept {
            Kept::All => Ok(vec![view(0..len)?]),
            Kept::Rows(ranges) => ranges.iter().cloned().map(view).collect(),
            Kept::Cols(cols) => Ok(vec![view(0..len)?.cut(&spec.name, cols)?]),
        }
    }

    /// Brings what is loaded of a quantised matrix into blocks.
    fn packed_views(
        &self,
        spec: &TensorSpec,
        packed: &Packed,
    ) -> Result<Vec<TensorView<'_>>, ModelError> {
        let view = |rows: Range<usize>| -> Result<TensorView<'_>, ModelError> {
            let num_rows = rows.len();
            let read = |part: &StoredTensor| self.files[part.file].bytes.view(part.range.clone());
            let bytes = View::Owned(packed.blocks(&spec.name, rows, read)?);
            Ok(TensorView { rows: num_rows, cols: packed.cols, dtype: packed.dtype(), bytes })
        };
        match &spec.kept {
            Kept::All => Ok(vec![view(0..packed.rows)?]),
            Kept::Rows(ranges) => ranges.iter().cloned().map(view).collect(),
            Kept::Cols(cols) => Ok(vec![view(0..packed.rows)?.cut(&spec.name, cols)?]),
        }
    }

    fn none(naming: Naming) -> Self {
        Self { files: Vec::new(), tensors: BTreeMap::new(), packed: BTreeMap::new(), naming }
    }

    fn from_file(file: WeightFile) -> Result<Self, ModelError> {
        let mut weights = Self::none(Naming::Safetensors);
        weights.add(file, read_safetensors)?;
        Ok(weights)
    }

    fn add_safetensors(&mut self, path: &Path) -> Result<(), ModelError> {
        let file = WeightFile { name: file_name(path), bytes: WeightBytes::open(path)? };
        self.add(file, read_safetensors)
    }

    fn add(&mut self, file: WeightFile, read: ReadHeader) -> Result<(), ModelError> {
        let index = self.files.len();
        let found = read(&file.name, &file.bytes.whole()?, index)?;
        self.files.push(file);
        for (tensor, stored) in found {
            let replaced = self.tensors.insert(tensor.clone(), stored);
            if let Some(first) = replaced {
                let [first, second] = [first.file, index].map(|file| self.files[file].name.clone());
                let tensor = escape(&tensor);
                return Err(WeightsError::Duplicate { tensor, first, second }.into());
            }
        }
        Ok(())
    }
}

/// Reads the tensors of a file, given its name, its bytes and its place among the files.
type ReadHeader = fn(&str, &[u8], usize) -> Result<Vec<(String, StoredTensor)>, ModelError>;

fn read_safetensors(
    name: &str,
    bytes: &[u8],
    file: usize,
) -> Result<Vec<(String, StoredTensor)>, ModelError> {
    let (header_bytes, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|source| format_error(name, source))?;
    let start = SAFETENSORS_LENGTH_BYTES + header_bytes;
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let (begin, end) = info.data_offsets;
        let dtype = dtype_of(info.dtype).ok_or_else(|| format!("{:?}", info.dtype));
        let range = start + begin..start + end;
        (name, StoredTensor { file, shape: info.shape.clone(), dtype, range })
    });
    Ok(tensors.collect())
}

fn read_gguf(
    name: &str,
    bytes: &[u8],
    file: usize,
) -> Result<Vec<(String, StoredTensor)>, ModelError> {
    let gguf = Gguf::parse(name, bytes)?;
    let tensors = gguf.tensors().iter().map(|tensor| {
        let (dtype, range) = (Ok(tensor.dtype), tensor.range.clone());
        (tensor.name.to_owned(), StoredTensor { file, shape: tensor.shape.clone(), dtype, range })
    });
    Ok(tensors.collect())
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        f.debug_struct("Weights")
            .field("files", &files)
            .field("num_tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

/// Returns a file's name without its folder, for errors.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn format_error(file: &str, source: safetensors::SafeTensorError) -> WeightsError {
    WeightsError::Format { file: file.to_owned(), source }
}

fn dtype_of(stored: StoredDtype) -> Option<DType> {
    match stored {
        StoredDtype::F32 => Some(DType::F32),
        StoredDtype::BF16 => Some(DType::Bf16),
        StoredDtype::F16 => Some(DType::F16),
        _ => None,
    }
}

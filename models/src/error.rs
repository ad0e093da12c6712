//! What can go wrong between a folder of files and a row of logits, a variant each.

use std::{io, path::PathBuf};

use kernels::{backend::BackendError, cpu::CpuError};

use crate::gguf::GgufError;

/// A model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The configuration is not one that we can run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights do not fit the configuration.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An adapter does not fit its model.
    #[error("the adapter `{name}`")]
    Adapter {
        /// What it is called.
        name: String,
        /// Why.
        #[source]
        source: Box<ModelError>,
    },
    /// A folder or its tensors are no adapter's.
    #[error(transparent)]
    NoAdapter(#[from] AdapterError),
    /// A GGUF file's header cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A folder holds GGUF files, and which of them is meant is not said.
    #[error("{} has {} GGUF files; name one of them: {}", directory.display(), files.len(), files.join(", "))]
    SeveralGguf {
        /// The folder.
        directory: PathBuf,
        /// The names of the files.
        files: Vec<String>,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An option of loading breaks a rule.
    #[error("`{option}` must be {rule}, got {value}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The rule.
        rule: String,
        /// The value that broke it.
        value: u64,
    },
    /// A device was asked for that this build was made without.
    #[error(
        "{device} was asked for, but this build has no such device: build with `--features {feature}`, or say `auto` or `cpu`"
    )]
    NoDevice {
        /// The device, as it is asked for.
        device: String,
        /// The feature that makes it.
        feature: &'static str,
    },
    /// A GPU computes experts in bf16 and as codes.
    #[error(
        "experts must be bf16 or codes on a GPU, got {found} (`{tensor}`): int8 or fp8 makes codes of them"
    )]
    PlainExperts {
        /// A tensor.
        tensor: String,
        /// What it would be.
        found: &'static str,
    },
    /// A GPU computes an expert's gate and up in one product.
    #[error(
        "gates and ups of experts must be of one type on a GPU, got {gate} and {up} (`{tensor}`): int8 or fp8 makes one of \
         types that are not integers already"
    )]
    UnlikeExperts {
        /// The tensor of the up.
        tensor: String,
        /// What the gate would be.
        gate: &'static str,
        /// What the up would be.
        up: &'static str,
    },
    /// The CPU cannot be used as asked.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A step asks for more rows of logits than were allocated; the caller's fault, nothing was computed.
    #[error("a step must ask for at most {max} rows of logits, got {rows}")]
    LogitRows {
        /// Rows asked for.
        rows: usize,
        /// Rows there are.
        max: usize,
    },
    /// A step names adapters of a model that was loaded without; the caller's fault, nothing was computed.
    #[error("the model was loaded without adapters")]
    NoAdapters,
    /// Tokens were asked for of a step that was not started; the caller's fault.
    #[error("the tokens of all steps were taken already")]
    NoStep,
    /// The system refused the thread of a rank.
    #[error("cannot start the thread of rank {rank}")]
    RankThread {
        /// Which.
        rank: usize,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The device failed, or refused a step whose arrays disagree.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// What should be an adapter is none that can be added.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A folder holds none.
    #[error("{} is no adapter, for it has no {missing}: it must be a folder with adapter_config.json and adapter_model.safetensors, as PEFT saves them", directory.display())]
    None {
        /// The folder.
        directory: PathBuf,
        /// The first file that it lacks.
        missing: &'static str,
    },
    /// A folder holds an adapter where a model is wanted.
    #[error("{} is an adapter, not a model: load the model that it was trained on{}, with this as its adapter (`--adapters NAME=FOLDER`)", directory.display(), base.as_ref().map(|base| format!(" ({base})")).unwrap_or_default())]
    NoModel {
        /// The folder.
        directory: PathBuf,
        /// The model, as the adapter's maker wrote it.
        base: Option<String>,
    },
    /// A tensor belongs to nothing that can be adapted.
    #[error(
        "tensor `{tensor}` has no place in this model ({num_unused} such): adapters add to the matrices of attention and of dense feed-forward parts, not to embeddings, heads, norms, routers or experts"
    )]
    NoPlace {
        /// The first such tensor, by name.
        tensor: String,
        /// How many there are.
        num_unused: usize,
    },
    /// It has no tensors.
    #[error("adapter_model.safetensors has no tensors")]
    Empty,
}

/// `config.json`, `generation_config.json` or the metadata of a GGUF file cannot be run as it is written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not a JSON object.
    #[error("{file} is not a JSON object")]
    Json {
        /// The file's name.
        file: String,
        /// Where it breaks.
        #[source]
        source: serde_json::Error,
    },
    /// A field without a safe default is absent or null.
    #[error("{file}: `{field}` is missing")]
    Missing {
        /// The file's name.
        file: String,
        /// The field, with its parents.
        field: String,
    },
    /// A field's value breaks a rule or asks for what we do not have.
    #[error("{file}: `{field}` must be {rule}, got {value}")]
    Invalid {
        /// The file's name.
        file: String,
        /// The field, with its parents.
        field: String,
        /// The rule.
        rule: String,
        /// The value that broke it, as written, shortened.
        value: String,
    },
}

/// The stored tensors are not those that the configuration asks for.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A folder holds no weights.
    #[error("{} has neither model.safetensors nor model.safetensors.index.json nor a GGUF file", directory.display())]
    None {
        /// The folder.
        directory: PathBuf,
    },
    /// A file is not safetensors, or was cut short.
    #[error("{file} is not a whole safetensors file")]
    Format {
        /// The file.
        file: String,
        /// What its header says.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// The shard index is not one.
    #[error("{file}: {what}")]
    Index {
        /// The index file.
        file: String,
        /// The rule that is broken.
        what: String,
    },
    /// The index names a file that is not there.
    #[error("{index} names the shard {shard}, which is not there")]
    MissingShard {
        /// The index file.
        index: String,
        /// The absent file.
        shard: String,
    },
    /// The index says that a tensor is in a file, and it is not.
    #[error("{shard} does not hold `{tensor}`, though the index says so")]
    NotInShard {
        /// The file.
        shard: String,
        /// The tensor.
        tensor: String,
    },
    /// Two files hold the same tensor.
    #[error("`{tensor}` is in {first} and in {second}")]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A tensor that the configuration asks for is not stored.
    #[error("tensor `{tensor}` of shape {expected:?} is missing")]
    Missing {
        /// The tensor.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A stored tensor has no place in the model, so the configuration is of another one.
    #[error(
        "{file}: tensor `{tensor}` of shape {found:?} has no use in this architecture ({num_unused} such)"
    )]
    Unused {
        /// The file.
        file: String,
        /// The first such tensor, by name.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// How many there are.
        num_unused: usize,
    },
    /// A tensor's shape is not what the configuration says.
    #[error("{file}: tensor `{tensor}` must have shape {expected:?}, got {found:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The shape by the configuration.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// Weights that are no numbers: some prompts would get nonsense.
    #[error("{} holds values that are no numbers; the file is damaged, or was made by a training that failed", tensors.join(" or "))]
    NotFinite {
        /// The tensors of one matrix or vector, of which at least one does.
        tensors: Vec<String>,
    },
    /// A shard would end inside a block of integers.
    #[error(
        "tensor `{tensor}` cannot be cut at columns {start} and {end}: its {dtype} are in blocks"
    )]
    CutBlock {
        /// The tensor.
        tensor: String,
        /// First column of the shard.
        start: usize,
        /// The one behind its last.
        end: usize,
        /// The name of the element type.
        dtype: &'static str,
    },
    /// The tensors of a quantised matrix do not fit each other, or the configuration.
    #[error("`{tensor}`: {what}")]
    Packed {
        /// The matrix, by its name without that of a part.
        tensor: String,
        /// The rule that is broken.
        what: String,
    },
    /// A tensor's element type is not one that we compute with.
    #[error("{file}: tensor `{tensor}` must be F32, F16 or BF16, got {found}")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The element type in the file.
        found: String,
    },
}

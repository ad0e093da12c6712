//! Where a model's files are, and which of them say what.

use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    adapter,
    chat::{self, ChatDefinition},
    config::{self, CONFIG_FILE, DecoderSpec, GENERATION_FILE},
    demo,
    error::{ModelError, WeightsError},
    gguf::{self, Gguf, PartName},
    tokenizer::{self, Form, TOKENIZER_FILE},
    weights::{WeightBytes, Weights, file_name},
};

/// How the name of a GGUF file ends.
const GGUF_EXTENSION: &str = "gguf";
const SAFETENSORS_EXTENSION: &str = "safetensors";

/// Where a model's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// Embedded in this binary.
    Demo,
    /// A folder as Hugging Face keeps one (`config.json`, `tokenizer.json`, safetensors), or with one GGUF file and no
    /// safetensors.
    Directory(&'a Path),
    /// A GGUF file, the first one where the model is split.
    Gguf(&'a Path),
}

/// A source whose folder was looked into.
enum Files<'a> {
    Demo,
    HuggingFace(&'a Path),
    Gguf(Cow<'a, Path>),
}

impl<'a> Source<'a> {
    /// Returns the source at `path`: a file is taken for a GGUF file, all else for a folder.
    pub fn at(path: &'a Path) -> Self {
        if path.is_file() { Self::Gguf(path) } else { Self::Directory(path) }
    }

    fn files(self) -> Result<Files<'a>, ModelError> {
        match self {
            Self::Demo => Ok(Files::Demo),
            Self::Gguf(path) => Ok(Files::Gguf(path.into())),
            Self::Directory(directory) if adapter::is_alone(directory) => {
                Err(adapter::no_model(directory).into())
            }
            Self::Directory(directory) => match find_weights(directory)? {
                Found::Gguf(path) => Ok(Files::Gguf(path.into())),
                Found::Nothing if !directory.join(CONFIG_FILE).is_file() => {
                    Err(WeightsError::None { directory: directory.to_owned() }.into())
                }
                Found::Nothing | Found::Safetensors => Ok(Files::HuggingFace(directory)),
            },
        }
    }
}

/// What kind of weights a folder has.
enum Found {
    Nothing,
    Safetensors,
    Gguf(PathBuf),
}

/// Looks for weights. Safetensors come before GGUF, and the later parts of a split model do not count.
fn find_weights(directory: &Path) -> Result<Found, ModelError> {
    let mut found = Vec::new();
    // A folder that cannot be listed has no `config.json` either, which is then the error.
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.map_err(|source| read_error(directory, source))?.path();
        let has = |kind| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(kind));
        if has(SAFETENSORS_EXTENSION) {
            return Ok(Found::Safetensors);
        }
        let name = file_name(&path);
        let is_first = PartName::parse(&name).is_none_or(|part| part.number == 1);
        if has(GGUF_EXTENSION) && path.is_file() && is_first {
            found.push(path);
        }
    }
    if found.len() > 1 {
        let mut files: Vec<String> = found.iter().map(|path| file_name(path)).collect();
        files.sort_unstable();
        return Err(ModelError::SeveralGguf { directory: directory.to_owned(), files });
    }
    Ok(found.pop().map_or(Found::Nothing, Found::Gguf))
}

/// Opens a model's weights: their headers are read and checked, the tensors are not.
///
/// # Errors
/// As [`Weights::open_directory`] and [`Weights::open_gguf`]; [`ModelError::SeveralGguf`].
pub fn open_weights(source: Source<'_>) -> Result<Weights, ModelError> {
    match source.files()? {
        Files::Demo => Weights::from_static("the demo model", demo::model_safetensors()),
        Files::HuggingFace(directory) => Weights::open_directory(directory),
        Files::Gguf(path) => Weights::open_gguf(&path),
    }
}

/// Reads what a model is, without its weights, so that memory can be planned.
///
/// # Errors
/// [`ModelError::Read`], [`ModelError::Config`] or [`ModelError::Gguf`]; [`ModelError::SeveralGguf`].
pub fn read_spec(source: Source<'_>) -> Result<DecoderSpec, ModelError> {
    let spec = match source.files()? {
        Files::Demo => config::from_json(demo::CONFIG_JSON, Some(demo::GENERATION_CONFIG_JSON))?,
        Files::HuggingFace(directory) => {
            let config = read(&directory.join(CONFIG_FILE))?;
            let generation = read_if_there(&directory.join(GENERATION_FILE))?;
            config::from_json(&config, generation.as_deref())?
        }
        Files::Gguf(path) => with_header(&path, |gguf| Ok(gguf::read_spec(gguf)?))?,
    };
    Ok(spec)
}

/// Returns the text of the model's `tokenizer.json`: the file; or in that form, what else a folder has (Mistral's
/// `tekken.json`, SentencePiece's `tokenizer.model`) or the metadata of a GGUF file without one beside it.
///
/// # Errors
/// [`ModelError::Read`]; [`ModelError::Config`] where the tokenizer is not one that we have.
pub fn tokenizer_json(source: Source<'_>) -> Result<Cow<'static, [u8]>, ModelError> {
    match source.files()? {
        Files::Demo => Ok(Cow::Borrowed(demo::TOKENIZER_JSON)),
        Files::HuggingFace(directory) => {
            let json = match tokenizer::form_of(directory) {
                Form::Json(path) => read(&path)?,
                Form::Tekken(path) => tokenizer::from_tekken(&read(&path)?)?,
                Form::SentencePiece(path, added) => {
                    let (name, model) = (file_name(&path), read(&path)?);
                    tokenizer::from_sentencepiece(&name, &model, read_if_there(&added)?.as_deref())?
                }
            };
            Ok(Cow::Owned(json))
        }
        Files::Gguf(path) => {
            let beside = path.with_file_name(TOKENIZER_FILE);
            if beside.is_file() {
                return read(&beside).map(Cow::Owned);
            }
            with_header(&path, |gguf| Ok(gguf::tokenizer_json(gguf)?)).map(Cow::Owned)
        }
    }
}

/// Reads the model's chat template; `None` where it has none.
///
/// # Errors
/// [`ModelError::Read`]; [`ModelError::Config`] where a file that could hold one is broken.
pub fn chat_definition(source: Source<'_>) -> Result<Option<ChatDefinition>, ModelError> {
    match source.files()? {
        Files::Demo => Ok(None),
        Files::HuggingFace(directory) => chat::from_directory(directory),
        Files::Gguf(path) => with_header(&path, chat::from_gguf),
    }
}

/// Hands the header of a GGUF file to `read`.
fn with_header<T>(
    path: &Path,
    read: impl FnOnce(&Gguf<'_>) -> Result<T, ModelError>,
) -> Result<T, ModelError> {
    let bytes = WeightBytes::open(path)?;
    let view = bytes.whole()?;
    let name = file_name(path);
    read(&Gguf::parse(&name, &view)?)
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    fs::read(path).map_err(|source| read_error(path, source))
}

pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => Ok(Some(read.map_err(|source| read_error(path, source))?)),
    }
}

fn read_error(path: &Path, source: io::Error) -> ModelError {
    ModelError::Read { path: path.to_owned(), source }
}

//! The prompts in force: the binary's own and those of a folder, read again when a file changes.
//!
//! A file that cannot be used is told of once and changes nothing: what stood there before stays in force. At the start it
//! is refused.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use crate::prompt::registry::{FILE_BYTES_MAX, Prompt, PromptFileError, PromptRegistry, builtin};

/// How often the folder is looked at: soon enough for who edits a prompt, and a few system calls.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Most files of a folder.
const FILES_MAX: usize = 1024;
/// Folders in one another: a task's words, a family, and one more.
const DEPTH_MAX: usize = 6;

/// Why a folder of prompts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptsError {
    /// The folder, or a file of it, cannot be read.
    #[error("cannot read the prompts in {}", path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is no prompt.
    #[error(transparent)]
    File(#[from] PromptFileError),
    /// A folder lies deeper than any prompt.
    #[error("{}: lies deeper than TASK/FAMILY/VERSION.yml may, where a task has at most four words", path.display())]
    TooDeep {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has too many files.
    #[error("the folder of prompts must have at most {FILES_MAX} files")]
    TooMany,
}

/// The prompts in force.
#[derive(Debug)]
pub struct Prompts {
    builtin: Vec<Arc<Prompt>>,
    folder: Option<PathBuf>,
    current: RwLock<Current>,
}

#[derive(Debug, Default)]
struct Current {
    registry: Arc<PromptRegistry>,
    files: BTreeMap<String, File>,
}

/// A file of the folder as it was read last.
#[derive(Clone, Debug)]
struct File {
    state: State,
    /// What is in force for it; `None` where it never was a prompt.
    prompt: Option<Arc<Prompt>>,
}

/// What a look at the folder found.
#[derive(Debug, Default)]
struct Looked {
    errors: Vec<PromptFileError>,
    /// Files that are new or changed, and can be used.
    num_read: usize,
    /// Files that are not there any more.
    num_gone: usize,
}

/// What changes when a file does.
type State = (Option<SystemTime>, u64);

impl Prompts {
    /// Reads all prompts.
    ///
    /// # Errors
    /// [`PromptsError`]: at the start nothing stands in for a file that cannot be used.
    pub fn load(folder: Option<PathBuf>) -> Result<Self, PromptsError> {
        let (prompts, errors) = Self::open(folder)?;
        match errors.into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(prompts),
        }
    }

    /// Reads all prompts that can be used, and tells of the others.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(folder: Option<PathBuf>) -> Result<(Self, Vec<PromptFileError>), PromptsError> {
        let current = RwLock::new(Current::default());
        let prompts = Self { builtin: builtin()?, folder, current };
        let errors = prompts.reload()?;
        Ok((prompts, errors))
    }

    /// Returns how many prompts the folder has.
    pub fn num_of_folder(&self) -> usize {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.files.values().filter(|file| file.prompt.is_some()).count()
    }

    /// Returns the prompts in force now.
    pub fn current(&self) -> Arc<PromptRegistry> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).registry)
    }

    /// Reads the files that changed since the last time, and returns what is wrong with them.
    ///
    /// # Errors
    /// The folder cannot be read; all stays as it was.
    pub fn reload(&self) -> Result<Vec<PromptFileError>, PromptsError> {
        self.look().map(|looked| looked.errors)
    }

    fn look(&self) -> Result<Looked, PromptsError> {
        let states = self.folder.as_deref().map(states).transpose()?.unwrap_or_default();
        let known = self.current.read().unwrap_or_else(PoisonError::into_inner).files.clone();
        let mut looked = Looked::default();
        let mut files = BTreeMap::new();
        looked.num_gone = known.keys().filter(|path| !states.contains_key(*path)).count();
        for (path, state) in states {
            let known = known.get(&path);
            let is_read = known.is_some_and(|file| file.state == state);
            let prompt = match known {
                Some(file) if is_read => file.prompt.clone(),
                earlier => match self.read(&path) {
                    Ok(prompt) => {
                        looked.num_read += 1;
                        Some(Arc::new(prompt))
                    }
                    Err(error) => {
                        looked.errors.push(error);
                        earlier.and_then(|file| file.prompt.clone())
                    }
                },
            };
            files.insert(path, File { state, prompt });
        }
        let own = files.values().filter_map(|file| file.prompt.clone());
        let registry = Arc::new(PromptRegistry::new(self.builtin.iter().cloned().chain(own)));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { registry, files };
        Ok(looked)
    }

    /// Reads what changes in the folder, for ever. Whoever starts it owns it: dropping it ends it.
    pub async fn watch(self: Arc<Self>) {
        if self.folder.is_none() {
            return std::future::pending().await;
        }
        let mut last = String::new();
        let mut looks = tokio::time::interval(WATCH_INTERVAL);
        loop {
            looks.tick().await;
            let prompts = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || prompts.look()).await;
            match looked {
                Ok(Ok(Looked { errors, num_read, num_gone })) => {
                    last.clear();
                    if num_read + num_gone > 0 {
                        let num_in_folder = self.num_of_folder();
                        tracing::info!(num_read, num_gone, num_in_folder, "prompts reloaded");
                    }
                    for error in errors {
                        tracing::warn!(%error, "a prompt cannot be used; what stood there stays");
                    }
                }
                // Said once, and again only when it is another fault.
                Ok(Err(error)) if error.to_string() != last => {
                    last = error.to_string();
                    tracing::warn!(%error, "the prompts stay as they are");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    fn read(&self, path: &str) -> Result<Prompt, PromptFileError> {
        let file = self.folder.as_deref().unwrap_or(Path::new("")).join(path);
        // One byte more than may be: what is larger is refused, and not read.
        let text = read_at_most(&file, FILE_BYTES_MAX + 1).map_err(|error| PromptFileError {
            path: path.to_owned(),
            line: None,
            reason: format!("cannot be read: {error}"),
        })?;
        Prompt::parse(path, &text)
    }
}

/// Reads the beginning of a file, of at most so many bytes.
fn read_at_most(file: &Path, num_bytes: usize) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(file)?.take(num_bytes as u64).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the prompts' files below the folder with `/` between the parts of their paths.
fn states(folder: &Path) -> Result<BTreeMap<String, State>, PromptsError> {
    let mut states = BTreeMap::new();
    let mut open = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((folder, below, depth)) = open.pop() {
        let failed = |source| PromptsError::Read { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Editors and volumes of containers keep files of their own there.
            if name.starts_with('.') {
                continue;
            }
            // Followed, for a container's volume is made of links; what vanished meanwhile is gone.
            let Ok(about) = fs::metadata(entry.path()) else { continue };
            let path = format!("{below}{name}");
            if about.is_dir() {
                if depth == DEPTH_MAX {
                    return Err(PromptsError::TooDeep { path: entry.path() });
                }
                open.push((entry.path(), format!("{path}/"), depth + 1));
            } else if about.is_file()
                // The other spelling is refused by its name, rather than passed over.
                && entry.path().extension().is_some_and(|ending| ending == "yml" || ending == "yaml")
            {
                states.insert(path, (about.modified().ok(), about.len()));
            }
            if states.len() > FILES_MAX {
                return Err(PromptsError::TooMany);
            }
        }
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::prompt::registry::{Inputs, VersionRange};

    fn write(folder: &TempDir, path: &str, text: &str) {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Returns what the prompt of a task says.
    fn says(prompts: &Prompts, task: &str) -> Option<String> {
        let range = VersionRange::parse("*").unwrap();
        let registry = prompts.current();
        let prompt = registry.find(task, &["base"], &range)?;
        Some(format!("{:?}", prompt.render(Inputs::default(), &[]).unwrap().input))
    }

    #[test]
    fn a_folder_adds_and_overrides_and_is_read_again() {
        const CHECK: &str = "model_configuration/check";
        let folder = TempDir::new().unwrap();
        write(&folder, "own/base/1.0.0.yml", "name: own\ntext: one\n");
        write(&folder, "own/README.md", "no prompt");
        write(&folder, ".git/own/base/1.0.0.yml", "no prompt");
        let prompts = Prompts::load(Some(folder.path().to_owned())).unwrap();
        assert_eq!(says(&prompts, "own").unwrap(), "Text(\"one\")");
        let builtin = says(&prompts, CHECK).unwrap();

        write(&folder, "model_configuration/check/base/1.0.0.yml", "name: a\ntext: other\n");
        assert_eq!(prompts.reload().unwrap(), []);
        assert_eq!(says(&prompts, CHECK).unwrap(), "Text(\"other\")");

        write(&folder, "own/base/1.0.0.yml", "name: own\ntext: two\nmore: x\n");
        let errors = prompts.reload().unwrap();
        assert_eq!((errors.len(), errors[0].line), (1, Some(3)), "{errors:?}");
        assert_eq!(says(&prompts, "own").unwrap(), "Text(\"one\")");
        assert_eq!(prompts.reload().unwrap(), [], "it is told of once");
        assert_eq!(says(&prompts, "own").unwrap(), "Text(\"one\")");

        write(&folder, "own/base/1.0.0.yml", "name: own\ntext: three and more\n");
        assert_eq!(prompts.reload().unwrap(), []);
        assert_eq!(says(&prompts, "own").unwrap(), "Text(\"three and more\")");

        write(&folder, "own/base/1.1.0.yml", "name: own\ntext: four\n");
        fs::remove_file(folder.path().join("own/base/1.0.0.yml")).unwrap();
        let looked = prompts.look().unwrap();
        assert_eq!((looked.num_read, looked.num_gone, looked.errors), (1, 1, vec![]));

        fs::remove_dir_all(folder.path().join("own")).unwrap();
        fs::remove_dir_all(folder.path().join("model_configuration")).unwrap();
        assert_eq!(prompts.reload().unwrap(), []);
        assert_eq!((says(&prompts, "own"), says(&prompts, CHECK).unwrap()), (None, builtin));
        drop(folder);
        assert!(matches!(prompts.reload(), Err(PromptsError::Read { .. })));
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_refused_at_the_start() {
        let folder = TempDir::new().unwrap();
        write(&folder, "own/base/1.0.0.yml", "name: own\n");
        let error = Prompts::load(Some(folder.path().to_owned())).unwrap_err();
        assert!(error.to_string().starts_with("own/base/1.0.0.yml: "), "{error}");
        let missing = folder.path().join("missing");
        assert!(matches!(Prompts::load(Some(missing)), Err(PromptsError::Read { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed_while_serving() {
        let folder = TempDir::new().unwrap();
        let prompts = Arc::new(Prompts::load(Some(folder.path().to_owned())).unwrap());
        write(&folder, "own/base/1.0.0.yml", "name: own\ntext: one\n");
        let noticed = async {
            while says(&prompts, "own").is_none() {
                tokio::time::sleep(WATCH_INTERVAL).await;
            }
        };
        tokio::select! {
            () = Arc::clone(&prompts).watch() => {}
            () = noticed => {}
        }
        assert_eq!(says(&prompts, "own").unwrap(), "Text(\"one\")");
    }
}

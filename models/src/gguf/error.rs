//! What can be wrong with a GGUF header.

/// A file whose header cannot be used; nothing of it was loaded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The file ends before a part does: it was cut short, or a length in it is wrong.
    #[error(
        "{file}: {part} needs {num_bytes} bytes from byte {offset} on, and the file ends at byte {file_bytes}"
    )]
    Short {
        /// The file's name.
        file: String,
        /// What was being read.
        part: String,
        /// What it takes.
        num_bytes: u64,
        /// Where it begins.
        offset: u64,
        /// Where the file ends.
        file_bytes: u64,
    },
    /// A part breaks a rule.
    #[error("{file}: {part} must be {rule}, got {value}")]
    Broken {
        /// The file's name.
        file: String,
        /// What was being read.
        part: String,
        /// The rule.
        rule: String,
        /// The value that broke it.
        value: String,
    },
}

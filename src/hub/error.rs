//! Why a model is not at hand. Each message says what to do next; none holds a token or a signed address.

use std::{fmt, io, path::PathBuf};

use crate::config::HubModel;

/// Why a repository's files are not at hand.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The cache does not have the repository, the revision or the file.
    #[error(
        "`{model}` is not in the Hugging Face cache {}; {}, or set `hub.cache` (--hub-cache) to a cache that has it, or name \
         the model's folder",
        cache.display(), how_to_pull(model, *is_offline)
    )]
    NotCached {
        /// What was looked for.
        model: HubModel,
        /// Where it was looked for.
        cache: PathBuf,
        /// Whether the network must not be asked.
        is_offline: bool,
    },
    /// The snapshot is there but lacks a file.
    #[error(
        "the copy of `{model}` in {} has no {file}; {}",
        snapshot.display(), how_to_pull(model, *is_offline)
    )]
    Incomplete {
        /// What was looked for.
        model: HubModel,
        /// The folder that was found.
        snapshot: PathBuf,
        /// What it lacks.
        file: String,
        /// Whether the network must not be asked.
        is_offline: bool,
    },
    /// The network must not be asked, and was to be.
    #[error(
        "`{model}` cannot be {what}: `hub.offline` (--offline, HF_HUB_OFFLINE) is on; turn it off, or copy the cache of a machine that has the model"
    )]
    Offline {
        /// The model.
        model: HubModel,
        /// What was to be done with it.
        what: &'static str,
    },
    /// The cache cannot be read or written.
    #[error("cannot use the Hugging Face cache at {}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing says where the cache is.
    #[error(
        "no folder is known for the Hugging Face cache: set HOME, HF_HOME or `hub.cache` (--hub-cache)"
    )]
    NoCache,
    /// There is no room, found before anything is downloaded.
    #[error(
        "{needed_bytes} bytes are to be downloaded and {} has {free_bytes} left; free some, or set `hub.cache` (--hub-cache) \
         to a larger disk", folder.display()
    )]
    NoSpace {
        /// The cache.
        folder: PathBuf,
        /// What is to come.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// The disk became full on the way.
    #[error("the disk of {} is full, or its quota spent; free some space and pull again: what has come is kept", path.display())]
    DiskFull {
        /// The file that was written.
        path: PathBuf,
    },
    /// The file system, or a limit of this process, has no files so large.
    #[error(
        "{} cannot become larger: the file system (FAT32 ends at 4 GiB) or a limit of this process (`ulimit -f`) forbids it; set \
         `hub.cache` (--hub-cache) to another disk or lift the limit, and pull again: what has come is kept there", path.display()
    )]
    FileTooLarge {
        /// The file that was written.
        path: PathBuf,
    },
    /// The repository wants a licence to be accepted, or more of the token.
    #[error(
        "`{repository}` is gated: accept its conditions at {page}, {}", with_token(*has_token)
    )]
    Gated {
        /// `org/name`.
        repository: String,
        /// Where to accept.
        page: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// Something else than a gate refuses: the token's rights, or what lies between.
    #[error(
        "{host} answered 403 for `{repository}` and says nothing of a gate: {}; where a proxy or a firewall is on the way, the \
         refusal may be its own (HTTPS_PROXY, HF_ENDPOINT)", with_rights(*has_token)
    )]
    Forbidden {
        /// Who was asked.
        host: String,
        /// `org/name`.
        repository: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The token is no longer one.
    #[error(
        "{host} does not know the token that was sent: make another at its settings page and set HF_TOKEN, or unset it where the model is public"
    )]
    TokenRefused {
        /// Who refused.
        host: String,
    },
    /// There is no such repository, or not for us.
    #[error(
        "there is no `{repository}` at {host} that {}", who_sees(*has_token)
    )]
    NoRepository {
        /// `org/name`.
        repository: String,
        /// Who was asked.
        host: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// There is no such branch, tag or commit.
    #[error("`{repository}` has no revision `{revision}`: see its branches and tags at {page}")]
    NoRevision {
        /// `org/name`.
        repository: String,
        /// What was asked for.
        revision: String,
        /// Where they are listed.
        page: String,
    },
    /// A file that is listed is not there.
    #[error(
        "`{repository}` lists {file} and does not have it; pull again, or choose another revision"
    )]
    NoFile {
        /// `org/name`.
        repository: String,
        /// The file.
        file: String,
    },
    /// Another status that is no success.
    #[error("{host} answered {status} ({})", what_of_status(*status))]
    Status {
        /// Who answered.
        host: String,
        /// With what.
        status: u16,
        /// When to ask again, in seconds.
        retry_after_seconds: Option<u64>,
    },
    /// No answer, or half of one.
    #[error("{host}: {fault}")]
    Network {
        /// Who was asked.
        host: String,
        /// What went wrong.
        fault: Fault,
        /// The library's words.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The proxy on the way to a host is not there, or does not lead to it.
    #[error(
        "the proxy {proxy} on the way to {host} {}; check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or except {host} from it by \
         NO_PROXY", what_of_proxy(*fault)
    )]
    Proxy {
        /// Its host and port.
        proxy: String,
        /// Who was to be asked.
        host: String,
        /// What went wrong.
        fault: Fault,
        /// The library's words.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The client could not be made.
    #[error("cannot speak HTTPS: {what}")]
    Client {
        /// Why.
        what: String,
    },
    /// An answer is not what a hub sends.
    #[error(
        "{host} does not answer as a Hugging Face hub does: {what}; check `hub.endpoint` (HF_ENDPOINT)"
    )]
    Answer {
        /// Who answered.
        host: String,
        /// What is wrong with it.
        what: String,
    },
    /// A name in the repository is none that may be written to a disk.
    #[error(
        "`{repository}` names a file {name:?}, which is no path inside its folder: nothing was downloaded"
    )]
    UnsafeName {
        /// `org/name`.
        repository: String,
        /// The name.
        name: String,
    },
    /// The repository has weights that only Python can open, and that can run code.
    #[error(
        "`{repository}` has its weights as pickles only ({file}), which can run code when they are opened and are not read here; \
         take a repository with safetensors or GGUF files, or convert it"
    )]
    PicklesOnly {
        /// `org/name`.
        repository: String,
        /// One of them.
        file: String,
    },
    /// The repository has no weights that we read.
    #[error(
        "`{repository}` has no weights that are read here: config.json with model.safetensors or its shards, or GGUF files"
    )]
    NoWeights {
        /// `org/name`.
        repository: String,
    },
    /// The repository has weights, and not all that goes with them.
    #[error(
        "`{repository}` lacks {lacking}, without which its weights are not read: nothing was downloaded; take another revision \
         or repository"
    )]
    Lacks {
        /// `org/name`.
        repository: String,
        /// What it lacks.
        lacking: String,
    },
    /// Which GGUF file is meant is not said, or no one file.
    #[error("{}", choose(repository, asked.as_deref(), choices))]
    Choice {
        /// `org/name`.
        repository: String,
        /// What was asked for.
        asked: Option<String>,
        /// What can be.
        choices: Vec<String>,
    },
    /// The server says no hash, so that nothing could be checked.
    #[error(
        "{host} says no size or hash of {file}, so that the download could not be checked; check `hub.endpoint` (HF_ENDPOINT)"
    )]
    NoHash {
        /// Who was asked.
        host: String,
        /// The file.
        file: String,
    },
    /// What came has another size than was said.
    #[error(
        "{file} should have {expected} bytes and the server has {got}; what came was deleted: download it again"
    )]
    Size {
        /// The file.
        file: String,
        /// By the listing.
        expected: u64,
        /// By the transfer.
        got: u64,
    },
    /// An answer does not go with what is kept of a file.
    #[error(
        "{file} cannot go on from the {kept_bytes} bytes that are kept: {what}; something on the way may change answers, such \
         as a proxy (HTTPS_PROXY): pull again without it, or delete {} to begin anew", part.display()
    )]
    NotContinued {
        /// The file.
        file: String,
        /// Where its beginning is kept.
        part: PathBuf,
        /// What is kept.
        kept_bytes: u64,
        /// What came instead of the rest.
        what: String,
    },
    /// What came is not what was listed.
    #[error(
        "{file} came whole and with another hash than was listed; it was deleted: download it again"
    )]
    Hash {
        /// The file.
        file: String,
    },
    /// A download ended early; its cause is the source.
    #[error(
        "the download of {file} stopped at {kept_bytes} of {num_bytes} bytes, which are kept: the next `lacuna models pull` goes on from there"
    )]
    Stopped {
        /// The file.
        file: String,
        /// What has come.
        kept_bytes: u64,
        /// What should have.
        num_bytes: u64,
        /// Why.
        #[source]
        source: Box<HubError>,
    },
}

/// What went wrong on the way to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its name has no address.
    UnknownHost,
    /// Nobody listens there, or nothing leads there.
    Unreachable,
    /// Its certificate does not convince.
    Certificate,
    /// Silence.
    Timeout,
    /// The connection broke.
    Cut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownHost => {
                "the name is not known here; check the network, `hub.endpoint` (HF_ENDPOINT), and whether a proxy is needed \
                 (HTTPS_PROXY)"
            }
            Self::Unreachable => {
                "it cannot be reached; check the network, `hub.endpoint` (HF_ENDPOINT), and whether a proxy is needed \
                 (HTTPS_PROXY)"
            }
            Self::Certificate => {
                "its certificate is not trusted; install the certificates of your system (ca-certificates), or name a file \
                 with those of your company in SSL_CERT_FILE"
            }
            Self::Timeout => "nothing came for `hub.idle_timeout` (--hub-idle-timeout)",
            Self::Cut => "the connection was cut",
        })
    }
}

impl HubError {
    /// Returns whether another try may have another outcome.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Network { fault, .. } | Self::Proxy { fault, .. } => *fault != Fault::Certificate,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Stopped { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// Returns whether a name has no address, which before anything has come is no matter of time.
    pub(crate) fn is_unknown_name(&self) -> bool {
        matches!(
            self,
            Self::Network { fault: Fault::UnknownHost, .. }
                | Self::Proxy { fault: Fault::UnknownHost, .. }
        )
    }

    /// Returns whether nobody answered.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Network { .. } | Self::Proxy { .. })
    }

    /// Returns an error of the cache's files; a full disk is one of its own.
    pub(crate) fn cache(path: &std::path::Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            // A quota that is spent is as good as a full disk.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::FileTooLarge => Self::FileTooLarge { path },
            _ => Self::Cache { path, source },
        }
    }
}

fn how_to_pull(model: &HubModel, is_offline: bool) -> String {
    if is_offline {
        return "`hub.offline` (--offline, HF_HUB_OFFLINE) forbids to download it: turn that off, or copy the cache of a machine \
                that has the model"
            .to_owned();
    }
    format!("run `lacuna models pull {model}`")
}

fn with_token(has_token: bool) -> &'static str {
    if has_token {
        "with the account of the token that was sent, and let the token read gated repositories"
    } else {
        "then set HF_TOKEN to a token of that account"
    }
}

fn with_rights(has_token: bool) -> &'static str {
    if has_token {
        "let the token that was sent read this repository (one of narrow scope names those that it may read)"
    } else {
        "set HF_TOKEN to a token that may read it"
    }
}

fn who_sees(has_token: bool) -> &'static str {
    if has_token {
        "the token may read; check the name, and whose token it is"
    } else {
        "anybody may read; check the name, or set HF_TOKEN where it is private or gated"
    }
}

fn what_of_proxy(fault: Fault) -> &'static str {
    match fault {
        Fault::UnknownHost => "has a name that is not known here",
        Fault::Timeout => "said nothing for `hub.idle_timeout` (--hub-idle-timeout)",
        Fault::Unreachable | Fault::Certificate | Fault::Cut => {
            "cannot be reached, or does not lead there"
        }
    }
}

fn what_of_status(status: u16) -> &'static str {
    match status {
        407 => {
            "a proxy on the way wants a name and a password; write them into HTTP_PROXY or HTTPS_PROXY"
        }
        429 => "too many requests; wait, or set HF_TOKEN for a higher limit",
        500..=599 => "a fault of the server; try again later",
        _ => "which says nothing that could be mended here",
    }
}

fn choose(repository: &str, asked: Option<&str>, choices: &[String]) -> String {
    let choices = choices.join(", ");
    match asked {
        None => {
            format!(
                "`{repository}` has several GGUF models; say which, as in {repository}:CHOICE, of {choices}"
            )
        }
        Some(_) if choices.is_empty() => {
            format!("`{repository}` has no GGUF files, of which :CHOICE would name one")
        }
        Some(asked) => {
            format!("`{repository}` has no one GGUF model for `{asked}`; name one of {choices}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_troubles_of_the_cache() {
        let error = |kind: io::ErrorKind| HubError::cache("/c/x".as_ref(), kind.into());
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let full = error(kind);
            assert!(matches!(full, HubError::DiskFull { .. }), "{kind}: {full}");
            assert!(full.to_string().contains("free some space and pull again"), "{full}");
        }
        let denied = error(io::ErrorKind::PermissionDenied);
        assert!(matches!(denied, HubError::Cache { .. }), "{denied}");
    }
}

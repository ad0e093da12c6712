//! Models of the Hugging Face hub: found in the local cache, or brought into it.
//!
//! | file | concept |
//! |---|---|
//! | `cache` | the folders and links that are shared with Hugging Face's own tools; finding a model in them |
//! | `cached` | what lies there |
//! | `select` | which files of a repository are wanted |
//! | `http` | asking: token, redirects, retries, what a refusal means |
//! | `proxy` | which proxy is on the way |
//! | `listing` | a repository's commit, files, sizes and hashes |
//! | `digest`, `part` | a hash; a file while it comes |
//! | `download` | one file: locked, resumed, checked |
//! | `pull` | all of a model |
//! | `outline` | the headers of a model without its weights |

mod cache;
mod cached;
mod digest;
mod download;
mod error;
mod http;
mod listing;
mod outline;
mod part;
mod proxy;
mod pull;
mod select;

pub use cache::{cache_folder, find};
pub use cached::{CachedRepository, CachedSnapshot, list};
pub use error::{Fault, HubError};
pub use outline::{Outline, outline};
pub use proxy::through_proxies;
pub use pull::{PullEvent, Pulled, Watch, check, pull};

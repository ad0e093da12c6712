//! Who asks: tokens of GitLab and its portal, tokens of our own, API keys; what they may, and how often.
//!
//! | file | concept |
//! |---|---|
//! | `caller` | who asks, and what they may |
//! | `credentials` | what a request shows |
//! | `claims`, `token` | what a token says; whether it is true |
//! | `rs256` | the one signature, by ring |
//! | `key_set`, `issuer`, `directory` | the keys that are believed; asking an issuer for its own; keeping them fresh |
//! | `api_keys` | keys of people |
//! | `user_token` | tokens that we give out |
//! | `limits` | how often, and how many at once |
//! | `guard` | all of it in order |

mod api_keys;
mod caller;
mod claims;
mod credentials;
mod directory;
mod error;
mod guard;
mod issuer;
mod key_set;
mod limits;
mod rs256;
#[cfg(test)]
mod tests;
mod token;
mod user_token;

pub use api_keys::{ApiKey, draw_api_key};
pub use caller::{COMPLETE_CODE, Caller, CallerKind, GENERATE_CODE, PROVIDER_PROXY, Realm};
pub use credentials::Credentials;
pub use error::{AuthError, KeyError};
pub use guard::{Clock, Guard};
pub use limits::{Limited, Permit};
pub use user_token::{UserToken, UserTokenError};

//! The engine on this machine as a provider.

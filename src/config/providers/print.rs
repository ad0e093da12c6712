//! The settings of hosted providers as somebody would have typed them: where a secret is, and never what it is.

use std::path::Path;

use crate::config::{
    providers::{
        FileConfig, HeaderConfig, ProviderConfig, ProxyChoice, RawHeader, RawProvider, SecretSource,
    },
    units::format_time,
};

/// Writes a table; what was left out and has no default is left out again.
pub(in crate::config) fn print(provider: &ProviderConfig) -> RawProvider {
    let file = |file: Option<&FileConfig>| file.map(|file| text(&file.path));
    let source = provider.api_key.as_ref().map(|key| &key.source);
    let identity = provider.client_identity.as_ref();
    let headers = provider.headers.iter().map(|(name, value)| (name.clone(), header(value)));
    RawProvider {
        name: Some(provider.name.clone()),
        protocol: Some(provider.protocol.clone()),
        url: provider.url.clone(),
        model: Some(provider.model.clone()),
        served_as: Some(provider.served_as.clone()),
        family: provider.family.clone(),
        fim: provider.fim.map(|form| form.name().to_owned()),
        max_context_tokens: provider.context_tokens_max.map(|tokens| tokens.get().into()),
        bytes_per_token: Some(provider.bytes_per_token),
        api_key_file: source.and_then(|source| match source {
            SecretSource::File(path) => Some(text(path)),
            SecretSource::Variable(_) => None,
        }),
        api_key_env: source.and_then(|source| match source {
            SecretSource::File(_) => None,
            SecretSource::Variable(name) => Some(name.clone()),
        }),
        credentials_file: file(provider.credentials.as_ref()),
        region: provider.region.clone(),
        project: provider.project.clone(),
        headers: (!provider.headers.is_empty()).then(|| headers.collect()),
        proxy: Some(match &provider.proxy {
            ProxyChoice::Environment => "environment".to_owned(),
            ProxyChoice::None => "none".to_owned(),
            ProxyChoice::Address(url) => url.clone(),
        }),
        ca_file: file(provider.ca.as_ref()),
        client_cert_file: file(identity.map(|(certificate, _)| certificate)),
        client_key_file: file(identity.map(|(_, key)| key)),
        timeout_connect: Some(format_time(provider.timeout_connect)),
        max_concurrency: Some(provider.num_calls_max.into()),
        streaming: Some(provider.is_streaming),
    }
}

fn header(value: &HeaderConfig) -> RawHeader {
    match value {
        HeaderConfig::Text(value) => RawHeader::Text(value.clone()),
        HeaderConfig::Secret(secret) => match &secret.source {
            SecretSource::File(path) => RawHeader::File { file: text(path) },
            SecretSource::Variable(name) => RawHeader::Env { env: name.clone() },
        },
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

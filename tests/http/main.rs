//! The HTTP boundary on a real listener: bytes in, bytes out, over a scripted provider.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod auth;
mod bad_input;
mod bench;
mod chat;
mod common;
mod demo;
mod demo_chat;
mod gitlab;
mod gitlab_gateway;
mod gitlab_generations;
mod gitlab_order;
mod issuers;
mod lifecycle;
mod metrics;
mod mutations;
mod openai;
mod openai_stream;
mod openapi;
mod routing;
mod several;
mod support;
mod telemetry;

//! What a person sees first: the address, the model, and a line that they can paste.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A gap that a small model fills with the obvious: the head of a function between its trait and its body.
const PREFIX: &str = "impl fmt::Display for Point {\n    fn fmt";
const SUFFIX: &str = "\n        write!(f, \"{} {}\", self.x, self.y)\n    }\n}\n";

/// A server as a person is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Greeting<'a> {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its models by name.
    pub models: &'a [&'a str],
    /// Their adapters by name.
    pub adapters: &'a [&'a str],
    /// Whether it answers without asking who a request is from.
    pub is_open: bool,
}

/// Returns the greeting of a server.
pub fn greeting(greeting: Greeting<'_>) -> String {
    let Greeting { address, models, adapters, is_open } = greeting;
    let (version, mut names, url) = (env!("CARGO_PKG_VERSION"), models.join(", "), url(address));
    if let Some(noun) = [None, Some("adapter"), Some("adapters")][adapters.len().min(2)] {
        let _ = write!(names, " with the {noun} {}", adapters.join(", "));
    }
    let first = models.first().copied().unwrap_or_default();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "Lacuna {version} serves {names} on {url}");
    let _ = writeln!(text, "\nTry it:\n  {}\n", curl_line(address, first, is_open));
    text
}

/// Returns the URL under which this machine reaches a server that listens on `address`.
pub fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// Returns a shell line that asks for a completion.
fn curl_line(address: SocketAddr, model: &str, is_open: bool) -> String {
    let body = serde_json::json!({
        "model": model,
        "prompt": PREFIX,
        "suffix": SUFFIX,
        "max_tokens": 32,
        "temperature": 0,
    });
    // Inside single quotes the shell reads nothing but the closing quote.
    let body = body.to_string().replace('\'', r"'\''");
    let key = if is_open { "" } else { "-H \"x-api-key: $LACUNA_API_KEY\" " };
    let url = url(address);
    format!("curl -s {url}/v1/completions -H 'content-type: application/json' {key}-d '{body}'")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_address_can_be_called() {
        let rows = [
            ("127.0.0.1:5052", "http://127.0.0.1:5052"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:5052", "http://[::1]:5052"),
            ("192.0.2.7:1", "http://192.0.2.7:1"),
        ];
        for (address, expected) in rows {
            assert_eq!(url(address.parse().unwrap()), expected);
        }
    }

    #[test]
    fn the_greeting_names_what_a_request_may_name() {
        let address = "127.0.0.1:5052".parse().unwrap();
        let rows: [(&[&str], &[&str], &str); 3] = [
            (&["a", "b"], &[], "serves a, b on"),
            (&["a"], &["x"], "serves a with the adapter x on"),
            (&["a", "b"], &["x", "y"], "serves a, b with the adapters x, y on"),
        ];
        for (models, adapters, expected) in rows {
            let text = greeting(Greeting { address, models, adapters, is_open: true });
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn the_shell_hands_the_body_on_as_it_is() {
        let name = "it's \"mine\" $HOME `x` \\";
        let line = curl_line("127.0.0.1:5052".parse().unwrap(), name, true);
        let script =
            format!("curl() {{ for word; do last=$word; done; printf %s \"$last\"; }}\n{line}");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(body["model"], name);
        assert_eq!(body["prompt"], PREFIX);
        assert_eq!(body["suffix"], SUFFIX);
    }
}

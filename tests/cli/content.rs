//! Whose source text is logged: in three documented cases somebody's, else nobody's.

use std::io::Read as _;

use crate::serve::Server;

const PREFIX: &str = "PrefixOfTheUser = ";
const SUFFIX: &str = "SuffixOfTheUser";
const VERBOSE: &str = "X-Gitlab-Enabled-Instance-Verbose-AI-Logs: true\r\n";
const EXPANDED: &str =
    "X-Gitlab-Realm: saas\r\nX-Gitlab-Enabled-Feature-Flags: expanded_ai_logging\r\n";
const SELF_MANAGED: &str =
    "X-Gitlab-Realm: self-managed\r\nX-Gitlab-Enabled-Feature-Flags: expanded_ai_logging\r\n";

/// Returns what a server logs of two requests, one of each dialect, until its end.
fn log(arguments: &[&str], variables: &[(&str, &str)], headers: &str) -> [String; 2] {
    let mut server = Server::start_with(arguments, variables);
    server.line("serving");
    let file = format!(
        r#"{{"current_file":{{"file_name":"a.py","content_above_cursor":"{PREFIX}","content_below_cursor":"{SUFFIX}"}}}}"#
    );
    let gap = format!(r#"{{"prompt":"{PREFIX}","suffix":"{SUFFIX}","max_tokens":4}}"#);
    for (path, body) in [("/v2/code/completions", file), ("/v1/completions", gap)] {
        let headers = format!("{headers}X-Request-Id: of{}\r\n", path.replace('/', "-"));
        let answer = server.answer_to(path, &headers, &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    server.signal("TERM");
    let mut log = String::new();
    server.log.read_to_string(&mut log).unwrap();
    ["of-v2-code-completions", "of-v1-completions"].map(|id| {
        let lines = log.lines().filter(|line| line.contains(id));
        lines.collect::<Vec<_>>().join("\n")
    })
}

#[test]
fn source_text_is_logged_in_the_documented_cases_only() {
    const CUSTOM: &[&str] = &["--custom-models"];
    const ENABLED: &[(&str, &str)] = &[("AIGW_LOGGING__ENABLE_REQUEST_LOGGING", "True")];
    const DISABLED: &[(&str, &str)] = &[("AIGW_LOGGING__ENABLE_REQUEST_LOGGING", "False")];
    const DISALLOWED: &[&str] = &["--flags-disallowed", "saas:expanded_ai_logging"];
    const NEVER: &[&str] = &["--log-content", "never", "--custom-models"];
    type Row =
        (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str, [bool; 2]);
    let rows: [Row; 10] = [
        (&[], &[], "", [false, false]),
        (&["--log-content", "always"], &[], "", [true, true]),
        (&[], ENABLED, "", [true, true]),
        (&[], DISABLED, VERBOSE, [false, false]),
        (CUSTOM, DISABLED, VERBOSE, [true, false]),
        (CUSTOM, &[], EXPANDED, [true, false]),
        (CUSTOM, &[], SELF_MANAGED, [false, false]),
        (DISALLOWED, &[], EXPANDED, [false, false]),
        (NEVER, &[], VERBOSE, [false, false]),
        (NEVER, &[], EXPANDED, [false, false]),
    ];
    for (arguments, variables, headers, expected) in rows {
        let logs = log(arguments, variables, headers);
        for (log, is_logged) in logs.iter().zip(expected) {
            let case = format!("{arguments:?} {variables:?} {headers:?}\n{log}");
            assert!(log.contains("\"request\""), "{case}");
            assert_eq!(log.contains(PREFIX), is_logged, "{case}");
            assert_eq!(log.contains(SUFFIX), is_logged, "{case}");
            assert_eq!(log.contains("\"text\":"), is_logged, "{case}");
        }
    }
}

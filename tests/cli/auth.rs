//! API keys, and a server that is not open to a network by mistake.

use crate::lacuna;

#[test]
fn a_new_key_is_shown_once_with_its_line() {
    let run = lacuna(&["keys", "new", "ada"], &[]);
    assert_eq!(run.code, Some(0));
    assert!(run.stderr.contains("in the name of ada"), "{}", run.stderr);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let &[key, line] = lines.as_slice() else { panic!("{}", run.stdout) };
    assert!(key.starts_with("lacuna-") && line.starts_with("ada:"), "{}", run.stdout);
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    let hash = digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert_eq!(line, format!("ada:{hash}"));
    assert_ne!(lacuna(&["keys", "new", "ada"], &[]).stdout, run.stdout);

    // The line is one that the server takes.
    let narrow = lacuna(&["keys", "new", "bot", "--scopes", "complete_code"], &[]).stdout;
    let narrow = narrow.lines().last().unwrap().trim();
    assert!(narrow.ends_with(" scopes=complete_code"), "{narrow}");
    let both = format!("{line};{narrow}");
    assert_eq!(lacuna(&["check-config"], &[("LACUNA_API_KEYS", &both)]).code, Some(0));
}

#[test]
fn names_and_scopes_that_a_line_cannot_hold_are_refused() {
    lacuna(&["keys", "new", "a b"], &[])
        .is_refused_with("a name is 1 to 64 letters, digits, `-`, `_`, `.`, `@`, got \"a b\"");
    lacuna(&["keys", "new", "a", "--scopes", "x=1"], &[])
        .is_refused_with("a scope is small letters and `_`, such as complete_code, got \"x=1\"");
    lacuna(&["keys", "new", "a", "--scopes", "complete_codee"], &[])
        .is_refused_with("there is no scope complete_codee; the nearest is complete_code");
}

#[test]
fn listening_on_a_network_needs_a_word() {
    let message = "`server.host` must be a loopback address such as 127.0.0.1 while nobody is asked who they are; make \
                   an API key (`lacuna keys new NAME`, --api-keys-file) or name your GitLab (--issuers), see \
                   docs/authentication.md, or let everybody in with --allow-anonymous, got 0.0.0.0";
    lacuna(&["--host", "0.0.0.0"], &[]).is_refused_with(message);
    lacuna(&["check-config"], &[("LACUNA_HOST", "0.0.0.0")]).is_refused_with(message);
    let said = [("LACUNA_HOST", "0.0.0.0"), ("LACUNA_ALLOW_ANONYMOUS", "true")];
    assert_eq!(lacuna(&["check-config"], &said).code, Some(0));
    // What does not listen does not care.
    assert_eq!(lacuna(&["print-config", "--host", "0.0.0.0"], &[]).code, Some(0));
}

#[test]
fn a_key_that_cannot_sign_is_refused_before_anything_starts() {
    let run = lacuna(&["serve"], &[("AIGW_SELF_SIGNED_JWT__SIGNING_KEY", "s3cret")]);
    assert_eq!(run.code, Some(crate::USAGE));
    assert!(run.stderr.starts_with(
        "error: `auth.signing_key_file` (from the environment) must be a private RSA key"
    ));
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    let checked = lacuna(&["check-config"], &[("LACUNA_SIGNING_KEY", "s3cret")]);
    assert_eq!((checked.code, checked.stderr), (run.code, run.stderr));
    let folder = lacuna(&["check-config"], &[("LACUNA_PROMPTS_FOLDER", "/nowhere/prompts")]);
    assert_eq!(folder.code, Some(crate::USAGE));
    assert!(folder.stderr.contains("/nowhere/prompts"), "{}", folder.stderr);
}

//! Which editor or program asks, by what it calls itself: a closed set, so that a header's words go into no label and no row.

/// What stands for a client that says nothing of itself.
pub const UNKNOWN: &str = "unknown";
/// What stands for one that no row knows.
const OTHER: &str = "other";

/// A client, and what its name holds in small letters. The first row that fits counts: a name within another stands below it.
const CLIENTS: [(&str, &[&str]); 24] = [
    ("cursor", &["cursor"]),
    ("windsurf", &["windsurf"]),
    (
        "vscode",
        &["visual studio code", "vscode", "vs code", "vscodium", "code-server", "gitlab-workflow"],
    ),
    ("visual_studio", &["visual studio", "visualstudio"]),
    (
        "jetbrains",
        &[
            "jetbrains",
            "intellij",
            "pycharm",
            "goland",
            "webstorm",
            "rubymine",
            "phpstorm",
            "clion",
            "rider",
            "datagrip",
            "rustrover",
            "android studio",
        ],
    ),
    ("neovim", &["neovim", "nvim", "gitlab.vim"]),
    ("vim", &["vim"]),
    ("emacs", &["emacs", "minuet"]),
    ("eclipse", &["eclipse"]),
    ("xcode", &["xcode"]),
    ("zed", &["zed"]),
    ("sublime", &["sublime"]),
    ("web_ide", &["web ide", "web-ide"]),
    ("continue", &["continue"]),
    ("twinny", &["twinny"]),
    ("tabby", &["tabby"]),
    ("llm_ls", &["llm-ls"]),
    ("lacuna", &["lacuna"]),
    ("gitlab", &["gitlab"]),
    ("openai_sdk", &["openai"]),
    ("curl", &["curl"]),
    ("python", &["python", "httpx"]),
    ("node", &["node", "axios", "undici"]),
    ("browser", &["mozilla"]),
];

/// Returns the word for a client: by the name that it gives itself, else by its `User-Agent`.
pub fn client(name: Option<&str>, user_agent: Option<&str>) -> &'static str {
    let of = |text: Option<&str>| {
        let text = text?.trim().to_ascii_lowercase();
        let fits = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        let known = CLIENTS.iter().find(|(_, parts)| fits(parts)).map(|(word, _)| *word);
        (!text.is_empty()).then_some(known.unwrap_or(OTHER))
    };
    match (of(name), of(user_agent)) {
        (Some(word), _) if word != OTHER => word,
        (_, Some(word)) => word,
        (Some(word), None) => word,
        (None, None) => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_known_by_their_names_and_others_are_one() {
        let rows = [
            (Some("Visual Studio Code"), None, "vscode"),
            (Some("Visual Studio"), None, "visual_studio"),
            (Some("IntelliJ IDEA 2026.1"), None, "jetbrains"),
            (None, Some("gitlab-language-server:8.1.0 (Neovim:0.11)"), "neovim"),
            (None, Some("gitlab-language-server:8.1.0"), "gitlab"),
            (None, Some("curl/8.5.0"), "curl"),
            (Some("something"), Some("OpenAI/Python 2.1"), "openai_sdk"),
            (Some("something"), None, "other"),
            (Some("fn main() {}"), Some("let secret = 1;"), "other"),
            (Some(" "), None, "unknown"),
            (None, None, "unknown"),
        ];
        for (name, user_agent, expected) in rows {
            assert_eq!(client(name, user_agent), expected, "{name:?} {user_agent:?}");
        }
    }

    #[test]
    fn every_row_is_reached_by_its_first_name() {
        for (word, parts) in CLIENTS {
            assert_eq!(client(Some(parts[0]), None), word);
        }
    }
}

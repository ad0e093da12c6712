//! Programming languages: how a file's name or an editor's id tells one, and what it is called.

/// One row of the table of languages.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// Name in prompts, logs and answers, lower case.
    name: &'static str,
    /// Ids that editors use, lower case.
    editor_ids: &'static [&'static str],
    /// File extensions, lower case, without the dot.
    extensions: &'static [&'static str],
    /// Whole file names, lower case.
    file_names: &'static [&'static str],
    /// What begins a comment to the end of the line.
    line_comment: &'static str,
}

/// A known language; compares by identity of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Language(&'static Row);

impl Language {
    /// Returns the language of a file, by its extension or whole name, else by the editor's id.
    pub fn detect(file_name: &str, editor_id: Option<&str>) -> Option<Self> {
        let name = file_name.rsplit(['/', '\\']).next().unwrap_or(file_name).to_ascii_lowercase();
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        let editor_id = editor_id.map(str::to_ascii_lowercase);
        let by_name = ROWS.iter().find(|row| {
            row.file_names.contains(&name.as_str())
                || extension.is_some_and(|extension| row.extensions.contains(&extension))
        });
        let by_editor = || {
            let id = editor_id.as_deref()?;
            ROWS.iter().find(|row| row.name == id || row.editor_ids.contains(&id))
        };
        by_name.or_else(by_editor).map(Self)
    }

    /// Returns the name, lower case: `python`, `cpp`.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns what begins a comment to the end of the line.
    pub fn line_comment(self) -> &'static str {
        self.0.line_comment
    }
}

/// Names follow the gateway's published enumeration where it has one (`js`, `ts`, `cpp`, `csharp`).
const ROWS: &[Row] = &[
    Row {
        name: "c",
        editor_ids: &["c"],
        extensions: &["c", "h"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "cpp",
        editor_ids: &["cpp", "c++"],
        extensions: &["cc", "cpp", "cxx", "hpp", "hh", "hxx", "h++", "c++", "cu", "cuh"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "csharp",
        editor_ids: &["csharp", "c#"],
        extensions: &["cs"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "go",
        editor_ids: &["go", "golang"],
        extensions: &["go"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "java",
        editor_ids: &["java"],
        extensions: &["java"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "js",
        editor_ids: &["javascript", "javascriptreact"],
        extensions: &["js", "jsx", "mjs", "cjs"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "kotlin",
        editor_ids: &["kotlin"],
        extensions: &["kt", "kts"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "php",
        editor_ids: &["php"],
        extensions: &["php", "phtml"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "python",
        editor_ids: &["python"],
        extensions: &["py", "pyi", "pyw"],
        file_names: &["sconstruct"],
        line_comment: "#",
    },
    Row {
        name: "ruby",
        editor_ids: &["ruby"],
        extensions: &["rb", "rake", "gemspec"],
        file_names: &["gemfile", "rakefile"],
        line_comment: "#",
    },
    Row {
        name: "rust",
        editor_ids: &["rust"],
        extensions: &["rs"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "scala",
        editor_ids: &["scala"],
        extensions: &["scala", "sc"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "shell",
        editor_ids: &["shellscript", "sh", "bash", "zsh"],
        extensions: &["sh", "bash", "zsh"],
        file_names: &[".bashrc", ".zshrc"],
        line_comment: "#",
    },
    Row {
        name: "sql",
        editor_ids: &["sql"],
        extensions: &["sql"],
        file_names: &[],
        line_comment: "--",
    },
    Row {
        name: "swift",
        editor_ids: &["swift"],
        extensions: &["swift"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "ts",
        editor_ids: &["typescript", "typescriptreact"],
        extensions: &["ts", "tsx", "mts", "cts"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "lua",
        editor_ids: &["lua"],
        extensions: &["lua"],
        file_names: &[],
        line_comment: "--",
    },
    Row {
        name: "haskell",
        editor_ids: &["haskell"],
        extensions: &["hs"],
        file_names: &[],
        line_comment: "--",
    },
    Row {
        name: "perl",
        editor_ids: &["perl"],
        extensions: &["pl", "pm"],
        file_names: &[],
        line_comment: "#",
    },
    Row { name: "r", editor_ids: &["r"], extensions: &["r"], file_names: &[], line_comment: "#" },
    Row {
        name: "dart",
        editor_ids: &["dart"],
        extensions: &["dart"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "zig",
        editor_ids: &["zig"],
        extensions: &["zig"],
        file_names: &[],
        line_comment: "//",
    },
    Row {
        name: "terraform",
        editor_ids: &["terraform", "hcl"],
        extensions: &["tf", "hcl", "tfvars"],
        file_names: &[],
        line_comment: "#",
    },
    Row {
        name: "toml",
        editor_ids: &["toml"],
        extensions: &["toml"],
        file_names: &[],
        line_comment: "#",
    },
    Row {
        name: "yaml",
        editor_ids: &["yaml", "dockercompose"],
        extensions: &["yaml", "yml"],
        file_names: &[],
        line_comment: "#",
    },
    Row {
        name: "dockerfile",
        editor_ids: &["dockerfile"],
        extensions: &["dockerfile"],
        file_names: &["dockerfile", "containerfile"],
        line_comment: "#",
    },
    Row {
        name: "makefile",
        editor_ids: &["makefile"],
        extensions: &["mk", "mak"],
        file_names: &["makefile", "gnumakefile"],
        line_comment: "#",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_by_path_then_by_editor() {
        let rows = [
            ("src/main.rs", None, Some("rust")),
            ("C:\\work\\App.TSX", None, Some("ts")),
            ("Makefile", None, Some("makefile")),
            ("notes", Some("Python"), Some("python")),
            ("a.py", Some("rust"), Some("python")),
            ("notes.unknown", None, None),
            ("", None, None),
        ];
        for (file_name, editor_id, expected) in rows {
            let found = Language::detect(file_name, editor_id).map(Language::name);
            assert_eq!(found, expected, "{file_name}");
        }
    }
}

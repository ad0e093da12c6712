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
    /// How comments are spelled.
    comments: Comments,
    /// The grammar that its files are parsed by.
    grammar: Option<Grammar>,
}

/// How a language spells comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comments {
    /// What begins a comment to the end of the line.
    pub line: Option<&'static str>,
    /// What begins and what ends a comment that may stand anywhere.
    pub block: Option<(&'static str, &'static str)>,
}

const C_LIKE: Comments = Comments { line: Some("//"), block: Some(("/*", "*/")) };
const HASH: Comments = Comments { line: Some("#"), block: None };

/// The grammars that there are; `syntax` knows what each says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grammar {
    /// C.
    C,
    /// C++.
    Cpp,
    /// C#.
    CSharp,
    /// Go.
    Go,
    /// Java.
    Java,
    /// JavaScript, with JSX.
    JavaScript,
    /// Kotlin.
    Kotlin,
    /// PHP.
    Php,
    /// Python.
    Python,
    /// Ruby.
    Ruby,
    /// Rust.
    Rust,
    /// Scala.
    Scala,
    /// TypeScript with elements of JSX.
    Tsx,
    /// TypeScript.
    TypeScript,
}

impl Grammar {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::C,
        Self::Cpp,
        Self::CSharp,
        Self::Go,
        Self::Java,
        Self::JavaScript,
        Self::Kotlin,
        Self::Php,
        Self::Python,
        Self::Ruby,
        Self::Rust,
        Self::Scala,
        Self::Tsx,
        Self::TypeScript,
    ];
}

/// A known language; compares by identity of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Language(&'static Row);

impl Language {
    /// Returns whether a language has this name; some names are several rows'.
    pub fn is_name(name: &str) -> bool {
        ROWS.iter().any(|row| row.name == name)
    }

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

    /// Returns the language of a script, by the program that its first line asks for: `#!/usr/bin/env python3`.
    pub fn of_script(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("#!")?;
        let mut words = line.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word));
        // `env` may have options and variables before the program.
        let is_program =
            |word: &&str| !word.starts_with('-') && !word.contains('=') && *word != "env";
        let program = words.find(is_program)?;
        let program = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        let by_program = INTERPRETERS.iter().find(|(name, _)| *name == program);
        let name = by_program.map_or(program, |(_, language)| language);
        ROWS.iter().find(|row| row.name == name).map(Self)
    }

    /// Returns whether a file is Markdown, in which a fence of code is text.
    pub fn is_markdown(file_name: &str) -> bool {
        let extension = file_name.rsplit_once('.').map(|(_, extension)| extension);
        let is = |known: &str| extension.is_some_and(|own| own.eq_ignore_ascii_case(known));
        ["md", "markdown", "mdx", "mkd", "qmd", "rmd"].into_iter().any(is)
    }

    /// Returns the name, lower case: `python`, `cpp`.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns how comments are spelled.
    pub fn comments(self) -> Comments {
        self.0.comments
    }

    /// Returns the grammar of its files, if there is one.
    pub fn grammar(self) -> Option<Grammar> {
        self.0.grammar
    }

    /// Returns all languages, one for each row of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(Self)
    }
}

/// Programs that have another name than their language.
const INTERPRETERS: &[(&str, &str)] = &[
    ("bash", "shell"),
    ("bun", "ts"),
    ("dash", "shell"),
    ("deno", "ts"),
    ("ksh", "shell"),
    ("node", "js"),
    ("nodejs", "js"),
    ("pypy", "python"),
    ("Rscript", "r"),
    ("runghc", "haskell"),
    ("sh", "shell"),
    ("zsh", "shell"),
];

/// Names follow the gateway's published enumeration where it has one (`js`, `ts`, `cpp`, `csharp`).
const ROWS: &[Row] = &[
    Row {
        name: "c",
        editor_ids: &["c"],
        extensions: &["c", "h"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::C),
    },
    Row {
        name: "cpp",
        editor_ids: &["cpp", "c++"],
        extensions: &["cc", "cpp", "cxx", "hpp", "hh", "hxx", "h++", "c++", "cu", "cuh"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::Cpp),
    },
    Row {
        name: "csharp",
        editor_ids: &["csharp", "c#"],
        extensions: &["cs"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::CSharp),
    },
    Row {
        name: "go",
        editor_ids: &["go", "golang"],
        extensions: &["go"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::Go),
    },
    Row {
        name: "java",
        editor_ids: &["java"],
        extensions: &["java"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::Java),
    },
    Row {
        name: "js",
        editor_ids: &["javascript", "javascriptreact"],
        extensions: &["js", "jsx", "mjs", "cjs"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::JavaScript),
    },
    Row {
        name: "kotlin",
        editor_ids: &["kotlin"],
        extensions: &["kt", "kts"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::Kotlin),
    },
    Row {
        name: "php",
        editor_ids: &["php"],
        extensions: &["php", "phtml"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::Php),
    },
    Row {
        name: "python",
        editor_ids: &["python"],
        extensions: &["py", "pyi", "pyw"],
        file_names: &["sconstruct"],
        comments: HASH,
        grammar: Some(Grammar::Python),
    },
    Row {
        name: "ruby",
        editor_ids: &["ruby"],
        extensions: &["rb", "rake", "gemspec"],
        file_names: &["gemfile", "rakefile"],
        comments: HASH,
        grammar: Some(Grammar::Ruby),
    },
    Row {
        name: "rust",
        editor_ids: &["rust"],
        extensions: &["rs"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::Rust),
    },
    Row {
        name: "scala",
        editor_ids: &["scala"],
        extensions: &["scala", "sc"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::Scala),
    },
    Row {
        name: "shell",
        editor_ids: &["shellscript", "sh", "bash", "zsh"],
        extensions: &["sh", "bash", "zsh"],
        file_names: &[".bashrc", ".zshrc"],
        comments: HASH,
        grammar: None,
    },
    Row {
        name: "sql",
        editor_ids: &["sql"],
        extensions: &["sql"],
        file_names: &[],
        comments: Comments { line: Some("--"), block: Some(("/*", "*/")) },
        grammar: None,
    },
    Row {
        name: "swift",
        editor_ids: &["swift"],
        extensions: &["swift"],
        file_names: &[],
        comments: C_LIKE,
        grammar: None,
    },
    Row {
        name: "ts",
        editor_ids: &["typescript"],
        extensions: &["ts", "mts", "cts"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::TypeScript),
    },
    // TypeScript by name, with a grammar of its own: `<T>x` is a cast in one and an element in the other.
    Row {
        name: "ts",
        editor_ids: &["typescriptreact"],
        extensions: &["tsx"],
        file_names: &[],
        comments: C_LIKE,
        grammar: Some(Grammar::Tsx),
    },
    Row {
        name: "lua",
        editor_ids: &["lua"],
        extensions: &["lua"],
        file_names: &[],
        comments: Comments { line: Some("--"), block: Some(("--[[", "]]")) },
        grammar: None,
    },
    Row {
        name: "haskell",
        editor_ids: &["haskell"],
        extensions: &["hs"],
        file_names: &[],
        comments: Comments { line: Some("--"), block: Some(("{-", "-}")) },
        grammar: None,
    },
    Row {
        name: "perl",
        editor_ids: &["perl"],
        extensions: &["pl", "pm"],
        file_names: &[],
        comments: HASH,
        grammar: None,
    },
    Row {
        name: "r",
        editor_ids: &["r"],
        extensions: &["r"],
        file_names: &[],
        comments: HASH,
        grammar: None,
    },
    Row {
        name: "dart",
        editor_ids: &["dart"],
        extensions: &["dart"],
        file_names: &[],
        comments: C_LIKE,
        grammar: None,
    },
    Row {
        name: "zig",
        editor_ids: &["zig"],
        extensions: &["zig"],
        file_names: &[],
        comments: Comments { line: Some("//"), block: None },
        grammar: None,
    },
    Row {
        name: "terraform",
        editor_ids: &["terraform", "hcl"],
        extensions: &["tf", "hcl", "tfvars"],
        file_names: &[],
        comments: Comments { line: Some("#"), block: Some(("/*", "*/")) },
        grammar: None,
    },
    Row {
        name: "toml",
        editor_ids: &["toml"],
        extensions: &["toml"],
        file_names: &[],
        comments: HASH,
        grammar: None,
    },
    Row {
        name: "yaml",
        editor_ids: &["yaml", "dockercompose"],
        extensions: &["yaml", "yml"],
        file_names: &[],
        comments: HASH,
        grammar: None,
    },
    Row {
        name: "dockerfile",
        editor_ids: &["dockerfile"],
        extensions: &["dockerfile"],
        file_names: &["dockerfile", "containerfile"],
        comments: HASH,
        grammar: None,
    },
    Row {
        name: "makefile",
        editor_ids: &["makefile"],
        extensions: &["mk", "mak"],
        file_names: &["makefile", "gnumakefile"],
        comments: HASH,
        grammar: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_a_script_by_its_first_line() {
        let rows = [
            ("#!/usr/bin/env python3\nimport os", Some("python")),
            ("#!/usr/bin/env -S FOO=1 node --flag", Some("js")),
            ("#! /bin/sh", Some("shell")),
            ("#!/usr/bin/python3.12 -u", Some("python")),
            ("#!/usr/bin/awk -f", None),
            ("#!", None),
            ("# python", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(Language::of_script(text).map(Language::name), expected, "{text}");
        }
    }

    #[test]
    fn markdown_is_told_by_its_extension() {
        for (name, expected) in [("a/README.md", true), ("x.MarkDown", true), ("md", false)] {
            assert_eq!(Language::is_markdown(name), expected, "{name}");
        }
    }

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

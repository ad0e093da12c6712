//! `lacuna models list`: the table of families, for people and for programs.

use anyhow::Context as _;
use clap::Args;
use models::arch;
use serde::Serialize;

use crate::{
    cli::{CliError, print},
    prompt::{
        Family,
        family::{FAMILIES, FilesPlace},
    },
};

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Print everything that is known of each family, as JSON.
    #[arg(long)]
    json: bool,
}

/// A family, and whether this build runs its architecture.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    family: &'static Family,
    is_run: bool,
}

const COLUMNS: [&str; 8] =
    ["family", "gap", "other files", "context", "runs", "gated", "licence", "models"];

const NOTE: &str = "
gap: psm shows the text before the cursor first, spm the one after it; - was not trained to fill gaps.
other files: before the gap (the edited file's path with them, or in the prefix), in the prefix, or not shown.
runs: whether the architecture is one of Lacuna's.
gated: the hub asks to accept the licence first.   --json has sentinels, stops and sources; docs/models.md says more.
";

/// Prints the table.
///
/// # Errors
/// [`CliError::Failed`] where standard output does not take it.
pub(super) fn run(arguments: &ListArgs) -> Result<(), CliError> {
    let rows: Vec<Row> =
        FAMILIES.iter().map(|family| Row { family, is_run: is_run(family) }).collect();
    if arguments.json {
        let json = serde_json::to_string_pretty(&rows).context("cannot write the families")?;
        return print(&format!("{json}\n"));
    }
    print(&format!("{}{NOTE}", table(&rows)))
}

fn is_run(family: &Family) -> bool {
    family.signs.architectures.iter().any(|name| arch::find(name).is_some())
}

fn cells(row: &Row) -> [String; COLUMNS.len()] {
    let family = row.family;
    let fim = family.fim();
    let files = match fim.and_then(|fim| fim.files).map(|files| files.place) {
        Some(FilesPlace::BeforeGap) => "before",
        Some(FilesPlace::AroundPrefixSentinel) => "before, path in prefix",
        Some(FilesPlace::InPrefix) => "in prefix",
        None => "-",
    };
    let word = |is: bool| if is { "yes" } else { "no" };
    [
        family.name.to_owned(),
        fim.map_or("-", |fim| fim.order.as_label()).to_owned(),
        files.to_owned(),
        family.context_tokens.to_string(),
        word(row.is_run).to_owned(),
        family.is_gated.map_or("?", word).to_owned(),
        family.licence.to_owned(),
        family.models.to_owned(),
    ]
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![COLUMNS.map(ToOwned::to_owned)];
    lines.extend(rows.iter().map(cells));
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::family::by_name;

    fn row(name: &str) -> Row {
        let family = by_name(name).unwrap();
        Row { family, is_run: is_run(family) }
    }

    #[test]
    fn says_how_each_family_fills_gaps_and_whether_it_runs() {
        let rows = [
            ("codestral", ["spm", "in prefix", "32768", "yes", "yes"]),
            ("qwen2.5-coder", ["psm", "before", "32768", "yes", "no"]),
            ("qwen2.5", ["-", "-", "32768", "yes", "no"]),
            ("starcoder2", ["psm", "before, path in prefix", "16384", "yes", "no"]),
            ("opencoder", ["-", "-", "4096", "yes", "no"]),
            ("starcoder", ["psm", "-", "8192", "no", "yes"]),
            ("stable-code", ["psm", "-", "16384", "no", "?"]),
        ];
        for (name, expected) in rows {
            assert_eq!(cells(&row(name))[1..6], expected.map(ToOwned::to_owned), "{name}");
        }
    }

    #[test]
    fn columns_stand_below_one_another() {
        let text = table(&[row("codestral"), row("qwen2.5-coder")]);
        let starts: Vec<_> = text
            .lines()
            .map(|line| line.find("psm").or(line.find("spm")).or(line.find("gap")))
            .collect();
        assert_eq!(starts, [starts[0]; 3]);
    }

    #[test]
    fn the_models_page_has_every_family_and_its_licence() {
        let page = include_str!("../../../docs/models.md");
        for family in FAMILIES {
            let begin = format!("| `{}` |", family.name);
            let row = page.lines().find(|line| line.starts_with(&begin));
            let row = row.unwrap_or_else(|| panic!("docs/models.md lacks {}", family.name));
            // A sentinel's own `|` is written `\\|`.
            let row = row.replace("\\|", "");
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, _, gap, files, bos, licence, gated, ..] = cells[..] else { panic!("{row}") };
            let yes_or_no = |is: bool| if is { "yes" } else { "no" };
            assert_eq!(licence, family.licence, "{row}");
            assert_eq!(gated, family.is_gated.map_or("?", yes_or_no), "{row}");
            let fim = family.fim();
            assert_eq!(gap.starts_with("not trained"), fim.is_none(), "{row}");
            assert_eq!(files == "–", fim.is_none_or(|fim| fim.files.is_none()), "{row}");
            let has_bos = fim.map_or("–", |fim| yes_or_no(fim.bos.is_some()));
            assert_eq!(bos, has_bos, "{row}");
        }
    }

    #[test]
    fn json_has_the_sentinels() {
        let json = serde_json::to_value(row("codestral")).unwrap();
        assert_eq!(json["name"], "codestral");
        assert_eq!(json["training"]["fim"]["suffix"], "[SUFFIX]");
        assert_eq!(json["training"]["fim"]["order"], "spm");
        assert_eq!(json["is_run"], true);
        let json = serde_json::to_value(row("opencoder")).unwrap();
        assert!(json["training"]["without"].is_string());
    }
}

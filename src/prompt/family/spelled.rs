//! Gaps that a text spells: `<|fim_prefix|>a = <|fim_suffix|>\n<|fim_middle|>`, in any family's form.
//!
//! Clients and gateways that know plain texts only write a prompt of a family that they guessed. What is around the
//! cursor is read back from it, and the loaded model is asked in its own form.

use crate::{
    completion::ContextItem,
    prompt::family::{FAMILIES, FileMark, FilesForm, FilesPlace, Fim},
};

/// Other files of a gap, as many as GitLab's dialect takes: those far from the gap have no room anyway.
const CONTEXT_ITEMS_MAX: usize = 100;

/// What a text says that spells a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpelledGap {
    /// Text before the cursor.
    pub prefix: String,
    /// Text after the cursor.
    pub suffix: String,
    /// Name of the repository, where the form has one.
    pub repository: Option<String>,
    /// Path of the edited file, where the form names it.
    pub file_name: Option<String>,
    /// Other files, the last one first: the nearest to the gap is the most useful.
    pub context: Vec<ContextItem>,
}

/// Returns the gap that a text is a prompt for; `None` where it is anything else.
pub fn spelled_gap(text: &str) -> Option<SpelledGap> {
    FAMILIES.iter().filter_map(|family| family.fim()).find_map(|fim| read(fim, text))
}

fn read(fim: &Fim<'_>, text: &str) -> Option<SpelledGap> {
    let text = text.trim_start();
    let text = fim.bos.and_then(|bos| text.strip_prefix(bos)).unwrap_or(text).trim_start();
    if !begins_as_prompt(fim, text) {
        return None;
    }
    let (head, gap) = split_head(fim, text)?;
    let (prefix, suffix) = sides(fim, gap)?;
    let mut spelled = SpelledGap {
        prefix,
        suffix: suffix.to_owned(),
        repository: None,
        file_name: None,
        context: Vec::new(),
    };
    if !head.is_empty() {
        read_head(fim, head, &mut spelled)?;
    }
    if let Some(FilesForm { file: FileMark::Text(mark), place: FilesPlace::InPrefix, .. }) =
        fim.files
    {
        read_files_in_prefix(mark, &mut spelled);
    }
    Some(spelled)
}

/// Returns whether a text begins with what begins a prompt of this form: most texts are no prompt, and are not searched
/// to their end once for each family.
fn begins_as_prompt(fim: &Fim<'_>, text: &str) -> bool {
    let begins = |token: &str| text.starts_with(token.trim_start_matches(SPACE));
    let of_files = fim.files.is_some_and(|files| {
        let is_mark = matches!(files.file, FileMark::Token(mark) if begins(mark));
        is_mark || files.repo_name.is_some_and(|(token, _)| begins(token))
    });
    begins(fim.prefix) || begins(fim.suffix) || of_files
}

/// Cuts off what is before the gap's first sentinel: other files, or nothing. A file that speaks of that sentinel, or a
/// gap that does, leaves open where the gap is.
fn split_head<'t>(fim: &Fim<'_>, text: &'t str) -> Option<(&'t str, &'t str)> {
    let starts =
        [fim.prefix, fim.suffix].map(|token| find(text, token).map(|found| (found, token)));
    let ((start, end), token) = starts.into_iter().flatten().min()?;
    let is_open = start > 0 && find(&text[end..], token).is_some();
    (!is_open).then(|| text.split_at(start))
}

/// Returns the texts of both sides; what follows the middle sentinel was typed already and ends the prefix.
fn sides<'t>(fim: &Fim<'_>, gap: &'t str) -> Option<(String, &'t str)> {
    if let Some(rest) = begins(gap, fim.prefix) {
        // Without a middle sentinel the answer goes on from the prefix, which then comes last.
        let middle = fim.middle?;
        let (prefix, rest) = cut(rest, fim.suffix)?;
        let (suffix, typed) = cut_last(rest, middle)?;
        return Some((format!("{}{typed}", without_blank(fim, prefix)), suffix));
    }
    let rest = begins(gap, fim.suffix)?;
    let (suffix, rest) = cut(rest, fim.prefix)?;
    let prefix = without_blank(fim, rest);
    let Some(middle) = fim.middle else { return Some((prefix.to_owned(), suffix)) };
    let (prefix, typed) = cut_last(prefix, middle)?;
    Some((format!("{prefix}{typed}"), suffix))
}

/// Reads the repository and other files.
fn read_head(fim: &Fim<'_>, head: &str, spelled: &mut SpelledGap) -> Option<()> {
    let files = fim.files.filter(|files| files.place != FilesPlace::InPrefix)?;
    let FileMark::Token(mark) = files.file else { return None };
    let mut parts = head.split(mark);
    let name = parts.next()?;
    let repository = files.repo_name.and_then(|(token, _)| name.strip_prefix(token));
    if repository.is_none() && !name.trim().is_empty() {
        return None;
    }
    spelled.repository =
        repository.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let mut context: Vec<ContextItem> = parts
        .map(|part| {
            let (path, content) = part.split_once('\n').unwrap_or((part, ""));
            ContextItem { name: path.trim().to_owned(), content: content.to_owned() }
        })
        .collect();
    // The last one is the edited file, whose text is the gap's; its path may stand behind the sentinel.
    if let Some(mut current) = context.pop() {
        let is_bare = current.name.is_empty() && current.content.is_empty();
        if files.place == FilesPlace::AroundPrefixSentinel && is_bare {
            let (path, code) = spelled.prefix.split_once('\n')?;
            (current.name, spelled.prefix) = (path.trim().to_owned(), code.to_owned());
        }
        spelled.file_name = Some(current.name).filter(|name| !name.is_empty());
        spelled.prefix.insert_str(0, &current.content);
    }
    spelled.context = context.into_iter().rev().take(CONTEXT_ITEMS_MAX).collect();
    Some(())
}

/// Cuts other files off the beginning of the prefix, where the form has them there; the last one is the edited file.
fn read_files_in_prefix(mark: &str, spelled: &mut SpelledGap) {
    let Some(files) = spelled.prefix.strip_prefix(mark) else { return };
    let line_mark = format!("\n{mark}");
    let mut others: Vec<&str> = files.split(&line_mark).collect();
    // Without a line end the path itself is being typed.
    let Some((path, code)) = others.pop().and_then(|file| file.split_once('\n')) else { return };
    let item = |file: &str| {
        let (path, content) = file.split_once('\n').unwrap_or((file, ""));
        // An empty line ends a file that another follows.
        let content = content.strip_suffix('\n').unwrap_or(content);
        ContextItem { name: path.trim().to_owned(), content: content.to_owned() }
    };
    spelled.context = others.into_iter().rev().take(CONTEXT_ITEMS_MAX).map(item).collect();
    spelled.file_name = Some(path.trim().to_owned()).filter(|path| !path.is_empty());
    spelled.prefix = code.to_owned();
}

/// A mark of SentencePiece is a space in texts, which many leave out.
const SPACE: char = '▁';

/// Returns where a sentinel stands first, and where it ends.
fn find(text: &str, token: &str) -> Option<(usize, usize)> {
    text.find(token.trim_start_matches(SPACE)).map(|start| place(text, start, token))
}

/// Takes the space along that belongs to the sentinel.
fn place(text: &str, start: usize, token: &str) -> (usize, usize) {
    let spelling = token.trim_start_matches(SPACE);
    let has_space = spelling.len() < token.len() && text[..start].ends_with(' ');
    (start - usize::from(has_space), start + spelling.len())
}

fn begins<'t>(text: &'t str, token: &str) -> Option<&'t str> {
    let (start, end) = find(text, token)?;
    (start == 0).then(|| &text[end..])
}

fn cut<'t>(text: &'t str, token: &str) -> Option<(&'t str, &'t str)> {
    let (start, end) = find(text, token)?;
    Some((&text[..start], &text[end..]))
}

/// A file may speak of sentinels, as this one does: the last one is the prompt's own.
fn cut_last<'t>(text: &'t str, token: &str) -> Option<(&'t str, &'t str)> {
    let start = text.rfind(token.trim_start_matches(SPACE))?;
    let (start, end) = place(text, start, token);
    Some((&text[..start], &text[end..]))
}

/// Code Llama's form has a space behind its first sentinel that is not the file's.
fn without_blank<'t>(fim: &Fim<'_>, prefix: &'t str) -> &'t str {
    let has_blank = fim.prefix.starts_with(SPACE);
    prefix.strip_prefix(' ').filter(|_| has_blank).unwrap_or(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &str)>) {
        let found = spelled_gap(text).map(|gap| (gap.prefix, gap.suffix));
        let expected = expected.map(|(prefix, suffix)| (prefix.to_owned(), suffix.to_owned()));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn every_familys_own_form_is_read_in_both_orders() {
        let mut forms = Vec::new();
        for fim in FAMILIES.iter().filter_map(|family| family.fim()) {
            // Only the mark in front is a space of the text.
            let spelling = |token: &str| {
                token.strip_prefix(SPACE).map_or(token.to_owned(), |rest| format!(" {rest}"))
            };
            let [prefix, suffix] = [fim.prefix, fim.suffix].map(spelling);
            let Some(middle) = fim.middle.map(spelling) else {
                check(&format!("{suffix}S{prefix}P q"), Some(("P q", "S")));
                check(&format!("{prefix}P q{suffix}S"), None);
                continue;
            };
            let blank = if fim.prefix.starts_with(SPACE) { " " } else { "" };
            let bos = fim.bos.unwrap_or("");
            for form in [
                format!("{bos}{prefix}{blank}P q{suffix}S\n{middle}"),
                format!("{suffix}S\n{prefix}{blank}P{middle} q"),
            ] {
                check(&form, Some(("P q", "S\n")));
                forms.push(form);
            }
            check(&format!("{prefix}P{middle}S{suffix}"), None);
            check(&format!("{prefix}P{suffix}S"), None);
            check(&format!("Explain {prefix}P{suffix}S{middle}"), None);
        }
        assert!(forms.len() > 20);
    }

    #[test]
    fn spaces_and_ends_are_read_as_clients_write_them() {
        let rows = [
            ("<PRE> def f():\n <SUF>\n <MID>", ("def f():\n", "\n")),
            ("<PRE> def f():\n <SUF>\n<MID>", ("def f():\n", "\n")),
            ("[SUFFIX][PREFIX]", ("", "")),
            ("<s>[SUFFIX]\n[PREFIX]+++++ a.py\nx = ", ("x = ", "\n")),
            ("<s> [SUFFIX]\n[PREFIX]a +++++ b", ("a +++++ b", "\n")),
            ("\n <|fim_prefix|>  a<|fim_suffix|> b <|fim_middle|>c", ("  ac", " b ")),
            (
                "<|fim_prefix|>a<|fim_suffix|>b <|fim_middle|> in a text<|fim_middle|>",
                ("a", "b <|fim_middle|> in a text"),
            ),
        ];
        for (text, expected) in rows {
            check(text, Some(expected));
        }
        for text in ["", "hello", "<|fim_prefix|>", "what does <|fim_prefix|> mean?", "[PREFIX]a"] {
            check(text, None);
        }
    }

    #[test]
    fn other_files_come_along() {
        let text = "<|repo_name|>shop\n<|file_sep|>a.py\na = 1\n<|file_sep|>b.py\nb = 2\n<|file_sep|>c.py\n<|fim_prefix|>c = <|fim_suffix|>\n<|fim_middle|>";
        let item = |name: &str, content: &str| ContextItem {
            name: name.to_owned(),
            content: content.to_owned(),
        };
        let expected = SpelledGap {
            prefix: "c = ".to_owned(),
            suffix: "\n".to_owned(),
            repository: Some("shop".to_owned()),
            file_name: Some("c.py".to_owned()),
            context: vec![item("b.py", "b = 2\n"), item("a.py", "a = 1\n")],
        };
        assert_eq!(spelled_gap(text), Some(expected));
        let bare =
            spelled_gap("<file_sep>c.py\nx\n<fim_prefix>c = <fim_suffix><fim_middle>").unwrap();
        assert_eq!((bare.prefix.as_str(), bare.file_name.as_deref()), ("x\nc = ", Some("c.py")));
        assert_eq!(bare.context, []);
        let trained =
            "<file_sep>a.py\na = 1\n<file_sep><fim_prefix>c.py\nc = <fim_suffix>\n<fim_middle>";
        let trained = spelled_gap(trained).unwrap();
        assert_eq!((trained.prefix.as_str(), trained.file_name.as_deref()), ("c = ", Some("c.py")));
        assert_eq!(trained.context, [item("a.py", "a = 1\n")]);
    }

    #[test]
    fn files_inside_the_prefix_come_along() {
        let text =
            "<s>[SUFFIX]\n[PREFIX]+++++ a.py\na = 1\n\n+++++ b.py\nb = 2\n+++++ c/d.py\n\nc = ";
        let item = |name: &str, content: &str| ContextItem {
            name: name.to_owned(),
            content: content.to_owned(),
        };
        let expected = SpelledGap {
            prefix: "\nc = ".to_owned(),
            suffix: "\n".to_owned(),
            repository: None,
            file_name: Some("c/d.py".to_owned()),
            context: vec![item("b.py", "b = 2"), item("a.py", "a = 1")],
        };
        assert_eq!(spelled_gap(text), Some(expected));
        let many = format!("[SUFFIX][PREFIX]{}", "+++++ a\nb\n".repeat(1000));
        assert_eq!(spelled_gap(&many).unwrap().context.len(), CONTEXT_ITEMS_MAX);
    }

    #[test]
    fn a_sentinel_in_another_file_moves_no_gap() {
        let file = "<|file_sep|>a.py\n";
        let gap = "<|file_sep|>c.py\n<|fim_prefix|>c = <|fim_suffix|>\n<|fim_middle|>";
        check(&format!("{file}{gap}"), Some(("c = ", "\n")));
        for sentinel in ["<|fim_prefix|>", "<|fim_suffix|>"] {
            check(&format!("{file}x = '{sentinel}'\n{gap}"), None);
        }
        check(&format!("{file}x = '<|fim_middle|>'\n{gap}"), Some(("c = ", "\n")));
    }
}

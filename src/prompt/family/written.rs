//! A family's prompt as one plain text, for services elsewhere that read control tokens in the texts they are sent.
//!
//! There a user's text could write one too, so what spells a control token is broken up before the text is put together.

use std::borrow::Cow;

use crate::prompt::family::{FileMark, Fim, Order};

/// A mark of SentencePiece is a space in texts.
const SPACE: char = '▁';

/// Returns the text that asks a model of this family to fill a gap. It has no BOS, which services write themselves.
pub fn written_gap(fim: &Fim<'_>, prefix: &str, suffix: &str) -> String {
    // Code Llama's form has a space behind its first sentinel that is not the file's.
    let blank = if fim.prefix.starts_with(SPACE) { " " } else { "" };
    let before = [&spelled(fim.prefix), blank, prefix].concat();
    let after = [&spelled(fim.suffix), suffix].concat();
    let middle = fim.middle.map(spelled).unwrap_or_default();
    let text = match fim.order {
        Order::Psm => [before, after, middle].concat(),
        Order::Spm => [after, before, middle].concat(),
    };
    // The first sentinel's space is what the tokenizer writes at the beginning.
    text.strip_prefix(' ').filter(|_| blank == " ").map(str::to_owned).unwrap_or(text)
}

/// Returns what spells a control token of this family, the longest first.
pub fn control_texts<'f>(fim: &Fim<'f>) -> Vec<&'f str> {
    let mut texts = vec![fim.prefix, fim.suffix];
    texts.extend(fim.bos);
    texts.extend(fim.middle);
    texts.extend(fim.stop_tokens);
    if let Some(files) = fim.files {
        texts.extend(files.repo_name.map(|(token, _)| token));
        if let FileMark::Token(token) = files.file {
            texts.push(token);
        }
    }
    let mut texts: Vec<&str> =
        texts.into_iter().map(|text| text.trim_start_matches(SPACE)).collect();
    texts.sort_unstable_by_key(|text| (std::cmp::Reverse(text.len()), *text));
    texts.dedup();
    texts
}

/// Returns a text in which none of `tokens` stands: a blank goes behind the first character of each that did.
///
/// A text of a service's tokenizer cannot be masked otherwise, and a file that speaks of sentinels is not to be refused.
pub fn broken_up<'t>(text: &'t str, tokens: &[&str]) -> Cow<'t, str> {
    let mut text = Cow::Borrowed(text);
    for token in tokens {
        let Some(first) = token.chars().next().filter(|_| text.contains(token)) else { continue };
        let (head, tail) = token.split_at(first.len_utf8());
        text = Cow::Owned(text.replace(token, &format!("{head} {tail}")));
    }
    text
}

fn spelled(token: &str) -> String {
    token.strip_prefix(SPACE).map_or_else(|| token.to_owned(), |rest| format!(" {rest}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::prompt::family::{FAMILIES, fim_by_name, spelled_gap};

    #[test]
    fn a_gap_is_written_as_each_family_was_trained() {
        let rows = [
            ("qwen2.5-coder", "<|fim_prefix|>P q<|fim_suffix|>S\n<|fim_middle|>"),
            ("codestral", "[SUFFIX]S\n[PREFIX]P q"),
            ("codellama", "<PRE> P q <SUF>S\n <MID>"),
            ("starcoder2", "<fim_prefix>P q<fim_suffix>S\n<fim_middle>"),
            ("mellum", "<fim_suffix>S\n<fim_prefix>P q<fim_middle>"),
            ("deepseek-coder", "<｜fim▁begin｜>P q<｜fim▁hole｜>S\n<｜fim▁end｜>"),
        ];
        for (family, expected) in rows {
            assert_eq!(written_gap(fim_by_name(family).unwrap(), "P q", "S\n"), expected);
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for family in FAMILIES {
            let Some(fim) = family.fim() else { continue };
            let read = spelled_gap(&written_gap(fim, "P q", "S\n")).unwrap();
            assert_eq!(
                (read.prefix.as_str(), read.suffix.as_str()),
                ("P q", "S\n"),
                "{}",
                family.name
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_keeps_a_control_token(pieces in prop::collection::vec(0_usize..40, 0..12), family in 0..FAMILIES.len()) {
            let Some(fim) = FAMILIES[family].fim() else { return Ok(()) };
            let tokens = control_texts(fim);
            let text: String = pieces
                .into_iter()
                .map(|piece| tokens.get(piece).copied().unwrap_or(["<", "|", "fim", ">", "[", "/"][piece % 6]))
                .collect();
            let broken = broken_up(&text, &tokens);
            for token in &tokens {
                prop_assert!(!broken.contains(token), "{token} in {broken:?}");
            }
            prop_assert_eq!(broken.replace(' ', ""), text.replace(' ', ""));
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        let tokens = control_texts(fim_by_name("qwen2.5-coder").unwrap());
        assert!(matches!(broken_up("if a <| b |> c:", &tokens), Cow::Borrowed(_)));
        assert_eq!(broken_up("'<|fim_middle|>'", &tokens), "'< |fim_middle|>'");
    }
}

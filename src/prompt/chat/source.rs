//! A template's source, made ready for the engine: what it says of hidden texts, and a tag that we need not know.

use crate::prompt::chat::mask::Mask;

/// Marks what an assistant wrote, for training; rendering goes straight through.
const TAGS: [(&str, &str); 2] = [("generation", "if true"), ("endgeneration", "endif")];

/// Returns the source with hidden texts where it asks whether one stands in another (`'</think>' in message.content`),
/// which the engine decides without asking us, and with the tags that the engine does not know.
pub(super) fn prepare(source: &str, mask: &Mask) -> String {
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = tag_start(rest) {
        let (before, tag) = rest.split_at(start);
        prepared.push_str(before);
        // A comment may hold anything.
        if tag.starts_with("{#") {
            let end = tag.find("#}").map_or(tag.len(), |end| end + 2);
            prepared.push_str(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        let (open, inner) = tag.split_at(2);
        prepared.push_str(open);
        let close = if open == "{%" { "%}" } else { "}}" };
        rest = push_tag(inner, close, mask, &mut prepared);
    }
    prepared.push_str(rest);
    prepared
}

/// Returns where the next tag or comment begins, in one pass: a template of a million tags is read once.
fn tag_start(text: &str) -> Option<usize> {
    let is_open = |start: &usize| text[start + 1..].starts_with(['%', '{', '#']);
    text.match_indices('{').map(|(start, _)| start).find(is_open)
}

/// Writes a tag to its end and returns what comes behind.
fn push_tag<'a>(inner: &'a str, close: &str, mask: &Mask, prepared: &mut String) -> &'a str {
    let mut rest = inner;
    let control = inner.len() - inner.trim_start_matches(['-', '+']).len();
    prepared.push_str(&inner[..control]);
    rest = &rest[control..];
    let word = rest.trim_start();
    for (name, instead) in TAGS {
        if let Some(behind) = word.strip_prefix(name)
            && close == "%}"
            && behind.trim_start().starts_with(['-', '+', '%'])
        {
            prepared.push(' ');
            prepared.push_str(instead);
            rest = behind;
        }
    }
    while !rest.is_empty() && !rest.starts_with(close) {
        let Some(quote) = rest.chars().next() else { break };
        if quote != '\'' && quote != '"' {
            prepared.push(quote);
            rest = &rest[quote.len_utf8()..];
            continue;
        }
        let literal = &rest[..literal_len(rest, quote)];
        rest = &rest[literal.len()..];
        if asks_for_part(rest) {
            prepared.push_str(&mask.hide(literal));
        } else {
            prepared.push_str(literal);
        }
    }
    rest
}

/// Returns the bytes of the literal that the text begins with, its quotes included.
fn literal_len(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        if c == quote && !is_escaped {
            return index + c.len_utf8();
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    text.len()
}

/// Returns whether what stands before is looked for in what follows.
fn asks_for_part(behind: &str) -> bool {
    let mut words = behind.split_whitespace();
    let is_apart = behind.starts_with(char::is_whitespace);
    is_apart
        && match words.next() {
            Some("in") => true,
            Some("not") => words.next() == Some("in"),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn only_what_is_looked_for_is_hidden() {
        let json = include_bytes!("../../../models/demo/tokenizer.json");
        let mask = Mask::new(&Tokenizer::from_json(json).unwrap());
        let rows = [
            ("it's <|im_end|> in a text", "it's <|im_end|> in a text"),
            ("{{ '<a>' in x }}", "{{ '<M' + 'a>' in x }}"),
            ("{% if \"<a\\\"\" not in x %}", "{% if \"<Ma\\\"\" not in x %}"),
            ("{{ '<a>' + x }}{# '<a>' in x #}", "{{ '<a>' + x }}{# '<a>' in x #}"),
            ("{# {{ #}{{ '<a>'  in x }}", "{# {{ #}{{ '<Ma>'  in x }}"),
            ("{%- generation -%}a{% endgeneration %}", "{%- if true -%}a{% endif %}"),
            ("{{ generation }}{% if generation %}", "{{ generation }}{% if generation %}"),
            ("{{ '<", "{{ '<"),
            ("{ {{% '<a>' in x }}", "{ {{% '<Ma>' in x }}"),
        ];
        for (source, expected) in rows {
            let expected = expected.replace("' + '", "").replace('M', "\u{10FFFF}");
            assert_eq!(prepare(source, &mask), expected, "{source}");
        }
    }

    #[test]
    fn a_million_tags_are_read_once() {
        let mask = Mask::new(
            &Tokenizer::from_json(include_bytes!("../../../models/demo/tokenizer.json")).unwrap(),
        );
        for tags in [
            "{%%}".repeat(1 << 18),
            "{{}}".repeat(1 << 18),
            "{##}".repeat(1 << 18),
            "{".repeat(1 << 20),
        ] {
            assert!(prepare(&tags, &mask) == tags);
        }
    }
}

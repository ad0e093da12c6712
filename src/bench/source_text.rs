//! Text that looks like source code, out of a seed: prompts of benches that need no file.

use std::fmt::Write as _;

use crate::bench::random::Random;

/// Bytes of such text for a token, about: 3.6 by the tokenizers of the demo model and of Qwen alike, and a little for the
/// rest of the cursor's line, which is left out.
const BYTES_PER_TOKEN: f64 = 3.7;

/// Share of the text that stands after the cursor, as editors send it.
const SUFFIX_SHARE: f64 = 0.25;

/// The text around a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Before it.
    pub prefix: String,
    /// After it.
    pub suffix: String,
}

const NOUNS: &[&str] = &[
    "account", "block", "buffer", "cache", "chunk", "client", "config", "count", "cursor", "entry",
    "event", "field", "frame", "header", "index", "item", "key", "length", "limit", "line",
    "message", "node", "offset", "option", "packet", "page", "parser", "path", "point", "queue",
    "record", "request", "result", "session", "state", "stream", "table", "token", "total",
    "value", "width", "window", "worker",
];
const VERBS: &[&str] = &[
    "apply", "append", "build", "check", "close", "collect", "count", "decode", "encode", "fetch",
    "filter", "find", "format", "insert", "load", "merge", "open", "parse", "push", "read",
    "remove", "resolve", "send", "sort", "split", "store", "update", "validate", "write",
];
const TYPES: &[&str] =
    &["u32", "u64", "usize", "bool", "String", "Vec<u8>", "Option<usize>", "&str", "f64"];
const OPERATORS: &[&str] = &["+", "-", "*", "/", "%"];
const COMPARISONS: &[&str] = &["<", "<=", "==", "!=", ">"];

/// Returns code-like text of about `num_tokens` tokens around a cursor in the middle of a line. What a tokenizer really
/// makes of it is for the server to say.
pub fn surroundings(random: &mut Random, num_tokens: usize) -> Surroundings {
    let num_bytes = (num_tokens as f64 * BYTES_PER_TOKEN) as usize;
    let text = text(random, num_bytes.max(8));
    let cursor = (text.len() as f64 * (1.0 - SUFFIX_SHARE)) as usize;
    let (prefix, rest) = text.split_at(cursor);
    // What stood behind the cursor on its line is what the model shall write.
    let suffix = rest.find('\n').map_or("", |end| &rest[end..]);
    Surroundings { prefix: prefix.to_owned(), suffix: suffix.to_owned() }
}

/// Returns code-like text of `num_bytes` bytes, all ASCII.
pub fn text(random: &mut Random, num_bytes: usize) -> String {
    let mut text = String::with_capacity(num_bytes + 256);
    while text.len() < num_bytes {
        function(random, &mut text);
    }
    text.truncate(num_bytes);
    text
}

fn function(random: &mut Random, text: &mut String) {
    let (verb, noun, other) = (random.one_of(VERBS), random.one_of(NOUNS), random.one_of(NOUNS));
    let (takes, gives) = (random.one_of(TYPES), random.one_of(TYPES));
    let number = random.below(1000);
    // Writing to a `String` cannot fail.
    let _ = writeln!(text, "/// Returns the {noun} of the {other}, {number} at most.");
    let _ = writeln!(text, "pub fn {verb}_{noun}_{number}({other}: {takes}) -> {gives} {{");
    for _ in 0..3 + random.below(5) {
        statement(random, text);
    }
    let _ = writeln!(text, "    {noun}.{verb}({other})\n}}\n");
}

fn statement(random: &mut Random, text: &mut String) {
    let (left, right, verb) = (random.one_of(NOUNS), random.one_of(NOUNS), random.one_of(VERBS));
    let number = random.below(100);
    let _ = match random.below(4) {
        0 => writeln!(text, "    let {left} = self.{right}.{verb}({number})?;"),
        1 => {
            let operator = random.one_of(OPERATORS);
            writeln!(text, "    let mut {left} = {right} {operator} {number};")
        }
        2 => {
            let comparison = random.one_of(COMPARISONS);
            writeln!(
                text,
                "    if {left}.len() {comparison} {number} {{\n        return {verb}({right});\n    }}"
            )
        }
        _ => {
            writeln!(text, "    for {left} in {right}.iter() {{\n        {left}.{verb}();\n    }}")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn repeats_by_seed_and_differs_from_the_first_line_on() {
        let of = |stream| surroundings(&mut Random::new(1, stream), 200);
        assert_eq!(of(0), of(0));
        let first = |text: Surroundings| text.prefix.lines().next().unwrap().to_owned();
        let mut lines: Vec<String> = (0..50).map(|stream| first(of(stream))).collect();
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), 50);
    }

    #[test]
    fn has_about_as_many_tokens_as_asked() {
        let json = include_bytes!("../../models/demo/tokenizer.json");
        let tokenizer = Tokenizer::from_json(json).unwrap();
        for asked in [64, 512, 2000] {
            let Surroundings { prefix, suffix } = surroundings(&mut Random::new(5, 0), asked);
            let got = [prefix, suffix].map(|text| tokenizer.encode(&text).unwrap().len());
            let ratio = got.iter().sum::<usize>() as f64 / asked as f64;
            assert!((0.9..1.1).contains(&ratio), "{asked}: {got:?}");
            assert!(got[1] > 0, "{asked}: {got:?}");
        }
    }
}

//! Where a text can be cut so that its parts, encoded by themselves, give the tokens of the whole.
//!
//! At a keystroke one line changes, so that lines are what is worth keeping. Whether a tokeniser's tokens respect the
//! ends of lines follows from its definition, which is read once: no match of the pre-tokeniser's expressions may reach
//! over a seam and, where none of them always cuts there, no token either. Where that does not follow there are no seams.
//!
//! Why it suffices. Matches are sought from left to right. If none can reach over a seam, those before it are found
//! without what is behind it, and the search goes on at the seam or behind it. Expressions see the text as it is, but for
//! spaces that are written `▁`, which makes runs of white space shorter and moves no line break. Look-around is known in one form, `(?!\S)`
//! behind white space; what it sees at a seam is said at [`Kind`].

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};
use serde_json::Value;

use crate::tokenizer::expression::{Border, alternatives, has_flags};

/// Which borders are seams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Behind the last line break of a run of white space, unless `/` follows, which some expressions take along.
    /// `\s*[\r\n]+` ends there, and `\s+(?!\S)` and `\s+`, which come later, never get to see a line break.
    Behind,
    /// Before a line break that follows something else than white space. No run of white space ends there, so that
    /// `\s+(?!\S)` does not look over it.
    Before,
}

/// Line breaks, as expressions write them.
const BREAKS: [char; 2] = ['\n', '\r'];

/// GPT-2's expression, which the library's byte-level step has within.
const GPT2_SPLIT: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// How an alternative ends that matches white space up to the last one before a word.
const BEFORE_WORD: &str = r"(?!\S)";

/// The alternative that takes a run of white space up to its last line break.
const UP_TO_BREAK: &str = r"\s*[\r\n]+";

/// Alternatives that match every line break by itself.
const ANY_BREAK: &[&str] = &[UP_TO_BREAK, r"[\r\n]", r"\s+"];

/// The seams of a tokeniser's texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seams {
    kind: Kind,
}

/// What a step of the pre-tokeniser does at a seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// It cuts there, always.
    Cut,
    /// It does the same to both sides with and without the other one.
    Nothing,
    Unknown,
}

impl Seams {
    /// Reads them off a definition as the library gets it; `tokens` are the texts of all tokens. `None` where no kind
    /// of border is known to be one.
    pub(super) fn find(definition: &Value, tokens: &[&[u8]]) -> Option<Self> {
        let model = &definition["model"];
        // The likeliest pieces of a text are found with sums, whose rounding depends on the whole.
        if model["type"] != "BPE" || !model["dropout"].is_null() {
            return None;
        }
        // How a piece begins and ends does not matter, nor whether it is a token itself.
        let is_plain = ["continuing_subword_prefix", "end_of_word_suffix"]
            .iter()
            .all(|key| model[key].as_str().is_none_or(str::is_empty))
            && model["ignore_merges"] != true;
        let added = definition["added_tokens"].as_array();
        let added: Vec<&str> =
            added.into_iter().flatten().filter_map(|token| token["content"].as_str()).collect();
        [Kind::Behind, Kind::Before].into_iter().map(|kind| Self { kind }).find(|seams| {
            let border = seams.border();
            let is_joined = |token: &&[u8]| border.is_inside(&String::from_utf8_lossy(token));
            let is_cut = match seams.does(&definition["pre_tokenizer"], &border) {
                Does::Cut => true,
                Does::Nothing => is_plain && !tokens.iter().any(is_joined),
                Does::Unknown => false,
            };
            is_cut && !added.iter().any(|text| border.is_inside(text))
        })
    }

    fn border(self) -> Border {
        let breaks = class(&BREAKS);
        let not = |mut class: ClassUnicode| {
            class.negate();
            class
        };
        match self.kind {
            Kind::Behind => Border { left: breaks, right: not(class(&['\n', '\r', '/'])) },
            Kind::Before => Border { left: not(white_space()), right: breaks },
        }
    }

    fn does(self, step: &Value, border: &Border) -> Does {
        match step["type"].as_str() {
            None if step.is_null() => Does::Nothing,
            // Digits and the mark of a space are no line breaks, and it is single characters that decide.
            Some("Digits" | "Metaspace") => Does::Nothing,
            Some("ByteLevel") if step["use_regex"] == false => Does::Nothing,
            Some("ByteLevel") => self.expression_does(GPT2_SPLIT, border),
            Some("Split") => match &step["pattern"] {
                // Gemma's cuts at spaces, which are written otherwise before.
                pattern
                    if pattern["String"].as_str().is_some_and(|text| !text.contains(BREAKS)) =>
                {
                    Does::Nothing
                }
                pattern if step["behavior"] == "Isolated" && step["invert"] != true => {
                    let expression = pattern["Regex"].as_str();
                    expression.map_or(Does::Unknown, |text| self.expression_does(text, border))
                }
                _ => Does::Unknown,
            },
            Some("Sequence") => {
                let steps = step["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice);
                for (index, step) in steps.iter().enumerate() {
                    match self.does(step, border) {
                        // What comes behind sees bytes written as letters, line breaks too.
                        Does::Nothing if has_byte_level(step) && index + 1 < steps.len() => {
                            return Does::Unknown;
                        }
                        Does::Nothing => {}
                        // What comes behind a cut never sees both sides.
                        does => return does,
                    }
                }
                Does::Nothing
            }
            _ => Does::Unknown,
        }
    }

    fn expression_does(self, expression: &str, border: &Border) -> Does {
        if has_flags(expression) {
            return Does::Unknown;
        }
        let (mut matches_break, mut ends_at_break) = (false, false);
        for alternative in alternatives(expression) {
            let plain = alternative.strip_suffix(BEFORE_WORD);
            let is_space = plain.unwrap_or(alternative) == r"\s+";
            matches_break |= ANY_BREAK.contains(&alternative);
            ends_at_break |= alternative == UP_TO_BREAK;
            let is_harmless = match (self.kind, plain) {
                (Kind::Behind, _) if alternative == UP_TO_BREAK => true,
                (Kind::Behind, _) if is_space && ends_at_break => true,
                (Kind::Before, Some(plain)) if is_space => !border.is_crossed_by(plain),
                (_, Some(_)) => false,
                (_, None) => !border.is_crossed_by(alternative),
            };
            if !is_harmless {
                return Does::Unknown;
            }
        }
        if matches_break { Does::Cut } else { Does::Nothing }
    }

    /// Returns a text in parts that can be encoded by themselves; none is empty.
    pub(super) fn parts(self, text: &str) -> impl Iterator<Item = &str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (part, behind) = rest.split_at(self.first(rest).unwrap_or(rest.len()));
            rest = behind;
            Some(part)
        })
    }

    /// Returns the first seam of a text, behind its first byte and before its end.
    fn first(self, text: &str) -> Option<usize> {
        let mut from = 0;
        loop {
            let at = from + text[from..].find(BREAKS)?;
            match self.kind {
                Kind::Before => {
                    if text[..at].ends_with(|c: char| !c.is_whitespace()) {
                        return Some(at);
                    }
                    from = at + 1;
                }
                Kind::Behind => {
                    let run = &text[at..];
                    let run = &run[..run.find(|c: char| !c.is_whitespace()).unwrap_or(run.len())];
                    let end = at + run.rfind(BREAKS)? + 1;
                    match text[end..].chars().next()? {
                        '/' => from = end,
                        _ => return Some(end),
                    }
                }
            }
        }
    }
}

/// Returns whether a step, or one within it, writes bytes as letters.
fn has_byte_level(step: &Value) -> bool {
    let inner = step["pretokenizers"].as_array();
    step["type"] == "ByteLevel" || inner.into_iter().flatten().any(has_byte_level)
}

fn class(characters: &[char]) -> ClassUnicode {
    ClassUnicode::new(characters.iter().map(|c| ClassUnicodeRange::new(*c, *c)))
}

/// Returns what `\s` matches.
fn white_space() -> ClassUnicode {
    let all = (0..=0x3000).filter_map(char::from_u32).filter(|c| c.is_whitespace());
    class(&all.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;

//! Whether an expression of a pre-tokeniser can match across a border between two characters.
//!
//! Expressions are taken apart at the `|` of their top level; each alternative is read by `regex-syntax` and walked once.
//! What is not understood counts as if it could.

use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind};

/// A border: a character of one set, and one of the other behind it.
#[derive(Clone, Debug)]
pub(super) struct Border {
    /// What may stand before it.
    pub(super) left: ClassUnicode,
    /// What may stand behind it.
    pub(super) right: ClassUnicode,
}

impl Border {
    /// Returns whether any match of `alternative` has the border inside. The alternative has no look-around.
    pub(super) fn is_crossed_by(&self, alternative: &str) -> bool {
        let reach = regex_syntax::parse(alternative).ok().and_then(|hir| self.reach(&hir));
        reach.is_none_or(|reach| reach.crosses)
    }

    /// Returns whether a text has the border inside.
    pub(super) fn is_inside(&self, text: &str) -> bool {
        text.chars()
            .zip(text.chars().skip(1))
            .any(|(left, right)| contains(&self.left, left) && contains(&self.right, right))
    }

    /// Returns what matches can do; `None` for what looks around or matches bytes.
    fn reach(&self, hir: &Hir) -> Option<Reach> {
        match hir.kind() {
            HirKind::Empty => Some(Reach { may_be_empty: true, ..Reach::default() }),
            HirKind::Literal(literal) => {
                let text = std::str::from_utf8(&literal.0).ok()?;
                Some(Reach {
                    may_be_empty: text.is_empty(),
                    begins_right: text.chars().next().is_some_and(|c| contains(&self.right, c)),
                    ends_left: text.chars().last().is_some_and(|c| contains(&self.left, c)),
                    crosses: self.is_inside(text),
                })
            }
            HirKind::Class(Class::Unicode(class)) => Some(Reach {
                begins_right: overlaps(&self.right, class),
                ends_left: overlaps(&self.left, class),
                ..Reach::default()
            }),
            HirKind::Class(Class::Bytes(_)) | HirKind::Look(_) => None,
            HirKind::Repetition(repetition) => {
                let once = self.reach(&repetition.sub)?;
                let repeats = repetition.max.is_none_or(|max| max > 1);
                Some(Reach {
                    may_be_empty: once.may_be_empty || repetition.min == 0,
                    crosses: once.crosses || (repeats && once.ends_left && once.begins_right),
                    ..once
                })
            }
            HirKind::Capture(capture) => self.reach(&capture.sub),
            HirKind::Concat(parts) => {
                let start = Reach { may_be_empty: true, ..Reach::default() };
                parts.iter().try_fold(start, |before, part| Some(before.then(self.reach(part)?)))
            }
            HirKind::Alternation(ways) => {
                ways.iter().try_fold(Reach::default(), |one, way| Some(one.or(self.reach(way)?)))
            }
        }
    }
}

/// What the matches of a part of an expression can do.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Clone, Copy, Debug, Default)]
struct Reach {
    may_be_empty: bool,
    /// Whether one begins with what may stand behind the border.
    begins_right: bool,
    /// Whether one ends with what may stand before it.
    ends_left: bool,
    crosses: bool,
}

impl Reach {
    fn then(self, behind: Self) -> Self {
        Self {
            may_be_empty: self.may_be_empty && behind.may_be_empty,
            begins_right: self.begins_right || (self.may_be_empty && behind.begins_right),
            ends_left: behind.ends_left || (behind.may_be_empty && self.ends_left),
            crosses: self.crosses || behind.crosses || (self.ends_left && behind.begins_right),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            may_be_empty: self.may_be_empty || other.may_be_empty,
            begins_right: self.begins_right || other.begins_right,
            ends_left: self.ends_left || other.ends_left,
            crosses: self.crosses || other.crosses,
        }
    }
}

fn contains(class: &ClassUnicode, character: char) -> bool {
    class.iter().any(|range| (range.start()..=range.end()).contains(&character))
}

fn overlaps(one: &ClassUnicode, other: &ClassUnicode) -> bool {
    let mut both = one.clone();
    both.intersect(other);
    !both.ranges().is_empty()
}

/// Returns whether flags are set for all that follows, such as `(?x)`: alternatives do not stand for themselves then.
pub(super) fn has_flags(expression: &str) -> bool {
    let is_flag = |c: char| c.is_ascii_alphabetic() || c == '-';
    expression.split("(?").skip(1).any(|rest| rest.trim_start_matches(is_flag).starts_with(')'))
}

/// Returns the alternatives of an expression's top level.
pub(super) fn alternatives(expression: &str) -> Vec<&str> {
    let (mut depth, mut is_in_class, mut is_escaped) = (0_usize, false, false);
    let mut borders = Vec::new();
    for (index, character) in expression.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ']' => is_in_class = false,
            '[' => is_in_class = true,
            _ if is_in_class => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => borders.push(index),
            _ => {}
        }
    }
    let starts = std::iter::once(0).chain(borders.iter().map(|index| index + 1));
    let ends = borders.iter().copied().chain([expression.len()]);
    starts.zip(ends).map(|(start, end)| &expression[start..end]).collect()
}

#[cfg(test)]
mod tests {
    use regex_syntax::hir::ClassUnicodeRange;

    use super::*;

    /// A line break, and anything else behind it.
    fn border() -> Border {
        let left = ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]);
        let mut right = left.clone();
        right.negate();
        Border { left, right }
    }

    #[test]
    fn alternatives_are_those_of_the_top_level() {
        let rows: [(&str, &[&str]); 5] = [
            ("a", &["a"]),
            ("a|b", &["a", "b"]),
            (r"(?i:'s|'t)|[|(]+|\|x|(a|(b|c))d", &["(?i:'s|'t)", "[|(]+", r"\|x", "(a|(b|c))d"]),
            (r"[^\]|]|b", &[r"[^\]|]", "b"]),
            ("|", &["", ""]),
        ];
        for (expression, expected) in rows {
            assert_eq!(alternatives(expression), expected);
        }
    }

    #[test]
    fn flags_of_a_group_are_none_of_the_whole() {
        for set in ["(?x)a", "a|(?i)b", "(?-u)", "(a(?sm-x)b)"] {
            assert!(has_flags(set), "{set}");
        }
        for own in ["(?i:'s|'t)", r"\s+(?!\S)", "(?:a)", "(a)", "", "(?<n>a)"] {
            assert!(!has_flags(own), "{own}");
        }
    }

    #[test]
    fn finds_what_can_match_across() {
        let border = border();
        for inside in [
            r"\s+",
            r"\s*[\r\n]+",
            "\n ",
            r"[^\s]+[\r\n]*a?b",
            r"(a|\n)b",
            r"(\n|b){2}",
            r"\n(\n*)(c|\n)",
            r"\n[^\n]",
            r"\n\d?x*y",
            // Not understood.
            r"\b",
            r"(?-u:\xff)",
            r"a(?!b)",
            "(",
        ] {
            assert!(border.is_crossed_by(inside), "{inside}");
        }
        for outside in [
            r"[^\r\n\p{L}\p{N}]?\p{L}+",
            r" ?[^\s\p{L}\p{N}]+\n*",
            r"\n+",
            r"(\n|b){1}",
            "(?i:'s|'t)",
            r"\p{N}{1,3}",
            r"a\n",
            "",
        ] {
            assert!(!border.is_crossed_by(outside), "{outside}");
        }
        assert!(border.is_inside("a\nb") && !border.is_inside("a\n\n") && !border.is_inside(""));
    }
}

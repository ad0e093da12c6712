//! Which of other files help most: those that share names with the code at the cursor, that it imports, in its language,
//! and that were looked at last.
//!
//! What comes first in a prompt is computed anew where it changes, so the order must not change at each keystroke: the
//! line that is being typed does not count, the lines before it count in blocks, and likeness counts in steps.

use std::collections::{HashMap, HashSet};

use crate::{
    completion::{ContextItem, Language},
    prompt::context::words::words,
};

/// How much of a file is looked at. A prompt has no room for more of it, and a hundred files of half a megabyte must not
/// take longer to look at than to complete from.
const LOOKED_AT_BYTES: usize = 32 << 10;

/// Lines before the cursor whose names count, at least.
const LINES_BEFORE: usize = 32;

/// Lines by which their beginning moves.
const LINES_BLOCK: usize = 32;

/// Lines behind the cursor whose names count.
const LINES_AFTER: usize = 16;

/// Lines at the beginning of a file in which imports are looked for.
const LINES_OF_IMPORTS: usize = 200;

/// Words that a line with an import has, in one language or another.
const IMPORT_WORDS: &[&str] =
    &["import", "from", "use", "using", "require", "require_relative", "include", "mod", "package"];

/// Steps of likeness: fewer keep the order for longer, more tell files apart better.
const STEPS: f64 = 8.0;

// What a sign weighs, beside at most 1 for names in common. An import says more than half of the names; the rest decides
// between files that are about equally alike.
const IMPORTED: f64 = 0.5;
const SAME_LANGUAGE: f64 = 0.2;
const RECENT: f64 = 0.1;

/// The code at the cursor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) prefix: &'a str,
    pub(super) suffix: &'a str,
    pub(super) language: Option<Language>,
}

/// Returns the places of the items in `items`, the most useful first. They come with the one that was looked at last first.
pub(super) fn rank(items: &[ContextItem], place: Place<'_>) -> Vec<usize> {
    // In one order, for sums of rounded numbers depend on it, and the order of files on the sums.
    let mut wanted: Vec<&str> = words_at(place).into_iter().collect();
    wanted.sort_unstable();
    let place_of: HashMap<&str, usize> = wanted.iter().copied().zip(0..).collect();
    let shares: Vec<Vec<bool>> =
        items.iter().map(|item| shared(&item.content, &place_of)).collect();
    let imported = imported_words(place.prefix);
    // A name that all files have tells none of them apart.
    let num_with = |word: usize| shares.iter().filter(|shared| shared[word]).count();
    let weights: Vec<f64> =
        (0..wanted.len()).map(|word| 1.0 / num_with(word).max(1) as f64).collect();
    let all: f64 = weights.iter().sum();
    let score = |index: usize| {
        let item = &items[index];
        let shared = weights.iter().zip(&shares[index]).filter(|(_, is_shared)| **is_shared);
        let common: f64 = shared.map(|(weight, _)| weight).sum();
        let likeness = if all > 0.0 { (common / all * STEPS).round() / STEPS } else { 0.0 };
        let language = Language::detect(&item.name, None);
        let is_same = language.is_some() && language == place.language;
        let is_imported = stem(&item.name).is_some_and(|stem| imported.contains(stem));
        let age = index as f64 / items.len() as f64;
        likeness
            + if is_imported { IMPORTED } else { 0.0 }
            + if is_same { SAME_LANGUAGE } else { 0.0 }
            + RECENT * (1.0 - age)
    };
    let mut scored: Vec<(usize, f64)> =
        (0..items.len()).map(|index| (index, score(index))).collect();
    scored.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    scored.into_iter().map(|(index, _)| index).collect()
}

/// Returns which of the wanted names a file has, by their places.
fn shared(content: &str, place_of: &HashMap<&str, usize>) -> Vec<bool> {
    let mut found = vec![false; place_of.len()];
    for word in words(head(content, LOOKED_AT_BYTES)) {
        if let Some(place) = place_of.get(word) {
            found[*place] = true;
        }
    }
    found
}

/// Returns the names near the cursor, but for those of its line.
fn words_at(place: Place<'_>) -> HashSet<&str> {
    let before = place.prefix.rfind('\n').map_or("", |end| &place.prefix[..=end]);
    let num_lines = before.matches('\n').count();
    let first = num_lines.saturating_sub(LINES_BEFORE) / LINES_BLOCK * LINES_BLOCK;
    let start = before.match_indices('\n').nth(first.wrapping_sub(1)).map_or(0, |(at, _)| at + 1);
    let after = place.suffix.find('\n').map_or("", |end| &place.suffix[end + 1..]);
    let end = after.match_indices('\n').nth(LINES_AFTER - 1).map_or(after.len(), |(at, _)| at);
    let before = words(tail(&before[start..], LOOKED_AT_BYTES));
    before.chain(words(head(&after[..end], LOOKED_AT_BYTES))).collect()
}

/// Returns the names in lines that import something.
fn imported_words(prefix: &str) -> HashSet<&str> {
    let lines = head(prefix, LOOKED_AT_BYTES).lines().take(LINES_OF_IMPORTS);
    let imports = lines.filter(|line| words(line).any(|word| IMPORT_WORDS.contains(&word)));
    imports.flat_map(words).collect()
}

/// Returns the name of a file without its folders and extension: what an import calls it.
fn stem(path: &str) -> Option<&str> {
    let name = path.rsplit(['/', '\\']).next()?;
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    (!stem.is_empty()).then_some(stem)
}

fn head(text: &str, num_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(num_bytes)]
}

fn tail(text: &str, num_bytes: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(num_bytes))..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "from billing import Invoice\n\ndef total_price(order):\n    invoice = Invoice(order)\n    return ";
    const SUFFIX: &str = "\n\ndef send(invoice, customer):\n    customer.mail(invoice)\n";

    fn item(name: &str, content: &str) -> ContextItem {
        ContextItem { name: name.to_owned(), content: content.to_owned() }
    }

    fn ranked(items: &[ContextItem], prefix: &str) -> Vec<String> {
        let language = Language::detect("shop.py", None);
        let place = Place { prefix, suffix: SUFFIX, language };
        rank(items, place).into_iter().map(|index| items[index].name.clone()).collect()
    }

    #[test]
    fn what_is_alike_imported_and_of_the_language_comes_first() {
        let items = [
            item("notes.md", "nothing in common"),
            item("weather.py", "def rain(): pass"),
            item("mail.rb", "def mail(customer, invoice, order) end"),
            item("src/billing.py", "class Invoice:\n    def __init__(self, order): pass"),
        ];
        let names = ["src/billing.py", "mail.rb", "weather.py", "notes.md"];
        assert_eq!(ranked(&items, PREFIX), names);
    }

    #[test]
    fn what_was_looked_at_last_decides_between_equals() {
        let items = ["b.py", "a.py", "c.py"].map(|name| item(name, "def rain(): pass"));
        assert_eq!(ranked(&items, PREFIX), ["b.py", "a.py", "c.py"]);
    }

    #[test]
    fn a_name_that_all_have_tells_none_apart() {
        let items = [item("a.py", "order"), item("b.py", "order"), item("c.py", "order customer")];
        assert_eq!(ranked(&items, PREFIX)[0], "c.py");
    }

    #[test]
    fn the_line_that_is_typed_changes_nothing() {
        let items = [item("a.py", "def rain(): pass"), item("b.py", "def thunder(): pass")];
        let before = ranked(&items, PREFIX);
        for typed in ["t", "thunder", "thunder() + thunder.rain"] {
            assert_eq!(ranked(&items, &format!("{PREFIX}{typed}")), before);
        }
    }

    #[test]
    fn names_of_far_lines_do_not_count_and_the_border_stays() {
        let far = "thunder = 1\n".to_owned() + &"x = 1\n".repeat(70);
        let place = |prefix| Place { prefix, suffix: "", language: None };
        assert!(words_at(place(&far)).is_empty());
        let near = "thunder = 1\n".to_owned() + &"x = 1\n".repeat(62);
        assert!(words_at(place(&near)).contains("thunder"));
    }
}

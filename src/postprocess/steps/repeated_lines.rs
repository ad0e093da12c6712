//! Deletes lines that stand above already: models copy the comment or the block that they have just read.
//!
//! Lines are compared trimmed, from the line below the cursor's on. Those that follow one another in both places are a
//! group; a group goes if it is one comment, or if it is long and made of words more than of signs. Short code that
//! recurs, such as a closing brace, stays.

use std::collections::HashMap;

use crate::postprocess::{Ending, Gap};

/// Least lines of a group that is no comment.
const NUM_LINES_MIN: usize = 5;
/// Most places of a line above that are compared.
const NUM_PLACES_MAX: usize = 32;
/// Signs of code, and most of them in a group that goes.
const SIGNS: &str = "()[];.,$%&^*@#!{}/";
const SIGNS_SHARE_MAX: f32 = 0.25;
/// Most different characters of a group that goes, of all its characters.
const DIFFERENT_SHARE_MAX: f32 = 0.35;

pub(super) fn apply(gap: &Gap, ending: &mut Ending, text: &mut String) {
    let mut above: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, line) in gap.before.lines().enumerate() {
        let places = above.entry(line.trim()).or_default();
        // Each is compared with each that follows; what stands there so often is no copy of one place.
        if places.len() < NUM_PLACES_MAX {
            places.push(index);
        }
    }
    // What is left may follow one another now, so that it is a group.
    while let Some(kept) = without_groups(&above, text) {
        ending.is_cut &= kept.ends_with(last_line(text));
        *text = kept;
    }
}

fn last_line(text: &str) -> &str {
    text.rsplit('\n').next().unwrap_or_default()
}

/// Returns the text without the groups that go, if there are any.
fn without_groups(above: &HashMap<&str, Vec<usize>>, text: &str) -> Option<String> {
    let mut lines = text.split_inclusive('\n');
    let mut kept = lines.next()?.to_owned();
    let (mut group, mut places): (Vec<&str>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut goes = false;
    let mut end = |group: &mut Vec<&str>, kept: &mut String| {
        if is_copied(group) {
            goes = true;
        } else {
            kept.extend(group.iter().copied());
        }
        group.clear();
    };
    for line in lines {
        let found = above.get(line.trim()).map(Vec::as_slice).unwrap_or_default();
        let next: Vec<usize> = found
            .iter()
            .copied()
            .filter(|at| *at > 0 && places.binary_search(&(at - 1)).is_ok())
            .collect();
        if next.is_empty() {
            end(&mut group, &mut kept);
            places = found.to_vec();
        } else {
            places = next;
        }
        if found.is_empty() {
            kept.push_str(line);
        } else {
            group.push(line);
        }
    }
    end(&mut group, &mut kept);
    goes.then_some(kept)
}

fn is_copied(group: &[&str]) -> bool {
    if let [line] = group {
        let is_comment = |open| line.trim_start().starts_with(open);
        return ["/*", "//", "#"].into_iter().any(is_comment);
    }
    if group.len() < NUM_LINES_MIN {
        return false;
    }
    let all: Vec<char> = group.iter().flat_map(|line| line.trim().chars()).collect();
    let mut different = all.clone();
    different.sort_unstable();
    different.dedup();
    let num_signs = all.iter().filter(|c| SIGNS.contains(**c)).count();
    let share = |count: usize| count as f32 / all.len().max(1) as f32;
    share(num_signs) < SIGNS_SHARE_MAX && share(different.len()) < DIFFERENT_SHARE_MAX
}

//! What helps to fill a gap besides the text around it: other files, in the order of their use, without
//! secrets, and the outline of what of the own file is cut off.

use crate::completion::{ContextItem, Language};

mod comment;
mod outline;
mod rank;
mod secrets;
mod words;

pub use comment::{commented, comments_of};
pub use outline::{Cut, OutlineCache, outline};
pub use secrets::{MASK, mask};

/// What is done to the texts of a request before a prompt is made of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextOptions {
    /// Whether other files are put in the order of their use; else the client's order counts.
    pub is_ranked: bool,
    /// Whether secrets are masked, also around the cursor.
    pub masks_secrets: bool,
    /// Most bytes of other files that are kept: what no prompt has room for need not be looked through.
    pub bytes_max: usize,
}

/// The texts of a request.
#[derive(Clone, Debug)]
pub struct Texts {
    /// Before the cursor.
    pub prefix: String,
    /// After the cursor.
    pub suffix: String,
    /// Other files, the one that was looked at last first.
    pub items: Vec<ContextItem>,
}

/// Returns the texts as a prompt is made of them: other files by their use, without the edited one itself and without
/// what is there twice.
pub fn arrange(
    texts: Texts,
    file_name: Option<&str>,
    language: Option<Language>,
    options: ContextOptions,
) -> Texts {
    let Texts { prefix, suffix, mut items } = texts;
    let is_edited =
        |item: &ContextItem| !item.name.is_empty() && Some(item.name.as_str()) == file_name;
    items.retain(|item| !item.content.trim().is_empty() && !is_edited(item));
    if options.is_ranked {
        let place = rank::Place { prefix: &prefix, suffix: &suffix, language };
        let order = rank::rank(&items, place);
        let mut slots: Vec<Option<ContextItem>> = items.into_iter().map(Some).collect();
        items = order.into_iter().filter_map(|index| slots[index].take()).collect();
    }
    let mut kept: Vec<ContextItem> = Vec::new();
    let mut left = options.bytes_max;
    for mut item in items {
        if left == 0 {
            break;
        }
        if kept.iter().any(|other| other.content == item.content) {
            continue;
        }
        item.content.truncate(item.content.floor_char_boundary(left));
        left -= item.content.len();
        kept.push(item);
    }
    if !options.masks_secrets {
        return Texts { prefix, suffix, items: kept };
    }
    for item in &mut kept {
        replace(&mut item.content);
    }
    let (mut prefix, mut suffix) = (prefix, suffix);
    // What lies between is neither in a prompt nor in an outline.
    replace_ends(&mut prefix, outline::HEAD_BYTES, options.bytes_max + outline::HEAD_BYTES);
    replace_ends(&mut suffix, options.bytes_max + outline::HEAD_BYTES, 0);
    Texts { prefix, suffix, items: kept }
}

/// Masks the secrets of a text, which is copied only where it has any.
fn replace(text: &mut String) {
    if let std::borrow::Cow::Owned(masked) = mask(text) {
        *text = masked;
    }
}

/// Masks the secrets of a text's beginning and end.
fn replace_ends(text: &mut String, num_head_bytes: usize, num_tail_bytes: usize) {
    if text.len() <= num_head_bytes.saturating_add(num_tail_bytes) {
        return replace(text);
    }
    let head = text.floor_char_boundary(num_head_bytes);
    let tail = text.ceil_char_boundary(text.len() - num_tail_bytes);
    *text = [&*mask(&text[..head]), &text[head..tail], &*mask(&text[tail..])].concat();
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ContextOptions =
        ContextOptions { is_ranked: true, masks_secrets: true, bytes_max: 1000 };

    fn item(name: &str, content: &str) -> ContextItem {
        ContextItem { name: name.to_owned(), content: content.to_owned() }
    }

    fn arranged(items: &[ContextItem], options: ContextOptions) -> Vec<ContextItem> {
        let (prefix, suffix) = ("order = 1\n".to_owned(), String::new());
        let texts = Texts { prefix, suffix, items: items.to_vec() };
        arrange(texts, Some("a.py"), None, options).items
    }

    #[test]
    fn the_edited_file_empty_ones_and_copies_are_left_out() {
        let items = [
            item("a.py", "order"),
            item("b.py", " \n"),
            item("c.py", "order"),
            item("copy of c.py", "order"),
            item("", "order too"),
        ];
        assert_eq!(arranged(&items, OPTIONS), [item("c.py", "order"), item("", "order too")]);
    }

    #[test]
    fn the_clients_order_stays_where_it_is_asked_for() {
        let items = [item("b.py", "rain"), item("c.py", "order")];
        assert_eq!(arranged(&items, OPTIONS)[0].name, "c.py");
        let options = ContextOptions { is_ranked: false, ..OPTIONS };
        assert_eq!(arranged(&items, options)[0].name, "b.py");
    }

    #[test]
    fn bytes_are_bounded_on_a_character() {
        let items = [item("b.py", "order"), item("c.py", "äöü order"), item("d.py", "x")];
        let options = ContextOptions { bytes_max: 8, is_ranked: false, ..OPTIONS };
        let expected = [item("b.py", "order"), item("c.py", "ä"), item("d.py", "x")];
        assert_eq!(arranged(&items, options), expected);
    }

    #[test]
    fn of_a_long_text_both_ends_are_masked() {
        let secret = "password = \"correct-horse\"\n";
        let mut text = format!("{secret}{}ä{secret}", "x".repeat(200));
        replace_ends(&mut text, 60, 40);
        assert_eq!(text.matches(MASK).count(), 2, "{text}");
        assert!(!text.contains("horse") && text.contains(&"x".repeat(200)), "{text}");
    }

    #[test]
    fn secrets_are_masked_everywhere_or_nowhere() {
        let secret = "password = \"correct-horse\"";
        let texts = || Texts {
            prefix: secret.to_owned(),
            suffix: secret.to_owned(),
            items: vec![item("b.py", secret)],
        };
        let options = |masks_secrets| ContextOptions { masks_secrets, ..OPTIONS };
        for (masks, has_mask) in [(true, true), (false, false)] {
            let Texts { prefix, suffix, items } = arrange(texts(), None, None, options(masks));
            for text in [&prefix, &suffix, &items[0].content] {
                assert_eq!((text.contains(MASK), text.contains("horse")), (has_mask, !has_mask));
            }
        }
    }
}

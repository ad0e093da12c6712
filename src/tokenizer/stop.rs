//! Stop texts, found even when split over tokens, and never shown in part.
//!
//! What counts is the match that *ends* first, and among those the one that starts first. That rule does not depend
//! on how the text was cut into pieces, so that streamed and whole answers are the same.

use std::sync::Arc;

/// Watches the text of one choice.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Arc<[String]>,
    /// Text that may be the beginning of a stop.
    held: String,
    is_stopped: bool,
}

impl StopMatcher {
    /// Watches for any of `stops`, none of which is empty.
    ///
    /// # Panics
    /// Where a stop is empty: it would end every text before it began.
    pub fn new(stops: Arc<[String]>) -> Self {
        assert!(stops.iter().all(|stop| !stop.is_empty()), "a stop text is not empty");
        Self { stops, held: String::new(), is_stopped: false }
    }

    /// Takes more text and returns what can be shown; nothing more after a stop.
    pub fn push(&mut self, text: &str) -> String {
        if self.is_stopped {
            return String::new();
        }
        if self.stops.is_empty() {
            return text.to_owned();
        }
        let mut shown = std::mem::take(&mut self.held);
        shown.push_str(text);
        if let Some(start) = self.first_match(&shown) {
            self.is_stopped = true;
            shown.truncate(start);
            return shown;
        }
        self.held = shown.split_off(shown.len() - self.longest_beginning(&shown));
        shown
    }

    /// Returns whether a stop was found.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Ends the text and returns what was held back in vain.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn first_match(&self, text: &str) -> Option<usize> {
        // Searching for a needle costs its length, however short the text.
        let candidates = self.stops.iter().filter(|stop| stop.len() <= text.len());
        let found = candidates.filter_map(|stop| {
            let start = text.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        found.min().map(|(_, start)| start)
    }

    /// Returns the length of the longest end of `text` that begins a stop.
    fn longest_beginning(&self, text: &str) -> usize {
        let of_stop = |stop: &String| {
            let lengths = (1..stop.len().min(text.len() + 1)).rev();
            lengths
                .into_iter()
                .find(|&length| stop.is_char_boundary(length) && text.ends_with(&stop[..length]))
        };
        self.stops.iter().filter_map(of_stop).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule itself, letter by letter: grow the text until some stop ends it.
    fn cut(text: &str, stops: &[String]) -> String {
        for (index, character) in text.char_indices() {
            let seen = &text[..index + character.len_utf8()];
            let starts = stops
                .iter()
                .filter(|stop| seen.ends_with(stop.as_str()))
                .map(|stop| seen.len() - stop.len());
            if let Some(start) = starts.min() {
                return text[..start].to_owned();
            }
        }
        text.to_owned()
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_rules_text(text in "[abé\n]{0,24}", stops in prop::collection::vec("[abé\n]{1,4}", 0..4), cuts in prop::collection::vec(0_usize..4, 0..24)) {
            let expected = cut(&text, &stops);
            let mut matcher = StopMatcher::new(stops.clone().into());
            let mut shown = String::new();
            let mut rest = text.chars();
            for size in cuts {
                let piece: String = rest.by_ref().take(size).collect();
                shown.push_str(&matcher.push(&piece));
                prop_assert!(expected.starts_with(&shown), "showed {shown:?} of {expected:?}");
            }
            shown.push_str(&matcher.push(rest.as_str()));
            if !matcher.is_stopped() {
                shown.push_str(&matcher.finish());
            }
            prop_assert_eq!(shown, expected);
        }
    }

    #[test]
    fn drops_a_stop_split_across_pieces() {
        let mut matcher = StopMatcher::new(["\n\n".to_owned()].into());
        assert_eq!(matcher.push("a\n"), "a");
        assert_eq!(matcher.push("\nb"), "");
        assert!(matcher.is_stopped());
        assert_eq!(matcher.push("c"), "");
    }
}

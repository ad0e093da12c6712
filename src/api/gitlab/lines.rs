//! What a model that talks wrote, line by line, without the Markdown around it: fences, and what is said behind them.
//!
//! A line is handed on when it is whole, for only then it is known to be no fence; a line end is held back until a line
//! follows, so that none is left where a fence was.

/// A run of backticks from which on it is a fence.
const FENCE: &str = "```";

/// Takes a text in pieces and hands on its lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Text since the last line end.
    open: String,
    place: Place,
    /// Whether a line was handed on, whose end was not.
    is_end_owed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// No fence was seen.
    #[default]
    Outside,
    /// Behind a fence that opens.
    Inside,
    /// Behind one that closes: the rest explains.
    Behind,
}

impl Lines {
    /// Takes a piece and returns what can be handed on.
    pub(super) fn push(&mut self, text: &str) -> String {
        self.open.push_str(text);
        let mut lines = String::new();
        while let Some(end) = self.open.find('\n') {
            let rest = self.open.split_off(end + 1);
            let line = std::mem::replace(&mut self.open, rest);
            self.line(line.trim_end_matches('\n'), &mut lines);
        }
        lines
    }

    /// Returns what is left at the end of the text.
    pub(super) fn finish(&mut self) -> String {
        let mut lines = String::new();
        let last = std::mem::take(&mut self.open);
        let is_code = self.place != Place::Behind;
        if last.is_empty() {
            if is_code && std::mem::take(&mut self.is_end_owed) {
                lines.push('\n');
            }
        } else {
            self.line(&last, &mut lines);
        }
        lines
    }

    /// Returns whether nothing more will come.
    pub(super) fn is_over(&self) -> bool {
        self.place == Place::Behind
    }

    fn line(&mut self, line: &str, lines: &mut String) {
        let code = match (self.place, fence(line)) {
            (Place::Behind, _) => return,
            (Place::Outside, Some(Fence::Opens)) => {
                self.place = Place::Inside;
                return;
            }
            // A bare fence opens where nothing was said yet, and else closes what was meant to be open.
            (Place::Outside, Some(Fence::Bare)) if !self.is_end_owed => {
                self.place = Place::Inside;
                return;
            }
            (Place::Outside | Place::Inside, Some(Fence::Bare)) => {
                self.place = Place::Behind;
                return;
            }
            (Place::Inside, Some(Fence::Opens)) | (_, None) => line,
        };
        if std::mem::replace(&mut self.is_end_owed, true) {
            lines.push('\n');
        }
        match code.trim_end().strip_suffix(FENCE) {
            Some(head) => {
                lines.push_str(head.trim_end_matches('`'));
                self.place = Place::Behind;
            }
            None => lines.push_str(code),
        }
    }
}

enum Fence {
    /// With the name of a language.
    Opens,
    /// Backticks alone.
    Bare,
}

fn fence(line: &str) -> Option<Fence> {
    let info = line.trim().strip_prefix(FENCE)?.trim_start_matches('`');
    let is_word = info.chars().all(|c| c.is_alphanumeric() || "+#-_.".contains(c));
    match (info.is_empty(), is_word) {
        (true, _) => Some(Fence::Bare),
        (false, true) => Some(Fence::Opens),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_and_what_is_said_behind_them_are_left_out() {
        let rows = [
            ("a = 1", "a = 1"),
            ("a = 1\n", "a = 1\n"),
            ("\n\na\n\n", "\n\na\n\n"),
            ("```python\na = 1\n```", "a = 1"),
            ("```python\na = 1\n\nb = 2\n```\nThis sets `a`.\n", "a = 1\n\nb = 2"),
            ("```\na = 1\n```\n", "a = 1"),
            ("a = 1\n```\nThis sets `a`.", "a = 1"),
            ("a = 1```", "a = 1"),
            ("```c++\na", "a"),
            ("  ```js\na\n  ```", "a"),
            ("````md\n```js\na\n````", "```js\na"),
            ("x = ```no fence``` + 1\ny", "x = ```no fence``` + 1\ny"),
            ("```", ""),
            ("", ""),
            ("a\r\nb", "a\r\nb"),
        ];
        for (text, expected) in rows {
            for step in [1, 2, 3, 100] {
                let mut lines = Lines::default();
                let mut result = String::new();
                let chars: Vec<char> = text.chars().collect();
                for piece in chars.chunks(step) {
                    result += &lines.push(&piece.iter().collect::<String>());
                }
                result += &lines.finish();
                assert_eq!(result, expected, "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn a_line_is_handed_on_when_it_is_whole() {
        let mut lines = Lines::default();
        assert_eq!(lines.push("a"), "");
        assert_eq!(lines.push("b\nc"), "ab");
        assert_eq!(lines.push("\n"), "\nc");
        assert!(!lines.is_over());
        assert_eq!(lines.push("```\nmore\n"), "");
        assert!(lines.is_over());
        assert_eq!(lines.finish(), "");
    }
}

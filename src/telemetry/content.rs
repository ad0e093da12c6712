//! Source text in the log, for who has asked for it: what a model was asked, and what it said.
//!
//! These are the only lines that hold a user's text; `docs/operations.md` says when they are written.

use tracing::info;

/// Bytes of a text that are logged: whole functions and the surroundings of a cursor, not whole files.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// What a model was asked.
#[derive(Clone, Copy, Debug)]
pub struct PromptContent<'a> {
    /// Correlation id of the request.
    pub request_id: &'a str,
    /// `fim`, `text`, `tokens` or `chat`; a closed set.
    pub form: &'static str,
    /// What stands before the cursor; of a conversation all that was said.
    pub prefix: &'a str,
    /// What stands after it.
    pub suffix: &'a str,
    /// Names and texts of other files, one after the other.
    pub context: &'a str,
}

/// Writes at info what a model is asked.
pub fn record_prompt_content(content: &PromptContent<'_>) {
    // The end of the text before the cursor is what is completed, so its beginning is cut.
    let cut = content.prefix.len().saturating_sub(TEXT_BYTES_MAX);
    let cut = content.prefix.ceil_char_boundary(cut);
    info!(
        target: "lacuna::content",
        correlation_id = content.request_id,
        form = content.form,
        prefix = &content.prefix[cut..],
        suffix = head(content.suffix),
        context = head(content.context),
        "asked"
    );
}

/// Writes at info what a model said.
pub fn record_completion_content(request_id: &str, choice_index: usize, text: &str) {
    info!(target: "lacuna::content", correlation_id = request_id, choice_index, text = head(text), "answered");
}

fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX.min(text.len()))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::lines;

    #[test]
    fn a_long_text_is_cut_at_whole_characters_away_from_the_cursor() {
        let prefix = format!("{}b", "\u{e9}".repeat(TEXT_BYTES_MAX));
        let suffix = format!("a{}", "\u{e9}".repeat(TEXT_BYTES_MAX));
        let content = PromptContent {
            request_id: "r-1",
            form: "fim",
            prefix: &prefix,
            suffix: &suffix,
            context: "",
        };
        let lines = lines("info", || record_prompt_content(&content));
        let [line] = lines.as_slice() else { panic!("{} lines", lines.len()) };
        let (prefix, suffix) = (line["prefix"].as_str().unwrap(), line["suffix"].as_str().unwrap());
        assert!(prefix.ends_with("\u{e9}b") && suffix.starts_with("a\u{e9}"));
        assert!(prefix.len().abs_diff(TEXT_BYTES_MAX) <= 2 && suffix.len() <= TEXT_BYTES_MAX);
    }
}

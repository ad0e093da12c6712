//! Values as JSON in Python's spelling, which templates are trained with: blanks behind commas and colons.

use std::fmt::Write as _;

use minijinja::{
    Error,
    value::{Kwargs, Value, ValueKind},
};

/// Nothing that a template is given is this deep.
const DEPTH_MAX: usize = 32;

/// The filter `tojson`, with the options of Python's library that it hands on.
///
/// # Errors
/// Options of another kind.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands named arguments over so")]
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let is_ascii: Option<bool> = options.get("ensure_ascii")?;
    let is_sorted: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let own = match separators.as_deref() {
        Some([comma, colon]) => (comma.clone(), colon.clone()),
        _ => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let writer = Writer {
        indent,
        is_ascii: is_ascii.unwrap_or(false),
        is_sorted: is_sorted.unwrap_or(false),
        comma: own.0,
        colon: own.1,
    };
    let mut json = String::new();
    writer.value(value, 0, &mut json)?;
    Ok(json.into())
}

struct Writer {
    indent: Option<usize>,
    is_ascii: bool,
    is_sorted: bool,
    comma: String,
    colon: String,
}

impl Writer {
    fn value(&self, value: &Value, depth: usize, json: &mut String) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(minijinja::ErrorKind::BadSerialization, "nested too deeply"));
        }
        if let Some(text) = value.as_str() {
            self.text(text, json);
            return Ok(());
        }
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => json.push_str("null"),
            ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.is_sorted {
                    keys.sort();
                }
                self.list(['{', '}'], keys, depth, json, |key, json| {
                    self.text(&key.to_string(), json);
                    json.push_str(&self.colon);
                    self.value(&value.get_item(key)?, depth + 1, json)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.collect();
                self.list(['[', ']'], items, depth, json, |item, json| {
                    self.value(item, depth + 1, json)
                })?;
            }
            _ => json.push_str(&value.to_string()),
        }
        Ok(())
    }

    fn list(
        &self,
        [open, close]: [char; 2],
        items: Vec<Value>,
        depth: usize,
        json: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        json.push(open);
        let is_empty = items.is_empty();
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                json.push_str(&self.comma);
            }
            self.line(depth + 1, json);
            write(&item, json)?;
        }
        if !is_empty {
            self.line(depth, json);
        }
        json.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, json: &mut String) {
        if let Some(indent) = self.indent {
            json.push('\n');
            json.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn text(&self, text: &str, json: &mut String) {
        json.push('"');
        for c in text.chars() {
            let _ = match c {
                '"' => write!(json, "\\\""),
                '\\' => write!(json, "\\\\"),
                '\n' => write!(json, "\\n"),
                '\r' => write!(json, "\\r"),
                '\t' => write!(json, "\\t"),
                '\u{8}' => write!(json, "\\b"),
                '\u{c}' => write!(json, "\\f"),
                c if c < ' ' => write!(json, "\\u{:04x}", u32::from(c)),
                c if self.is_ascii && !c.is_ascii() => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .try_for_each(|unit| write!(json, "\\u{unit:04x}")),
                c => write!(json, "{c}"),
            };
        }
        json.push('"');
    }
}

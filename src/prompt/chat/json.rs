//! Values as JSON in Python's spelling, which templates are trained with: blanks behind commas and colons.

use minijinja::{
    Error,
    value::{Kwargs, Value, ValueKind},
};

use crate::prompt::chat::{bounded::Bounded, mask};

/// Nothing that a template is given is this deep.
const DEPTH_MAX: usize = 32;

/// The filter `tojson`, with the options of Python's library that it hands on; it makes a text of at most so many bytes.
///
/// # Errors
/// Options of another kind; a text that grows too long.
pub(super) fn to_json(value: &Value, options: &Kwargs, bytes_max: usize) -> Result<Value, Error> {
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
    let mut json = Bounded::new(bytes_max);
    writer.value(value, 0, &mut json)?;
    Ok(json.into_text()?.into())
}

struct Writer {
    indent: Option<usize>,
    is_ascii: bool,
    is_sorted: bool,
    comma: String,
    colon: String,
}

impl Writer {
    fn value(&self, value: &Value, depth: usize, json: &mut Bounded) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(minijinja::ErrorKind::BadSerialization, "nested too deeply"));
        }
        if let Some(text) = value.as_str() {
            return self.text(text, json);
        }
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => json.push("null"),
            ValueKind::Bool => json.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.is_sorted {
                    keys.sort();
                }
                self.list(["{", "}"], keys.into_iter(), depth, json, |key, json| {
                    self.text(&key.to_string(), json)?;
                    json.push(&self.colon)?;
                    self.value(&value.get_item(key)?, depth + 1, json)
                })
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.list(["[", "]"], value.try_iter()?, depth, json, |item, json| {
                    self.value(item, depth + 1, json)
                })
            }
            _ => json.push_value(value),
        }
    }

    fn list(
        &self,
        [open, close]: [&str; 2],
        items: impl Iterator<Item = Value>,
        depth: usize,
        json: &mut Bounded,
        write: impl Fn(&Value, &mut Bounded) -> Result<(), Error>,
    ) -> Result<(), Error> {
        json.push(open)?;
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                json.push(&self.comma)?;
            }
            is_empty = false;
            self.line(depth + 1, json)?;
            write(&item, json)?;
        }
        if !is_empty {
            self.line(depth, json)?;
        }
        json.push(close)
    }

    fn line(&self, depth: usize, json: &mut Bounded) -> Result<(), Error> {
        let Some(indent) = self.indent else { return Ok(()) };
        json.push("\n")?;
        json.push_blanks(indent.saturating_mul(depth))
    }

    fn text(&self, text: &str, json: &mut Bounded) -> Result<(), Error> {
        json.push("\"")?;
        for c in text.chars() {
            match c {
                '"' => json.push("\\\""),
                '\\' => json.push("\\\\"),
                '\n' => json.push("\\n"),
                '\r' => json.push("\\r"),
                '\t' => json.push("\\t"),
                '\u{8}' => json.push("\\b"),
                '\u{c}' => json.push("\\f"),
                c if c < ' ' => json.push(&format!("\\u{:04x}", u32::from(c))),
                // A mark is no character of the text: escaped it would stand in it.
                c if self.is_ascii && !c.is_ascii() && !mask::is_mark(c) => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .try_for_each(|unit| json.push(&format!("\\u{unit:04x}"))),
                c => json.push(c.encode_utf8(&mut [0; 4])),
            }?;
        }
        json.push("\"")
    }
}

//! From the bytes of a body to a dialect's wire type, with errors that name the field and never quote its value.
//!
//! The wire types here are as lenient as Python's: a whole number may be written `16.0`, a lone surrogate becomes
//! U+FFFD, the last byte may be followed by blanks only. An object is an object: serde would take a list for one.

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::error::Category;

use crate::api::error::{ApiError, ApiErrorKind};

/// A JSON object; a list of the fields' values, which serde accepts as well, is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<T> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// A list of at most so many items; one more is refused before the rest is read.
#[derive(Clone, Debug)]
pub(super) struct List<T, const ITEMS_MAX: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const ITEMS_MAX: usize> Deserialize<'de> for List<T, ITEMS_MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor::<T, ITEMS_MAX>(PhantomData)).map(Self)
    }
}

struct ListVisitor<T, const ITEMS_MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const ITEMS_MAX: usize> Visitor<'de> for ListVisitor<T, ITEMS_MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {ITEMS_MAX} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            if list.len() == ITEMS_MAX {
                return Err(A::Error::invalid_length(ITEMS_MAX + 1, &self));
            }
            list.push(item);
        }
        Ok(list)
    }
}

/// A whole number, wide enough for both of JSON's 64-bit ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Integer(pub(super) i128);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(IntegerVisitor)
    }
}

struct IntegerVisitor;

impl Visitor<'_> for IntegerVisitor {
    type Value = Integer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of 64 bits")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Integer, E> {
        Ok(Integer(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Integer, E> {
        Ok(Integer(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Integer, E> {
        // 2^63: beyond it a float no longer says which integer was meant.
        if value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0 {
            return Ok(Integer(value as i128));
        }
        Err(E::invalid_type(serde::de::Unexpected::Float(value), &self))
    }
}

/// Any finite number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number(pub(super) f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_f64(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
        Ok(Number(value))
    }
}

/// Reads an object.
///
/// # Errors
/// [`ApiErrorKind::Invalid`] with the path of the field at fault, where there is one.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let error = match parse_strictly(body) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match replace_lone_surrogates(body) {
        Cow::Owned(repaired) => parse_strictly(&repaired).map_err(|error| describe(&error)),
        Cow::Borrowed(_) => Err(describe(&error)),
    }
}

/// What serde says, and where.
struct Refusal {
    path: String,
    cause: serde_json::Error,
}

fn parse_strictly<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let Object(value) = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| Refusal { path: error.path().to_string(), cause: error.into_inner() })?;
    deserializer.end().map_err(|cause| Refusal { path: String::new(), cause })?;
    Ok(value)
}

/// serde quotes the value it refused, which may be a user's source text; only what was expected is handed on.
fn describe(Refusal { path, cause }: &Refusal) -> ApiError {
    let message = cause.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(head, _)| head);
    // What is no JSON may stand in a member that nobody knows, whose name is the client's.
    let is_json = cause.classify() == Category::Data;
    let mut field = field_path(path).filter(|_| is_json);
    let reason = if let Some((_, expected)) = message.rsplit_once(", expected ") {
        format!("must be {}", in_json_words(expected))
    } else if let Some(name) = message.strip_prefix("duplicate field `") {
        let name = name.trim_end_matches('`');
        field = Some(field.map_or_else(|| name.to_owned(), |parent| format!("{parent}.{name}")));
        "must be given once".to_owned()
    } else {
        match cause.classify() {
            Category::Syntax | Category::Eof | Category::Io => {
                format!("is not JSON: {message} at line {} column {}", cause.line(), cause.column())
            }
            Category::Data => format!("is refused: {message}"),
        }
    };
    match field {
        Some(field) => ApiError::invalid(field, reason),
        None => ApiError::new(ApiErrorKind::Invalid, format!("the body {reason}")),
    }
}

/// serde names kinds of values by Rust's words.
fn in_json_words(expected: &str) -> &str {
    match expected {
        "a sequence" => "a list",
        "a map" => "an object",
        other => other,
    }
}

/// Members whose keys are the client's own.
const MAPS: [&str; 3] = ["inputs", "logit_bias", "prompt_enhancer"];

/// A path ends before the first key that no field of ours could have: keys of maps are the client's text.
fn field_path(path: &str) -> Option<String> {
    let of_map = path.split('.').position(|segment| MAPS.contains(&segment));
    let segments = path.split('.').take(of_map.map_or(usize::MAX, |index| index + 1));
    let path = &segments.collect::<Vec<_>>().join(".");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '[' | ']');
    let end = path.find(|c| !is_plain(c)).unwrap_or(path.len()).min(PATH_BYTES_MAX);
    let path = path[..end].trim_matches('.');
    (!path.is_empty()).then(|| path.to_owned())
}

/// Longer than every path of our own fields.
const PATH_BYTES_MAX: usize = 80;

/// Editors that count in UTF-16 cut pairs in half; serde refuses the halves, so they become U+FFFD.
fn replace_lone_surrogates(body: &[u8]) -> Cow<'_, [u8]> {
    let mut repaired = Cow::Borrowed(body);
    let mut index = 0;
    while let Some(offset) = body[index..].iter().position(|byte| *byte == b'\\') {
        let at = index + offset;
        let Some(unit) = escaped_unit(body, at) else {
            // Two bytes, so that the second of `\\` does not start an escape.
            index = (at + 2).min(body.len());
            continue;
        };
        let is_pair = matches!(unit, 0xd800..=0xdbff)
            && matches!(escaped_unit(body, at + ESCAPE_BYTES), Some(0xdc00..=0xdfff));
        if is_pair {
            index = at + 2 * ESCAPE_BYTES;
            continue;
        }
        if matches!(unit, 0xd800..=0xdfff) {
            repaired.to_mut()[at..at + ESCAPE_BYTES].copy_from_slice(b"\\ufffd");
        }
        index = at + ESCAPE_BYTES;
    }
    repaired
}

/// Length of `\u0000`.
const ESCAPE_BYTES: usize = 6;

fn escaped_unit(body: &[u8], at: usize) -> Option<u16> {
    let escape = body.get(at..at + ESCAPE_BYTES)?;
    let digits = escape.strip_prefix(b"\\u")?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Wire {
        name: Option<String>,
        count: Option<Integer>,
        share: Option<Number>,
        items: Option<Vec<Object<Item>>>,
        few: Option<List<Integer, 2>>,
        inputs: Option<std::collections::BTreeMap<String, Integer>>,
    }

    #[derive(Debug, Deserialize)]
    struct Item {
        content: Option<String>,
    }

    #[test]
    fn replaces_lone_surrogates_only() {
        let rows = [
            (r#"{"name":"a\ud83d"}"#, "a\u{fffd}"),
            (r#"{"name":"\uDE00b"}"#, "\u{fffd}b"),
            (r#"{"name":"\ud83d\ude00"}"#, "\u{1f600}"),
            (r#"{"name":"\ud83d\ud83d\ude00"}"#, "\u{fffd}\u{1f600}"),
            (r#"{"name":"\\ud83d\ud83d"}"#, "\\ud83d\u{fffd}"),
            (r#"{"name":"\ud83dx"}"#, "\u{fffd}x"),
        ];
        for (body, expected) in rows {
            let wire: Wire = parse(body.as_bytes()).expect(body);
            assert_eq!(wire.name.as_deref(), Some(expected), "{body}");
        }
    }

    #[test]
    fn reads_whole_numbers_however_written() {
        let rows = [
            ("7", 7),
            ("7.0", 7),
            ("1e3", 1000),
            ("-1", -1),
            ("18446744073709551615", i128::from(u64::MAX)),
        ];
        for (text, expected) in rows {
            let wire: Wire =
                parse(format!("\u{feff}{{\"count\":{text}}} \n").as_bytes()).expect(text);
            assert_eq!(wire.count, Some(Integer(expected)), "{text}");
        }
        let wire: Wire = parse(br#"{"count":null,"share":3,"items":[]}"#).unwrap();
        assert_eq!((wire.count, wire.share), (None, Some(Number(3.0))));
        assert!(wire.items.unwrap().is_empty());
    }

    #[test]
    fn names_the_field_and_hides_the_value() {
        let rows = [
            ("", None, "the body is not JSON: EOF while parsing a value at line 1 column 0"),
            ("[]", None, "the body must be an object"),
            ("{} x", None, "the body is not JSON: trailing characters at line 1 column 4"),
            (r#"{"name":5}"#, Some("name"), "`name` must be a string"),
            (r#"{"items":{}}"#, Some("items"), "`items` must be a list"),
            (
                r#"{"count":"secret, expected x"}"#,
                Some("count"),
                "`count` must be a whole number of 64 bits",
            ),
            (r#"{"count":1.5}"#, Some("count"), "`count` must be a whole number of 64 bits"),
            (r#"{"share":true}"#, Some("share"), "`share` must be a number"),
            (r#"{"items":[[]]}"#, Some("items[0]"), "`items[0]` must be an object"),
            (
                r#"{"items":[{},{"content":{}}]}"#,
                Some("items[1].content"),
                "`items[1].content` must be a string",
            ),
            (r#"{"few":[1,2,3,"x"]}"#, Some("few"), "`few` must be a list of at most 2 items"),
            (r#"{"few":{}}"#, Some("few"), "`few` must be a list of at most 2 items"),
            (r#"{"name":"a","name":"b"}"#, Some("name"), "`name` must be given once"),
            (
                r#"{"secret":{"of the":"user"#,
                None,
                "the body is not JSON: EOF while parsing a string at line 1 column 25",
            ),
            (
                r#"{"inputs":{"secret":"x"}}"#,
                Some("inputs"),
                "`inputs` must be a whole number of 64 bits",
            ),
        ];
        for (body, field, message) in rows {
            let error = parse::<Wire>(body.as_bytes()).expect_err(body);
            assert_eq!(
                (error.field.as_deref(), error.message.as_str()),
                (field, message),
                "{body}"
            );
        }
    }

    #[test]
    fn reads_the_items() {
        let wire: Wire = parse(br#"{"items":[{"content":"x"}],"few":[1,2]}"#).unwrap();
        assert_eq!(wire.few.unwrap().0, [Integer(1), Integer(2)]);
        assert!(wire.inputs.is_none());
        assert_eq!(wire.items.unwrap()[0].content.as_deref(), Some("x"));
    }
}

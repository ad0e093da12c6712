//! Methods of Python's texts, lists and mappings that templates call: Jinja's templates are written for Python.

use std::sync::Arc;

use minijinja::{
    Error, ErrorKind,
    value::{Value, ValueKind, from_args},
};

use crate::prompt::chat::{
    bounded::{Bounded, too_much},
    mask::{self, Mask},
};

/// The methods over texts that may be hidden.
#[derive(Clone, Debug)]
pub(super) struct Methods {
    /// How they are hidden.
    pub(super) mask: Arc<Mask>,
    /// Most bytes of a text that a call makes.
    pub(super) bytes_max: usize,
}

impl Methods {
    /// Calls a method.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownMethod`]; arguments that do not fit; [`too_much`].
    pub(super) fn call(&self, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
        match (value.as_str(), value.kind(), method) {
            (Some(text), _, "replace") => self.replaced(text, args),
            (Some(text), _, "join") => self.joined(text, args),
            (Some(text), ..) => of_text(&self.mask, text, method, args),
            (None, ValueKind::Map, _) => of_map(value, method, args),
            (None, ValueKind::Seq, _) => of_list(value, method, args),
            (None, ..) => Err(ErrorKind::UnknownMethod.into()),
        }
    }

    fn replaced(&self, text: &str, args: &[Value]) -> Result<Value, Error> {
        let (from, to, limit): (&str, &str, Option<i64>) = from_args(args)?;
        let from = self.mask.as_in(text, from);
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let num = text.matches(&from).take(limit).count();
        if text.len().saturating_add(num.saturating_mul(to.len())) > self.bytes_max {
            return Err(too_much());
        }
        Ok(text.replacen(&from, to, num).into())
    }

    fn joined(&self, separator: &str, args: &[Value]) -> Result<Value, Error> {
        let (list,): (Value,) = from_args(args)?;
        let mut text = Bounded::new(self.bytes_max);
        for (index, item) in list.try_iter()?.enumerate() {
            if index > 0 {
                text.push(separator)?;
            }
            text.push_value(&item)?;
            // A list of a hundred million empty texts is made in one step.
            text.charge(1)?;
        }
        Ok(text.into_text()?.into())
    }
}

fn of_text(mask: &Mask, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let changed = match method {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "capitalize" => capitalised(text),
        "title" => text.split_inclusive(|c: char| !c.is_alphabetic()).map(capitalised).collect(),
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            stripped(text, method, set).to_owned()
        }
        "removeprefix" => {
            let part = part(mask, text, args)?;
            text.strip_prefix(part.as_str()).unwrap_or(text).to_owned()
        }
        "removesuffix" => {
            let part = part(mask, text, args)?;
            text.strip_suffix(part.as_str()).unwrap_or(text).to_owned()
        }
        _ => return about_text(mask, text, method, args),
    };
    Ok(changed.into())
}

/// Methods that answer with something else than a text.
fn about_text(mask: &Mask, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let is_all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    Ok(match method {
        "startswith" => any_part(mask, text, args, |part| text.starts_with(part))?,
        "endswith" => any_part(mask, text, args, |part| text.ends_with(part))?,
        "split" | "rsplit" => {
            let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
            let separator = separator.map(|separator| mask.as_in(text, separator));
            let limit = limit.and_then(|limit| usize::try_from(limit).ok());
            split(text, method, separator.as_deref(), limit)?
        }
        "splitlines" => text.lines().map(Value::from).collect(),
        "count" => text.matches(part(mask, text, args)?.as_str()).count().into(),
        "find" => place(text, text.find(part(mask, text, args)?.as_str())),
        "rfind" => place(text, text.rfind(part(mask, text, args)?.as_str())),
        "isdigit" | "isnumeric" => is_all(char::is_numeric).into(),
        "isalpha" => is_all(char::is_alphabetic).into(),
        "isalnum" => is_all(char::is_alphanumeric).into(),
        "isspace" => is_all(char::is_whitespace).into(),
        "isupper" => (text.to_uppercase() == text && text.to_lowercase() != text).into(),
        "islower" => (text.to_lowercase() == text && text.to_uppercase() != text).into(),
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

fn of_map(map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let entries = || -> Result<Vec<(Value, Value)>, Error> {
        let mut entries = Vec::new();
        for key in map.try_iter()? {
            let value = map.get_item(&key)?;
            entries.push((key, value));
        }
        Ok(entries)
    };
    Ok(match method {
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            let found = map.get_item(key)?;
            if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found }
        }
        "keys" => entries()?.into_iter().map(|(key, _)| key).collect(),
        "values" => entries()?.into_iter().map(|(_, value)| value).collect(),
        "items" => {
            entries()?.into_iter().map(|(key, value)| Value::from(vec![key, value])).collect()
        }
        "copy" => map.clone(),
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

fn of_list(list: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = from_args(args)?;
    Ok(match method {
        "count" => list.try_iter()?.filter(|item| item == wanted).count().into(),
        "index" => {
            let found = list.try_iter()?.position(|item| item == *wanted);
            let missing = || Error::new(ErrorKind::InvalidOperation, "it is not in the list");
            found.ok_or_else(missing)?.into()
        }
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

/// Returns a place in characters, marks among them as in the engine's slices and lengths; -1 is none.
fn place(text: &str, found: Option<usize>) -> Value {
    found.map_or(Value::from(-1), |index| text[..index].chars().count().into())
}

/// Returns the only argument as it stands in `text`.
fn part(mask: &Mask, text: &str, args: &[Value]) -> Result<String, Error> {
    let (part,): (&str,) = from_args(args)?;
    Ok(mask.as_in(text, part))
}

/// Asks of one text, or of any of a list.
fn any_part(
    mask: &Mask,
    text: &str,
    args: &[Value],
    is: impl Fn(&str) -> bool,
) -> Result<Value, Error> {
    let (asked,): (&Value,) = from_args(args)?;
    if let Some(part) = asked.as_str() {
        return Ok(is(&mask.as_in(text, part)).into());
    }
    let mut found = false;
    for part in asked.try_iter()? {
        found |= part.as_str().is_some_and(|part| is(&mask.as_in(text, part)));
    }
    Ok(found.into())
}

fn stripped<'a>(text: &'a str, method: &str, set: Option<&str>) -> &'a str {
    let is_taken =
        |c: char| set.map_or_else(|| c.is_whitespace(), |set| set.contains(c) || mask::is_mark(c));
    match method {
        "lstrip" => text.trim_start_matches(is_taken),
        "rstrip" => text.trim_end_matches(is_taken),
        _ => text.trim_matches(is_taken),
    }
}

fn split(
    text: &str,
    method: &str,
    separator: Option<&str>,
    limit: Option<usize>,
) -> Result<Value, Error> {
    let Some(separator) = separator else {
        return Ok(text.split_whitespace().map(Value::from).collect());
    };
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "the separator is empty"));
    }
    let limit = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    Ok(if method == "rsplit" {
        let mut parts: Vec<&str> = text.rsplitn(limit, separator).collect();
        parts.reverse();
        parts.into_iter().map(Value::from).collect()
    } else {
        text.splitn(limit, separator).map(Value::from).collect()
    })
}

fn capitalised(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().into_iter().flat_map(char::to_uppercase);
    first.chain(rest.as_str().to_lowercase().chars()).collect()
}

//! How a gap is asked for, where settings say otherwise than the family: words to values and back.

use crate::config::{
    FamilyChoice, FimConfig, OrderChoice, TokenChoice, Violation,
    raw::RawModel,
    resolve::{AUTO, broken, said, word},
};

/// The word for nothing.
const NONE: &str = "none";

/// Longest sentinel or stop.
const BYTES_MAX: usize = 256;

const ORDERS: [(&str, OrderChoice); 3] =
    [(AUTO, OrderChoice::Auto), ("psm", OrderChoice::Psm), ("spm", OrderChoice::Spm)];

/// Returns what a family's setting chooses.
pub(super) fn family(name: String) -> FamilyChoice {
    match name.as_str() {
        AUTO => FamilyChoice::Auto,
        NONE => FamilyChoice::None,
        _ => FamilyChoice::Named(name),
    }
}

/// Returns the setting that chooses a family.
pub(super) fn family_text(family: &FamilyChoice) -> String {
    match family {
        FamilyChoice::Auto => AUTO.to_owned(),
        FamilyChoice::None => NONE.to_owned(),
        FamilyChoice::Named(name) => name.clone(),
    }
}

/// Checks the settings that override a family's form.
///
/// # Errors
/// The first rule that is broken.
pub(super) fn resolve(raw: &RawModel) -> Result<FimConfig, Violation> {
    let stops = said("model.fim_stops", raw.fim_stops.clone())?;
    if let Some(stop) = stops.iter().find(|stop| !is_text(stop)) {
        let rule = format!("a list of texts of 1 to {BYTES_MAX} bytes");
        return Err(broken("model.fim_stops", &rule, format!("{stop:?}")));
    }
    let prefix = sentinel("model.fim_prefix", raw.fim_prefix.as_ref())?;
    let suffix = sentinel("model.fim_suffix", raw.fim_suffix.as_ref())?;
    if let Some(suffix) = suffix.as_ref().filter(|_| suffix == prefix) {
        return Err(broken("model.fim_suffix", "another token than `model.fim_prefix`", suffix));
    }
    Ok(FimConfig {
        prefix,
        suffix,
        middle: token("model.fim_middle", raw.fim_middle.as_ref())?,
        order: word("model.fim_order", raw.fim_order.clone(), &ORDERS)?,
        bos: token("model.fim_bos", raw.fim_bos.as_ref())?,
        stops,
    })
}

/// Writes the settings as they would be typed.
pub(super) fn print(fim: &FimConfig, raw: &mut RawModel) {
    let sentinel = |token: &Option<String>| Some(token.clone().unwrap_or_else(|| AUTO.to_owned()));
    raw.fim_prefix = sentinel(&fim.prefix);
    raw.fim_suffix = sentinel(&fim.suffix);
    raw.fim_middle = Some(token_text(&fim.middle));
    let order = ORDERS.iter().find(|(_, order)| *order == fim.order);
    raw.fim_order = order.map(|(word, _)| (*word).to_owned());
    raw.fim_bos = Some(token_text(&fim.bos));
    raw.fim_stops = Some(fim.stops.clone());
}

fn is_text(text: &str) -> bool {
    (1..=BYTES_MAX).contains(&text.len())
}

fn token(key: &'static str, value: Option<&String>) -> Result<TokenChoice, Violation> {
    let value = said(key, value)?;
    match value.as_str() {
        AUTO => Ok(TokenChoice::Auto),
        NONE => Ok(TokenChoice::None),
        text if is_text(text) => Ok(TokenChoice::Token(value.clone())),
        _ => {
            let rule = format!("auto, none, or a token of 1 to {BYTES_MAX} bytes");
            Err(broken(key, &rule, format!("{value:?}")))
        }
    }
}

fn token_text(choice: &TokenChoice) -> String {
    match choice {
        TokenChoice::Auto => AUTO.to_owned(),
        TokenChoice::None => NONE.to_owned(),
        TokenChoice::Token(token) => token.clone(),
    }
}

/// As [`token`], where there must be one.
fn sentinel(key: &'static str, value: Option<&String>) -> Result<Option<String>, Violation> {
    match token(key, value)? {
        TokenChoice::Auto => Ok(None),
        TokenChoice::Token(token) => Ok(Some(token)),
        TokenChoice::None => {
            let rule = format!("auto, or a token of 1 to {BYTES_MAX} bytes");
            Err(broken(key, &rule, NONE))
        }
    }
}

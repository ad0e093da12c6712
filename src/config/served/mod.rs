//! Several models: which spelling names them, and each table of `[[models]]` over `[engine]` and the defaults.
//!
//! A table is checked by the rules of `[model]` and `[engine]`; only the keys in its refusals are the table's own.

use std::collections::HashMap;

use crate::config::{
    Environment, ServedConfig, Violation,
    layers::{self, entries},
    raw::{RawConfig, RawEngine, RawModel, RawServed},
    resolve,
};

#[cfg(test)]
mod tests;

/// The key of the tables.
pub(super) const MODELS: &str = "models";

/// Returns the name of a table.
pub(super) fn table_name(table: usize) -> String {
    format!("{MODELS}[{table}]")
}

/// Returns the name of a key in a table.
pub(super) fn key_in(table: usize, key: &str) -> String {
    format!("{}.{key}", table_name(table))
}

/// Refuses settings that say twice what is loaded.
///
/// # Errors
/// The first key of `[model]` beside `[[models]]`, or tables of which there is none.
pub(super) fn check_spelling(typed: &RawConfig) -> Result<(), Violation> {
    let Some(models) = &typed.models else { return Ok(()) };
    if models.is_empty() {
        return Err(resolve::broken(MODELS, "one table a model", "none"));
    }
    let of_model = entries(typed).into_iter().find(|(key, _)| key.starts_with("model."));
    let Some((key, value)) = of_model else { return Ok(()) };
    let rule = "left out where `[[models]]` says what is loaded, or be a key of its tables";
    Err(Violation { key, rule: rule.to_owned(), got: value.to_string() })
}

/// Checks and completes the models, the first apart: those of `tables`, else the one of `model`. What a table leaves
/// out is as in `model` and `engine`.
///
/// # Errors
/// The first rule that is broken, by the key of the table that broke it.
pub(super) fn resolve(
    tables: Option<Vec<RawServed>>,
    model: RawModel,
    engine: RawEngine,
    environment: &Environment,
) -> Result<(ServedConfig, Vec<ServedConfig>), Violation> {
    let one = |model, engine| {
        Ok(ServedConfig {
            model: resolve::model(model, environment)?,
            engine: resolve::engine(engine)?,
        })
    };
    let mut names = HashMap::new();
    let Some(tables) = tables else {
        let served = one(model, engine)?;
        check_names(&served, &mut names, "model")?;
        return Ok((served, Vec::new()));
    };
    let mut all = Vec::with_capacity(tables.len());
    for (index, table) in tables.into_iter().enumerate() {
        let own_engine = table.engine.clone();
        let served = check_source(&table.model)
            .and_then(|()| one(table.model.or(model.clone()), table.engine.or(engine.clone())))
            .and_then(|served| {
                check_names(&served, &mut names, &table_name(index)).map(|()| served)
            })
            .map_err(|violation| in_table(violation, index, own_engine))?;
        all.push(served);
    }
    let first = all.remove(0);
    Ok((first, all))
}

/// A table says what it loads: one that forgot to would serve the default, which is the embedded model.
fn check_source(own: &RawModel) -> Result<(), Violation> {
    if own.source.as_deref() == Some("none") {
        let rule = "a model, or left out with its table; `[model]` may have none";
        return Err(resolve::broken("model.source", rule, "none"));
    }
    let rule = "said in each table of `[[models]]`; demo is the embedded model";
    own.source
        .is_some()
        .then_some(())
        .ok_or_else(|| resolve::broken("model.source", rule, "nothing"))
}

/// A name leads to one model. `names` has the key of each that was given, `section` is that of `served`.
fn check_names(
    served: &ServedConfig,
    names: &mut HashMap<String, String>,
    section: &str,
) -> Result<(), Violation> {
    let model = &served.model;
    let own = [("served_name", &model.served_name)];
    let aliases = model.aliases.iter().map(|alias| ("aliases", alias));
    let adapters = model.adapters.iter().map(|adapter| ("adapters", &adapter.name));
    for (leaf, name) in own.into_iter().chain(aliases).chain(adapters) {
        if let Some(other) = names.insert(name.clone(), format!("{section}.{leaf}")) {
            let rule = format!("a name of its own, other than those of `{other}`");
            let (key, got) = (format!("model.{leaf}"), format!("{name:?}"));
            return Err(Violation { key, rule, got });
        }
    }
    Ok(())
}

/// Returns a message about one of several models with the keys of its table in the place of those of the sections.
pub(super) fn in_words_of_table(message: &str, table: usize) -> String {
    let known = entries(&layers::defaults().unwrap_or_default());
    let of_table = |part: &str| {
        let leaf = part.strip_prefix("model.").or_else(|| part.strip_prefix("engine."))?;
        known.iter().any(|(key, _)| key == part).then(|| key_in(table, leaf))
    };
    between_backticks(message, of_table)
}

/// Replaces what stands between backticks, which is how messages name keys.
fn between_backticks(text: &str, replace: impl Fn(&str) -> Option<String>) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(index, part)| {
        let replaced = if index % 2 == 1 { replace(part) } else { None };
        replaced.unwrap_or_else(|| part.to_owned())
    });
    parts.collect::<Vec<_>>().join("`")
}

/// Puts the names of a table's keys in the place of those of the sections. A key of `[engine]` that the table leaves out
/// stays.
fn in_table(violation: Violation, table: usize, engine: RawEngine) -> Violation {
    let said = entries(&RawConfig { engine, ..RawConfig::default() });
    let own = |key: &str| match key.split_once('.') {
        Some(("model", leaf)) => Some(key_in(table, leaf)),
        Some((_, leaf)) if said.iter().any(|(said, _)| said == key) => Some(key_in(table, leaf)),
        _ => None,
    };
    // Rules name other keys too.
    let rule = between_backticks(&violation.rule, own);
    Violation { key: own(&violation.key).unwrap_or(violation.key), rule, got: violation.got }
}

//! Several models: which spelling names them, and each table of `[[models]]` over `[engine]` and the defaults.
//!
//! A table is checked by the rules of `[model]` and `[engine]`; only the keys in its refusals are the table's own.

use std::collections::HashSet;

use crate::config::{
    Environment, ServedConfig, Violation,
    layers::entries,
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
    let mut names = HashSet::new();
    let Some(tables) = tables else {
        let served = one(model, engine)?;
        check_names(&served, &mut names)?;
        return Ok((served, Vec::new()));
    };
    let mut all = Vec::with_capacity(tables.len());
    for (index, table) in tables.into_iter().enumerate() {
        let own_engine = table.engine.clone();
        let served = check_source(&table.model)
            .and_then(|()| one(table.model.or(model.clone()), table.engine.or(engine.clone())))
            .and_then(|served| check_names(&served, &mut names).map(|()| served))
            .map_err(|violation| in_table(violation, index, own_engine))?;
        all.push(served);
    }
    let first = all.remove(0);
    Ok((first, all))
}

/// A table says what it loads: one that forgot to would serve the default, which is the embedded model.
fn check_source(own: &RawModel) -> Result<(), Violation> {
    let rule = "said in each table of `[[models]]`; demo is the embedded model";
    own.source
        .is_some()
        .then_some(())
        .ok_or_else(|| resolve::broken("model.source", rule, "nothing"))
}

/// A name leads to one model.
fn check_names(served: &ServedConfig, names: &mut HashSet<String>) -> Result<(), Violation> {
    let model = &served.model;
    let own = [("model.served_name", &model.served_name)];
    let aliases = model.aliases.iter().map(|alias| ("model.aliases", alias));
    let adapters = model.adapters.iter().map(|adapter| ("model.adapters", &adapter.name));
    for (key, name) in own.into_iter().chain(aliases).chain(adapters) {
        if !names.insert(name.clone()) {
            let rule = "other than all names, aliases and adapters before it";
            return Err(resolve::broken(key, rule, format!("{name:?}")));
        }
    }
    Ok(())
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
    // Rules name other keys between backticks, so that each second part is one.
    let parts = violation.rule.split('`').enumerate();
    let parts = parts.map(|(index, part)| {
        let key = own(part).filter(|_| index % 2 == 1);
        key.unwrap_or_else(|| part.to_owned())
    });
    let rule = parts.collect::<Vec<_>>().join("`");
    Violation { key: own(&violation.key).unwrap_or(violation.key), rule, got: violation.got }
}

//! Planted faults: mutated copies of kernels, by the table `emulator/faults.tsv`.
//!
//! A fault in a `.cu` gives one copy; a fault in a header gives a copy of each `.cu` that includes it itself, beside copies of
//! all headers, the mutated one among them, for other headers include it too. The copy's code lies in an unnamed namespace,
//! so that it shares no function with the original.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::fail;

const TABLE: &str = "emulator/faults.tsv";

/// The header that every kernel begins with.
const WORDS: &str = "device.cuh";

struct Fault {
    id: String,
    file: PathBuf,
    find: String,
    replace: String,
}

/// Writes the mutated copies below `out` and returns those to compile.
pub(crate) fn write(out: &Path, kernels: &[PathBuf], headers: &[PathBuf]) -> Vec<PathBuf> {
    let mut written = Vec::new();
    for fault in table() {
        let mutated = mutate(&fault);
        let folder = out.join("faults").join(&fault.id);
        if let Err(error) = fs::create_dir_all(&folder) {
            fail(&format!("cannot create {}: {error}", folder.display()));
        }
        if fault.file.extension().is_some_and(|extension| extension == "cu") {
            written.push(write_copy(&folder, &fault, &fault.file, &mutated));
            continue;
        }
        let name = fault.file.file_name().unwrap_or_default();
        // The words are outside the namespace.
        for header in headers.iter().filter(|header| !header.ends_with(WORDS)) {
            let is_mutated = *header == fault.file;
            let text = if is_mutated { mutated.clone() } else { load(header) };
            store(&folder.join(header.file_name().unwrap_or_default()), &text);
        }
        let include = format!("#include \"{}\"", name.to_string_lossy());
        for kernel in kernels {
            let text = load(kernel);
            if text.contains(&include) {
                written.push(write_copy(&folder, &fault, kernel, &text));
            }
        }
    }
    written
}

/// Writes a `.cu` that registers its kernels under the fault's id.
fn write_copy(folder: &Path, fault: &Fault, original: &Path, text: &str) -> PathBuf {
    let path = folder.join(original.file_name().unwrap_or_default());
    // The words come first, outside the namespace; the copy's own include of them is then empty.
    let copy = format!(
        "#define FAULT \"{}\"\n#include \"{WORDS}\"\nnamespace {{\n#line 1 \"{}\"\n{text}\n}}\n",
        fault.id,
        original.display(),
    );
    store(&path, &copy);
    path
}

fn mutate(fault: &Fault) -> String {
    let text = load(&fault.file);
    let count = text.matches(&fault.find).count();
    if count != 1 {
        fail(&format!(
            "{TABLE}: `{}`: the text to find must occur exactly once in {}, it occurs {count} times",
            fault.id,
            fault.file.display()
        ));
    }
    text.replacen(&fault.find, &fault.replace, 1)
}

fn table() -> Vec<Fault> {
    let text = load(Path::new(TABLE));
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|row| {
        let columns: Vec<&str> = row.split('\t').collect();
        let [id, file, find, replace] = columns[..] else {
            fail(&format!("{TABLE}: a row must have 4 columns, got {}: {row}", columns.len()));
        };
        Fault {
            id: id.to_owned(),
            file: PathBuf::from(file),
            find: unescape(find),
            replace: unescape(replace),
        }
    })
    .collect()
}

/// `\n` is a line break, `\t` a tab, `\\` a backslash.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('\\') => plain.push('\\'),
            other => fail(&format!("{TABLE}: `\\{}` is no escape", other.unwrap_or(' '))),
        }
    }
    plain
}

fn load(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_else(|error| fail(&format!("cannot read {}: {error}", path.display())))
}

fn store(path: &Path, text: &str) {
    if let Err(error) = fs::write(path, text) {
        fail(&format!("cannot write {}: {error}", path.display()));
    }
}

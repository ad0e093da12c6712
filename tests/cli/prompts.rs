//! `lacuna prompts`: what would be in force, and what is wrong with a folder.

use crate::lacuna;

fn write(folder: &tempfile::TempDir, path: &str, text: &str) {
    let path = folder.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn prompts_are_listed_and_a_folder_adds_to_them() {
    let run = lacuna(&["prompts", "list"], &[]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let begins =
        |text: &str, place: &str| text.lines().any(|line| line.split("  ").next() == Some(place));
    assert!(begins(&run.stdout, "code_suggestions/generations/base/1.0.0"), "{}", run.stdout);
    let folder = tempfile::TempDir::new().unwrap();
    write(&folder, "own/base/1.2.3.yml", "name: My own\ntext: a\n");
    let path = folder.path().to_str().unwrap();
    for (arguments, variables) in [
        (&["prompts", "list", "--prompts-folder", path][..], &[][..]),
        (&["prompts", "list"], &[("LACUNA_PROMPTS_FOLDER", path)]),
    ] {
        let run = lacuna(arguments, variables);
        assert!(run.stdout.lines().any(|line| line.ends_with("  My own")), "{}", run.stdout);
    }
    let run = lacuna(&["prompts", "check", path], &[]);
    assert_eq!((run.code, run.stdout), (Some(0), format!("{path}: ok, 1 prompts\n")));
}

#[test]
fn every_bad_file_is_named_with_its_line() {
    let folder = tempfile::TempDir::new().unwrap();
    write(&folder, "own/base/1.0.0.yml", "name: a\ntext: \"{{ b }}\"\n");
    write(&folder, "own/base/2.yml", "name: a\ntext: b\n");
    let path = folder.path().to_str().unwrap();
    let message = format!(
        "{path}: own/base/1.0.0.yml:2: `b` must be listed in `inputs` or in `optional`\n  own/base/2.yml: must be named TASK/FAMILY/VERSION.yml, such as code_suggestions/generations/base/1.0.0.yml"
    );
    lacuna(&["prompts", "check", path], &[]).is_refused_with(&message);
    // What nobody would be asked with, or by.
    let rows = [
        ("own/starcoder/1.0.0.yml", "name: a\ntext: b\n", "is of the family starcoder"),
        ("code_suggestions/1.0.0.yml", "name: a\ntext: b\n", "TASK/FAMILY/VERSION.yml"),
        ("code_suggestions/generations/1.0.0.yml", "name: a\ntext: b\n", "family generations"),
        ("own/base/1.0.0.yaml", "name: a\ntext: b\n", "TASK/FAMILY/VERSION.yml"),
        ("a/b/c/d/e/f/g/1.0.0.yml", "name: a\ntext: b\n", "lies deeper"),
        (
            "own/base/1.0.0.yml",
            "name: a\nunit_primitives: [complete_codee]\ntext: b\n",
            "complete_codee; the nearest is complete_code",
        ),
        (
            "own/base/1.0.0.yml",
            "name: a\nunit_primitives: [Complete]\ntext: b\n",
            "got \"Complete\"",
        ),
        ("own/base/1.0.0.yml", "name: a\nmessages: b\n", "1.0.0.yml:2: must be a list\n"),
        ("own/base/1.0.0.yml", "name: a\ntext: [b]\n", "1.0.0.yml:2: must be a text\n"),
        ("README.md", "no prompt", "has no prompts"),
    ];
    for (file, text, words) in rows {
        let folder = tempfile::TempDir::new().unwrap();
        write(&folder, file, text);
        let run = lacuna(&["prompts", "check", folder.path().to_str().unwrap()], &[]);
        assert_eq!(run.code, Some(crate::USAGE), "{file}: {run:?}");
        assert!(run.stderr.contains(words), "{file}: {run:?}");
        let place = file.split("/g/").next().unwrap();
        assert!(words == "has no prompts" || run.stderr.contains(place), "{file}: {run:?}");
    }
    let missing = format!("{path}/missing");
    let run = lacuna(&["serve", "--prompts-folder", &missing], &[]);
    assert_eq!(run.code, Some(crate::USAGE), "{run:?}");
    assert!(run.stderr.contains(&missing), "{run:?}");
}

//! Rows of before and after for each step, and what holds for all of them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::completion::{Language, Step};

/// A gap and a completion: the file's name, what stands before, the completion, what stands after.
type Case<'a> = (&'a str, &'a str, &'a str, &'a str);

fn gap((file, before, _, after): Case<'_>) -> Gap {
    Gap::new(before, after, Language::detect(file, None))
}

fn run(chain: &Chain, gap: Gap, pieces: &[&str], ending: Ending) -> String {
    let mut running = chain.begin(gap, || Duration::ZERO);
    let mut kept = String::new();
    for piece in pieces {
        // Whether a piece is put off makes no difference.
        let (text, flow) = match running.try_push(piece) {
            Taken::Done(text, flow) => (text, flow),
            Taken::Parked(parked) => running.resume(parked),
        };
        kept.push_str(&text);
        if flow == Flow::Ended {
            break;
        }
    }
    kept + &running.finish(ending)
}

const CUT: Ending = Ending { is_cut: true, mean_logprob: None };
const WHOLE: Ending = Ending { is_cut: false, mean_logprob: None };

#[track_caller]
fn check(steps: &[Step], ending: Ending, rows: &[(Case<'_>, &str)]) {
    for (case, expected) in rows {
        let kept = run(&Chain::new(steps), gap(*case), &[case.2], ending);
        assert_eq!(kept, *expected, "{steps:?}: {case:?}");
    }
}

#[test]
fn white_space_alone_goes() {
    let rows = [
        (("a.py", "", " \n\t", ""), ""),
        (("a.py", "", " \n a \n", ""), " \n a \n"),
        (("a.py", "", "", ""), ""),
    ];
    check(&[Step::Whitespace], WHOLE, &rows);
}

#[test]
fn runs_of_asterisks_go() {
    let rows = [
        (("a.rb", "def f", "\n\t *****\n * a\nend", ""), ""),
        (("a.rb", "def f", "****", ""), "****"),
        (("a.c", "", "a\n/*****/", ""), "a\n/*****/"),
    ];
    check(&[Step::Asterisks], WHOLE, &rows);
}

#[test]
fn sentinels_go_unless_the_file_has_them() {
    let rows = [
        (("a.py", "", "a<|cursor|>b<|fim_middle|>", ""), "ab"),
        (("a.py", "", "<new_code>\na</new_code>", ""), "\na"),
        (("a.py", "", "<｜fim▁begin｜>a < b", ""), "a < b"),
        (("a.py", "", "<|cur<|cursor|>sor|>a", ""), "a"),
        (("a.py", "", "<|cursor", ""), "<|cursor"),
        (("a.fs", "", "f <| x |> g", ""), "f <| x |> g"),
        (("a.html", "", "<s>a</s>", ""), "<s>a</s>"),
        (("a.py", "", "table[PREFIX] + x[INST]", ""), "table[PREFIX] + x[INST]"),
        (("a.java", "", "List<MID> a", ""), "List<MID> a"),
        (("a.py", "EOT = \"<|endoftext|>\"\nb = ", "\"<|endoftext|>\"", ""), "\"<|endoftext|>\""),
    ];
    check(&[Step::SpecialTokens], WHOLE, &rows);
}

#[test]
fn fences_go_unless_the_file_has_them() {
    let rows = [
        (("a.py", "", "```python\na = 1\n```", ""), "a = 1"),
        (("a.py", "", "```python\r\na = 1\r\n```\r\n", ""), "a = 1"),
        (("a.py", "", "```\na = 1\n", ""), "a = 1\n"),
        (("a.py", "", "a = 1```", ""), "a = 1"),
        (("a.py", "", "a = 1\n", ""), "a = 1\n"),
        (("a.js", "", "`${a}` + ``", ""), "`${a}` + ``"),
        (("a.py", "", "a\n  ```b c\n", ""), "a\n  ```b c\n"),
        (("a.py", "", "x = ```no fence``` + 1\ny", ""), "x = ```no fence``` + 1\ny"),
        (("a.cc", "", "``` c++\na", ""), "a"),
        (("a.js", "", "  ```js\na\n  ```", ""), "a"),
        (("a.py", "", "```", ""), ""),
        (("a.md", "```sh\nls\n```\n", "```sh\nls\n```\n", ""), "```sh\nls\n```\n"),
        // What stands behind a closing fence is said to a person.
        (("a.py", "", "```python\na = 1\n\nb = 2\n```\nThis sets `a`.\n", ""), "a = 1\n\nb = 2"),
        (("a.py", "", "a = 1\n```\nThis sets `a`.", ""), "a = 1"),
        (("a.py", "", "a = 1```\nThis sets `a`.", ""), "a = 1"),
        // What is said before an opening one is not told from code.
        (("a.py", "", "So:\n```python\na = 1\n```\nDone.", ""), "So:\na = 1"),
        // Fences of comments, and those that code has further in.
        (
            ("a.rs", "", "/// ```\n/// f();\n/// ```\nfn f() {}\n", ""),
            "/// ```\n/// f();\n/// ```\nfn f() {}\n",
        ),
        (("a.py", "", "```py\n    ```\n    f()\n    ```\n```\n!", ""), "    ```\n    f()\n    ```"),
    ];
    check(&[Step::CodeFences], WHOLE, &rows);
}

#[test]
fn the_fences_of_a_file_say_nothing_of_a_model_that_talks() {
    let case = ("a.rs", "/// ```\n/// f()\n/// ```\n", "```rust\nfn f() {}\n```\nThis is `f`.", "");
    let chain = Chain::new(&[Step::CodeFences]);
    assert_eq!(run(&chain, gap(case), &[case.2], WHOLE), case.2);
    assert_eq!(run(&chain, gap(case).with_talk(true), &[case.2], WHOLE), "fn f() {}");
}

#[test]
fn a_closing_fence_ends_the_work_and_takes_its_line_break_along() {
    let case = ("a.py", "", "", "");
    let mut running = Chain::new(&[Step::CodeFences]).begin(gap(case), || Duration::ZERO);
    for (piece, kept, flow) in [
        ("a", "a", Flow::Open),
        ("b\nc", "b\nc", Flow::Open),
        ("\n", "", Flow::Open),
        ("``", "", Flow::Open),
        ("`\nmore", "", Flow::Ended),
    ] {
        assert_eq!(running.push(piece), (kept.to_owned(), flow), "{piece:?}");
    }
    assert_eq!(running.finish(WHOLE), "");
}

#[test]
fn generated_code_begins_a_line() {
    let rows = [
        (("a.py", "ctx", "x", ""), "\nx"),
        (("a.py", "a\r\nctx", "x", ""), "\r\nx"),
        (("a.py", "ctx\n", "x", ""), "x"),
        (("a.py", "ctx\n    ", "x", ""), "x"),
        (("a.py", "ctx", "\nx", ""), "\nx"),
        (("a.py", "ctx", "", ""), ""),
        (("a.py", "", "x", ""), "x"),
    ];
    check(&[Step::LeadingNewline], WHOLE, &rows);
}

#[test]
fn comments_alone_go() {
    let rows = [
        (("a.py", "a = 1\n", "# a\n# b", ""), ""),
        (("a.py", "a = 1\n", "# a\nb = 2", ""), "# a\nb = 2"),
        (("a.py", "a = 1\n", "  ): # a", ""), "  ): # a"),
        (("a.php", "$a = 1;\n", "// a\n", ""), ""),
        (("a.sh", "a=1\n", "# a\n\n# b\n", ""), ""),
        (("a.sh", "a=1\n", "# a\nb=2\n", ""), "# a\nb=2\n"),
        (("a.unknown", "a\n", "# a\n", ""), "# a\n"),
        // Who types a comment is given one.
        (("a.py", "# TODO: ", "# mend this", ""), "# mend this"),
    ];
    check(&[Step::CommentOnly], WHOLE, &rows);
}

#[test]
fn a_completion_ends_with_its_scope() {
    let rows = [
        (("a.go", "func f() {\n\t", "a()\n}\n\nfunc g() {\n\tb()\n", ""), "a()\n}"),
        (("a.py", "def f():\n    ", "return 1\n\ndef g():\n    return 2\n", ""), "return 1"),
        (
            ("a.py", "def f():\n    if a:\n        ", "b\n        c\n    return d\n", ""),
            "b\n        c",
        ),
        (("a.rb", "def f\n  ", "a\nend\n\ndef g\n  b\nend\n", ""), "a\nend"),
        (("a.js", "on(() => {\n  ", "a();\n});\nb();\n", ""), "a();\n});"),
        // What closes an inner block goes on in the outer one.
        (
            ("a.js", "function f() {\n  if (a) {\n    b();\n", "  }\n  c();\n  d();\n", ""),
            "  }\n  c();\n  d();\n",
        ),
        (
            ("a.js", "", "function f() {\n  a();\n}\nb();\n", ""),
            "function f() {\n  a();\n}\nb();\n",
        ),
        (("a.unknown", "f {\n", "a\n}\nb\n", ""), "a\n}\nb\n"),
    ];
    check(&[Step::Scope], WHOLE, &rows);
}

#[test]
fn what_the_suffix_says_goes() {
    let rows = [
        (("a.py", "t = \"abc", "\"", "\"\ndef f():\n    pass\n"), ""),
        (("a.py", "def hi(s: str", "):", "):"), ""),
        (("a.py", "def hi(s: str", "v: int):", "):"), "v: int"),
        (("a.go", "func p() {\n\tf(\"x\")\n", "}}", "}"), ""),
        // The gateway's answer has no line break here, which puts the brace of the suffix behind the call.
        (("a.go", "func p() {\n\tf(\"x\")\n", "\tf(\"x\")\n}", "}"), "\tf(\"x\")\n"),
        (("a.go", "func p() {\n\tf(\"x\")\n", "\tf(\"x\")\n}", "\n}"), "\tf(\"x\")"),
        (
            ("a.go", "func p() {\n\tf(\"x\")\n", "\tf(\"x\")\n", "}\n\nfunc q() {\n}\n"),
            "\tf(\"x\")\n",
        ),
        (("a.rb", "def p\n\t", "puts 1\nend", "\nend"), "puts 1"),
        (("a.py", "if (", "x > 0 && y < 10):", "):\n    pass\n"), "x > 0 && y < 10"),
        // The gateway erases this: without it the file is as it was, and has no more mistakes.
        (
            ("a.js", "function f() {\n  if (a) {\n    b();\n", "  }\n  c();\n  d();", "\n}\n"),
            "  }\n  c();\n  d();",
        ),
        (
            ("a.js", "function f() {\n  if (a) {\n    b();\n", "  }\n  c();\n}", "\n}\n"),
            "  }\n  c();",
        ),
        // The suffix closes the outer call only.
        (("a.py", "f(g(", "x)", ")"), "x)"),
        (("a.unknown", "f(g(", "x)", ")"), "x)"),
        (("a.unknown", "f(", "x)", ")"), "x"),
        (("a.unknown", "a\n", "b\nreturn c;\n", "return c;\n}\n"), "b\n"),
        // The model went on with the text after the cursor, and then with something else.
        (
            (
                "a.unknown",
                "a\n",
                "b\r\nreturn c;\r\nend f\r\nother\r\n",
                "\r\nreturn c;\r\nend f\r\n",
            ),
            "b",
        ),
        (("a.py", "", "a", ""), "a"),
    ];
    check(&[Step::SuffixOverlap], WHOLE, &rows);
}

#[test]
fn brackets_that_close_too_much_go() {
    let rows = [
        (("a.unknown", "f(", "x));", ");"), "x"),
        (("a.unknown", "f(", "x));", ""), "x));"),
        (("a.unknown", "", "1)", ""), "1)"),
        // What was opened before that is not seen.
        (("a.unknown", &format!("g(\n{}f(", "a\n".repeat(4000)), "x))", ");"), "x))"),
        (("a.unknown", "f(", "x)", ""), "x)"),
        (("a.unknown", "f(", "g(x)", ")"), "g(x)"),
        (("a.go", "func f() {\n\tif a {\n", "\t\tb()\n\t}\n}", "\n}\n"), "\t\tb()\n\t}"),
    ];
    check(&[Step::Brackets], WHOLE, &rows);
}

#[test]
fn a_piece_waits_where_a_step_would_read_much_syntax() {
    let long = "a()\n".repeat(200);
    for (case, steps, is_parked) in [
        (("a.go", long.as_str(), "b()\n", ""), &[Step::Whitespace, Step::Scope][..], true),
        (("a.go", "", "b()\n", &long), &[Step::Scope], true),
        (("a.go", "", &long, ""), &[Step::SuffixOverlap], true),
        (("a.go", "", "b()\n", ""), &[Step::Scope], false),
        (("a.go", &long, "b()", ""), &[Step::Scope], false),
        (("a.go", &long, "b()\n", ""), &[Step::Whitespace], false),
        (("a.unknown", &long, "b()\n", ""), &[Step::Scope], false),
    ] {
        let mut running = Chain::new(steps).begin(gap(case), || Duration::ZERO);
        let taken = running.try_push(case.2);
        assert_eq!(matches!(taken, Taken::Parked(_)), is_parked, "{steps:?} {case:?}");
    }
}

#[test]
fn every_sentinel_begins_as_the_search_for_them_expects() {
    assert!(MARKERS.iter().all(|marker| marker.starts_with('<')));
}

#[test]
fn lines_that_stand_above_go() {
    let above = "# one\nalpha_beta = gamma\ndelta_one = alpha_beta\nalpha_two = delta_one\nbeta_two = alpha_two\ngamma_two = beta_two\n}\n";
    let copied = above.split_inclusive('\n').skip(1).take(5).collect::<String>();
    let rows = [
        (("a.py", above, "x\n# one\ny\n", ""), "x\ny\n"),
        (("a.py", above, "# one\ny\n", ""), "# one\ny\n"),
        (("a.py", above, &format!("x\n{copied}y\n"), ""), "x\ny\n"),
        (("a.py", above, "x\n}\ny\n", ""), "x\n}\ny\n"),
    ];
    check(&[Step::RepeatedLines], WHOLE, &rows);
}

#[test]
fn loops_end_after_the_first_time() {
    let line = "    total += values[index];\n";
    let two = "    first(one_argument);\n    second(another_one);\n";
    let rows = [
        (("a.c", "", &*line.repeat(9), ""), line),
        (("a.c", "", &*two.repeat(9), ""), two),
        (("a.c", "", &*format!("{}b", line.repeat(3)), ""), &*format!("{}b", line.repeat(3))),
        (("a.c", "", &*"0, ".repeat(90), ""), "0, "),
        (("a.c", "", &*"0, ".repeat(16), ""), &*"0, ".repeat(16)),
        (("a.c", "", &*"-".repeat(100), ""), &*"-".repeat(100)),
        (("a.c", "", &*"-".repeat(900), ""), "-"),
    ];
    check(&[Step::Repetition], WHOLE, &rows);
    // A row that its author ended, and one that only the limit did.
    let numbers = "1000, ".repeat(10);
    check(&[Step::Repetition], WHOLE, &[(("a.c", "", &numbers, ""), &numbers)]);
    let rows = [
        (("a.c", "", &*numbers, ""), "1000, "),
        (("a.c", "", &*format!("int a[] = {{ {numbers}10"), ""), "int a[] = { 1000,"),
        (("a.c", "", &*"1000, ".repeat(5), ""), &*"1000, ".repeat(5)),
        (("a.c", "", &*"-".repeat(100), ""), &*"-".repeat(100)),
    ];
    check(&[Step::Repetition], CUT, &rows);
}

#[test]
fn the_last_piece_goes_where_the_limit_cut_it() {
    let rows = [
        (
            ("a.rb", "E.new(\n", "  name: p[:n],\n  config: { repeat: tru", "\n)"),
            "  name: p[:n],\n  config: { repeat:",
        ),
        (("a.java", "A a = new B()\n", "    .withA(1)\n    .withAnotherC", "\n"), "    .withA(1)"),
        (("a.rb", "", "averylongword", ""), "averylongword"),
        (("a.rb", "", "a b ", ""), "a b "),
    ];
    check(&[Step::Unfinished], CUT, &rows);
    check(&[Step::Unfinished], WHOLE, &[(("a.rb", "", "a b", ""), "a b")]);
}

#[test]
fn unlikely_completions_go() {
    for (score, min, kept) in [
        (Some(-2.0), Some(-1.5), ""),
        (Some(-1.5), Some(-1.5), "a"),
        (None, Some(-1.5), "a"),
        (Some(-9.0), None, "a"),
    ] {
        let gap = Gap::new("", "", None).with_min_score(min);
        let ending = Ending { is_cut: false, mean_logprob: score };
        assert_eq!(run(&Chain::new(&[Step::MinScore]), gap, &["a"], ending), kept);
    }
}

/// Words that steps look for, so that texts of them meet their rules often.
fn texts() -> impl Strategy<Value = String> {
    let words = [
        "a",
        "b1",
        "f(",
        "g(x)",
        ")",
        "}",
        "{",
        "\n",
        "\r\n",
        "\n\n",
        "    ",
        "\t",
        "# a",
        "// b\n",
        "```",
        "`",
        "```py\n",
        "<|cursor|>",
        "<|cur",
        "sor|>",
        "<",
        "[PREFIX]",
        "*****",
        "*",
        "\"",
        "'",
        ";",
        ",",
        "end",
        "end\n",
        "return a;\n",
        "if a {\n",
        "def f():\n",
        "é",
        "\u{2028}",
    ];
    let word = prop_oneof![prop::sample::select(words.to_vec()).prop_map(str::to_owned), "\\PC"];
    let text = prop::collection::vec(word, 0..24).prop_map(|words| words.concat());
    (text, 1_usize..6).prop_map(|(text, times)| text.repeat(times))
}

fn files() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a.py", "a.go", "a.rb", "a.js", "a.unknown", "a.sh"])
}

/// Returns whether `kept` is `text` with characters deleted.
fn is_subsequence(kept: &str, text: &str) -> bool {
    let mut characters = text.chars();
    kept.chars().all(|c| characters.any(|other| other == c))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_step_only_deletes_and_is_done_at_once(
        file in files(), before in texts(), text in texts(), after in texts(), is_cut: bool,
    ) {
        for step in Step::ALL {
            let case = (file, before.as_str(), text.as_str(), after.as_str());
            let chain = Chain::new(&[step]);
            let mut ending = Ending { is_cut, mean_logprob: None };
            let kept = run(&chain, gap(case), &[&text], ending);
            let added = if step == Step::LeadingNewline { kept.trim_start() } else { &kept };
            prop_assert!(is_subsequence(added, &text), "{step:?}: {kept:?}");
            // What was cut off is not cut off again.
            ending.is_cut &= kept == text;
            prop_assert_eq!(&run(&chain, gap(case), &[&kept], ending), &kept, "{:?} again", step);
        }
    }

    #[test]
    fn pieces_give_what_the_whole_gives(
        file in files(), before in texts(), text in texts(), after in texts(), size in 1_usize..9,
    ) {
        let characters: Vec<char> = text.chars().collect();
        let pieces: Vec<String> = characters.chunks(size).map(|piece| piece.iter().collect()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let all = Chain::new(&Step::ALL).streaming();
        let alone = Step::ALL.into_iter().map(|step| Chain::new(&[step]));
        for chain in alone.chain([all]) {
            let case = (file, before.as_str(), text.as_str(), after.as_str());
            let whole = run(&chain, gap(case), &[&text], WHOLE);
            prop_assert_eq!(&run(&chain, gap(case), &pieces, WHOLE), &whole, "{:?}", chain);
        }
    }
}

//! What each grammar finds in a few lines of its language, and that no text is too much for any.

use super::*;

const BUDGET: Budget = Budget { num_bytes_max: NUM_BYTES_MAX, num_steps_max: 512 };

#[track_caller]
fn parse(grammar: Grammar, text: &str) -> Tree<'_> {
    Syntax::of_grammar(grammar).parse(text, BUDGET).unwrap()
}

/// A language's few lines: the text, its imports, its signatures.
type Row = (Grammar, &'static str, &'static [&'static str], &'static [&'static str]);

const ROWS: &[Row] = &[
    (
        Grammar::C,
        "#include <a.h>\n// b\nstruct s {\n  int a;\n};\nint f(struct s *b) {\n  return b->a;\n}\n",
        &["#include <a.h>"],
        &["struct s", "int f(struct s *b)"],
    ),
    (
        Grammar::Cpp,
        "#include <a>\nusing std::a;\n// b\nclass C {\n  int m() {\n    return 1;\n  }\n};\n",
        &["#include <a>", "using std::a;"],
        &["class C", "int m()"],
    ),
    (
        Grammar::CSharp,
        "using A.B;\nnamespace N {\n  // b\n  class C {\n    int M(int a) {\n      return a;\n    }\n  }\n}\n",
        &["using A.B;"],
        &["namespace N", "class C", "int M(int a)"],
    ),
    (
        Grammar::Go,
        "package p\n\nimport \"fmt\"\n\n// b\ntype T struct {\n\ta int\n}\n\nfunc (t T) f(a int) {\n\tfmt.Println(a)\n}\n",
        &["import \"fmt\""],
        &["type T struct {\n\ta int\n}", "func (t T) f(a int)"],
    ),
    (
        Grammar::Java,
        "import a.B;\n// b\nclass C {\n  int m(int a) {\n    return a;\n  }\n  abstract void n();\n}\n",
        &["import a.B;"],
        &["class C", "int m(int a)", "abstract void n();"],
    ),
    (
        Grammar::JavaScript,
        "import a from 'a';\n// b\nclass C {\n  m(a) {\n    return <p>{a}</p>;\n  }\n}\nfunction f(a) {\n  return a;\n}\n",
        &["import a from 'a';"],
        &["class C", "m(a)", "function f(a)"],
    ),
    (
        Grammar::Kotlin,
        "import a.B\n\n// b\nclass C {\n  fun m(a: Int): Int {\n    return a\n  }\n}\n",
        &["import a.B"],
        &["class C", "fun m(a: Int): Int"],
    ),
    (
        Grammar::Php,
        "<?php\nuse A\\B;\n// b\nclass C {\n  function m($a) {\n    return $a;\n  }\n}\n",
        &["use A\\B;"],
        &["class C", "function m($a)"],
    ),
    (
        Grammar::Python,
        "import a\nfrom b import c\n# b\nclass C:\n    def m(self, a):\n        return a\n",
        &["import a", "from b import c"],
        &["class C:", "def m(self, a):"],
    ),
    (
        Grammar::Ruby,
        "require 'a'\nputs 1\n# b\nclass C\n  def m(a)\n    a\n  end\nend\n",
        &["require 'a'"],
        &["class C", "def m(a)"],
    ),
    (
        Grammar::Rust,
        "use a::b;\n// b\nimpl C {\n    fn m(&self) -> u8 {\n        1\n    }\n}\ntrait T {\n    fn n();\n}\n",
        &["use a::b;"],
        &["impl C", "fn m(&self) -> u8", "trait T", "fn n();"],
    ),
    (
        Grammar::Scala,
        "import a.B\n// b\nclass C(a: Int) {\n  def m(b: Int): Int = {\n    a + b\n  }\n}\n",
        &["import a.B"],
        &["class C(a: Int)", "def m(b: Int): Int ="],
    ),
    (
        Grammar::TypeScript,
        "import { a } from 'a';\n// b\ninterface I {\n  m(a: number): void;\n}\nfunction f(a: I): I {\n  return <I>a;\n}\n",
        &["import { a } from 'a';"],
        &["interface I", "m(a: number): void", "function f(a: I): I"],
    ),
    (
        Grammar::Tsx,
        "import { a } from 'a';\n// b\nfunction f(a: number) {\n  return <p>{a}</p>;\n}\n",
        &["import { a } from 'a';"],
        &["function f(a: number)"],
    ),
];

#[test]
fn each_grammar_finds_what_its_row_names() {
    assert!(Grammar::ALL.iter().all(|grammar| ROWS.iter().any(|row| row.0 == *grammar)));
    for (grammar, text, imports, signatures) in ROWS {
        let tree = parse(*grammar, text);
        assert_eq!(tree.num_errors(0..text.len()), 0, "{grammar:?}");
        let found: Vec<_> = tree.imports().into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, *imports, "{grammar:?}");
        let found: Vec<_> = tree.signatures().into_iter().map(|s| &text[s.head]).collect();
        assert_eq!(found, *signatures, "{grammar:?}");
    }
}

#[test]
fn comments_alone_are_told_from_code() {
    for (grammar, text, ..) in ROWS {
        let comment = if text.contains("# b") { "# b\n  # c\n" } else { "// b\n  // c\n" };
        assert!(parse(*grammar, comment).is_only_comments(), "{grammar:?}");
        for other in [format!("{comment}a = 1;"), String::new(), "  \n".to_owned(), ")".to_owned()]
        {
            assert!(!parse(*grammar, &other).is_only_comments(), "{grammar:?}: {other}");
        }
        if !matches!(grammar, Grammar::Python | Grammar::Ruby) {
            assert!(parse(*grammar, "/* b\n c */").is_only_comments(), "{grammar:?}");
        }
    }
}

#[test]
fn the_smallest_block_is_the_scope_of_a_position() {
    for (grammar, text, at, expected) in [
        (
            Grammar::Go,
            "func f() {\n\tif a { b() }\n\tc()\n}\nvar d = 1\n",
            "b()",
            Some("{\n\tif a { b() }\n\tc()\n}"),
        ),
        (
            Grammar::Go,
            "func f() {\n\tif a {\n\t\tb()\n\t}\n\tc()\n}\n",
            "b()",
            Some("{\n\t\tb()\n\t}"),
        ),
        (Grammar::Go, "func f() {\n}\nvar d = 1\n", "var", None),
        (Grammar::Python, "def f():\n    a\n\nb\n", "a", Some("a")),
        (Grammar::Python, "def f(): a\n\nb\n", "a", None),
        (
            Grammar::Python,
            "def f():\n    if a:\n        b\n    c\n",
            "c",
            Some("if a:\n        b\n    c"),
        ),
        (
            Grammar::Ruby,
            "def f\n  if a\n    b\n  end\n  c\nend\nd\n",
            "b",
            Some("if a\n    b\n  end"),
        ),
        // The `if` that begins here is what stands in the scope, not the scope.
        (
            Grammar::Ruby,
            "def f\n  if a\n    b\n  end\nend\nd\n",
            "if",
            Some("def f\n  if a\n    b\n  end\nend"),
        ),
        (Grammar::Rust, "fn f() {\n    a();\n}\n", "a()", Some("{\n    a();\n}")),
    ] {
        let tree = parse(grammar, text);
        let found = tree.smallest_block(text.find(at).unwrap(), 2).map(|range| &text[range]);
        assert_eq!(found, expected, "{grammar:?}: {text}");
    }
    assert_eq!(parse(Grammar::Go, "").smallest_block(0, 1), None);
}

#[test]
fn errors_are_counted_where_they_begin() {
    for (grammar, text, range, expected) in [
        (Grammar::Python, "def f(a:\n    pass\n", 0..20, true),
        (Grammar::Go, "func f() {\n", 0..11, true),
        (Grammar::Go, "func f() {\n}\n\n)\n", 14..15, true),
        (Grammar::Go, "func f() {\n}\n\n)\n", 0..10, false),
    ] {
        assert_eq!(parse(grammar, text).num_errors(range) > 0, expected, "{text}");
    }
}

#[test]
fn nodes_are_those_of_a_range() {
    let tree = parse(Grammar::Python, "a = bc\nd = e\n");
    let names = |range, num_max| -> Vec<_> {
        let nodes = tree.nodes(range, num_max).into_iter();
        nodes.filter(|n| n.kind == "identifier").map(|n| &tree.text()[n.range]).collect()
    };
    assert_eq!(names(0..13, 99), ["a", "bc", "d", "e"]);
    assert_eq!(names(4..7, 99), ["bc"]);
    assert_eq!(names(0..13, 4), ["a"]);
}

#[test]
fn hostile_text_ends_within_its_budget() {
    let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    let texts = [
        "(".repeat(50_000),
        "[{".repeat(25_000),
        "{\n".repeat(25_000),
        "}".repeat(50_000),
        "a<".repeat(25_000),
        "\"".repeat(50_001),
        "`${".repeat(20_000),
        "if a then ".repeat(5_000),
        "<?php ?>".repeat(6_000),
        "x".repeat(60_000),
        "\u{0}\u{feff}\u{2028}é".repeat(5_000),
        "def f():\n".repeat(6_000),
        "of<".repeat(20_000),
        "a,".repeat(25_000),
        "\"#".repeat(25_000),
        "r#\"".repeat(15_000),
        "/*".repeat(25_000),
        "/* ".repeat(OPEN_COMMENTS_MAX),
        "/*/".repeat(6_000),
        "<a>".repeat(20_000),
        nested(25_000),
        nested(DEPTH_MAX),
        "[{".repeat(DEPTH_MAX / 2),
    ];
    for grammar in Grammar::ALL {
        for text in &texts {
            let text = window::after(text, NUM_BYTES_MAX);
            // What does come of it is walked whole.
            let Some(tree) = Syntax::of_grammar(grammar).parse(text, BUDGET) else { continue };
            tree.num_errors(0..text.len());
            tree.is_only_comments();
            tree.smallest_block(text.len() / 2, 2);
            tree.imports();
            tree.signatures();
            tree.nodes(0..text.len(), usize::MAX);
        }
    }
}

#[test]
fn a_line_of_ten_megabytes_is_no_tree_and_its_ends_are_soon_read() {
    for piece in ["a", "a,", "of<", "\"#", "(", "é"] {
        let line = piece.repeat((10 << 20) / piece.len());
        let (before, after) =
            (window::before(&line, NUM_BYTES_MAX), window::after(&line, NUM_BYTES_MAX));
        assert!(before.len() <= NUM_BYTES_MAX && after.len() <= NUM_BYTES_MAX, "{piece}");
        for grammar in Grammar::ALL {
            let syntax = Syntax::of_grammar(grammar);
            assert!(syntax.parse(&line, Budget { num_bytes_max: usize::MAX, ..BUDGET }).is_none());
            let (_, num_steps) = syntax.parse_counted(before, BUDGET);
            assert!(num_steps <= BUDGET.num_steps_max + 1, "{grammar:?} {piece}: {num_steps}");
        }
    }
}

#[test]
fn budgets_are_kept() {
    let kotlin = Syntax::of_grammar(Grammar::Kotlin);
    assert!(kotlin.parse(&"/* ".repeat(OPEN_COMMENTS_MAX + 1), BUDGET).is_none());
    assert!(kotlin.parse(&"/* a */\n".repeat(OPEN_COMMENTS_MAX + 1), BUDGET).is_some());
    let syntax = Syntax::of_grammar(Grammar::Rust);
    let text = "fn f() { a(b); }\n".repeat(100);
    assert!(syntax.parse(&text, Budget::of_bytes(4096)).is_some());
    assert!(syntax.parse(&text, Budget { num_bytes_max: 4096, num_steps_max: 3 }).is_none());
}

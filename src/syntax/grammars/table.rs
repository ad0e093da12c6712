//! The table of grammars: kinds of nodes by the names that each gives them.

use tree_sitter::Language;

use crate::{completion::Grammar, syntax::grammars::Roles};

/// One row of the table.
#[derive(Debug)]
pub(in crate::syntax) struct Row {
    pub(in crate::syntax) language: fn() -> Language,
    pub(in crate::syntax) comments: &'static [&'static str],
    /// What a scope is: the inside of a function, of a type, of a loop.
    pub(in crate::syntax) blocks: &'static [&'static str],
    /// Whether a block begins with what opens it, so that its first byte lies before it.
    pub(in crate::syntax) blocks_have_heads: bool,
    /// What makes names of other files known.
    imports: &'static [&'static str],
    /// The words of which one must begin an import; none allow any.
    pub(in crate::syntax) import_words: &'static [&'static str],
    /// Functions and methods, with a body or without; also what is told whole.
    functions: &'static [&'static str],
    /// Classes and their like; only where they have a body, and what is in it is looked at too.
    types: &'static [&'static str],
    /// What a body is, where it is no field `body`.
    bodies: &'static [&'static str],
}

impl Row {
    /// Returns the names of kinds by what they are taken for.
    pub(super) fn names(&self) -> [(Roles, &'static [&'static str]); 6] {
        [
            (Roles::COMMENT, self.comments),
            (Roles::BLOCK, self.blocks),
            (Roles::IMPORT, self.imports),
            (Roles::FUNCTION, self.functions),
            (Roles::TYPE, self.types),
            (Roles::BODY, self.bodies),
        ]
    }
}

/// Returns the row of a grammar.
pub(super) fn row(grammar: Grammar) -> &'static Row {
    match grammar {
        Grammar::C => &C,
        Grammar::Cpp => &CPP,
        Grammar::CSharp => &CSHARP,
        Grammar::Go => &GO,
        Grammar::Java => &JAVA,
        Grammar::JavaScript => &JAVASCRIPT,
        Grammar::Kotlin => &KOTLIN,
        Grammar::Php => &PHP,
        Grammar::Python => &PYTHON,
        Grammar::Ruby => &RUBY,
        Grammar::Rust => &RUST,
        Grammar::Scala => &SCALA,
        Grammar::Tsx => &TSX,
        Grammar::TypeScript => &TYPESCRIPT,
    }
}

const C: Row = Row {
    language: || tree_sitter_c::LANGUAGE.into(),
    comments: &["comment"],
    blocks: &[
        "compound_statement",
        "declaration_list",
        "field_declaration_list",
        "enumerator_list",
    ],
    blocks_have_heads: false,
    imports: &["preproc_include"],
    import_words: &[],
    functions: &["function_definition"],
    types: &["struct_specifier", "union_specifier", "enum_specifier"],
    bodies: &[],
};

const CPP: Row = Row {
    language: || tree_sitter_cpp::LANGUAGE.into(),
    imports: &["preproc_include", "using_declaration"],
    types: &[
        "class_specifier",
        "struct_specifier",
        "union_specifier",
        "enum_specifier",
        "namespace_definition",
    ],
    ..C
};

const CSHARP: Row = Row {
    language: || tree_sitter_c_sharp::LANGUAGE.into(),
    comments: &["comment"],
    blocks: &[
        "block",
        "declaration_list",
        "switch_body",
        "enum_member_declaration_list",
        "accessor_list",
    ],
    blocks_have_heads: false,
    imports: &["using_directive"],
    import_words: &[],
    functions: &[
        "method_declaration",
        "constructor_declaration",
        "destructor_declaration",
        "operator_declaration",
        "conversion_operator_declaration",
        "delegate_declaration",
    ],
    types: &[
        "class_declaration",
        "interface_declaration",
        "struct_declaration",
        "record_declaration",
        "enum_declaration",
        "namespace_declaration",
    ],
    bodies: &[],
};

const GO: Row = Row {
    language: || tree_sitter_go::LANGUAGE.into(),
    comments: &["comment"],
    blocks: &["block", "field_declaration_list"],
    blocks_have_heads: false,
    imports: &["import_declaration"],
    import_words: &[],
    // A type's fields are what is worth knowing of it, so it is told whole.
    functions: &["function_declaration", "method_declaration", "type_declaration"],
    types: &[],
    bodies: &[],
};

const JAVA: Row = Row {
    language: || tree_sitter_java::LANGUAGE.into(),
    comments: &["line_comment", "block_comment"],
    blocks: &[
        "block",
        "class_body",
        "interface_body",
        "enum_body",
        "constructor_body",
        "switch_block",
        "annotation_type_body",
    ],
    blocks_have_heads: false,
    imports: &["import_declaration"],
    import_words: &[],
    functions: &[
        "method_declaration",
        "constructor_declaration",
        "compact_constructor_declaration",
        "annotation_type_element_declaration",
    ],
    types: &[
        "class_declaration",
        "interface_declaration",
        "enum_declaration",
        "record_declaration",
        "annotation_type_declaration",
    ],
    bodies: &[],
};

const JAVASCRIPT: Row = Row {
    language: || tree_sitter_javascript::LANGUAGE.into(),
    comments: &["comment", "html_comment"],
    blocks: &["statement_block", "class_body", "switch_body"],
    blocks_have_heads: false,
    imports: &["import_statement"],
    import_words: &[],
    functions: &["function_declaration", "generator_function_declaration", "method_definition"],
    types: &["class_declaration"],
    bodies: &[],
};

const KOTLIN: Row = Row {
    language: || tree_sitter_kotlin_ng::LANGUAGE.into(),
    comments: &["line_comment", "block_comment"],
    blocks: &["block", "function_body", "class_body", "enum_class_body"],
    blocks_have_heads: false,
    imports: &["import"],
    import_words: &[],
    functions: &["function_declaration", "secondary_constructor"],
    types: &["class_declaration", "object_declaration", "companion_object"],
    bodies: &["function_body", "class_body", "enum_class_body", "block"],
};

const PHP: Row = Row {
    // Windows into a file rarely hold its `<?php`, without which the other grammar takes all for HTML.
    language: || tree_sitter_php::LANGUAGE_PHP_ONLY.into(),
    comments: &["comment"],
    blocks: &[
        "compound_statement",
        "declaration_list",
        "enum_declaration_list",
        "switch_block",
        "match_block",
        "colon_block",
    ],
    blocks_have_heads: false,
    imports: &["namespace_use_declaration"],
    import_words: &[],
    functions: &["function_definition", "method_declaration"],
    types: &[
        "class_declaration",
        "interface_declaration",
        "trait_declaration",
        "enum_declaration",
        "namespace_definition",
    ],
    bodies: &[],
};

const PYTHON: Row = Row {
    language: || tree_sitter_python::LANGUAGE.into(),
    comments: &["comment"],
    blocks: &["block"],
    blocks_have_heads: false,
    imports: &["import_statement", "import_from_statement", "future_import_statement"],
    import_words: &[],
    functions: &["function_definition"],
    types: &["class_definition"],
    bodies: &[],
};

const RUBY: Row = Row {
    language: || tree_sitter_ruby::LANGUAGE.into(),
    comments: &["comment"],
    // What ends in `end`: the inside alone would leave that word out.
    blocks: &[
        "method",
        "singleton_method",
        "class",
        "singleton_class",
        "module",
        "do_block",
        "block",
        "begin",
        "if",
        "unless",
        "case",
        "while",
        "until",
        "for",
    ],
    blocks_have_heads: true,
    imports: &["call"],
    import_words: &["require", "require_relative", "load", "autoload"],
    functions: &["method", "singleton_method"],
    types: &["class", "singleton_class", "module"],
    bodies: &[],
};

const RUST: Row = Row {
    language: || tree_sitter_rust::LANGUAGE.into(),
    comments: &["line_comment", "block_comment"],
    blocks: &[
        "block",
        "declaration_list",
        "field_declaration_list",
        "enum_variant_list",
        "match_block",
    ],
    blocks_have_heads: false,
    imports: &["use_declaration", "extern_crate_declaration"],
    import_words: &[],
    functions: &["function_item", "function_signature_item"],
    types: &["struct_item", "union_item", "enum_item", "trait_item", "impl_item", "mod_item"],
    bodies: &[],
};

const SCALA: Row = Row {
    language: || tree_sitter_scala::LANGUAGE.into(),
    comments: &["comment", "block_comment"],
    blocks: &["block", "indented_block", "case_block", "template_body", "enum_body"],
    blocks_have_heads: false,
    imports: &["import_declaration"],
    import_words: &[],
    functions: &["function_definition", "function_declaration"],
    types: &[
        "class_definition",
        "object_definition",
        "package_object",
        "trait_definition",
        "enum_definition",
        "extension_definition",
    ],
    bodies: &[],
};

const TYPESCRIPT: Row = Row {
    language: || tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(),
    blocks: &[
        "statement_block",
        "class_body",
        "switch_body",
        "interface_body",
        "object_type",
        "enum_body",
    ],
    functions: &[
        "function_declaration",
        "generator_function_declaration",
        "method_definition",
        "function_signature",
        "method_signature",
        "abstract_method_signature",
    ],
    types: &[
        "class_declaration",
        "abstract_class_declaration",
        "interface_declaration",
        "enum_declaration",
        "internal_module",
    ],
    ..JAVASCRIPT
};

const TSX: Row = Row { language: || tree_sitter_typescript::LANGUAGE_TSX.into(), ..TYPESCRIPT };

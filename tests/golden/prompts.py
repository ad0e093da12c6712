"""The prompts of the golden set: (name, language, prefix, suffix), written for it, short and long, in twelve languages.

`<|repo_name|>` and `<|file_sep|>` in a prefix stand for the special tokens; make_golden.py splices their ids.
"""

PYTHON_LONG = '''"""Keeps the shelf of a small library: which books exist, who holds them, and since when."""
import datetime
import json


class Book:
    def __init__(self, title, author, year, copies=1):
        self.title = title
        self.author = author
        self.year = year
        self.copies = copies
        self.loans = []

    def available(self):
        return self.copies - len(self.loans)

    def lend(self, reader, today):
        if self.available() <= 0:
            raise ValueError("no copy of this book is left")
        self.loans.append((reader, today))

    def give_back(self, reader):
        for index, (name, _) in enumerate(self.loans):
            if name == reader:
                del self.loans[index]
                return True
        return False

    def to_dict(self):
        return {
            "title": self.title,
            "author": self.author,
            "year": self.year,
            "copies": self.copies,
            "loans": [[reader, day.isoformat()] for reader, day in self.loans],
        }


class Shelf:
    def __init__(self):
        self.books = {}

    def add(self, book):
        if book.title in self.books:
            self.books[book.title].copies += book.copies
        else:
            self.books[book.title] = book

    def remove(self, title):
        if title not in self.books:
            raise KeyError(title)
        del self.books[title]

    def find_by_author(self, author):
        return [book for book in self.books.values() if book.author == author]

    def find_by_year(self, first, last):
        return [book for book in self.books.values() if first <= book.year <= last]

    def late(self, today, days=28):
        limit = datetime.timedelta(days=days)
        result = []
        for book in self.books.values():
            for reader, day in book.loans:
                if today - day > limit:
                    result.append((reader, book.title))
        return result

    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump([book.to_dict() for book in self.books.values()], file)

'''


def repeated_functions(count):
    """A long file of similar functions, for prompts of many tokens."""
    shapes = ["circle", "square", "triangle", "pentagon", "hexagon", "ellipse", "rhombus", "cone", "sphere", "cube", "prism", "torus"]
    parts = []
    for index in range(count):
        shape = shapes[index % len(shapes)]
        parts.append(
            f"def area_of_{shape}_{index}(width, height):\n    if width < 0 or height < 0:\n        raise ValueError(\"negative size\")\n"
            f"    scale = {index + 1}\n    return width * height * scale\n\n\n")
    return "".join(parts)


PROMPTS = [
    ("python add", "python", "def add(a, b):\n    return ", "\n"),
    ("python init", "python", "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.", "\n\n    def norm(self):\n        return self.x\n"),
    ("python for range", "python", "total = 0\nfor i in range(10):\n    total ", "\nprint(total)\n"),
    ("python import", "python", "import os\nimport ", "\n\nprint(sys.argv)\n"),
    ("python with open", "python", "def read_lines(path):\n    with open(path) as file:\n        return ", "\n\n\ndef main():\n    print(read_lines('a.txt'))\n"),
    ("python raise", "python", "def check(value):\n    if value is None:\n        raise ", "\n    return value\n"),
    ("python empty prefix", "python", "", "\n\nif __name__ == \"__main__\":\n    main()\n"),
    ("python empty suffix", "python", "def factorial(n):\n    if n == 0:\n        return 1\n    return n * ", ""),
    ("python class method", "python", "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        self.items.append(item)\n\n    def pop(self):\n        ", "\n\n    def __len__(self):\n        return len(self.items)\n"),
    ("python unicode", "python", "greeting = \"Grüße, 世界 🌍\"\nsize = \"größer\"\nprint(greeting, ", ")\n"),
    ("python long 600", "python", PYTHON_LONG + "    @classmethod\n    def load(cls, path):\n        shelf = cls()\n        with open(path, ", "\n        return shelf\n"),
    ("python long 1500", "python", repeated_functions(34) + "def area_of_cube_34(width, height):\n    if width < 0 or ", "\n    return width * height * 35\n"),
    ("python tab indent", "python", "def walk(node):\n\tif node is None:\n\t\treturn\n\twalk(node.left)\n\twalk(", "\n"),
    ("rust main", "rust", "fn main() {\n    let name = \"world\";\n    println!(\"hello {}\", ", ");\n}\n"),
    ("rust impl", "rust", "pub struct Counter {\n    count: usize,\n}\n\nimpl Counter {\n    pub fn new() -> Self {\n        ", "\n    }\n}\n"),
    ("rust match", "rust", "fn describe(value: Option<u32>) -> String {\n    match value {\n        Some(n) => format!(\"{n}\"),\n        None => ", ",\n    }\n}\n"),
    ("rust use", "rust", "use std::collections::", ";\n\nfn words() -> HashMap<String, usize> {\n    HashMap::new()\n}\n"),
    ("rust iterator", "rust", "fn total(values: &[i64]) -> i64 {\n    values.iter().", "\n}\n"),
    ("rust result", "rust", "fn read(path: &Path) -> io::Result<String> {\n    let mut file = File::open(path)?;\n    let mut text = String::new();\n    file.read_to_string(&mut ", ")?;\n    Ok(text)\n}\n"),
    ("rust crlf", "rust", "fn half(n: u32) -> Option<u32> {\r\n    if n % 2 == 0 {\r\n        Some(n / 2)\r\n    } else {\r\n        ", "\r\n    }\r\n}\r\n"),
    ("rust test", "rust", "#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn adds() {\n        assert_eq!(", ");\n    }\n}\n"),
    ("javascript arrow", "javascript", "const double = (values) => values.map((value) => ", ");\n\nmodule.exports = { double };\n"),
    ("javascript require", "javascript", "const fs = require('fs');\nconst path = ", ";\n"),
    ("javascript async", "javascript", "async function load(url) {\n  const response = await fetch(url);\n  if (!response.ok) {\n    throw new ", "\n  }\n  return response.json();\n}\n"),
    ("javascript class", "javascript", "class Queue {\n  constructor() {\n    this.items = [];\n  }\n\n  get length() {\n    return this.", "\n  }\n}\n"),
    ("javascript crlf", "javascript", "function clamp(value, low, high) {\r\n  if (value < low) {\r\n    return low;\r\n  }\r\n  return ", "\r\n}\r\n"),
    ("javascript loop", "javascript", "for (let i = 0; i < items.length; ", ") {\n  console.log(items[i]);\n}\n"),
    ("typescript interface", "typescript", "export interface User {\n  id: number;\n  name: ", "\n}\n"),
    ("typescript generic", "typescript", "export function first<T>(items: T[]): T | undefined {\n  return ", ";\n}\n"),
    ("typescript import", "typescript", "import { readFile } from ", ";\n\nexport const load = (path: string) => readFile(path);\n"),
    ("typescript union", "typescript", "type State = 'idle' | 'busy' | 'done';\n\nfunction label(state: State): string {\n  switch (state) {\n    case 'idle':\n      return 'waiting';\n    case ", "\n  }\n}\n"),
    ("c for", "c", "int sum(const int *values, int count) {\n    int total = 0;\n    for (int i = 0; i < count; i++) {\n        total += ", ";\n    }\n    return total;\n}\n"),
    ("c include", "c", "#include <stdio.h>\n#include <", "\n\nint main(void) {\n    printf(\"hello\\n\");\n    return 0;\n}\n"),
    ("c free", "c", "void list_free(struct node *head) {\n    while (head != NULL) {\n        struct node *next = head->next;\n        ", "\n        head = next;\n    }\n}\n"),
    ("cpp class", "cpp", "class Buffer {\n public:\n  explicit Buffer(size_t size) : data_(size) {}\n  size_t size() const { return ", "; }\n\n private:\n  std::vector<char> data_;\n};\n"),
    ("cpp include", "cpp", "#include <string>\n#include <vector>\n\nint longest(const std::vector<std::string>& words) {\n  int best = 0;\n  for (const auto& word : ", ") {\n    best = std::max(best, static_cast<int>(word.size()));\n  }\n  return best;\n}\n"),
    ("go error", "go", "func load(path string) ([]byte, error) {\n\tdata, err := os.ReadFile(path)\n\tif err != nil {\n\t\treturn ", "\n\t}\n\treturn data, nil\n}\n"),
    ("go struct", "go", "package queue\n\ntype Queue struct {\n\titems []string\n}\n\nfunc (q *Queue) Push(item string) {\n\tq.items = ", "\n}\n"),
    ("go main", "go", "package main\n\nimport \"fmt\"\n\nfunc main() {\n\tfmt.", "\n}\n"),
    ("java getter", "java", "public class Person {\n    private final String name;\n\n    public Person(String name) {\n        this.name = name;\n    }\n\n    public String getName() {\n        ", "\n    }\n}\n"),
    ("java loop", "java", "public static int count(List<String> words, String word) {\n    int count = 0;\n    for (String candidate : words) {\n        if (candidate.equals(", ")) {\n            count++;\n        }\n    }\n    return count;\n}\n"),
    ("java exception", "java", "public void setSize(int size) {\n    if (size < 0) {\n        throw new ", "\n    }\n    this.size = size;\n}\n"),
    ("shell if", "shell", "#!/bin/sh\nset -eu\nif [ -z \"$1\" ]; then\n    echo \"usage: $0 FILE\"\n    ", "\nfi\ncat \"$1\"\n"),
    ("shell loop", "shell", "for file in *.txt; do\n    echo \"$", "\"\ndone\n"),
    ("sql select", "sql", "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);\nSELECT id, name FROM ", " WHERE id = 1;\n"),
    ("html", "html", "<!doctype html>\n<html>\n  <head>\n    <title>Lacuna</title>\n  </head>\n  <body>\n    <h1>", "</h1>\n  </body>\n</html>\n"),
    ("toml", "toml", "[package]\nname = \"demo\"\nversion = ", "\nedition = \"2021\"\n"),
    ("json", "json", "{\n  \"name\": \"demo\",\n  \"version\": \"1.0.0\",\n  \"main\": ", "\n}\n"),
    ("repository of two files", "python", "<|repo_name|>demo<|file_sep|>shapes.py\ndef area(width, height):\n    return width * height\n<|file_sep|>main.py\nfrom shapes import ", "\n\nprint(area(2, 3))\n"),
    ("repository rust", "rust", "<|repo_name|>counter<|file_sep|>src/counter.rs\npub struct Counter {\n    pub count: u32,\n}\n<|file_sep|>src/main.rs\nmod counter;\nuse counter::", ";\n\nfn main() {\n    let counter = Counter { count: 0 };\n}\n"),
    ("line start layout", "python", "def mean(values):\n    total = sum(values)\n", "\n\n\ndef median(values):\n    return sorted(values)[len(values) // 2]\n", "    return total / "),
    ("line start layout rust", "rust", "impl Stack {\n    pub fn push(&mut self, item: u32) {\n", "\n    }\n}\n", "        self.items."),
]

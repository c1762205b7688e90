//! Lines that are forbidden in a file.

use super::{File, Finding, assert_none, project};

struct LineRule {
    says: &'static str,
    applies: fn(&File) -> bool,
    is_bad: fn(&str) -> bool,
    bad: &'static [&'static str],
    good: &'static [&'static str],
}

// Samples that would break their own rule here are written with concat!.
const LINE_RULES: &[LineRule] = &[
    LineRule {
        says: "no code in comments: delete it, git remembers",
        applies: |file| file.extension() == "rs",
        is_bad: |line| match line.trim_start().strip_prefix("// ") {
            Some(rest) => {
                rest.ends_with(';')
                    || ["let ", "fn ", "pub ", "use ", "if let "].iter().any(|word| rest.starts_with(word))
            }
            None => false,
        },
        bad: &["// let x = 1", "    // fn old() {", "// x += 1;"],
        good: &["/// let x = 1;", "// Letters differ.", "let x = 1; // one"],
    },
    LineRule {
        says: "no notes to self: do it, or write it where the work is tracked",
        applies: |file| file.is_source() || file.extension() == "toml",
        is_bad: |line| {
            ["TO-DO", "FIX-ME", "XX-X", "HA-CK"].iter().any(|word| has_word(line, &word.replace('-', "")))
        },
        bad: &[concat!("# TO", "DO: later"), concat!("x(); // FIX", "ME")],
        good: &["let todos = 3;", "mktemp -d name.XXXXXX"],
    },
    LineRule {
        says: "no debugging leftovers and no unfinished branches",
        applies: |file| file.extension() == "rs",
        is_bad: |line| {
            ["dbg", "todo", "unimplemented"]
                .iter()
                .any(|name| has_word(line, name) && line.contains(&format!("{name}!(")))
        },
        bad: &[concat!("db", "g!(x)"), concat!("_ => to", "do!(),")],
        good: &["unreachable!(\"why\")"],
    },
    LineRule {
        says: "no test is ignored: assert what happens today and say so",
        applies: |file| file.extension() == "rs",
        is_bad: |line| line.trim_start().starts_with(concat!("#[ig", "nore")),
        bad: &[concat!("    #[ig", "nore]")],
        good: &["#[test]"],
    },
    LineRule {
        says: "a lint is lifted by #[expect(lint, reason = \"..\")], which ends when it is no longer needed",
        applies: |file| file.extension() == "rs" && !file.path.starts_with("torch-ext/"),
        is_bad: |line| {
            [concat!("#[al", "low("), concat!("#![al", "low(")].iter().any(|text| line.contains(text))
        },
        bad: &[concat!("#[al", "low(dead_code)]")],
        good: &["#[expect(dead_code, reason = \"used by the test below\")]"],
    },
    LineRule {
        says: "unsafe code lives in torch-ext only",
        applies: |file| file.extension() == "rs" && !file.path.starts_with("torch-ext/"),
        is_bad: |line| {
            let code = line.split("//").next().unwrap_or(line);
            ["{", "fn", "impl", "trait", "extern"]
                .iter()
                .any(|next| code.contains(&format!("un{} {next}", "safe")))
        },
        bad: &[concat!("let x = uns", "afe { y };"), concat!("pub uns", "afe fn f() {}")],
        good: &["/// It is unsafe { to say so }.", "unsafe_code = \"deny\""],
    },
    LineRule {
        says: "the command line sees no tensors: put this behind a function of a library crate",
        applies: |file| file.path.starts_with("cli/src/"),
        is_bad: |line| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                .any(|word| word.starts_with(concat!("tch", "::")))
        },
        bad: &[concat!("use tch", "::Tensor;"), concat!("tch", "::set_num_threads(1)")],
        good: &["match x {", "fetch::run(args)"],
    },
    LineRule {
        says: "the decoder sees ids, not text: tokenize before, decode after",
        applies: |file| file.path.starts_with("decoder/src/"),
        is_bad: |line| ["Tokenizer", "Prompt", "Message"].iter().any(|word| has_word(line, word)),
        bad: &["use jacobi_datasets::{Rng, Tokenizer};", "fn f(prompt: &Prompt) {"],
        good: &["fn f(prompt: &[u32]) {", "/// Knows no text."],
    },
    LineRule {
        says: "no paths of one person's machine: take the path as an argument",
        applies: |_| true,
        is_bad: |line| {
            ["work", "root", "home"].iter().any(|folder| {
                line.split(&format!("/{folder}/"))
                    .skip(1)
                    .any(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
            })
        },
        bad: &[concat!("path = \"/ho", "me/ann/x\""), concat!("cd /wo", "rk/main")],
        good: &["the home/work split", "https://example.org/homes/x"],
    },
];

/// True if `word` stands in `line` with no letter, digit or underscore around it.
fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

impl LineRule {
    fn check(&self, file: &File) -> Vec<Finding> {
        let bad = file.text.lines().zip(1..).filter(|(line, _)| (self.is_bad)(line));
        bad.map(|(_, number)| format!("{}:{number}: {}", file.path, self.says)).collect()
    }
}

#[test]
fn no_line_breaks_a_rule() {
    let mut findings = Vec::new();
    for file in project() {
        for rule in LINE_RULES.iter().filter(|rule| (rule.applies)(&file)) {
            findings.extend(rule.check(&file));
        }
    }
    assert_none(findings);
}

#[test]
fn line_rules_tell_bad_from_good() {
    for rule in LINE_RULES {
        for sample in rule.bad {
            assert_eq!(rule.check(&File::new("a.rs", sample)).len(), 1, "'{}' misses {sample:?}", rule.says);
        }
        for sample in rule.good {
            assert_none(rule.check(&File::new("a.rs", sample)));
        }
    }
}

//! Rules about the source text that neither rustc nor clippy knows.

use std::path::{Path, PathBuf};

use crate::{
    Outcome,
    source::{code_only, without_tests},
};

/// Where source lies.
const ROOTS: &[&str] = &[
    "build.rs", "src", "crates", "tests", "xtask", "scripts", "proto", "bench",
];
const EXTENSIONS: &[&str] = &["rs", "cc", "h", "py", "proto"];
/// A file beyond this holds more than one thing.
const LONGEST_LINES: usize = 600;
/// Tables of cases are longer.
const LONGEST_TEST_LINES: usize = 1000;
/// `unsafe` belongs to the bridge to C++, and to the module that wraps the memory map.
const UNSAFE_ALLOWED: &[&str] = &["crates/c10d/", "crates/data/src/map.rs"];
const PURE: &[&str] = &[
    "types",
    "spec",
    "arch",
    "plan",
    "audit",
    "checkpoint",
    "cluster",
];
/// Effects and unordered iteration, by the path that brings them in.
const IMPURE: &[&str] = &[
    "HashMap",
    "HashSet",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "now_v7",
    "new_v4",
    "thread_rng",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "tokio::",
];
/// Written in halves, so that this file passes its own rule.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Walks the source below `root` and checks every file.
///
/// # Errors
/// One line a violation.
pub fn check(root: &Path) -> Outcome {
    let mut files = Vec::new();
    for name in ROOTS {
        collect(&root.join(name), &mut files).map_err(|error| vec![error])?;
    }
    let mut problems = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file)
            .map_err(|error| vec![format!("{}: {error}", file.display())])?;
        let name = file.strip_prefix(root).unwrap_or(file).to_string_lossy();
        problems.extend(problems_of(&name, &text));
    }
    if problems.is_empty() {
        Ok(format!("{} files", files.len()))
    } else {
        Err(problems)
    }
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let fail = |error| format!("{}: {error}", path.display());
    if path.is_dir() {
        let mut entries: Vec<_> = std::fs::read_dir(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(fail)?;
        entries.sort_by_key(std::fs::DirEntry::path);
        for entry in entries {
            collect(&entry.path(), files)?;
        }
    } else if path
        .extension()
        .is_some_and(|found| EXTENSIONS.iter().any(|known| found == *known))
    {
        files.push(path.to_owned());
    }
    Ok(())
}

fn problems_of(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    let most = if is_test(name) {
        LONGEST_TEST_LINES
    } else {
        LONGEST_LINES
    };
    if lines > most {
        problems.push(format!(
            "{name} has {lines} lines, {most} at most: split it"
        ));
    }
    problems.extend(found(
        name,
        text,
        UNFINISHED,
        "finish it or describe it in an issue",
    ));
    if name.ends_with(".rs") {
        let code = code_only(text);
        if !UNSAFE_ALLOWED.iter().any(|place| name.starts_with(place)) {
            problems.extend(found(
                name,
                &code,
                &["unsafe"],
                "belongs only to crates/c10d and crates/data/src/map.rs",
            ));
        }
        if is_pure(name) {
            problems.extend(found(
                name,
                &without_tests(&code),
                IMPURE,
                "has no place in a pure crate",
            ));
        }
    }
    problems
}

/// Whether a file is part of what a pure crate ships: its tests may do as they like.
fn is_pure(name: &str) -> bool {
    let mut parts = name.split('/');
    parts.next() == Some("crates")
        && parts.next().is_some_and(|part| PURE.contains(&part))
        && !is_test(name)
}

fn is_test(name: &str) -> bool {
    name.split('/')
        .any(|part| part == "tests" || part == "tests.rs")
}

fn found(name: &str, text: &str, words: &[&str], rule: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for word in words.iter().filter(|word| has_word(line, word)) {
            problems.push(format!("{name}:{}: `{word}` {rule}", number + 1));
        }
    }
    problems
}

/// Whether `word` stands in `line` with nothing that continues a name on either side.
fn has_word(line: &str, word: &str) -> bool {
    let continues = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (
            line[..at].chars().next_back(),
            line[at + word.len()..].chars().next(),
        );
        !continues(before) && (word.ends_with(':') || !continues(after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(name: &str, text: &str) -> String {
        problems_of(name, text).join("\n")
    }

    #[test]
    fn plain_code_is_quiet() {
        let text = "//! No unsafe here, nor a HashMap.\n#![deny(unsafe_code)]\nfn a() -> &'static str { \"std::fs\" }\n";
        assert_eq!(planted("crates/cluster/src/lib.rs", text), "");
    }

    #[test]
    fn unsafe_is_found_outside_its_places_only() {
        let text = "fn a() {\n    unsafe { b() }\n}\n";
        assert!(
            planted("crates/store/src/lib.rs", text)
                .starts_with("crates/store/src/lib.rs:2: `unsafe`")
        );
        assert_eq!(planted("crates/c10d/src/ffi.rs", text), "");
        assert_eq!(planted("crates/data/src/map.rs", text), "");
        assert_ne!(planted("crates/data/src/index.rs", text), "");
    }

    #[test]
    fn effects_are_found_in_pure_crates_only() {
        for line in [
            "use std::collections::HashMap;",
            "let now = Instant::now();",
            "std::fs::read(p)",
            "tokio::spawn(f)",
        ] {
            assert_ne!(planted("crates/plan/src/lib.rs", line), "", "{line}");
            assert_eq!(planted("crates/agent/src/lib.rs", line), "", "{line}");
            assert_eq!(planted("crates/plan/tests/order.rs", line), "", "{line}");
            assert_eq!(planted("crates/plan/src/tests.rs", line), "", "{line}");
        }
        let in_tests = "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert_eq!(planted("crates/plan/src/lib.rs", in_tests), "");
    }

    #[test]
    fn long_files_and_unfinished_work_are_found() {
        assert!(planted("src/main.rs", &"\n".repeat(LONGEST_LINES + 1)).contains("split it"));
        for word in UNFINISHED {
            assert_ne!(
                planted("crates/c10d/cpp/a.cc", &format!("// {word}: later")),
                "",
                "{word}"
            );
        }
    }
}

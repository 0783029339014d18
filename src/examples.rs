//! What `--help` shows is tried: every visible command has examples, and each of them is a command line that parses.
#![allow(clippy::unwrap_used)]

use clap::{Command, CommandFactory, Parser};

use crate::cli::Cli;

/// One visible command or part of one: how it is called, and what it says after its options.
fn visible(command: &Command, called: &str, found: &mut Vec<(String, String)>) {
    let help = command.get_after_help().map(ToString::to_string);
    found.push((called.to_owned(), help.unwrap_or_default()));
    let parts = command.get_subcommands().filter(|it| !it.is_hide_set());
    for part in parts {
        visible(part, &format!("{called} {}", part.get_name()), found);
    }
}

/// The lines below `Examples:`.
fn examples(help: &str) -> Vec<&str> {
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    lines
        .take_while(|line| line.is_empty() || line.starts_with("  "))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// The commands of a line as a shell takes them apart, each as its words; redirections end one, comments are left out.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let (mut quote, mut letters) = (None, line.chars().peekable());
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some('"'), '\\') => word.get_or_insert_default().extend(letters.next()),
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (None, '|' | '&' | ';' | '(' | ')' | '<' | '>') => {
                words.extend(word.take());
                all.push(std::mem::take(&mut words));
            }
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    assert!(quote.is_none(), "a quote stays open: {line}");
    words.extend(word.take());
    all.push(words);
    all.retain(|words| !words.is_empty());
    all
}

#[test]
fn lines_are_taken_apart_as_by_a_shell() {
    let words = |line| commands(line);
    assert_eq!(words("a 'b c'  \"d\\\"e\"   # f"), [["a", "b c", "d\"e"]]);
    assert_eq!(
        words("a <(b c) && d > e"),
        [vec!["a"], vec!["b", "c"], vec!["d"], vec!["e"]]
    );
}

#[test]
fn every_visible_command_has_examples_and_each_of_them_parses() {
    let mut found = Vec::new();
    visible(&Cli::command(), "muster", &mut found);
    assert!(found.len() > 30, "{found:?}");
    for (called, help) in found {
        let examples = examples(&help);
        assert!(!examples.is_empty(), "{called} has no examples");
        let mut own = 0;
        for line in examples {
            for command in commands(line) {
                // What is set for one command, such as MUSTER__TRAIN__SEED=7.
                let words = command.iter().skip_while(|it| it.starts_with("MUSTER_"));
                let words: Vec<_> = words.cloned().collect();
                if words.first().is_some_and(|word| word == "muster") {
                    own += usize::from(words.join(" ").starts_with(&called));
                    let parsed = Cli::try_parse_from(&words);
                    assert!(parsed.is_ok(), "{called}: {line}\n{}", parsed.unwrap_err());
                }
            }
        }
        assert!(own > 0, "{called}: no example calls it");
    }
}

/// As wide as help is printed at most.
const WIDTH: usize = 100;

#[test]
fn help_breaks_no_line_but_where_it_has_to() {
    let mut found = Vec::new();
    visible(&Cli::command(), "muster", &mut found);
    for (called, help) in found {
        let lines: Vec<_> = help.lines().collect();
        for line in lines.iter().filter(|line| line.starts_with("  ")) {
            assert!(line.len() <= WIDTH, "{called} has a long example: {line}");
        }
        let is_prose =
            |line: &str| !line.is_empty() && !line.starts_with("  ") && line != "Examples:";
        for pair in lines.windows(2) {
            let [above, below] = [pair[0], pair[1]].map(is_prose);
            assert!(
                !(above && below),
                "{called} breaks a paragraph: {}",
                pair[1]
            );
        }
    }
}

/// What they print is text that has a form of its own.
const WITHOUT_JSON: [&str; 3] = ["config schema", "completions", "man"];

#[test]
fn every_command_that_prints_a_result_prints_json_when_asked() {
    let cli = Cli::command();
    let mut leaves: Vec<(String, &Command)> = Vec::new();
    let mut open = vec![(String::new(), &cli)];
    while let Some((called, command)) = open.pop() {
        let parts = command.get_subcommands().filter(|it| !it.is_hide_set());
        let parts = parts.map(|part| (format!("{called} {}", part.get_name()), part));
        let parts: Vec<_> = parts.collect();
        if parts.is_empty() {
            leaves.push((called, command));
        }
        open.extend(parts);
    }
    for (called, command) in leaves {
        let has = command.get_arguments().any(|it| it.get_id() == "output");
        assert_eq!(has, !WITHOUT_JSON.contains(&called.trim()), "{called}");
    }
}

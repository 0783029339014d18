//! Manual pages, made of what the command line says of itself.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

/// A page a visible command: its file's name and its text, `muster` itself first.
pub fn pages(command: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    pages.push((format!("{name}.1"), page(command)?));
    for part in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        collect(part, pages)?;
    }
    Ok(())
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|it| !it.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(text) = command.get_after_help() {
        after_help(&text.to_string(), &mut page)?;
    }
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}

/// Examples line by line, and what follows them as paragraphs. clap_mangen would run all of it together.
fn after_help(text: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let (mut in_section, mut verbatim) = (false, false);
    for line in text.lines() {
        let is_example = line.starts_with("  ");
        if verbatim && !is_example && !line.is_empty() {
            writeln!(page, ".fi\n.SH NOTES")?;
            verbatim = false;
        }
        if line == "Examples:" {
            writeln!(page, ".SH EXAMPLES\n.nf")?;
            (in_section, verbatim) = (true, true);
            continue;
        }
        if !in_section {
            writeln!(page, ".SH NOTES")?;
            in_section = true;
        }
        match line {
            "" if !verbatim => writeln!(page, ".PP")?,
            line => writeln!(page, "{}", escaped(line))?,
        }
    }
    if verbatim {
        writeln!(page, ".fi")?;
    }
    Ok(())
}

/// A line as roff shows it: no request, no escape, and hyphens that can be copied into a shell.
fn escaped(line: &str) -> String {
    let plain = line.replace('\\', "\\e").replace('-', "\\-");
    match plain.chars().next() {
        Some('.' | '\'') => format!("\\&{plain}"),
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn there_is_a_page_for_each_visible_command() {
        let pages = pages(Cli::command()).unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "muster.1");
        for name in ["muster-cancel.1", "muster-checkpoint-verify.1"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        for name in ["muster-shim.1", "muster-help.1"] {
            assert!(!names.contains(&name), "{name}");
        }
        for (name, page) in &pages {
            let page = String::from_utf8(page.clone()).unwrap();
            assert!(page.contains(".SH EXAMPLES\n.nf\n"), "{name}");
        }
    }

    #[test]
    fn examples_keep_their_lines_and_the_rest_is_filled() {
        let mut page = Vec::new();
        let text = "Examples:\n  muster x --y 'a\\b'\n\n  muster z\n\nMore\nof it.\n\nEnd.";
        after_help(text, &mut page).unwrap();
        assert_eq!(
            String::from_utf8(page).unwrap(),
            ".SH EXAMPLES\n.nf\n  muster x \\-\\-y 'a\\eb'\n\n  muster z\n\n.fi\n.SH NOTES\nMore\nof it.\n.PP\nEnd.\n"
        );
        assert_eq!(escaped("'quoted'"), "\\&'quoted'");
    }
}

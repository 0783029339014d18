use std::{
    fmt::Display,
    io::{self, Write},
};

use clap::ValueEnum;
use comfy_table::{Table, TableComponent, presets};
use serde::Serialize;

use crate::failure::Failure;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Writes a line to stdout.
pub fn line(text: impl Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Writes bytes to stdout as they are.
pub fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Writes `value` as JSON over several lines.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string_pretty(value).map_err(not_json)?)
}

/// Writes `value` as JSON on one line.
pub fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string(value).map_err(not_json)?)
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::operation(format!("cannot be written as JSON: {error}"))
}

/// A table with a header.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = bare();
    table.set_header(header);
    table
}

/// Names and values, one pair a line.
pub fn pairs() -> Table {
    let mut table = bare();
    table.load_preset(presets::NOTHING);
    table
}

/// As wide as its content: a table that is cut to the terminal's width hides ids and paths.
fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    // A line a row is enough: what lies between them would take as much room again.
    table.remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table
}

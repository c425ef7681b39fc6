//! Prints lists and objects as table, JSON, JSON lines or CSV.
//!
//! Names come from clouds and may hold anything. JSON escapes them by itself; a table and CSV
//! are made safe here: control and bidirectional characters are shown as escapes, and a CSV cell
//! that a spreadsheet would run as a formula gets a quote before it.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

/// The form of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// One JSON value.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
}

impl Format {
    /// Returns the form asked for, else `table` on a terminal and `json` otherwise.
    pub(crate) fn or_default(asked: Option<Self>) -> Self {
        asked.unwrap_or_else(|| {
            if io::stdout().is_terminal() {
                Self::Table
            } else {
                Self::Json
            }
        })
    }
}

/// Writes a list of equal rows to standard output.
///
/// # Errors
///
/// When standard output cannot be written to.
pub(crate) fn list<T: Serialize>(rows: &[T], columns: &[&str], format: Format) -> io::Result<()> {
    let rows: Vec<Value> = rows.iter().map(to_value).collect();
    write(
        &Value::Array(rows),
        columns,
        format,
        &mut io::stdout().lock(),
    )
}

/// Writes one object to standard output; in a table its fields stand below each other.
///
/// # Errors
///
/// When standard output cannot be written to.
pub(crate) fn object<T: Serialize>(object: &T, format: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let value = to_value(object);
    match (format, &value) {
        (Format::Table, Value::Object(fields)) => {
            let width = fields
                .keys()
                .map(|name| name.chars().count())
                .max()
                .unwrap_or(0);
            for (name, value) in fields {
                writeln!(out, "{name:width$}  {}", neutral(&cell(value)))?;
            }
            Ok(())
        }
        (Format::Csv, Value::Object(fields)) => {
            let columns: Vec<&str> = fields.keys().map(String::as_str).collect();
            write(
                &Value::Array(vec![value.clone()]),
                &columns,
                format,
                &mut out,
            )
        }
        (Format::Json | Format::Jsonl | Format::Table | Format::Csv, _) => {
            write(&value, &[], format, &mut out)
        }
    }
}

fn to_value<T: Serialize>(item: &T) -> Value {
    serde_json::to_value(item).expect("what is shown has string keys")
}

fn write(value: &Value, columns: &[&str], format: Format, out: &mut impl Write) -> io::Result<()> {
    let rows: &[Value] = value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice);
    match format {
        Format::Json => writeln!(out, "{value:#}"),
        Format::Jsonl => rows.iter().try_for_each(|row| writeln!(out, "{row}")),
        Format::Csv => {
            writeln!(out, "{}", columns.join(","))?;
            for row in rows {
                let cells: Vec<String> = columns
                    .iter()
                    .map(|name| csv_cell(&cell(&row[*name])))
                    .collect();
                writeln!(out, "{}", cells.join(","))?;
            }
            Ok(())
        }
        Format::Table => table(rows, columns, out),
    }
}

fn table(rows: &[Value], columns: &[&str], out: &mut impl Write) -> io::Result<()> {
    let mut lines: Vec<Vec<String>> =
        vec![columns.iter().map(|name| name.to_uppercase()).collect()];
    for row in rows {
        lines.push(
            columns
                .iter()
                .map(|name| neutral(&cell(&row[*name])))
                .collect(),
        );
    }
    let mut widths = vec![0; columns.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in lines {
        let cells = line.iter().zip(&widths);
        let text: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", text.join("  ").trim_end())?;
    }
    Ok(())
}

/// Returns a value as the text of one cell.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => other.to_string(),
    }
}

/// Returns text that cannot move the cursor, change colours or reorder what stands beside it.
pub(crate) fn neutral(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let bidi = matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || bidi || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

fn csv_cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = neutral(&if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    });
    if text.contains([',', '"', ' ']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(format: Format, want: &str) {
        let rows = json!([
            {"name": "prod", "kind": "aws", "faults": 2},
            {"name": "=cmd|' /C'!A1", "kind": "a\u{1b}[31m,\u{202e}x", "faults": null},
        ]);
        let mut out = Vec::new();
        write(&rows, &["name", "kind", "faults"], format, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    #[test]
    fn a_table_shows_escapes_instead_of_obeying_them() {
        check(
            Format::Table,
            "NAME           KIND                   FAULTS\n\
             prod           aws                    2\n\
             =cmd|' /C'!A1  a\\u{1b}[31m,\\u{202e}x\n",
        );
    }

    #[test]
    fn a_csv_cell_is_never_a_formula() {
        check(
            Format::Csv,
            "name,kind,faults\nprod,aws,2\n\"'=cmd|' /C'!A1\",\"a\\u{1b}[31m,\\u{202e}x\",\n",
        );
    }

    #[test]
    fn json_lines_hold_one_object_each() {
        let rows = json!([{"a": 1}, {"a": 2}]);
        let mut out = Vec::new();
        write(&rows, &[], Format::Jsonl, &mut out).unwrap();
        assert_eq!(out, b"{\"a\":1}\n{\"a\":2}\n");
    }
}

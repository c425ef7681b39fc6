//! Prints answers: tables for people, JSON, JSON lines or CSV for programs.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value;

use crate::failure::{Exit, Failure};

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// One JSON value
    Json,
    /// One JSON object a line
    Jsonl,
    /// Comma-separated, RFC 4180
    Csv,
}

/// A format that was asked for or not.
pub(crate) trait Asked {
    /// Returns the format, a table on a terminal and JSON otherwise.
    fn or_default(self) -> Format;
}

impl Asked for Option<Format> {
    fn or_default(self) -> Format {
        self.unwrap_or_else(|| {
            if io::stdout().is_terminal() {
                Format::Table
            } else {
                Format::Json
            }
        })
    }
}

/// Prints objects that share their keys; `columns` are those of the table and their order.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn print_list(format: Format, columns: &[&str], rows: &[Value]) -> Result<(), Failure> {
    print(&match format {
        Format::Table => table(columns, rows),
        Format::Json => to_json(rows),
        Format::Jsonl => rows.iter().map(|row| format!("{row}\n")).collect(),
        Format::Csv => csv(columns, rows),
    })
}

/// Prints one object; `lines` are its table, as label and text.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn print_object(
    format: Format,
    object: &Value,
    lines: &[(&str, String)],
) -> Result<(), Failure> {
    print(&match format {
        Format::Table => {
            let width = lines
                .iter()
                .map(|(label, _)| label.len())
                .max()
                .unwrap_or(0);
            lines
                .iter()
                .map(|(label, text)| {
                    let line = format!("{label:width$} {}", harmless(text));
                    format!("{}\n", line.trim_end())
                })
                .collect()
        }
        Format::Json => to_json(object),
        Format::Jsonl => format!("{object}\n"),
        Format::Csv => {
            let columns: Vec<&str> = object
                .as_object()
                .map(|fields| fields.keys().map(String::as_str).collect())
                .unwrap_or_default();
            csv(&columns, std::slice::from_ref(object))
        }
    })
}

/// Writes to standard output. A reader that has gone away, as `head` does, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, "could not write to standard output").caused_by(&error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says something to the person, beside the answer.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "zero-x-hub: {text}");
}

fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("JSON values always serialise");
    text.push('\n');
    text
}

/// Returns a value as a cell shows it.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(cell).collect();
            items.join(", ")
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// Returns a text without what a terminal would obey or what would deceive its reader: control
/// characters, and those that change the direction of writing or are not seen.
fn harmless(text: &str) -> String {
    // Source: Unicode Standard Annex 9, table 4 (directional formatting characters); U+200B to
    // U+200D, U+2060 and U+FEFF have no width.
    text.chars()
        .map(|c| match c {
            c if c.is_control() => '\u{fffd}',
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => '\u{fffd}',
            '\u{2060}'..='\u{2069}' | '\u{feff}' => '\u{fffd}',
            c => c,
        })
        .collect()
}

fn table(columns: &[&str], rows: &[Value]) -> String {
    let header = columns.iter().map(|column| column.to_uppercase()).collect();
    let body = rows.iter().map(|row| {
        let cells = columns.iter().map(|column| {
            let value = row.get(*column).unwrap_or(&Value::Null);
            harmless(&cell(value))
        });
        cells.collect::<Vec<String>>()
    });
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(body).collect();
    let mut widths = vec![0; columns.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (width, cell) in widths.iter().zip(line) {
            row.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn csv(columns: &[&str], rows: &[Value]) -> String {
    // Source: RFC 4180 section 2. A cell that a spreadsheet would run as a formula gets an
    // apostrophe in front (OWASP, CSV Injection); a number stays one.
    let quoted = |text: &str| {
        let is_formula =
            text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
        let text = if is_formula {
            format!("'{text}")
        } else {
            text.to_owned()
        };
        if text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text
        }
    };
    let mut text = columns.join(",");
    text.push_str("\r\n");
    for row in rows {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| quoted(&cell(row.get(*column).unwrap_or(&Value::Null))))
            .collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_aligns_and_neutralises_what_a_terminal_would_obey() {
        let rows = [
            json!({"name": "a\u{1b}[31mred", "size": 3, "other": true}),
            json!({"name": "\u{202e}b", "size": null}),
            json!({"name": "wide", "size": ["x", "y"]}),
        ];
        assert_eq!(
            table(&["name", "size"], &rows),
            "NAME       SIZE\na\u{fffd}[31mred  3\n\u{fffd}b\nwide       x, y\n"
        );
    }

    #[test]
    fn csv_quotes_and_disarms_formulas() {
        let rows = [
            json!({"a": "=1+1", "b": "say \"hi\", you"}),
            json!({"a": -3, "b": "two\nlines"}),
        ];
        assert_eq!(
            csv(&["a", "b"], &rows),
            "a,b\r\n'=1+1,\"say \"\"hi\"\", you\"\r\n-3,\"two\nlines\"\r\n"
        );
    }
}

//! Answers as tables, JSON, JSON lines or CSV. Text from the cloud is neutralised in tables and
//! CSV; JSON escapes it by itself.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::Form;
use super::kinds::Column;
use crate::text::{csv_cell, fit, plain, plain_lines};

/// Writes the rows of a list; `fields` are the columns of CSV, in its order.
///
/// # Errors
///
/// When the writer does not take them.
pub(super) fn rows(
    out: &mut impl Write,
    form: Form,
    rows: &[Value],
    columns: &[Column],
    fields: &[&str],
) -> io::Result<()> {
    match form {
        Form::Json => {
            serde_json::to_writer_pretty(&mut *out, rows)?;
            writeln!(out)
        }
        Form::Jsonl => {
            for row in rows {
                serde_json::to_writer(&mut *out, row)?;
                writeln!(out)?;
            }
            Ok(())
        }
        Form::Csv => csv_fields(out, rows, fields),
        Form::Table => table(out, rows, columns),
    }
}

/// Writes one object; `name` says what a table calls its fields.
///
/// # Errors
///
/// When the writer does not take it.
pub(super) fn object(
    out: &mut impl Write,
    form: Form,
    object: &Value,
    name: impl Fn(&str) -> &str,
) -> io::Result<()> {
    match form {
        Form::Json => {
            serde_json::to_writer_pretty(&mut *out, object)?;
            writeln!(out)
        }
        Form::Jsonl => {
            serde_json::to_writer(&mut *out, object)?;
            writeln!(out)
        }
        Form::Csv => csv_rows(out, std::slice::from_ref(object)),
        Form::Table => match object {
            Value::Object(fields) => {
                let named = fields.iter();
                let named = named.map(|(field, value)| (name(field).to_owned(), value.clone()));
                tree(out, &Value::Object(named.collect()), 0)
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => tree(out, object, 0),
        },
    }
}

/// Returns a value as one line: text as it is, null as nothing, lists and objects as JSON.
fn line(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => items
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Cuts an instant to whole seconds, which is as much as a table needs.
fn short(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) if text.ends_with('Z') => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Ok(_) | Err(_) => plain(text),
    }
}

fn table(out: &mut impl Write, rows: &[Value], columns: &[Column]) -> io::Result<()> {
    let cell = |row: &Value, column: &Column| {
        fit(
            &short(&line(row.pointer(column.pointer).unwrap_or(&Value::Null))),
            column.width,
        )
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|column| cell(row, column)).collect())
        .collect();
    let width = |index: usize, column: &Column| {
        let widest = cells
            .iter()
            .filter_map(|row| row.get(index))
            .map(|c| c.width())
            .max();
        widest.unwrap_or(0).max(column.title.width())
    };
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| width(index, column))
        .collect();
    let titles: Vec<String> = columns
        .iter()
        .map(|column| column.title.to_owned())
        .collect();
    for row in std::iter::once(&titles).chain(&cells) {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.push_str(&" ".repeat(width.saturating_sub(cell.width()) + 2));
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

fn tree(out: &mut impl Write, value: &Value, depth: usize) -> io::Result<()> {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let is_nested = match value {
                    Value::Object(inner) => !inner.is_empty(),
                    Value::Array(items) => items.iter().any(Value::is_object),
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
                };
                if is_nested {
                    writeln!(out, "{indent}{}:", plain(name))?;
                    tree(out, value, depth + 1)?;
                } else if let Some(text) = value.as_str().filter(|text| text.contains('\n')) {
                    writeln!(out, "{indent}{}:", plain(name))?;
                    for text in plain_lines(text).lines() {
                        writeln!(out, "{indent}  {text}")?;
                    }
                } else {
                    let text = plain(&line(value));
                    let text = if text.is_empty() {
                        "-".to_owned()
                    } else {
                        text
                    };
                    writeln!(out, "{indent}{}: {text}", plain(name))?;
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    writeln!(out, "{indent}-")?;
                }
                tree(out, item, depth)?;
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            writeln!(out, "{indent}{}", plain(&line(value)))
        }
    }
}

/// Flattens an object to `a.b` names; lists stay whole, as JSON.
fn flatten(value: &Value, name: &str, cells: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let name = if name.is_empty() {
                    key.clone()
                } else {
                    format!("{name}.{key}")
                };
                flatten(value, &name, cells);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => cells.push((name.to_owned(), line(value))),
    }
}

/// Writes rows with columns of their own: those of an object that is no row of a list.
fn csv_rows(out: &mut impl Write, rows: &[Value]) -> io::Result<()> {
    let flat: Vec<Vec<(String, String)>> = rows
        .iter()
        .map(|row| {
            let mut cells = Vec::new();
            flatten(row, "", &mut cells);
            cells
        })
        .collect();
    let mut seen = BTreeSet::new();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in flat.iter().flatten() {
        if seen.insert(name.as_str()) {
            names.push(name);
        }
    }
    let cells = flat.iter().map(|row| {
        let cell = |name: &&str| {
            let found = row.iter().find(|(key, _)| key == name);
            csv_cell(found.map_or("", |(_, value)| value.as_str()))
        };
        names.iter().map(cell).collect()
    });
    csv_records(out, &names, cells)
}

/// Writes the given fields of rows, `a.b` for `b` in `a`, so that the columns of a list do not
/// follow what its rows happen to hold.
fn csv_fields(out: &mut impl Write, rows: &[Value], fields: &[&str]) -> io::Result<()> {
    let cells = rows.iter().map(|row| {
        let cell = |field: &&str| {
            let pointer = format!("/{}", field.replace('.', "/"));
            csv_cell(&line(row.pointer(&pointer).unwrap_or(&Value::Null)))
        };
        fields.iter().map(cell).collect()
    });
    csv_records(out, fields, cells)
}

fn csv_records(
    out: &mut impl Write,
    names: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> io::Result<()> {
    // The conversion of the crate hides the kind, by which a closed pipe is told.
    let plain = |error: csv::Error| {
        let words = error.to_string();
        if let csv::ErrorKind::Io(error) = error.into_kind() {
            error
        } else {
            io::Error::other(words)
        }
    };
    let mut writer = csv::Writer::from_writer(out);
    writer
        .write_record(names.iter().map(|name| csv_cell(name)))
        .map_err(plain)?;
    for row in rows {
        writer.write_record(row).map_err(plain)?;
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(form: Form, items: &[Value]) -> String {
        let columns = [
            Column {
                title: "NAME",
                pointer: "/name",
                width: 10,
            },
            Column {
                title: "AT",
                pointer: "/life/at",
                width: 20,
            },
        ];
        let mut out = Vec::new();
        rows(
            &mut out,
            form,
            items,
            &columns,
            &["name", "life.at", "more"],
        )
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_finding_is_shown_as_a_rule_that_is_broken_and_keeps_its_names_in_json() {
        let finding = json!({"id": "fnd_1", "title": "A bucket is not public"});
        let shown = |form| {
            let mut out = Vec::new();
            let kind = crate::cli::kinds::FINDING;
            object(&mut out, form, &finding, |field| kind.shown_name(field)).unwrap();
            String::from_utf8(out).unwrap()
        };
        let table = shown(Form::Table);
        assert!(
            table.contains("broken_rule: A bucket is not public\n"),
            "{table}"
        );
        assert!(!table.contains("title"), "{table}");
        let json: Value = serde_json::from_str(&shown(Form::Json)).unwrap();
        assert_eq!(json, finding);
        let titles: Vec<&str> = crate::cli::kinds::FINDING
            .columns
            .iter()
            .map(|column| column.title)
            .collect();
        assert!(titles.contains(&"BROKEN RULE") && !titles.contains(&"TITLE"));
    }

    #[test]
    fn each_form_carries_the_same_rows_and_none_carries_an_escape_sequence() {
        let items = [
            json!({"name": "\u{1b}[2Jweb", "life": {"at": "2026-11-22T01:02:03.456Z"}}),
            json!({"name": "=cmd()", "life": {"at": null}, "more": [1, 2]}),
        ];
        insta::assert_snapshot!(text(Form::Table, &items), @r"
        NAME     AT
        �[2Jweb  2026-11-22T01:02:03Z
        =cmd()
        ");
        insta::assert_snapshot!(text(Form::Csv, &items[1..]), @r#"
        name,life.at,more
        '=cmd(),,"[1,2]"
        "#);
        assert_eq!(text(Form::Jsonl, &items).lines().count(), 2);
        assert!(!text(Form::Jsonl, &items).contains('\u{1b}'));
        assert_eq!(text(Form::Json, &[]), "[]\n");
        assert_eq!(text(Form::Csv, &[]), "name,life.at,more\n");
    }

    #[test]
    fn csv_of_a_list_has_every_field_of_its_objects() {
        use crate::cli::kinds::{AGENT, FINDING};
        use crate::console::tests_support::{agent, finding};
        let objects = [
            (FINDING, serde_json::to_value(finding(1)).unwrap()),
            (AGENT, serde_json::to_value(agent()).unwrap()),
        ];
        for (kind, object) in objects {
            let top: BTreeSet<&str> = kind
                .fields
                .iter()
                .filter_map(|field| field.split('.').next())
                .collect();
            for name in object.as_object().unwrap().keys() {
                assert!(top.contains(name.as_str()), "{name} of {}", kind.path);
            }
        }
    }

    #[test]
    fn a_reader_of_csv_that_goes_away_is_known_as_such() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let items = vec![json!({"name": "x".repeat(4000)}); 10];
        for form in [Form::Csv, Form::Json, Form::Jsonl, Form::Table] {
            let error = rows(&mut Closed, form, &items, &[], &["name"]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{form:?}");
        }
    }
}

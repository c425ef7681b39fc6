//! What a demo without a console shows: the findings, the resources and what could not be judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::Result;
use line::client::Client;
use serde_json::Value;

/// Severities from the worst down.
const SEVERITIES: [&str; 5] = ["critical", "high", "medium", "low", "info"];
/// How many findings are shown one by one.
const SHOWN: usize = 12;
/// How wide a text may be.
const TEXT_CHARS: usize = 104;

/// The rows that the summary is made from.
pub(crate) struct Summary {
    findings: Vec<Value>,
    results: Vec<Value>,
    resources: Vec<Value>,
}

impl Summary {
    /// Asks the hub as a script would.
    pub(crate) fn ask(client: &Client) -> Result<Self> {
        Ok(Self {
            findings: client.rows(&["finding", "list", "--filter", "status=open"])?,
            results: client.rows(&["check", "results"])?,
            resources: client.rows(&["resource", "list"])?,
        })
    }

    pub(crate) fn resources(&self) -> usize {
        self.resources.len()
    }

    /// The text, hostile names made harmless.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _infallible = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let severities = count(&self.findings, "/severity");
        let by_severity = SEVERITIES
            .iter()
            .filter_map(|name| Some(format!("{name} {}", severities.get(*name)?)))
            .collect::<Vec<_>>();
        writeln!(
            out,
            "Findings    {} open: {}",
            self.findings.len(),
            by_severity.join(", ")
        )?;

        let types = count(&self.resources, "/type");
        let regions: BTreeSet<_> = self
            .resources
            .iter()
            .map(|row| text(row, "/region"))
            .collect();
        let types_word = if types.len() == 1 { "type" } else { "types" };
        writeln!(
            out,
            "Resources   {} of {} {types_word} in {} regions",
            self.resources.len(),
            types.len(),
            regions.len()
        )?;
        let verdicts = count(&self.results, "/verdict");
        let checks: BTreeSet<_> = self
            .results
            .iter()
            .map(|row| text(row, "/check_id"))
            .collect();
        let by_verdict = ["pass", "fail", "unknown", "not_applicable", "manual"]
            .iter()
            .filter_map(|name| Some(format!("{name} {}", verdicts.get(*name)?)))
            .collect::<Vec<_>>();
        writeln!(
            out,
            "Verdicts    {} of {} checks: {}",
            self.results.len(),
            checks.len(),
            by_verdict.join(", ")
        )?;

        self.write_findings(out)?;

        writeln!(out, "\nResources by type")?;
        for (kind, number) in &types {
            writeln!(out, "  {number:>6}  {kind}")?;
        }
        self.write_unknown(out)
    }

    fn write_findings(&self, out: &mut String) -> std::fmt::Result {
        let mut findings: Vec<&Value> = self.findings.iter().collect();
        findings.sort_by_key(|row| {
            let severity = text(row, "/severity");
            let rank = SEVERITIES.iter().position(|name| *name == severity);
            let risk = row
                .pointer("/risk/score")
                .and_then(Value::as_u64)
                .unwrap_or(0);
            (
                rank.unwrap_or(SEVERITIES.len()),
                std::cmp::Reverse(risk),
                text(row, "/id"),
            )
        });
        if findings.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nThe worst broken rules")?;
        // One line per title: fifty buckets with one fault are one line.
        let mut groups: Vec<(String, String, Vec<String>)> = Vec::new();
        for row in findings {
            let title = text(row, "/title");
            let place = resource(row);
            match groups.iter_mut().find(|(_, known, _)| *known == title) {
                Some((_, _, places)) => places.push(place),
                None => groups.push((text(row, "/severity"), title, vec![place])),
            }
        }
        for (severity, title, places) in groups.iter().take(SHOWN) {
            let first = places.first().map_or("", String::as_str);
            let more = match places.len() {
                0 | 1 => String::new(),
                number => format!(" and {} more", number - 1),
            };
            writeln!(out, "  {severity:<8}  {title}\n            {first}{more}")?;
        }
        if groups.len() > SHOWN {
            writeln!(out, "  and {} more broken rules", groups.len() - SHOWN)?;
        }
        Ok(())
    }

    /// Which calls could not be made, and how many verdicts that leaves open.
    fn write_unknown(&self, out: &mut String) -> std::fmt::Result {
        let unknown: Vec<&Value> = self
            .results
            .iter()
            .filter(|row| text(row, "/verdict") == "unknown")
            .collect();
        if unknown.is_empty() {
            return writeln!(
                out,
                "\nNo verdict is unknown: every fact that decides one was read."
            );
        }
        writeln!(out, "\nUnknown verdicts, by what could not be read")?;
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for row in unknown {
            let gaps: BTreeSet<String> = row
                .pointer("/gaps")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(_, gap)| format!("{} {}", text(gap, "/call"), text(gap, "/error")))
                .collect();
            for reason in gaps {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        for (reason, number) in reasons {
            writeln!(out, "  {number:>6}  {reason}")?;
        }
        Ok(())
    }
}

fn resource(row: &Value) -> String {
    let name = match text(row, "/resource/name") {
        name if name.is_empty() => text(row, "/resource/urn"),
        name => name,
    };
    let mut shown = format!("{} {name}", text(row, "/resource/type"));
    let region = text(row, "/resource/region");
    if !region.is_empty() {
        let _infallible = write!(shown, " ({region})");
    }
    shown
}

fn count(rows: &[Value], pointer: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(text(row, pointer)).or_default() += 1;
    }
    counts
}

/// A text field, cut to a width and without anything that a terminal would obey.
fn text(row: &Value, pointer: &str) -> String {
    let value = row
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut shown: String = value.chars().map(harmless).take(TEXT_CHARS).collect();
    if value.chars().count() > TEXT_CHARS {
        shown.push('…');
    }
    shown
}

/// Control characters and those that turn the direction of writing become visible.
fn harmless(character: char) -> char {
    match character {
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        control if control.is_control() => '\u{fffd}',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Summary;

    fn finding(severity: &str, title: &str, name: &str) -> Value {
        json!({"id": name, "severity": severity, "title": title,
               "resource": {"type": "aws.s3.bucket", "name": name, "region": "eu-west-1"}})
    }

    #[test]
    fn the_worst_comes_first_and_one_fault_of_many_resources_is_one_line() {
        let summary = Summary {
            findings: vec![
                finding("low", "no versioning", "a"),
                finding("critical", "anyone may write", "b"),
                finding("critical", "anyone may write", "c"),
            ],
            results: vec![
                json!({"check_id": "x", "verdict": "unknown",
                       "gaps": {"config.Policy": {"call": "s3:GetBucketPolicy", "error": "AccessDenied"}}}),
                json!({"check_id": "x", "verdict": "pass", "gaps": {}}),
            ],
            resources: vec![json!({"type": "aws.s3.bucket", "region": "eu-west-1"})],
        };
        let text = summary.text();
        assert!(text.contains("3 open: critical 2, low 1"), "{text}");
        assert!(text.contains("1 of 1 type in 1 regions"), "{text}");
        assert!(text.contains("2 of 1 checks: pass 1, unknown 1"), "{text}");
        assert!(
            text.contains("anyone may write\n            aws.s3.bucket b (eu-west-1) and 1 more"),
            "{text}"
        );
        assert!(
            text.find("anyone may write") < text.find("no versioning"),
            "{text}"
        );
        assert!(
            text.contains("1  s3:GetBucketPolicy AccessDenied"),
            "{text}"
        );
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        let summary = Summary {
            findings: vec![finding("low", "t", "\u{1b}[2Jgone\u{202e}")],
            results: Vec::new(),
            resources: Vec::new(),
        };
        assert!(
            !summary.text().contains(['\u{1b}', '\u{202e}']),
            "{}",
            summary.text()
        );
    }
}

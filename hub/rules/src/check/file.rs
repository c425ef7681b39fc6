//! Reads a check file: its keys, their values, its expressions.

use std::collections::BTreeMap;

use protocol::declare::{Declarations, Field, Kind, ResourceType};
use serde::Deserialize;

use super::origin::Origin;
use super::trial::Trial;
use super::{Cause, Check, Evidence, Fix, Severity};
use crate::expression::{self, Polarity, Reads, Refusal};
use crate::load_error::{LoadError, nearest};
use crate::ruleset::Direction;

/// Longest file, in bytes: the longest of ours has a third of it.
const FILE_BYTES: usize = 64 * 1024;
/// Tests of a check at most.
const TESTS: usize = 200;
const ID_CHARS: usize = 120;
const TITLE_CHARS: usize = 160;
const TEXT_CHARS: usize = 4000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    id: String,
    title: String,
    severity: Severity,
    #[serde(rename = "type")]
    type_name: String,
    applies: Option<String>,
    pass: String,
    evidence: Option<Vec<String>>,
    cause: Option<String>,
    why: String,
    fix: Fix,
    source: String,
    #[serde(default)]
    controls: Vec<String>,
    tests: Vec<Trial>,
}

/// A file that is being read.
struct File<'t> {
    name: &'t str,
    text: &'t str,
    errors: Vec<LoadError>,
}

impl File<'_> {
    /// Notes an error at the value of a key.
    fn error(&mut self, key: &str, value: &str, reason: impl Into<String>) -> &mut LoadError {
        let place = Origin::find(self.text, key, value).start();
        self.error_at(place, key, reason)
    }

    fn error_at(
        &mut self,
        (line, column): (usize, usize),
        key: &str,
        reason: impl Into<String>,
    ) -> &mut LoadError {
        let error = LoadError {
            file: self.name.to_owned(),
            line,
            column,
            key: key.to_owned(),
            reason: reason.into(),
            allowed: Vec::new(),
            nearest: None,
        };
        self.errors.push(error);
        self.errors.last_mut().expect("an error was pushed")
    }

    /// Notes what is wrong with an expression.
    fn refused(&mut self, key: &str, value: &str, refusal: Refusal) {
        let place = Origin::find(self.text, key, value).place(refusal.offset);
        let error = self.error_at(place, key, refusal.reason);
        error.allowed = refusal.allowed;
        error.nearest = refusal.nearest;
    }

    /// Notes what the YAML parser found.
    fn yaml(&mut self, error: &yaml_serde::Error) {
        let place = error
            .location()
            .map_or((1, 1), |at| (at.line().max(1), at.column().max(1)));
        let message = error.to_string();
        let message = match message.rfind(" at line ") {
            Some(end) => message.get(..end).unwrap_or_default().to_owned(),
            None => message,
        };
        let (key, message) = split_key(&message);
        if let Some(name) = quoted(message.strip_prefix("duplicate field `")) {
            let place = Origin::find_last(self.text, name);
            self.error_at(place, key, format!("the key `{name}` is given twice"));
            return;
        }
        if let Some(name) = quoted(message.strip_prefix("missing field `")) {
            self.error_at(place, key, format!("the key `{name}` is missing"));
            return;
        }
        let unknown = [("unknown field `", "key"), ("unknown variant `", "value")];
        for (prefix, what) in unknown {
            if let Some(name) = quoted(message.strip_prefix(prefix)) {
                let allowed = names_after(message, "expected");
                let error = self.error_at(place, key, format!("unknown {what} `{name}`"));
                error.nearest = nearest(name, allowed.iter().map(String::as_str));
                error.allowed = allowed;
                return;
            }
        }
        let message = message
            .strip_prefix("invalid type: ")
            .map_or_else(|| message.to_owned(), |rest| format!("found {rest}"));
        self.error_at(place, key, message);
    }
}

/// Splits `tests[0].verdict: unknown …` into the path of the key and the message.
fn split_key(message: &str) -> (&str, &str) {
    match message.split_once(": ") {
        Some((key, rest))
            if !key.is_empty()
                && !key.contains(' ')
                && key
                    .chars()
                    .all(|c| c.is_alphanumeric() || "._[]-".contains(c)) =>
        {
            (key, rest)
        }
        _ => ("", message),
    }
}

/// Returns what stands before the closing quote.
fn quoted(rest: Option<&str>) -> Option<&str> {
    rest.and_then(|rest| rest.split_once('`'))
        .map(|(name, _)| name)
}

/// Returns the names in quotes after a word.
fn names_after(message: &str, word: &str) -> Vec<String> {
    let rest = message.split_once(word).map_or("", |(_, rest)| rest);
    let names = rest.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

/// Reads and compiles a file.
///
/// # Errors
///
/// Everything that is wrong with it.
pub(super) fn read(
    name: &str,
    text: &str,
    declarations: &Declarations,
) -> Result<Check, Vec<LoadError>> {
    let mut file = File {
        name,
        text,
        errors: Vec::new(),
    };
    if text.len() > FILE_BYTES {
        let reason = format!("the file is longer than {FILE_BYTES} bytes");
        file.error_at((1, 1), "", reason);
        return Err(file.errors);
    }
    let raw: RawCheck = match yaml_serde::from_str(text) {
        Ok(raw) => raw,
        Err(error) => {
            file.yaml(&error);
            return Err(file.errors);
        }
    };
    check_texts(&mut file, &raw);
    let Some(subject) = declarations.get(&raw.type_name) else {
        let names = declarations.iter().map(|t| t.name.as_str());
        let near = nearest(&raw.type_name, names);
        let reason = format!("no type {} is declared", raw.type_name);
        file.error("type", &raw.type_name, reason).nearest = near;
        return Err(file.errors);
    };
    let provider = subject.provider();
    if is_id(&raw.id) && raw.id.split('.').next() != Some(provider) {
        let reason = format!(
            "the id of a check on {} begins with {provider}.",
            subject.name
        );
        file.error("id", &raw.id, reason);
    }
    let mut reads = Reads::default();
    let mut compile = |key: &str, text: &str, polarity, reads: &mut Reads| match expression::compile(
        text,
        polarity,
        subject,
        declarations,
        reads,
    ) {
        Ok(condition) => Some(condition),
        Err(refusal) => {
            file.refused(key, text, refusal);
            None
        }
    };
    // Whether a check applies may help it either way.
    let applies = raw.applies.as_ref().map(|text| {
        let condition = compile("applies", text, Polarity::Both, &mut reads);
        condition.map(|condition| (text.clone(), condition))
    });
    let pass = compile("pass", &raw.pass, Polarity::Positive, &mut reads);
    let (Some(pass), true) = (pass, !matches!(applies, Some(None))) else {
        return Err(file.errors);
    };
    // A relation that only `applies` reads cannot be what makes the check fail.
    let in_pass = relations_of(&raw.pass, subject, declarations).unwrap_or_default();
    let cause = read_cause(&mut file, raw.cause.as_deref(), &reads, &in_pass);
    let evidence = match &raw.evidence {
        Some(paths) => check_evidence(&mut file, paths, subject, declarations, &reads),
        None => default_evidence(&reads),
    };
    if !file.errors.is_empty() {
        return Err(file.errors);
    }
    Ok(Check {
        file: name.to_owned(),
        id: raw.id,
        title: raw.title,
        severity: raw.severity,
        type_name: raw.type_name,
        why: raw.why.trim().to_owned(),
        fix: raw.fix,
        source: raw.source,
        controls: raw.controls,
        applies: applies.flatten(),
        pass: (raw.pass, pass),
        reads,
        evidence,
        cause,
        tests: raw.tests,
    })
}

/// Returns the relations that an expression reads by itself.
fn relations_of(
    text: &str,
    subject: &ResourceType,
    declarations: &Declarations,
) -> Option<Vec<expression::RelationRead>> {
    let mut reads = Reads::default();
    expression::compile(text, Polarity::Positive, subject, declarations, &mut reads).ok()?;
    Some(reads.relations)
}

/// Whether a text is `<provider>.<service>.<name>`.
fn is_id(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.len() <= ID_CHARS && text.split('.').count() == 3 && text.split('.').all(is_part)
}

fn check_texts(file: &mut File<'_>, raw: &RawCheck) {
    if !is_id(&raw.id) {
        let reason = "expected <provider>.<service>.<name> of a-z, 0-9 and '-'";
        file.error("id", &raw.id, reason);
    }
    let texts = [
        ("title", raw.title.as_str(), TITLE_CHARS),
        ("why", raw.why.as_str(), TEXT_CHARS),
        ("source", raw.source.as_str(), TEXT_CHARS),
    ];
    for (key, text, most) in texts {
        let length = text.trim().chars().count();
        if length == 0 || length > most {
            file.error(key, text, format!("expected 1 to {most} characters"));
        } else if text.chars().any(|c| c.is_control() && c != '\n') {
            file.error(key, text, "control characters are not allowed");
        }
    }
    if raw.title.contains('\n') {
        file.error("title", &raw.title, "a title is one line");
    }
    if raw.fix.is_empty() {
        let ways = ["console", "cli", "terraform"].map(str::to_owned);
        file.error("fix", "", "at least one way to mend it is needed")
            .allowed = ways.to_vec();
    }
    let fixes = [&raw.fix.console, &raw.fix.cli, &raw.fix.terraform];
    for text in fixes.into_iter().flatten() {
        if text.chars().count() > TEXT_CHARS {
            file.error("fix", "", format!("expected 1 to {TEXT_CHARS} characters"));
        }
    }
    if raw.tests.len() > TESTS {
        file.error("tests", "", format!("more than {TESTS} tests"));
    }
}

fn read_cause(
    file: &mut File<'_>,
    text: Option<&str>,
    reads: &Reads,
    in_pass: &[expression::RelationRead],
) -> Cause {
    let Some(text) = text.filter(|text| text.trim() != "self") else {
        return Cause::Itself;
    };
    let call = |name: &str| {
        let inside = text.trim().strip_prefix(name)?;
        let inside = inside.trim().strip_prefix('(')?.strip_suffix(')')?;
        let mut names = inside.split(',').map(|part| {
            let part = part.trim();
            let bare = part.strip_prefix('\'').and_then(|p| p.strip_suffix('\''));
            bare.or_else(|| part.strip_prefix('"').and_then(|p| p.strip_suffix('"')))
        });
        let relation = names.next().flatten()?;
        let type_name = match names.next() {
            Some(name) => Some(name?),
            None => None,
        };
        names.next().is_none().then_some((relation, type_name))
    };
    let (direction, found) = match (call("linked_from"), call("linked")) {
        (Some(found), _) => (Direction::Incoming, found),
        (None, Some(found @ (_, None))) => (Direction::Outgoing, found),
        _ => {
            file.error(
                "cause",
                text,
                "expected self, linked('…') or linked_from('…')",
            );
            return Cause::Itself;
        }
    };
    let number = reads.relations.iter().position(|read| {
        read.direction == direction
            && read.name == found.0
            && found.1.is_none_or(|name| name == read.type_name)
            && in_pass.contains(read)
    });
    match number {
        Some(number) => Cause::Linked(number),
        None => {
            let reason = "the cause is a relation that `pass` does not read";
            file.error("cause", text, reason);
            Cause::Itself
        }
    }
}

/// Every path the expressions read, down to the first list.
fn default_evidence(reads: &Reads) -> Vec<Evidence> {
    let cut = |path: &str| path.split("[]").next().unwrap_or_default().to_owned();
    let outermost = |paths: &BTreeMap<String, String>| {
        let mut kept: Vec<String> = Vec::new();
        for path in paths.keys().map(|path| cut(path)) {
            let lies_in = |outer: &String| {
                path.strip_prefix(outer.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            if !kept.iter().any(lies_in) {
                kept.push(path);
            }
        }
        kept
    };
    let fields = outermost(&reads.fields).into_iter().map(Evidence::Field);
    let account = outermost(&reads.account).into_iter().map(Evidence::Account);
    let tags = reads.tags.iter().cloned().map(Evidence::Tag);
    let all_tags = reads.all_tags.then_some(Evidence::Tags);
    fields.chain(account).chain(tags).chain(all_tags).collect()
}

fn check_evidence(
    file: &mut File<'_>,
    paths: &[String],
    subject: &ResourceType,
    declarations: &Declarations,
    reads: &Reads,
) -> Vec<Evidence> {
    let mut evidence = Vec::with_capacity(paths.len());
    for path in paths {
        let account = format!("{}.account", subject.provider());
        let (fields, rest, made): (_, _, fn(String) -> Evidence) =
            match (path.split_once('.'), declarations.get(&account)) {
                (Some(("tags", name)), _) => {
                    if reads.tags.is_empty() && !reads.all_tags {
                        file.error("evidence", "", "the expressions do not read the tags");
                    }
                    evidence.push(Evidence::Tag(name.to_owned()));
                    continue;
                }
                (Some(("account", rest)), Some(found)) => (&found.fields, rest, Evidence::Account),
                _ if path == "tags" => {
                    if !reads.all_tags {
                        file.error("evidence", "", "the expressions do not read the tags");
                    }
                    evidence.push(Evidence::Tags);
                    continue;
                }
                _ => (&subject.fields, path.as_str(), Evidence::Field),
            };
        match declared(fields, rest) {
            Ok(()) => evidence.push(made(rest.to_owned())),
            Err(Undeclared::Unknown(known)) => {
                let near = nearest(rest, known.iter().map(String::as_str));
                let error = file.error("evidence", "", format!("no declared field {path}"));
                error.allowed = known;
                error.nearest = near;
            }
            Err(Undeclared::Ends(at)) => {
                let reason = format!("{path}: evidence ends at {at}, which is no record");
                file.error("evidence", "", reason);
            }
        }
    }
    evidence
}

/// Why a path is not declared.
enum Undeclared {
    Unknown(Vec<String>),
    Ends(String),
}

fn declared(fields: &BTreeMap<String, Field>, path: &str) -> Result<(), Undeclared> {
    let mut fields = fields;
    let mut walked = String::new();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let Some(field) = fields.get(name) else {
            return Err(Undeclared::Unknown(fields.keys().cloned().collect()));
        };
        if !walked.is_empty() {
            walked.push('.');
        }
        walked.push_str(name);
        match (&field.kind, names.peek()) {
            (_, None) => return Ok(()),
            (Kind::Record(below), Some(_)) => fields = below,
            (_, Some(_)) => return Err(Undeclared::Ends(walked)),
        }
    }
    Ok(())
}

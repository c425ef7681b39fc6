//! One check: a YAML file that says what must hold for a resource, why, and how to mend it.
//!
//! Built-in files are `hub/rules/checks/<provider>/<service>/<name>.yaml`; operators add their own
//! in the same format. One file holds one check.
//!
//! ```yaml
//! id: aws.ec2.security-group-ssh-open    # <provider>.<service>.<name>: a-z, 0-9, '-' and two dots
//! title: SSH is not open to the internet # the state that passes, in our own words
//! severity: high                         # critical, high, medium, low, info
//! type: aws.ec2.security-group           # a declared resource type
//! applies: r.VpcId != null               # optional; false means not_applicable
//! pass: "!r.IpPermissions.exists(p, …)"  # the check itself
//! evidence: [IpPermissions]              # optional; default: every path the expressions read
//! cause: linked('in_vpc')                # optional; default: self
//! why: Why it matters, one or two sentences.
//! fix: {console: …, cli: …, terraform: …}   # at least one of the three
//! source: https://…                      # vendor page, or a control such as "CIS AWS 3.0.0, 5.2"
//! controls: [cis-aws-3.0.0/5.2]          # optional
//! tests:                                 # at least one pass, one fail, one unknown for each call
//!   - name: a sentence
//!     verdict: fail                      # pass, fail, unknown, not_applicable
//!     r: {GroupId: sg-1}                 # config; a declared field that is not given is null
//!     tags: {env: prod}                  # optional, default: no tags
//!     gaps: {config.IpPermissions: {call: 'ec2:DescribeSecurityGroups', error: AccessDenied}}
//!     account: {…}                       # optional; absent: the account's document is unknown
//!     account_id: '123456789012'         # optional, this is the default
//!     now: 2026-01-01T00:00:00Z          # optional, this is the default
//!     linked:                            # optional; a relation not given is complete and empty
//!       in_vpc: {complete: true, documents: [{r: {…}, tags: {…}, id: vpc-1}]}
//!     linked_from:                       # same form, for links that lead to this resource
//!       in_sg: {complete: false}         # the type may be given per document: {type: …, r: {…}}
//! ```
//!
//! # The language
//!
//! `applies` and `pass` are CEL expressions that are type-checked against the declarations in
//! `protocol/types` when the file is loaded.
//!
//! | name | what it is |
//! |---|---|
//! | `r` | the resource's declared fields, under the provider's own names |
//! | `tags` | map of tags; `tags['env']` and `tags.env` are null where there is no such tag |
//! | `account` | declared fields of the account's own document (`<provider>.account`) |
//! | `account_id`, `region` | text from the resource's name, always known |
//! | `now` | the instant of the judgement; only in orderings: `now - timestamp(r.T) < duration('2160h')`, `r.T < now - duration('24h')` |
//! | `linked('rel')` | documents this resource links to; each has `.r`, `.tags`, `.id`, `.name`, `.region`, `.account` |
//! | `linked_from('rel')`, `linked_from('rel', 'type')` | documents that link to this one; the type where several types have that relation |
//!
//! | operation | on |
//! |---|---|
//! | `&& \|\| ! ?:` | bool |
//! | `== !=` | two scalars of one type (int and double mix); anything with `null` |
//! | `< <= > >=` | int, double, string, timestamp, duration |
//! | `+ - * / %` | int, double; `+` on strings; `+ -` on timestamp and duration |
//! | `x in list`, `'k' in map` | list of scalars, map |
//! | `list.exists(x, …)`, `.all`, `.exists_one`, `.filter`, `.map`, `list[0]` | lists, `linked(…)`; index beyond the end is null |
//! | `map.exists(k, …)`, `.all`, `.exists_one` | keys of a map |
//! | `size(x)`, `x.size()` | string (code points), list, map |
//! | `s.startsWith('a')`, `.endsWith`, `.contains`, `.matches('regex')`, `.lowerAscii()`, `.upperAscii()`, `.split(',')` | string; a regex is a literal |
//! | `timestamp(x)`, `duration('24h')`, `int(s)` | text or timestamp; literal of h, m, s, ms; decimal text |
//! | `cidr_contains(outer, inner)`, `is_public_cidr(c)`, `is_any_cidr(c)`, `cidr_prefix(c)` | text such as `10.0.0.0/8` or a lone address |
//! | `port_in(from, to, port)` | ints; null or -1 in `from` or `to` stands for every port |
//! | `policy_…(r.Policy, …)` | policy fields, see [`crate::policy`] |
//!
//! Bounds: 8 KiB of text, 8 brackets within each other, 8 variables at once, a million elements
//! visited (beyond it the check is broken). A relation of a neighbour cannot be followed further.
//!
//! A field of kind `secret` is a list of `{kind, place, fingerprint}`: `size(r.UserData) == 0`.
//! Fields of kind `json` and `policy` can be compared with null; a policy goes to `policy_…`.
//!
//! # Null and unread
//!
//! A fact is in one of three states: a value, **null** (read, and absent), or **unread**.
//!
//! Unread makes the expression unknown unless the rest decides: `&&`, `||`, `!`, `?:` and the
//! list macros follow Kleene's logic. A relation whose scopes are not completely swept can prove
//! that something exists, never that nothing does.
//!
//! Null is defined:
//!
//! 1. A field, index or arithmetic of null is null; a list macro over null sees an empty list.
//! 2. `== null` and `!= null` are exact, and so is `==` with any value: `r.x != true` holds where
//!    `x` is null. Two operands that may both be null are refused.
//! 3. A nullable bool, an ordering, `in`, a text test, a network or policy function with null in
//!    it is **false**.
//! 4. **Null never helps a check to pass unless the check says so.** Where rule 1 or 3 would push
//!    the verdict towards pass, the file is refused: `!r.x`, `!(r.n > 3)`, `!r.s.startsWith('a')`,
//!    `!r.list.exists(…)` and `r.list.all(…)` with a nullable operand. Say what null means:
//!    `r.x == false` or `r.x != true`; `r.n != null && !(r.n > 3)`;
//!    `r.list != null && r.list.all(…)` (null fails) or `r.list == null || r.list.all(…)` (null
//!    passes). Inside macros the same: `!r.Rules.exists(p, p.Ranges != null &&
//!    p.Ranges.exists(…))`. In `applies`, in the condition of `?:`, in `exists_one` and in a
//!    `filter` whose size is taken, both directions matter, so null must always be said there;
//!    `size()` always needs it.
//!
//! A text that is no number, instant or address range where `int()`, `timestamp()` or a network
//! function needs one, an overflow and a division by zero break the check: it is shown as broken,
//! never as passed. Text that may be of another form is tested first.
//!
//! A field declared `required: true` is never null, and neither are list elements, `tags`,
//! `linked(…)` and their fields of such kind. The test `x != null &&` (or `x == null ||`, or
//! `x != null ? … :`) makes `x` not null in what follows it.

mod file;
mod origin;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use protocol::Document;
use protocol::declare::Declarations;
use protocol::document::Gap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::trial::Trial;
use crate::expression::{Condition, Frame, Reads, Truth};
use crate::load_error::LoadError;
use crate::ruleset::Direction;
use crate::verdict::{Outcome, Relation, Subject, Verdict};

pub(crate) use self::trial::run;

/// Elements of a list that are kept as evidence; its length is told beside it.
const EVIDENCE_ITEMS: usize = 100;
/// Bytes of a text that are kept as evidence.
const EVIDENCE_TEXT: usize = 4096;

/// How bad it is when a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Mend it when convenient.
    Low,
    /// Mend it in the course of work.
    Medium,
    /// Mend it soon.
    High,
    /// Mend it at once.
    Critical,
}

impl Severity {
    /// Returns the name as files and the API write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How to mend what a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fix {
    /// Steps in the provider's web console.
    pub console: Option<String>,
    /// A command line.
    pub cli: Option<String>,
    /// A piece of Terraform.
    pub terraform: Option<String>,
}

impl Fix {
    fn is_empty(&self) -> bool {
        [&self.console, &self.cli, &self.terraform]
            .into_iter()
            .all(|way| way.as_deref().is_none_or(|text| text.trim().is_empty()))
    }
}

/// The resource whose change mends a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Itself,
    /// The neighbour by this relation that decided; itself where none alone did.
    Linked(usize),
}

/// What is kept to explain a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Evidence {
    Field(String),
    Account(String),
    Tag(String),
    Tags,
}

/// A loaded check.
#[derive(Debug)]
pub struct Check {
    file: String,
    id: String,
    title: String,
    severity: Severity,
    type_name: String,
    why: String,
    fix: Fix,
    source: String,
    controls: Vec<String>,
    applies: Option<(String, Condition)>,
    pass: (String, Condition),
    reads: Reads,
    evidence: Vec<Evidence>,
    cause: Cause,
    tests: Vec<Trial>,
}

impl Check {
    /// Reads and compiles one check file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file, each with its place.
    pub fn read(
        file: &str,
        text: &str,
        declarations: &Declarations,
    ) -> Result<Check, Vec<LoadError>> {
        file::read(file, text, declarations)
    }

    /// Returns the id, `aws.ec2.security-group-ssh-open`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the file it came from, as the caller named it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the state that passes, in a few words.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Returns how bad a failure is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Returns the resource type it judges.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Returns the part of the id between the dots: `ec2`.
    pub fn service(&self) -> &str {
        self.id.split('.').nth(1).unwrap_or_default()
    }

    /// Returns why it matters.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Returns how to mend a failure.
    pub fn fix(&self) -> &Fix {
        &self.fix
    }

    /// Returns the page or control it rests on.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns ids of controls that it speaks to.
    pub fn controls(&self) -> &[String] {
        &self.controls
    }

    /// Returns the CEL text of `applies`.
    pub fn applies_text(&self) -> Option<&str> {
        self.applies.as_ref().map(|(text, _)| text.as_str())
    }

    /// Returns the CEL text of `pass`.
    pub fn pass_text(&self) -> &str {
        &self.pass.0
    }

    /// Returns the declared fields of the resource that it reads, with the call behind each:
    /// `IpPermissions[].FromPort`.
    pub fn fields(&self) -> &BTreeMap<String, String> {
        &self.reads.fields
    }

    /// Returns the relations it reads: name, direction, type at the other end.
    pub fn relations(&self) -> impl Iterator<Item = (&str, Direction, &str)> {
        self.reads
            .relations
            .iter()
            .map(|read| (read.name.as_str(), read.direction, read.type_name.as_str()))
    }

    /// Returns everything that its expressions read, of neighbours too, as type and outermost
    /// field; the field is `tags` for the tags and empty for which resources of the type there
    /// are. A verdict can be unknown for want of any of these, and of nothing else.
    pub fn facts(&self) -> &BTreeSet<(String, String)> {
        &self.reads.facts
    }

    /// Whether it reads the account's document.
    pub fn reads_account(&self) -> bool {
        self.reads.reads_account
    }

    /// Whether its verdict can change with time alone.
    pub fn reads_now(&self) -> bool {
        self.reads.now
    }

    /// Returns the verdict alone.
    pub fn verdict<'a>(&'a self, subject: &Subject<'a>) -> Verdict {
        let mut frame = Frame::new(*subject, &self.reads.relations, false);
        self.judge(&mut frame)
    }

    /// Judges a resource and explains the verdict.
    pub fn evaluate<'a>(&'a self, subject: &Subject<'a>) -> Outcome {
        let mut frame = Frame::new(*subject, &self.reads.relations, true);
        let verdict = self.judge(&mut frame);
        let notes = frame.recorder;
        let gaps = match verdict {
            Verdict::Unknown => notes.gaps(),
            Verdict::Broken => {
                let gap = Gap {
                    call: self.id.clone(),
                    error: notes.broken.unwrap_or_default().to_owned(),
                };
                BTreeMap::from([("check".to_owned(), gap)])
            }
            Verdict::Pass | Verdict::Fail | Verdict::NotApplicable => BTreeMap::new(),
        };
        let cause = (verdict == Verdict::Fail).then(|| {
            let neighbour = match self.cause {
                Cause::Itself => None,
                Cause::Linked(number) => notes.witness(number),
            };
            neighbour.unwrap_or(subject.document).urn.clone()
        });
        Outcome {
            verdict,
            evidence: self.collect_evidence(subject),
            gaps,
            due_at: notes.due(),
            cause,
        }
    }

    /// Returns the result that stands for all resources of a scope whose list was denied.
    ///
    /// The caller files it under the scope's own URN.
    pub fn for_denied_scope(&self, gap: &Gap) -> Outcome {
        Outcome {
            verdict: Verdict::Unknown,
            evidence: BTreeMap::new(),
            gaps: BTreeMap::from([("config".to_owned(), gap.clone())]),
            due_at: None,
            cause: None,
        }
    }

    fn judge<'a>(&'a self, frame: &mut Frame<'a>) -> Verdict {
        if let Some((_, applies)) = &self.applies {
            match frame.condition(applies) {
                Truth::True => {}
                Truth::False => return Verdict::NotApplicable,
                Truth::Unknown => return Verdict::Unknown,
                Truth::Broken => return Verdict::Broken,
            }
        }
        // Who decided that the check applies is not who makes it fail.
        let start = frame.recorder.mark();
        let before = frame.recorder.begin();
        frame.recorder.forget_witnesses(&start);
        let truth = frame.condition(&self.pass.1);
        frame.recorder.join(&before);
        match truth {
            Truth::True => Verdict::Pass,
            Truth::False => Verdict::Fail,
            Truth::Unknown => Verdict::Unknown,
            Truth::Broken => Verdict::Broken,
        }
    }

    /// Collects the values that were judged, as far as they were read.
    fn collect_evidence(&self, subject: &Subject<'_>) -> BTreeMap<String, Value> {
        let mut evidence = BTreeMap::new();
        let mut add = |path: String, value: &Value| {
            if let Value::Array(items) = value
                && items.len() > EVIDENCE_ITEMS
            {
                evidence.insert(format!("{path}#total"), items.len().into());
            }
            evidence.insert(path, cut(value));
        };
        for kept in &self.evidence {
            match kept {
                Evidence::Field(path) => {
                    if let Some(value) = follow(subject.document, path) {
                        add(path.clone(), value);
                    }
                }
                Evidence::Account(path) => {
                    if let Some(value) = subject.account.and_then(|of| follow(of, path)) {
                        add(format!("account.{path}"), value);
                    }
                }
                Evidence::Tag(name) => {
                    if let Some(tags) = &subject.document.tags {
                        let value = tags.get(name).cloned();
                        add(format!("tags.{name}"), &value.into());
                    }
                }
                Evidence::Tags => {
                    if let Some(tags) = &subject.document.tags {
                        let tags = tags.iter().map(|(k, v)| (k.clone(), v.clone().into()));
                        add("tags".to_owned(), &Value::Object(tags.collect()));
                    }
                }
            }
        }
        if self.reads.now {
            add("now".to_owned(), &subject.now.to_string().into());
        }
        let mut linked: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for read in &self.reads.relations {
            let (path, found) = match read.direction {
                Direction::Outgoing => ("linked", subject.neighbours.linked(&read.name)),
                Direction::Incoming | Direction::Account => {
                    let found = subject.neighbours.linked_from(&read.name);
                    ("linked_from", of_type(found, &read.type_name))
                }
            };
            let urns = found.documents.iter().map(|d| d.urn.to_string().into());
            let path = format!("{path}.{}", read.name);
            linked.entry(path).or_default().extend(urns);
        }
        for (path, urns) in linked {
            add(path, &Value::Array(urns));
        }
        evidence
    }
}

/// Returns line and column of the id in a file that was read.
pub(crate) fn place_of_id(text: &str, id: &str) -> (usize, usize) {
    origin::Origin::find(text, "id", id).start()
}

/// Leaves documents of other types out, as the check does.
fn of_type<'a>(mut relation: Relation<'a>, type_name: &str) -> Relation<'a> {
    relation.documents.retain(|d| d.type_name == type_name);
    relation
}

/// Returns the value at a path of fields: null where it or a record on the way is null, nothing
/// where it was not read.
fn follow<'d>(document: &'d Document, path: &str) -> Option<&'d Value> {
    path.split('.')
        .try_fold(&document.config, |at, name| field(at, name))
}

fn field<'d>(of: &'d Value, name: &str) -> Option<&'d Value> {
    match of {
        Value::Null => Some(of),
        Value::Object(fields) => fields.get(name),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// Returns a value whose lists and texts are not longer than evidence needs.
fn cut(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().take(EVIDENCE_ITEMS).map(cut).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(k, v)| (k.clone(), cut(v)));
            Value::Object(fields.collect())
        }
        Value::String(text) if text.len() > EVIDENCE_TEXT => {
            let end = text.floor_char_boundary(EVIDENCE_TEXT);
            format!("{}…", text.get(..end).unwrap_or_default()).into()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

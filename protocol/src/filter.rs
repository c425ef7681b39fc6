//! The one filter grammar of API, command line and console.
//!
//! ```text
//! filter  = term *( white-space term )              all terms must hold
//! term    = ["!"] ( field op value *( "," value ) | "~" text | text )
//! op      = "=" | "!=" | ">" | ">=" | "<" | "<=" | "~"
//! value   = word | '"' anything '"' | "'" anything "'"
//! ```
//! `severity>=high status=open,muted !account=123456789012 name~web "public bucket"`.
//! `~` on a field looks for a part of it, letter case ignored; `~text` alone finds the letters of
//! `text` in this order (fuzzy); bare text is looked for in every text of a row, as a part of it,
//! or in events as whole words (`root` finds `of root`, not `chroot`). `tag:env=prod` asks for a
//! tag. Enumerations compare in their own order, times take RFC 3339 or an age such as `24h` or
//! `30d`, which means that long before now.

use jiff::Timestamp;

use crate::declare::Declarations;
use crate::limits;

/// What a field holds, and thus which operators and values it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// Text; `<` and `>` are refused.
    Text,
    /// Text that names a declared resource type in full; a part of it is found with `~`.
    Type,
    /// One of a list, lowest first.
    Enum(&'static [&'static str]),
    /// A number.
    Number,
    /// An instant.
    Time,
    /// `true` or `false`.
    Bool,
}

/// A field that rows of one kind have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldSpec {
    /// Name as typed.
    pub name: &'static str,
    /// What it holds.
    pub kind: FieldKind,
}

/// A field's value in one row.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldValue<'a> {
    /// Text, or a word of an enumeration.
    Text(&'a str),
    /// Text that the row does not hold as such.
    Owned(String),
    /// A number.
    Number(f64),
    /// An instant.
    Time(Timestamp),
    /// A truth.
    Bool(bool),
}

/// A row that can be filtered.
pub trait Row {
    /// Returns the value of a field that the row's kind declares; `None` when it has none, which
    /// matches no comparison but `!=`.
    fn field(&self, name: &str) -> Option<FieldValue<'_>>;
    /// Returns whether a value of a field meets a test. A field has more than one where the same
    /// thing goes by several names, such as a resource by its URN, its id and its display name.
    fn any_value(&self, name: &str, meets: &mut dyn FnMut(&FieldValue<'_>) -> bool) -> bool {
        self.field(name).as_ref().is_some_and(meets)
    }
    /// Returns the value of a tag.
    fn tag(&self, _name: &str) -> Option<&str> {
        None
    }
    /// Calls `look` with each text of the row until it returns true; returns whether it did.
    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool;
    /// Returns whether the row holds a bare text of a filter, which comes in lower case: as a part
    /// of any of its texts, unless the kind of row says otherwise (events: as whole words).
    fn holds_text(&self, lower: &str) -> bool {
        self.any_text(&mut |own| contains_folded(own, lower))
    }
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    More,
    /// `>=`
    AtLeast,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `~`
    Contains,
}

#[derive(Debug, Clone, PartialEq)]
enum Want {
    Text(String),
    Rank(&'static [&'static str], usize),
    Number(f64),
    Time(Timestamp),
    Bool(bool),
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Anywhere(String),
    Fuzzy(String),
    Field {
        name: &'static str,
        op: Op,
        wants: Vec<Want>,
    },
    Tag {
        name: String,
        op: Op,
        wants: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq)]
struct Term {
    negated: bool,
    test: Test,
}

/// A parsed filter. The empty filter matches every row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter {
    terms: Vec<Term>,
}

/// Says why a text is not a filter, where, and what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {reason}")]
pub struct FilterError {
    /// Position of the term in the text, in characters from 1.
    pub at: usize,
    /// What is wrong and what would be right.
    pub reason: String,
}

const OPS: [(&str, Op); 7] = [
    (">=", Op::AtLeast),
    ("<=", Op::AtMost),
    ("!=", Op::NotEqual),
    ("=", Op::Equal),
    (">", Op::More),
    ("<", Op::Less),
    ("~", Op::Contains),
];

/// Cuts a text into words at white space outside quotes, with each word's position from 1.
fn words(text: &str) -> Result<Vec<(usize, String)>, FilterError> {
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut word = String::new();
    let mut start = 1;
    let mut quote: Option<(char, usize)> = None;
    for (index, letter) in text.chars().enumerate() {
        match quote {
            Some((open, _)) if letter == open => quote = None,
            Some(_) => word.push(letter),
            None if letter == '"' || letter == '\'' => {
                if word.is_empty() {
                    start = index + 1;
                    // A quoted word is bare text even when it looks like a comparison.
                    word.push('\u{0}');
                }
                quote = Some((letter, index + 1));
            }
            None if letter.is_whitespace() => {
                if !word.is_empty() {
                    words.push((start, std::mem::take(&mut word)));
                }
            }
            None => {
                if word.is_empty() {
                    start = index + 1;
                }
                word.push(letter);
            }
        }
    }
    if let Some((open, at)) = quote {
        return Err(FilterError {
            at,
            reason: format!("the quote {open} is not closed"),
        });
    }
    if !word.is_empty() {
        words.push((start, word));
    }
    Ok(words)
}

fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= name.len().div_ceil(2))
        .min()
        .map(|(_, name)| name)
}

fn read_time(value: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(at) = value.parse::<Timestamp>() {
        return Some(at);
    }
    if let Ok(date) = value.parse::<jiff::civil::Date>() {
        return date
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()
            .map(|zoned| zoned.timestamp());
    }
    let age = value.trim_start_matches('-');
    let (digits, unit) = age.split_at(age.find(|c: char| !c.is_ascii_digit())?);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    let span = digits.parse::<i64>().ok()?.checked_mul(seconds)?;
    now.checked_sub(jiff::SignedDuration::from_secs(span)).ok()
}

fn read_want(spec: &FieldSpec, op: Op, value: &str, now: Timestamp) -> Result<Want, String> {
    let name = spec.name;
    let ordered = matches!(op, Op::More | Op::AtLeast | Op::Less | Op::AtMost);
    match spec.kind {
        FieldKind::Text | FieldKind::Type if ordered => {
            Err(format!("{name} is text: it takes =, != and ~ (part of it)"))
        }
        // Lowered once, and not for every row.
        FieldKind::Text | FieldKind::Type if op == Op::Contains => {
            Ok(Want::Text(value.to_lowercase()))
        }
        FieldKind::Text => Ok(Want::Text(value.to_owned())),
        FieldKind::Type => {
            let types = || {
                Declarations::builtin()
                    .iter()
                    .map(|known| known.name.as_str())
            };
            if types().any(|known| known.eq_ignore_ascii_case(value)) {
                return Ok(Want::Text(value.to_owned()));
            }
            let hint = nearest(value, types());
            let hint = hint.map_or(String::new(), |n| format!("; did you mean {n}?"));
            Err(format!(
                "there is no resource type {value:?}, and {name}~ finds a part of one{hint}"
            ))
        }
        _ if op == Op::Contains => Err(format!("{name} takes no ~: use = or a comparison")),
        FieldKind::Enum(values) => {
            match values.iter().position(|v| v.eq_ignore_ascii_case(value)) {
                Some(rank) => Ok(Want::Rank(values, rank)),
                None => {
                    let hint = nearest(value, values.iter().copied());
                    let hint = hint.map_or(String::new(), |n| format!("; did you mean {n}?"));
                    Err(format!("{name} is one of {}{hint}", values.join(", ")))
                }
            }
        }
        FieldKind::Number => match value.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Want::Number(number)),
            Ok(_) | Err(_) => Err(format!("{name} is a number, {value:?} is none")),
        },
        FieldKind::Time => read_time(value, now).map(Want::Time).ok_or_else(|| {
            format!("{name} is a time: RFC 3339, a date, or an age such as 24h; {value:?} is none")
        }),
        FieldKind::Bool if ordered => Err(format!("{name} is true or false: it takes = and !=")),
        FieldKind::Bool => match value {
            "true" | "yes" => Ok(Want::Bool(true)),
            "false" | "no" => Ok(Want::Bool(false)),
            _ => Err(format!("{name} is true or false")),
        },
    }
}

/// Splits a word at its first operator, if the part before it could be a field's name.
fn split_op(word: &str) -> Option<(&str, Op, &str)> {
    let at = word.find(['=', '!', '<', '>', '~'])?;
    let (name, rest) = word.split_at(at);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    let (text, op) = OPS.into_iter().find(|(text, _)| rest.starts_with(text))?;
    Some((name, op, rest.get(text.len()..).unwrap_or_default()))
}

impl Filter {
    /// Reads a filter for rows with the given fields. `now` is what ages count from.
    ///
    /// # Errors
    ///
    /// When a field, operator or value is unknown, a quote stays open, or the text exceeds
    /// [`limits::FILTER_BYTES`] or [`limits::FILTER_TERMS`].
    pub fn parse(text: &str, fields: &[FieldSpec], now: Timestamp) -> Result<Self, FilterError> {
        if text.len() > limits::FILTER_BYTES {
            let reason = format!("a filter has at most {} bytes", limits::FILTER_BYTES);
            return Err(FilterError { at: 1, reason });
        }
        let mut terms = Vec::new();
        for (at, word) in words(text)? {
            if terms.len() >= limits::FILTER_TERMS {
                let reason = format!("a filter has at most {} terms", limits::FILTER_TERMS);
                return Err(FilterError { at, reason });
            }
            let (negated, word) = match word.strip_prefix('!') {
                Some(rest) if !rest.is_empty() => (true, rest.to_owned()),
                _ => (false, word),
            };
            let test =
                Self::read_test(&word, fields, now).map_err(|reason| FilterError { at, reason })?;
            terms.push(Term { negated, test });
        }
        Ok(Self { terms })
    }

    fn read_test(word: &str, fields: &[FieldSpec], now: Timestamp) -> Result<Test, String> {
        if let Some(quoted) = word.strip_prefix('\u{0}') {
            return Ok(Test::Anywhere(quoted.to_lowercase()));
        }
        if let Some(fuzzy) = word.strip_prefix('~')
            && !fuzzy.is_empty()
        {
            return Ok(Test::Fuzzy(fuzzy.to_lowercase()));
        }
        let Some((name, op, values)) = split_op(word) else {
            return Ok(Test::Anywhere(word.to_lowercase()));
        };
        if let Some(tag) = name.strip_prefix("tag:") {
            if matches!(op, Op::More | Op::AtLeast | Op::Less | Op::AtMost) {
                return Err("a tag takes =, != and ~".to_owned());
            }
            let wants = values.split(',').map(str::to_owned).collect();
            return Ok(Test::Tag {
                name: tag.to_owned(),
                op,
                wants,
            });
        }
        let Some(spec) = fields
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))
        else {
            let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
            let hint = nearest(name, names.iter().copied());
            let hint = hint.map_or(String::new(), |n| format!("; did you mean {n}?"));
            return Err(format!(
                "there is no field {name}; the fields are {}{hint}",
                names.join(", ")
            ));
        };
        if values.is_empty() {
            return Err(format!("{name} lacks a value"));
        }
        let wants: Result<Vec<Want>, String> = values
            .split(',')
            .map(|value| read_want(spec, op, value, now))
            .collect();
        Ok(Test::Field {
            name: spec.name,
            op,
            wants: wants?,
        })
    }

    /// Returns whether a row meets every term.
    pub fn matches(&self, row: &(impl Row + ?Sized)) -> bool {
        self.terms
            .iter()
            .all(|term| term.test.holds(row) != term.negated)
    }

    /// Returns whether the filter lets everything through.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Returns the bare texts that every matching row contains, lower-case: what an index of
    /// words can be asked for before rows are read.
    pub fn required_texts(&self) -> impl Iterator<Item = &str> {
        self.terms
            .iter()
            .filter_map(|term| match (&term.test, term.negated) {
                (Test::Anywhere(text), false) => Some(text.as_str()),
                _ => None,
            })
    }

    /// Returns the text that a field of every matching row is, but for the case of ASCII letters.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.required_wants(field).find_map(|want| match want {
            (Op::Equal, Want::Text(text)) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns the lowest place that an enumeration's word has in every matching row.
    pub fn least_rank(&self, field: &str) -> Option<usize> {
        self.required_wants(field)
            .filter_map(|want| match want {
                (Op::Equal | Op::AtLeast, Want::Rank(_, rank)) => Some(*rank),
                (Op::More, Want::Rank(_, rank)) => Some(rank.saturating_add(1)),
                _ => None,
            })
            .max()
    }

    /// Returns what the filter demands of a field without an alternative.
    fn required_wants(&self, field: &str) -> impl Iterator<Item = (Op, &Want)> {
        let terms = self.terms.iter().filter(|term| !term.negated);
        terms.filter_map(move |term| {
            let Test::Field { name, op, wants } = &term.test else {
                return None;
            };
            match wants.as_slice() {
                [want] if *name == field => Some((*op, want)),
                _ => None,
            }
        })
    }

    /// Returns the bounds that the filter sets on a time field: not before, not after.
    pub fn time_bounds(&self, field: &str) -> (Option<Timestamp>, Option<Timestamp>) {
        let (mut from, mut to) = (None, None);
        for term in self.terms.iter().filter(|term| !term.negated) {
            let Test::Field { name, op, wants } = &term.test else {
                continue;
            };
            let (true, [Want::Time(at)]) = (*name == field, wants.as_slice()) else {
                continue;
            };
            match op {
                Op::More | Op::AtLeast => from = from.max(Some(*at)),
                Op::Less | Op::AtMost => to = Some(to.map_or(*at, |t: Timestamp| t.min(*at))),
                Op::Equal => (from, to) = (Some(*at), Some(*at)),
                Op::NotEqual | Op::Contains => {}
            }
        }
        (from, to)
    }
}

/// Says whether a text holds another, which is in lower case, whatever its own case. Lists ask
/// this of every text of every row.
fn contains_folded(text: &str, lower: &str) -> bool {
    if !text.is_ascii() {
        return text.to_lowercase().contains(lower);
    }
    let Some(first) = lower.bytes().next() else {
        return true;
    };
    let (text, lower) = (text.as_bytes(), lower.as_bytes());
    let mut rest = text;
    while let Some(at) = rest
        .iter()
        .position(|byte| byte.to_ascii_lowercase() == first)
    {
        let Some(found) = rest.get(at..) else {
            return false;
        };
        let Some(start) = found.get(..lower.len()) else {
            return false;
        };
        if start.eq_ignore_ascii_case(lower) {
            return true;
        }
        rest = found.get(1..).unwrap_or_default();
    }
    false
}

fn is_subsequence(lower: &str, text: &str) -> bool {
    let mut letters = text.chars().flat_map(char::to_lowercase);
    lower
        .chars()
        .all(|wanted| letters.any(|letter| letter == wanted))
}

fn ordered(op: Op, order: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match (op, order) {
        (Op::Equal, Some(Equal))
        | (Op::More, Some(Greater))
        | (Op::AtLeast, Some(Greater | Equal))
        | (Op::Less, Some(Less))
        | (Op::AtMost, Some(Less | Equal)) => true,
        (_, _) => false,
    }
}

impl Want {
    fn meets(&self, op: Op, value: &FieldValue<'_>) -> bool {
        let text = match value {
            FieldValue::Text(text) => Some(*text),
            FieldValue::Owned(text) => Some(text.as_str()),
            FieldValue::Number(_) | FieldValue::Time(_) | FieldValue::Bool(_) => None,
        };
        if let Some(text) = text {
            return self.meets_text(op, text);
        }
        match (self, value) {
            (Want::Number(want), FieldValue::Number(number)) => {
                ordered(op, number.partial_cmp(want))
            }
            (Want::Time(want), FieldValue::Time(at)) => ordered(op, Some(at.cmp(want))),
            (Want::Bool(want), FieldValue::Bool(truth)) => want == truth,
            (_, _) => false,
        }
    }

    fn meets_text(&self, op: Op, text: &str) -> bool {
        match self {
            Want::Text(want) if op == Op::Contains => contains_folded(text, want),
            Want::Text(want) => text.eq_ignore_ascii_case(want),
            Want::Rank(values, want) => {
                let rank = values.iter().position(|v| v.eq_ignore_ascii_case(text));
                ordered(op, rank.map(|rank| rank.cmp(want)))
            }
            Want::Number(_) | Want::Time(_) | Want::Bool(_) => false,
        }
    }
}

impl Test {
    fn holds(&self, row: &(impl Row + ?Sized)) -> bool {
        match self {
            Test::Anywhere(text) => row.holds_text(text),
            Test::Fuzzy(text) => row.any_text(&mut |own| is_subsequence(text, own)),
            Test::Field { name, op, wants } => {
                let any = |op: Op| {
                    row.any_value(name, &mut |value| {
                        wants.iter().any(|want| want.meets(op, value))
                    })
                };
                if *op == Op::NotEqual {
                    !any(Op::Equal)
                } else {
                    any(*op)
                }
            }
            Test::Tag { name, op, wants } => {
                let value = row.tag(name);
                let any = value.is_some_and(|value| {
                    wants.iter().any(|want| {
                        value == want
                            || (*op == Op::Contains && contains_folded(value, &want.to_lowercase()))
                    })
                });
                if *op == Op::NotEqual { !any } else { any }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIELDS: &[FieldSpec] = &[
        FieldSpec {
            name: "severity",
            kind: FieldKind::Enum(&["info", "low", "medium", "high", "critical"]),
        },
        FieldSpec {
            name: "name",
            kind: FieldKind::Text,
        },
        FieldSpec {
            name: "risk",
            kind: FieldKind::Number,
        },
        FieldSpec {
            name: "last_seen",
            kind: FieldKind::Time,
        },
    ];

    struct Bucket;
    impl Row for Bucket {
        fn field(&self, name: &str) -> Option<FieldValue<'_>> {
            match name {
                "severity" => Some(FieldValue::Text("high")),
                "name" => Some(FieldValue::Text("Web-Logs")),
                "risk" => Some(FieldValue::Number(70.0)),
                "last_seen" => Some(FieldValue::Time(
                    now() - jiff::SignedDuration::from_hours(2),
                )),
                _ => None,
            }
        }
        fn tag(&self, name: &str) -> Option<&str> {
            (name == "env").then_some("prod")
        }
        fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
            look("Web-Logs") || look("Bucket is public")
        }
    }

    fn now() -> Timestamp {
        "2026-11-22T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn each_form_of_a_term_means_what_the_grammar_says() {
        let check = |text: &str, want: bool| {
            let filter = Filter::parse(text, FIELDS, now()).unwrap();
            assert_eq!(filter.matches(&Bucket), want, "{text}");
        };
        check("", true);
        check("severity>=high", true);
        check("severity>high", false);
        check("severity=low,high risk<=70", true);
        check("!severity=high", false);
        check("severity!=high", false);
        check("name~LOGS", true);
        check("name=web-logs", true);
        check("public", true);
        check("\"is public\" !secret", true);
        check("~wblg", true);
        check("~gw", false);
        check("last_seen>3h", true);
        check("last_seen>1h", false);
        check("last_seen>=2026-11-21", true);
        check("tag:env=prod,test", true);
        check("tag:env!=prod", false);
        check("tag:owner!=web", true);
    }

    #[test]
    fn a_mistake_is_named_with_its_place_and_the_way_out() {
        let check = |text: &str, want: &str| {
            assert_eq!(
                Filter::parse(text, FIELDS, now()).unwrap_err().to_string(),
                want
            );
        };
        check(
            "name=x severty=high",
            "at character 8: there is no field severty; the fields are severity, name, risk, last_seen; did you mean severity?",
        );
        check(
            "severity=hihg",
            "at character 1: severity is one of info, low, medium, high, critical; did you mean high?",
        );
        check(
            "name>x",
            "at character 1: name is text: it takes =, != and ~ (part of it)",
        );
        check(
            "risk=much",
            "at character 1: risk is a number, \"much\" is none",
        );
        check("a 'b", "at character 3: the quote ' is not closed");
    }

    #[test]
    fn time_bounds_and_words_can_be_handed_to_an_index() {
        let filter = Filter::parse("root last_seen>=1d !other", FIELDS, now()).unwrap();
        assert_eq!(filter.required_texts().collect::<Vec<_>>(), ["root"]);
        let day = now() - jiff::SignedDuration::from_hours(24);
        assert_eq!(filter.time_bounds("last_seen"), (Some(day), None));
    }

    #[track_caller]
    fn demands(text: &str, value: Option<&str>, rank: Option<usize>) {
        let filter = Filter::parse(text, FIELDS, now()).unwrap();
        assert_eq!(filter.required_value("name"), value, "{text}");
        assert_eq!(filter.least_rank("severity"), rank, "{text}");
    }

    #[test]
    fn only_what_every_match_must_have_is_handed_to_an_index() {
        demands("name=web severity>=high", Some("web"), Some(3));
        demands("severity>medium", None, Some(3));
        demands("severity=low severity>=info", None, Some(1));
        demands("name=web,db severity=low,high", None, None);
        demands("!name=web !severity>=high", None, None);
        demands("name!=web severity!=high", None, None);
        demands("name~web severity<=high", None, None);
        demands("risk=3 web", None, None);
    }

    proptest! {
        #[test]
        fn a_part_is_found_whatever_the_case_of_the_text(
            text in "[a-cA-CK\u{212a}é]{0,12}", part in "[a-cA-CkK]{0,3}",
        ) {
            let lower = part.to_lowercase();
            prop_assert_eq!(contains_folded(&text, &lower), text.to_lowercase().contains(&lower));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,80}") {
            if let Ok(filter) = Filter::parse(&text, FIELDS, now()) { filter.matches(&Bucket); }
        }
    }
}

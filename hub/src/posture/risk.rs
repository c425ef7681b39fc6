//! How urgent a finding is, 0 to 100, with the parts that make the score.
//!
//! A part that is not known adds nothing: a resource without tags is not taken for production,
//! nor for a sandbox. Time is not a part, so that a score changes only when a fact does.

use std::collections::BTreeMap;

use store::rows::Severity;
use store::rows::finding::{Risk, RiskFactor};

/// Words in a check's id that say that strangers can reach what it is about.
const EXPOSED: [&str; 4] = ["internet", "public", "exposed", "anonymous"];

const ENVIRONMENT_TAGS: [&str; 3] = ["env", "environment", "stage"];
const PRODUCTION: [&str; 3] = ["production", "prod", "prd"];
const SANDBOX: [&str; 7] = [
    "dev",
    "development",
    "test",
    "testing",
    "sandbox",
    "lab",
    "demo",
];
const CRITICALITY_TAGS: [&str; 1] = ["criticality"];
const CRITICAL: [&str; 2] = ["critical", "high"];
const DATA_TAGS: [&str; 3] = [
    "classification",
    "data-classification",
    "data_classification",
];
const SENSITIVE: [&str; 5] = ["confidential", "restricted", "secret", "pii", "sensitive"];

/// Scores a failure. The points of all parts together never exceed 100.
pub(super) fn score(
    check_id: &str,
    severity: Severity,
    tags: Option<&BTreeMap<String, String>>,
) -> Risk {
    let tag = |names: &[&str], values: &[&str]| {
        tags.into_iter().flatten().find(|(name, value)| {
            names.iter().any(|known| name.eq_ignore_ascii_case(known))
                && values.iter().any(|known| value.eq_ignore_ascii_case(known))
        })
    };
    let said = |(name, value): (&String, &String)| format!("tag {name} is {value}");
    let mut factors = Vec::new();
    let mut add = |name: &str, points: u8, why: String| {
        factors.push(RiskFactor {
            name: name.to_owned(),
            points,
            why,
        });
    };

    let base: u8 = match severity {
        Severity::Critical => 60,
        Severity::High => 45,
        Severity::Medium => 25,
        Severity::Low => 10,
        Severity::Info => 0,
    };
    match tag(&ENVIRONMENT_TAGS, &SANDBOX) {
        Some(found) => add(
            "severity",
            base - base / 3,
            format!("{}, less a third: {}", severity.word(), said(found)),
        ),
        None => add("severity", base, severity.word().to_owned()),
    }
    if EXPOSED.iter().any(|word| check_id.contains(word)) {
        let why = "the check is about what strangers can reach".to_owned();
        add("exposure", 20, why);
    }
    if let Some(found) = tag(&ENVIRONMENT_TAGS, &PRODUCTION) {
        add("environment", 10, said(found));
    }
    if let Some(found) = tag(&CRITICALITY_TAGS, &CRITICAL) {
        add("criticality", 5, said(found));
    }
    if let Some(found) = tag(&DATA_TAGS, &SENSITIVE) {
        add("data", 5, said(found));
    }
    Risk {
        score: factors
            .iter()
            .fold(0_u8, |sum, factor| sum.saturating_add(factor.points)),
        factors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_the_sum_of_its_shown_parts() {
        let all = [
            ("Env", "PROD"),
            ("criticality", "high"),
            ("data-classification", "PII"),
        ];
        let risk = risk("aws.ec2.ssh-open-to-internet", Severity::Critical, &all);
        let sum: u32 = risk.factors.iter().map(|part| u32::from(part.points)).sum();
        assert_eq!(u32::from(risk.score), sum);
        assert_eq!(
            risk.score, 100,
            "the greatest parts make the greatest score"
        );
        let parts: Vec<&str> = risk.factors.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(
            parts,
            ["severity", "exposure", "environment", "criticality", "data"]
        );
        assert_eq!(risk.factors[2].why, "tag Env is PROD");
    }

    #[test]
    fn a_sandbox_lowers_and_nothing_known_adds_nothing() {
        let plain = risk("aws.ec2.volume-encrypted", Severity::High, &[]);
        assert_eq!(plain.factors.len(), 1);
        let sandbox = risk(
            "aws.ec2.volume-encrypted",
            Severity::High,
            &[("env", "dev")],
        );
        assert!(sandbox.score < plain.score);
        assert_eq!(
            score("aws.ec2.volume-encrypted", Severity::High, None),
            plain,
            "tags that were not read count like none"
        );
        let strange = [("env", "blue"), ("owner", "prod")];
        assert_eq!(
            risk("aws.ec2.volume-encrypted", Severity::High, &strange),
            plain
        );
    }

    fn risk(check_id: &str, severity: Severity, tags: &[(&str, &str)]) -> Risk {
        let tags = tags
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        score(check_id, severity, Some(&tags))
    }
}

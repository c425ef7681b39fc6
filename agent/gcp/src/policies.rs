//! The IAM policies of one type's assets, between their list and the documents.
//!
//! The two lists of a type come in no common order, so that one of them has to be kept. Policies
//! are, as text, up to a bound: a policy beyond it is unknown, not absent.

use std::collections::BTreeMap;

use collect::Fault;
use protocol::limits::DOCUMENT_BYTES;
use serde_json::Value;

use crate::assets::Content;

/// Most bytes of policies that are kept at a time; an organisation with 100,000 buckets has some
/// 60 MB of them.
const KEPT_BYTES: usize = 96 << 20;

/// Largest single policy, so that it fits into a document beside everything else.
const POLICY_BYTES: usize = DOCUMENT_BYTES - (128 << 10);

/// Policies by the asset's full name.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    known: BTreeMap<String, Result<Box<str>, &'static str>>,
    bytes: usize,
    /// Why the list is not whole, if it is not.
    broken: Option<Fault>,
}

impl Policies {
    /// Keeps what the list says of one asset.
    pub(crate) fn keep(&mut self, name: String, policy: Option<Value>) {
        let kept = match policy {
            Some(policy @ Value::Object(_)) => {
                let text = policy.to_string();
                if text.len() > POLICY_BYTES {
                    Err("too_large")
                } else if self.bytes + text.len() > KEPT_BYTES {
                    Err("too_many")
                } else {
                    self.bytes += text.len();
                    Ok(text.into_boxed_str())
                }
            }
            Some(_) => Err("unreadable"),
            // Listed because it has one, and it did not come.
            None => Err("no_data"),
        };
        self.known.insert(name, kept);
    }

    /// Records that the list broke off.
    pub(crate) fn break_off(&mut self, fault: Fault) {
        self.broken = Some(fault);
    }

    /// Returns the policy of an asset; `None` for one that has none.
    pub(crate) fn of(&self, name: &str) -> Result<Option<Value>, Fault> {
        let unknown = |code: &str| Fault {
            call: Content::IamPolicy.call().to_owned(),
            code: code.to_owned(),
        };
        match (self.known.get(name), &self.broken) {
            (Some(Ok(text)), _) => {
                let policy = serde_json::from_str(text);
                policy.map(Some).map_err(|_| unknown("unreadable"))
            }
            (Some(Err(code)), _) => Err(unknown(code)),
            (None, Some(fault)) => Err(fault.clone()),
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn code(policies: &Policies, name: &str) -> String {
        policies.of(name).unwrap_err().code
    }

    #[test]
    fn only_a_whole_list_says_that_there_is_no_policy() {
        let mut policies = Policies::default();
        policies.keep("a".into(), Some(json!({"bindings": []})));
        assert_eq!(policies.of("a").unwrap(), Some(json!({"bindings": []})));
        assert_eq!(policies.of("b").unwrap(), None);
        policies.break_off(Fault {
            call: Content::IamPolicy.call().to_owned(),
            code: "RESOURCE_EXHAUSTED".to_owned(),
        });
        assert_eq!(policies.of("a").unwrap(), Some(json!({"bindings": []})));
        assert_eq!(code(&policies, "b"), "RESOURCE_EXHAUSTED");
    }

    #[test]
    fn what_is_listed_without_a_usable_policy_is_unknown() {
        let mut policies = Policies::default();
        policies.keep("none".into(), None);
        policies.keep("text".into(), Some(json!("x")));
        policies.keep("large".into(), Some(json!({"x": "y".repeat(POLICY_BYTES)})));
        assert_eq!(code(&policies, "none"), "no_data");
        assert_eq!(code(&policies, "text"), "unreadable");
        assert_eq!(code(&policies, "large"), "too_large");
    }

    #[test]
    fn policies_beyond_the_bound_are_unknown_and_those_before_it_stay() {
        let mut policies = Policies::default();
        let large = json!({"x": "y".repeat(POLICY_BYTES - 100)});
        let fit = KEPT_BYTES / large.to_string().len();
        for index in 0..=fit {
            policies.keep(format!("p{index}"), Some(large.clone()));
        }
        assert!(policies.of("p0").unwrap().is_some());
        assert_eq!(code(&policies, &format!("p{fit}")), "too_many");
    }
}

//! From a row of Resource Graph to a document.

use std::collections::BTreeMap;

use collect::{Draft, Fault};
use protocol::declare::ResourceType;
use protocol::urn::Scope;
use serde_json::{Map, Value};

use crate::graph::CALL;
use crate::is_guid;

/// The parts of a resource id,
/// `/subscriptions/…/resourceGroups/…/providers/Microsoft.Storage/storageAccounts/logs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The id as Azure writes it.
    pub(crate) native_id: String,
    /// Subscription, in lower case.
    pub(crate) subscription: String,
    /// Resource group, in lower case.
    pub(crate) resource_group: String,
    /// Resource group and name in lower case, `rg/logs`: Azure compares both without case, and
    /// Resource Graph does not always write them the same way.
    pub(crate) id: String,
    /// The last part of the id, as Azure writes it.
    pub(crate) name: String,
}

impl Identity {
    /// Reads the id of a resource of `kind`, `microsoft.storage/storageaccounts`; `None` when it is
    /// not one.
    pub(crate) fn of(row: &Map<String, Value>, kind: &str) -> Option<Self> {
        let native_id = row.get("id")?.as_str()?;
        let parts: Vec<&str> = native_id.split('/').collect();
        let &[
            "",
            subscriptions,
            subscription,
            groups,
            group,
            providers,
            namespace,
            type_name,
            name,
        ] = parts.as_slice()
        else {
            return None;
        };
        let is_id = subscriptions.eq_ignore_ascii_case("subscriptions")
            && groups.eq_ignore_ascii_case("resourcegroups")
            && providers.eq_ignore_ascii_case("providers")
            && format!("{namespace}/{type_name}").eq_ignore_ascii_case(kind)
            && is_guid(subscription)
            && !group.is_empty()
            && !name.is_empty();
        let (group, lower) = (group.to_lowercase(), name.to_lowercase());
        is_id.then(|| Self {
            native_id: native_id.to_owned(),
            subscription: subscription.to_lowercase(),
            id: format!("{group}/{lower}"),
            resource_group: group,
            name: name.to_owned(),
        })
    }
}

/// Returns the document's draft, and what is wrong with the row's tags if something is.
pub(crate) fn draft(
    declared: &'static ResourceType,
    scope: &Scope,
    identity: &Identity,
    mut row: Map<String, Value>,
) -> (Draft, Option<Fault>) {
    let unusable = |code: &str| Fault {
        call: CALL.to_owned(),
        code: code.to_owned(),
    };
    let mut draft = Draft::new(declared, scope, &identity.id, &identity.native_id);
    draft.name(&identity.name);
    let mut wrong = None;
    match tags(row.remove("tags")) {
        Some(tags) => {
            draft.tags(tags);
        }
        None => {
            draft.tags_failed(unusable("unreadable"));
            wrong = Some(unusable("unreadable"));
        }
    }
    draft.answered(CALL, Value::Object(row));
    (draft, wrong)
}

/// Returns tags; an empty map where there are none, `None` where they are something else.
fn tags(tags: Option<Value>) -> Option<BTreeMap<String, String>> {
    match tags {
        None | Some(Value::Null) => Some(BTreeMap::new()),
        // Resource Graph writes no tags as an empty text in some rows.
        Some(Value::String(text)) if text.is_empty() => Some(BTreeMap::new()),
        Some(Value::Object(map)) => {
            let tags = map.into_iter().map(|(name, value)| {
                let text = if value.is_null() { "" } else { value.as_str()? };
                Some((name, text.to_owned()))
            });
            tags.collect()
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KIND: &str = "microsoft.storage/storageaccounts";
    const SUBSCRIPTION: &str = "1B2C3D4E-0000-0000-0000-000000000000";

    fn identity(id: &str) -> Option<Identity> {
        let row = json!({"id": id});
        Identity::of(row.as_object().unwrap(), KIND)
    }

    #[test]
    fn an_id_is_read_without_regard_to_case() {
        let text = format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/RG1/providers/Microsoft.Storage/storageAccounts/Logs"
        );
        let identity = identity(&text).unwrap();
        assert_eq!(identity.subscription, SUBSCRIPTION.to_lowercase());
        assert_eq!(identity.id, "rg1/logs");
        assert_eq!(identity.name, "Logs");
        assert_eq!(identity.native_id, text);
    }

    #[test]
    fn what_is_no_id_of_the_type_names_nothing() {
        let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/rg");
        for bad in [
            String::new(),
            "/subscriptions/x/resourceGroups/rg/providers/Microsoft.Storage/storageAccounts/a"
                .to_owned(),
            format!("{group}/providers/Microsoft.Storage/storageAccounts/"),
            format!("{group}/providers/Microsoft.Storage/storageAccounts/a/blobServices/default"),
            format!("{group}/providers/Microsoft.Network/networkSecurityGroups/a"),
            group,
        ] {
            assert_eq!(identity(&bad), None, "{bad}");
        }
    }

    #[test]
    fn tags_are_text_or_unknown() {
        assert_eq!(tags(Some(json!(null))), Some(BTreeMap::new()));
        assert_eq!(tags(Some(json!(""))), Some(BTreeMap::new()));
        let want = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        assert_eq!(tags(Some(json!({"a": "1"}))), Some(want));
        assert_eq!(tags(Some(json!({"a": {"b": 1}}))), None);
        assert_eq!(tags(Some(json!([1]))), None);
    }
}

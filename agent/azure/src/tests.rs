//! The collector against a small Azure of its own, and against recordings.

mod answers;
mod entra;
mod recorded;
#[path = "../../collect/tests/support/replay.rs"]
mod replay;
mod small;

use super::*;

#[test]
fn every_declared_type_of_azure_is_collected_and_no_other() {
    let all = Declarations::builtin().iter();
    let declared: Vec<&str> = all
        .filter(|declared| declared.provider() == "azure")
        .map(|declared| declared.name.as_str())
        .collect();
    assert_eq!(declared, TYPES.map(|(name, _)| name));
}

#[test]
fn every_declared_call_is_the_one_that_is_made() {
    for (name, _) in TYPES {
        let calls: Vec<String> = declared(name).calls().into_keys().collect();
        assert_eq!(calls, [CALL], "{name}");
    }
}

#[track_caller]
fn check(settings: Settings, refused: Option<&str>) {
    let key = match settings.clone().checked() {
        Ok(_) => None,
        Err(CollectError::Setting { key, .. }) => Some(key),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(key.as_deref(), refused, "{settings:?}");
}

#[test]
fn settings_cannot_lead_a_path_or_a_query_elsewhere() {
    let id = "1b2c3d4e-0000-0000-0000-00000000000A";
    let with = |tenant: &str, client: &str, subscription: &str, group: &str| Settings {
        tenant: Some(tenant.to_owned()),
        client_id: Some(client.to_owned()),
        subscriptions: vec![subscription.to_owned()],
        resource_groups: vec![group.to_owned()],
        endpoint: None,
    };
    check(with(id, id, id, "rg-1_(a).b"), None);
    check(with("contoso.example", id, id, "Straße"), None);
    check(with("../x", id, id, "rg"), Some("tenant"));
    check(with("contoso", id, id, "rg"), Some("tenant"));
    check(with(id, "me", id, "rg"), Some("client_id"));
    check(with(id, id, "all", "rg"), Some("subscriptions"));
    check(
        with(id, id, "1b2c3d4e-0000-0000-0000-0000000000/a", "rg"),
        Some("subscriptions"),
    );
    check(with(id, id, id, "rg') or 1 == 1"), Some("resource_groups"));
    check(with(id, id, id, ""), Some("resource_groups"));
}

#[test]
fn ids_are_compared_without_case_and_named_once() {
    let id = "1B2C3D4E-0000-0000-0000-000000000000";
    let settings = Settings {
        subscriptions: vec![id.to_owned(), id.to_lowercase()],
        ..Settings::default()
    };
    let subscriptions = settings.checked().unwrap().subscriptions;
    assert_eq!(subscriptions, [id.to_lowercase()]);
}

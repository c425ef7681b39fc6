//! The collector against a small Google of its own, and against recordings.

mod answers;
mod google;
mod recorded;
#[path = "../../collect/tests/support/replay.rs"]
mod replay;

use super::*;

#[test]
fn every_declared_type_of_google_cloud_is_collected_and_no_other() {
    let all = Declarations::builtin().iter();
    let declared: Vec<&str> = all
        .filter(|declared| declared.provider() == "gcp")
        .map(|declared| declared.name.as_str())
        .collect();
    assert_eq!(declared, [sweep::PROJECT, sweep::BUCKET]);
}

#[test]
fn every_declared_call_and_permission_is_one_that_is_made() {
    for name in [sweep::PROJECT, sweep::BUCKET] {
        let made = [Content::Resource, Content::IamPolicy]
            .map(|content| (content.call().to_owned(), content.permission().to_owned()));
        assert_eq!(declared(name).calls(), made.into_iter().collect(), "{name}");
    }
}

#[test]
fn a_parent_cannot_lead_the_path_elsewhere() {
    let good = [
        Parent::Project("my-project-1".into()),
        Parent::Project("example.com:old".into()),
        Parent::Project("1043".into()),
        Parent::Folder("1031".into()),
        Parent::Organization("111222333".into()),
    ];
    for parent in good {
        assert!(parent.check().is_ok(), "{parent:?}");
    }
    let bad = [
        Parent::Project(String::new()),
        Parent::Project("..".into()),
        Parent::Project("a/../../b".into()),
        Parent::Project("a?x=y".into()),
        Parent::Folder("folders/1".into()),
        Parent::Folder("prod".into()),
        Parent::Organization("example.com".into()),
        Parent::Organization(String::new()),
    ];
    for parent in bad {
        assert!(parent.check().is_err(), "{parent:?}");
    }
}

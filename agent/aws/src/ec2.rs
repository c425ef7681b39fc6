//! Collectors of EC2: one file for each resource type, all regional.

pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod network_acl;
pub(crate) mod prefix_list;
pub(crate) mod region;
pub(crate) mod security_group;
pub(crate) mod snapshot;
pub(crate) mod subnet;
pub(crate) mod volume;
pub(crate) mod vpc;

use std::collections::BTreeMap;

use aws_sdk_ec2::types::Tag;

/// Items of a page. EC2 allows 1,000; half of it keeps a page of instances below 5 MiB.
const PAGE: i32 = 500;

/// Resources of one scope whose further calls run at the same time. The budget of the service
/// bounds the calls themselves.
const AT_ONCE: usize = 8;

fn tags(list: Option<&Vec<Tag>>) -> BTreeMap<String, String> {
    let list = list.map(Vec::as_slice).unwrap_or_default();
    crate::value::tags(list.iter().map(|tag| (tag.key(), tag.value())))
}

/// Returns the name that people gave a resource: its tag `Name`.
fn name_of(tags: &BTreeMap<String, String>) -> String {
    tags.get("Name").cloned().unwrap_or_default()
}

//! Picks single values out of a JSON text while it is read; nothing else of it is kept.
//!
//! An event has some fifty values of which eight are wanted. Building all of them, to look for
//! those eight by their pointers, takes more time than reading and scrubbing the line together.
//! [`crate::scrub::scrub_and_pick`] does without a reading of its own.

use std::borrow::Cow;
use std::ops::Range;

use crate::scrub::{NotJson, json};

/// A value that was looked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Found<'t> {
    /// There is none.
    #[default]
    Nothing,
    /// A text.
    Text(Cow<'t, str>),
    /// A whole number that is not negative.
    Number(u64),
    /// An object.
    Object,
    /// Anything else.
    Other,
}

impl Found<'_> {
    /// Returns the text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Nothing | Self::Number(_) | Self::Object | Self::Other => None,
        }
    }
}

/// One name on the way to what is wanted.
#[derive(Debug, Default)]
pub(crate) struct Node {
    name: &'static str,
    children: Vec<Node>,
    /// Where the values of this node and of all below it are put; its own is the first.
    slots: Range<usize>,
}

impl Node {
    fn child(&mut self, name: &'static str) -> &mut Self {
        let known = self.children.iter().position(|child| child.name == name);
        let at = known.unwrap_or(self.children.len());
        if known.is_none() {
            self.children.push(Self {
                name,
                ..Self::default()
            });
        }
        self.children
            .get_mut(at)
            .expect("it is there, or was added above")
    }

    /// Returns the node that a name leads to.
    pub(crate) fn find(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Puts a value in this node's place, and forgets what an earlier one of the same name held.
    pub(crate) fn put<'t>(&self, found: &mut [Found<'t>], value: Found<'t>) {
        let Some(slots) = found.get_mut(self.slots.clone()) else {
            return;
        };
        slots.fill(Found::Nothing);
        if let Some(own) = slots.first_mut() {
            *own = value;
        }
    }

    fn number(&mut self, next: &mut usize) {
        let first = *next;
        *next += 1;
        for child in &mut self.children {
            child.number(next);
        }
        self.slots = first..*next;
    }

    fn slot(&self, mut way: std::str::Split<'_, char>) -> usize {
        let Some(name) = way.next() else {
            return self.slots.start;
        };
        let child = self.find(name);
        child.expect("every way was laid before").slot(way)
    }
}

/// The values that are wanted, in groups.
#[derive(Debug)]
pub struct Picks {
    root: Node,
    groups: Vec<Vec<usize>>,
}

/// What was found, group by group.
#[derive(Debug)]
pub struct Picked<'p, 't> {
    picks: &'p Picks,
    found: Vec<Found<'t>>,
}

impl Picks {
    /// Makes a picker of groups of JSON pointers (RFC 6901) without escapes; the empty one is the
    /// whole text. Arrays are not entered.
    pub fn new(groups: &[&[&'static str]]) -> Self {
        let mut root = Node::default();
        for pointer in groups.iter().copied().flatten() {
            let names = pointer.split('/').skip(1);
            names.fold(&mut root, |node, name| node.child(name));
        }
        root.number(&mut 0);
        let slot = |pointer: &&'static str| {
            let mut way = pointer.split('/');
            way.next();
            root.slot(way)
        };
        let groups = groups
            .iter()
            .map(|group| group.iter().map(slot).collect())
            .collect();
        Self { root, groups }
    }

    /// Reads a text. Of a name that stands twice in an object, the last one counts.
    ///
    /// # Errors
    ///
    /// When it is not one JSON value, or nests deeper than 128 levels.
    pub fn read<'t>(&self, text: &'t str) -> Result<Picked<'_, 't>, NotJson> {
        Ok(self.picked(json::read(text, self)?))
    }

    /// Returns the place of the whole text.
    pub(crate) fn root(&self) -> &Node {
        &self.root
    }

    /// Returns room for every value.
    pub(crate) fn nothing<'t>(&self) -> Vec<Found<'t>> {
        vec![Found::Nothing; self.root.slots.end]
    }

    pub(crate) fn picked<'t>(&self, found: Vec<Found<'t>>) -> Picked<'_, 't> {
        Picked { picks: self, found }
    }
}

impl<'t> Picked<'_, 't> {
    /// Returns the values of a group, in its order.
    pub fn group(&self, group: usize) -> impl Iterator<Item = &Found<'t>> {
        let slots = self.picks.groups.get(group).into_iter().flatten();
        slots.filter_map(|slot| self.found.get(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrub::scrub_and_pick;
    use proptest::prelude::*;
    use serde_json::Value;

    const POINTERS: &[&str] = &["", "/a", "/a/b", "/a/b/c", "/b", "/b/a"];

    /// Says what a tree of all values would have said.
    fn in_tree<'v>(tree: &'v Value, pointer: &str) -> Found<'v> {
        match tree.pointer(pointer) {
            None => Found::Nothing,
            Some(Value::String(text)) => Found::Text(Cow::Borrowed(text)),
            Some(Value::Object(_)) => Found::Object,
            Some(value) => value.as_u64().map_or(Found::Other, Found::Number),
        }
    }

    fn check(text: &str) {
        let picks = Picks::new(&[POINTERS]);
        if let Ok((scrubbed, picked)) = scrub_and_pick(text, &picks) {
            assert_eq!(
                picked.is_none(),
                matches!(scrubbed, Cow::Owned(_)),
                "{text}"
            );
            if let Some(picked) = picked {
                let found: Vec<_> = picked.group(0).collect();
                let read = picks.read(text).unwrap();
                assert_eq!(found, read.group(0).collect::<Vec<_>>(), "{text}");
            }
        }
        match (picks.read(text), serde_json::from_str::<Value>(text)) {
            (Ok(picked), Ok(tree)) => {
                for (pointer, found) in POINTERS.iter().zip(picked.group(0)) {
                    assert_eq!(*found, in_tree(&tree, pointer), "{text} {pointer}");
                }
                assert_eq!(picked.group(0).count(), POINTERS.len());
            }
            (Err(_), Err(_)) => {}
            (picked, tree) => panic!("{text}: {picked:?} {tree:?}"),
        }
    }

    #[test]
    fn what_is_picked_is_what_the_whole_tree_holds() {
        for text in [
            "",
            "7",
            "[]",
            r#"{"a":"x","b":7}"#,
            r#"{"a":{"b":{"c":"x"}}}"#,
            r#"{"\u0061":{"b":"\n"}}"#,
            r#"{"a":{"b":"first"},"a":7}"#,
            r#"{"a":7,"a":{"b":"last"}}"#,
            r#"{"a":{"b":{"c":1}},"a":{"b":2}}"#,
            r#"{"a":[{"b":1}],"b":null,"c":{"a":1}}"#,
            r#"{"a":-1,"b":1.5}"#,
            r#"{"a":true}"#,
            r#"{"a":-0,"b":18446744073709551616}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":1.2.3}"#,
            r#"{"a":1e5,"b":2E+7}"#,
            r#"{"a":1e}"#,
            r#"{"a":-}"#,
            r#"{"a":"password=hunter2","b":1}"#,
            r#"{"a":1} x"#,
            r#"{"a":"x}"#,
        ] {
            check(text);
        }
        for depth in [2, 100] {
            let nested = |open: &str, close: &str| open.repeat(depth) + "1" + &close.repeat(depth);
            check(&nested("[", "]"));
            check(&nested("{\"a\":", "}"));
            check(&nested("{\"z\":", "}"));
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_picked_of_anything_is_what_its_tree_holds(value in value()) {
            check(&value.to_string());
        }
    }
}

//! One page of a list: filter, sort, cut, and a cursor that says where the next one begins.
//!
//! A cursor is the sort key and the id of the last item shown. The next page begins behind that
//! place in the order, so rows that come and go meanwhile neither repeat nor hide others.

use data_encoding::BASE64URL_NOPAD;
use protocol::Urn;
use protocol::limits::{PAGE_ITEMS, URN_BYTES};
use serde::{Deserialize, Serialize};

use crate::error::ReadError;
use crate::list::{List, Order, Page};

/// The longest cursor that is looked at, in characters: a URN or a text of its size, encoded.
const CURSOR_CHARS: usize = 4 * URN_BYTES;

/// What an item is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SortKey<'i> {
    Number(i64),
    Text(&'i str),
    Urn(&'i Urn),
    /// How urgent it is: severity, risk score, and when it last failed.
    Urgency(i64, i64, i64),
}

/// A [`SortKey`] in a cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum OwnedKey {
    Number(i64),
    Text(String),
    Urn(Urn),
    Urgency(i64, i64, i64),
}

impl OwnedKey {
    fn of(key: SortKey<'_>) -> Self {
        match key {
            SortKey::Number(number) => Self::Number(number),
            SortKey::Text(text) => Self::Text(text.to_owned()),
            SortKey::Urn(urn) => Self::Urn(urn.clone()),
            SortKey::Urgency(severity, risk, at) => Self::Urgency(severity, risk, at),
        }
    }

    fn borrow(&self) -> SortKey<'_> {
        match self {
            Self::Number(number) => SortKey::Number(*number),
            Self::Text(text) => SortKey::Text(text),
            Self::Urn(urn) => SortKey::Urn(urn),
            Self::Urgency(severity, risk, at) => SortKey::Urgency(*severity, *risk, *at),
        }
    }
}

/// An item of a list.
pub(crate) trait Listed: Clone {
    /// What the list can be sorted by.
    type Sort: Copy;

    /// Breaks ties: unique, and the same for the item's life.
    fn id(&self) -> [u8; 16];

    /// Returns what it is sorted by.
    fn key(&self, sort: Self::Sort) -> SortKey<'_>;

    /// Returns the number of a sort order in cursors.
    fn sort_number(sort: Self::Sort) -> u8;
}

/// A place in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    sort: u8,
    is_descending: bool,
    key: OwnedKey,
    id: [u8; 16],
}

/// Returns one page of `items`, which come in any order.
pub(crate) fn page<'i, T: Listed + 'i>(
    items: impl Iterator<Item = &'i T>,
    list: &List<T, T::Sort>,
) -> Result<Page<T>, ReadError> {
    let sort = T::sort_number(list.sort);
    let is_descending = list.order == Order::Descending;
    let after = list.after.as_deref().map(read_cursor).transpose()?;
    if after
        .as_ref()
        .is_some_and(|at| at.sort != sort || at.is_descending != is_descending)
    {
        return Err(ReadError::Cursor);
    }
    let place = |item: &'i T| (item.key(list.sort), item.id());
    let in_order = |a: &(SortKey<'_>, [u8; 16]), b: &(SortKey<'_>, [u8; 16])| {
        if is_descending { b.cmp(a) } else { a.cmp(b) }
    };
    let last_shown = after.as_ref().map(|at| (at.key.borrow(), at.id));
    let mut total = 0u64;
    let mut rest: Vec<&'i T> = Vec::new();
    for item in items {
        if list.filter.as_ref().is_some_and(|passes| !passes(item)) {
            continue;
        }
        total += 1;
        let is_behind = last_shown.is_none_or(|last| in_order(&place(item), &last).is_gt());
        if is_behind {
            rest.push(item);
        }
    }
    let limit = list.limit.min(PAGE_ITEMS);
    let has_more = rest.len() > limit;
    if has_more {
        // Cheaper than sorting a million rows to show a thousand.
        rest.select_nth_unstable_by(limit, |a, b| in_order(&place(a), &place(b)));
        rest.truncate(limit);
    }
    rest.sort_unstable_by(|a, b| in_order(&place(a), &place(b)));
    let last = rest.last().filter(|_| has_more);
    let next = last.map(|item| cursor_after(list, *item));
    Ok(Page {
        items: rest.into_iter().cloned().collect(),
        next,
        total: Some(total),
    })
}

/// Returns the cursor of the page that begins behind an item.
pub(crate) fn cursor_after<T: Listed>(list: &List<T, T::Sort>, last: &T) -> String {
    write_cursor(&Cursor {
        sort: T::sort_number(list.sort),
        is_descending: list.order == Order::Descending,
        key: OwnedKey::of(last.key(list.sort)),
        id: last.id(),
    })
}

fn write_cursor(cursor: &Cursor) -> String {
    let bytes = postcard::to_stdvec(cursor).expect("a cursor is plain data");
    BASE64URL_NOPAD.encode(&bytes)
}

fn read_cursor(text: &str) -> Result<Cursor, ReadError> {
    if text.len() > CURSOR_CHARS {
        return Err(ReadError::Cursor);
    }
    let bytes = BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| ReadError::Cursor)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((cursor, [])) => Ok(cursor),
        Ok(_) | Err(_) => Err(ReadError::Cursor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    #[derive(Debug, Clone, PartialEq)]
    struct Item {
        id: u8,
        name: String,
    }

    #[derive(Debug, Clone, Copy, Default)]
    enum By {
        #[default]
        Name,
        Id,
    }

    impl Listed for Item {
        type Sort = By;
        fn id(&self) -> [u8; 16] {
            [self.id; 16]
        }
        fn key(&self, sort: By) -> SortKey<'_> {
            match sort {
                By::Name => SortKey::Text(&self.name),
                By::Id => SortKey::Number(i64::from(self.id)),
            }
        }
        fn sort_number(sort: By) -> u8 {
            sort as u8
        }
    }

    /// Follows the cursors to the end; `between` may change the rows after each page.
    fn walk(
        mut items: Vec<Item>,
        mut list: List<Item, By>,
        mut between: impl FnMut(&mut Vec<Item>, &[Item]),
    ) -> Vec<Item> {
        let mut seen = Vec::new();
        loop {
            let got = page(items.iter(), &list).unwrap();
            assert!(got.items.len() <= list.limit);
            seen.extend(got.items.iter().cloned());
            between(&mut items, &got.items);
            match got.next {
                Some(next) => list.after = Some(next),
                None => return seen,
            }
        }
    }

    fn list(sort: By, order: Order, limit: usize) -> List<Item, By> {
        List {
            sort,
            order,
            limit,
            ..List::default()
        }
    }

    proptest! {
        #[test]
        fn pages_together_are_the_sorted_list(
            names in proptest::collection::vec("[a-c]{0,2}", 0..40),
            limit in 1usize..9,
            is_descending: bool,
        ) {
            let items: Vec<Item> =
                (0u8..).zip(names).map(|(id, name)| Item { id, name }).collect();
            let order = if is_descending { Order::Descending } else { Order::Ascending };
            let seen = walk(items.clone(), list(By::Name, order, limit), |_, _| {});
            let mut want = items;
            want.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
            if is_descending {
                want.reverse();
            }
            prop_assert_eq!(seen, want);
        }
    }

    #[test]
    fn rows_that_come_and_go_between_pages_neither_repeat_nor_hide_others() {
        let item = |id: u8| Item {
            id,
            name: format!("{:03}", u16::from(id) * 2),
        };
        let items: Vec<Item> = (0..50).map(item).collect();
        let mut round = 0u8;
        let seen = walk(
            items.clone(),
            list(By::Name, Order::Ascending, 7),
            |rows, shown| {
                // One that was shown goes, one comes before the place, one at its very key.
                let last = shown.last().unwrap().clone();
                rows.retain(|row| row.id != last.id);
                rows.push(Item {
                    id: 100 + round,
                    name: "000".into(),
                });
                rows.push(Item {
                    id: 0,
                    name: last.name,
                });
                round += 1;
            },
        );
        let ids: Vec<u8> = seen
            .iter()
            .map(|row| row.id)
            .filter(|id| *id < 100)
            .collect();
        let mut once = ids.clone();
        once.dedup();
        assert_eq!(ids, once);
        assert!((0..50).all(|id| ids.contains(&id)), "{ids:?}");
    }

    #[test]
    fn a_cursor_of_another_order_or_made_up_is_refused() {
        let items: Vec<Item> = (0..9)
            .map(|id| Item {
                id,
                name: "same".into(),
            })
            .collect();
        let first = page(items.iter(), &list(By::Name, Order::Ascending, 3)).unwrap();
        let cursor = first.next.unwrap();
        let check = |sort, order, after: &str| {
            let list = List {
                after: Some(after.into()),
                ..list(sort, order, 3)
            };
            page(items.iter(), &list).map(|page| page.items.len())
        };
        assert_eq!(check(By::Name, Order::Ascending, &cursor).unwrap(), 3);
        let longer = format!("{cursor}AAAA");
        let endless = "A".repeat(CURSOR_CHARS + 4);
        let refused = [
            check(By::Name, Order::Descending, &cursor),
            check(By::Id, Order::Ascending, &cursor),
            check(By::Name, Order::Ascending, ""),
            check(By::Name, Order::Ascending, "not a cursor"),
            check(By::Name, Order::Ascending, &cursor[..8]),
            check(By::Name, Order::Ascending, &longer),
            check(By::Name, Order::Ascending, &endless),
        ];
        for got in refused {
            assert!(matches!(got, Err(ReadError::Cursor)), "{got:?}");
        }
    }

    #[test]
    fn a_filter_counts_and_shows_only_what_passes() {
        let items: Vec<Item> = (0..20)
            .map(|id| Item {
                id,
                name: format!("n{id}"),
            })
            .collect();
        let even = List {
            filter: Some(Arc::new(|item: &Item| item.id.is_multiple_of(2))),
            ..list(By::Id, Order::Descending, 4)
        };
        let got = page(items.iter(), &even).unwrap();
        assert_eq!(got.total, Some(10));
        let ids: Vec<u8> = got.items.iter().map(|item| item.id).collect();
        assert_eq!(ids, [18, 16, 14, 12]);
        let none = page(items.iter(), &List { limit: 0, ..even }).unwrap();
        assert_eq!(
            (none.items.len(), none.next, none.total),
            (0, None, Some(10))
        );
    }
}

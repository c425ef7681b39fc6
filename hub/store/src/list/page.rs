//! One page of a list: filter, sort, cut, and a cursor that says where the next one begins.
//!
//! A cursor is the sort key and the id of the last item shown. The next page begins behind that
//! place in the order, so rows that come and go meanwhile neither repeat nor hide others.
//!
//! All rows are looked at for every page, since it says how many there are. Long lists are cut
//! among a few threads; each keeps the best of its part, which are few, and does not sort the rest.

use std::cmp::Ordering;
use std::sync::OnceLock;

use data_encoding::BASE64URL_NOPAD;
use protocol::limits::{PAGE_ITEMS, URN_BYTES};
use protocol::{Scope, Urn};
use serde::{Deserialize, Serialize};

use crate::error::ReadError;
use crate::list::shared::{SharedUrn, compare};
use crate::list::{List, Order, Page};

/// The longest cursor that is looked at, in characters: a URN or a text of its size, encoded.
const CURSOR_CHARS: usize = 4 * URN_BYTES;

/// What an item is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SortKey<'i> {
    Number(i64),
    Text(&'i str),
    Urn(UrnKey<'i>),
    /// How urgent it is: severity, risk score, and when it last failed.
    Urgency(i64, i64, i64),
}

/// A URN that is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UrnKey<'i> {
    scope: &'i Scope,
    id: &'i str,
}

impl<'i> UrnKey<'i> {
    pub(crate) fn of(urn: &'i SharedUrn) -> Self {
        Self {
            scope: &urn.scope,
            id: &urn.id,
        }
    }
}

impl PartialOrd for UrnKey<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UrnKey<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        compare((self.scope, self.id), (other.scope, other.id))
    }
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
            SortKey::Urn(key) => Self::Urn(key.scope.urn(key.id)),
            SortKey::Urgency(severity, risk, at) => Self::Urgency(severity, risk, at),
        }
    }

    fn borrow(&self) -> SortKey<'_> {
        match self {
            Self::Number(number) => SortKey::Number(*number),
            Self::Text(text) => SortKey::Text(text),
            Self::Urn(urn) => SortKey::Urn(UrnKey {
                scope: &urn.scope,
                id: &urn.id,
            }),
            Self::Urgency(severity, risk, at) => SortKey::Urgency(*severity, *risk, *at),
        }
    }
}

/// An item of a list.
pub(crate) trait Listed: Clone + Sync {
    /// What the list can be sorted by.
    type Sort: Copy + Sync;

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

/// Rows that one thread looks at at least: some milliseconds, a hundred times what it takes to
/// begin.
const PART_ROWS: usize = 1 << 16;

/// Most threads that look at one list. Other requests want the processors too.
const THREADS: usize = 4;

fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// A question, prepared.
struct Asked<'l, T: Listed> {
    list: &'l List<T, T::Sort>,
    after: Option<&'l Cursor>,
    limit: usize,
}

/// What an item is sorted by, and what breaks ties.
type At<'i> = (SortKey<'i>, [u8; 16]);

impl<'l, T: Listed> Asked<'l, T> {
    fn place<'i>(&self, item: &'i T) -> At<'i> {
        (item.key(self.list.sort), item.id())
    }

    fn order(&self, one: &At<'_>, other: &At<'_>) -> Ordering {
        match self.list.order {
            Order::Ascending => one.cmp(other),
            Order::Descending => other.cmp(one),
        }
    }

    /// Looks at some rows.
    fn look<'i>(&self, rows: &'i [Option<T>]) -> Best<'i, T> {
        let mut best = Best::default();
        let last_shown = self.after.map(|at| (at.key.borrow(), at.id));
        for item in rows.iter().flatten() {
            if self
                .list
                .filter
                .as_ref()
                .is_some_and(|passes| !passes(item))
            {
                continue;
            }
            best.total += 1;
            let place = self.place(item);
            let is_behind = |last: &At<'_>| self.order(&place, last).is_gt();
            if !last_shown.as_ref().is_none_or(is_behind) {
                continue;
            }
            best.behind += 1;
            let is_beaten = |worst: &At<'_>| self.order(&place, worst).is_gt();
            if self.limit > 0 && !best.worst.as_ref().is_some_and(is_beaten) {
                best.items.push((place, item));
                // Cheaper than an order among all: each row is moved a few times at most.
                if best.items.len() >= 2 * self.limit {
                    self.cut(&mut best);
                }
            }
        }
        best
    }

    /// Drops what is not among the first.
    fn cut(&self, best: &mut Best<'_, T>) {
        let Some(last) = self.limit.checked_sub(1) else {
            return best.items.clear();
        };
        if best.items.len() <= self.limit {
            return;
        }
        let order = |a: &(At<'_>, &T), b: &(At<'_>, &T)| self.order(&a.0, &b.0);
        best.items.select_nth_unstable_by(last, order);
        best.items.truncate(self.limit);
        best.worst = best.items.last().map(|(place, _)| *place);
    }
}

/// The first of the rows that were looked at, in no order.
struct Best<'i, T> {
    items: Vec<(At<'i>, &'i T)>,
    /// What comes behind this is not among the first.
    worst: Option<At<'i>>,
    /// How many passed the filter.
    total: u64,
    /// How many of them come behind the last page.
    behind: u64,
}

impl<T> Default for Best<'_, T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            worst: None,
            total: 0,
            behind: 0,
        }
    }
}

/// Returns one page of rows, which come in any order.
pub(crate) fn page<T: Listed>(
    rows: &[Option<T>],
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
    let asked = Asked {
        list,
        after: after.as_ref(),
        limit: list.limit.min(PAGE_ITEMS),
    };
    let threads = (rows.len() / PART_ROWS).clamp(1, processors().min(THREADS));
    let mut best = look_with(&asked, rows, threads);
    let has_more = best.behind > u64::try_from(asked.limit).unwrap_or(u64::MAX);
    asked.cut(&mut best);
    best.items
        .sort_unstable_by(|(a, _), (b, _)| asked.order(a, b));
    let last = best.items.last().filter(|_| has_more);
    let next = last.map(|(_, item)| cursor_after(list, *item));
    Ok(Page {
        items: best
            .items
            .into_iter()
            .map(|(_, item)| item.clone())
            .collect(),
        next,
        total: Some(best.total),
    })
}

/// Cuts the rows among so many threads.
fn look_with<'i, T: Listed>(
    asked: &Asked<'_, T>,
    rows: &'i [Option<T>],
    threads: usize,
) -> Best<'i, T> {
    let mut parts = rows.chunks(rows.len().div_ceil(threads).max(1));
    let own = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(|| asked.look(part))).collect();
        let mut best = asked.look(own);
        for other in others {
            match other.join() {
                Ok(other) => {
                    best.items.extend(other.items);
                    best.total += other.total;
                    best.behind += other.behind;
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        best
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

    fn rows(items: &[Item]) -> Vec<Option<Item>> {
        let free = std::iter::once(None);
        items.iter().cloned().map(Some).chain(free).collect()
    }

    /// Follows the cursors to the end; `between` may change the rows after each page.
    fn walk(
        mut items: Vec<Item>,
        mut list: List<Item, By>,
        mut between: impl FnMut(&mut Vec<Item>, &[Item]),
    ) -> Vec<Item> {
        let mut seen = Vec::new();
        loop {
            let got = page(&rows(&items), &list).unwrap();
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
    fn several_threads_find_what_one_finds() {
        let items: Vec<Item> = (0..=255)
            .map(|id: u8| Item {
                id,
                name: format!("{}", id.wrapping_mul(37) % 16),
            })
            .collect();
        let rows = rows(&items);
        for limit in [0, 1, 7, 200, 1000] {
            let list = list(By::Name, Order::Descending, limit);
            let asked = Asked {
                list: &list,
                after: None,
                limit,
            };
            let places = |threads| {
                let mut best = look_with(&asked, &rows, threads);
                asked.cut(&mut best);
                let mut ids: Vec<u8> = best.items.iter().map(|(_, item)| item.id).collect();
                ids.sort_unstable();
                (ids, best.total, best.behind)
            };
            let one = places(1);
            assert_eq!((one.0.len(), one.1), (limit.min(256), 256));
            for threads in [2, 3, 100, 1000] {
                assert_eq!(places(threads), one);
            }
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
        let first = page(&rows(&items), &list(By::Name, Order::Ascending, 3)).unwrap();
        let cursor = first.next.unwrap();
        let check = |sort, order, after: &str| {
            let list = List {
                after: Some(after.into()),
                ..list(sort, order, 3)
            };
            page(&rows(&items), &list).map(|page| page.items.len())
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
        let got = page(&rows(&items), &even).unwrap();
        assert_eq!(got.total, Some(10));
        let ids: Vec<u8> = got.items.iter().map(|item| item.id).collect();
        assert_eq!(ids, [18, 16, 14, 12]);
        let none = page(&rows(&items), &List { limit: 0, ..even }).unwrap();
        assert_eq!(
            (none.items.len(), none.next, none.total),
            (0, None, Some(10))
        );
    }
}

//! Lists: what every one of them takes, and how rows in memory are filtered, sorted and paged.

use std::cmp::Ordering;

use jiff::Timestamp;
use protocol::api::Page;
use protocol::filter::{FieldSpec, FieldValue, Filter, Row};
use protocol::limits;
use serde::{Deserialize, Serialize};
use store::Order;
use utoipa::IntoParams;

use super::problem::Refusal;

/// Rows of a page when the caller names no number.
const DEFAULT_ROWS: usize = 100;

/// Size at which a page ends, in bytes of JSON: a thousand of the largest documents would be a
/// gigabyte for every reader.
const PAGE_BYTES: usize = 4 << 20;

/// Counts what a page holds.
#[derive(Debug, Default)]
pub(super) struct Size(usize);

impl Size {
    /// Adds an item; says whether the page ends with it.
    pub(super) fn is_full_with(&mut self, item: &impl Serialize) -> bool {
        // What cannot be written fails again, and loudly, when the page is.
        let _ = serde_json::to_writer(&mut *self, item);
        self.0 >= PAGE_BYTES
    }
}

impl std::io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What every list takes.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Organisation, by id or name; the oldest of yours when absent.
    #[expect(
        dead_code,
        reason = "`access` reads it; here it is allowed and described"
    )]
    pub(super) org: Option<String>,
    /// Terms such as `severity>=high status=open`; see the manual for the grammar.
    pub(super) filter: Option<String>,
    /// A field, with `-` in front for descending.
    pub(super) sort: Option<String>,
    /// Rows per page, 1 to 1000; 100 when absent. A page of large rows has fewer.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

/// What everything takes that concerns one organisation and is no list.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct OrgQuery {
    /// Organisation, by id or name; the oldest of yours when absent.
    #[expect(
        dead_code,
        reason = "`access` reads it; here it is allowed and described"
    )]
    pub(super) org: Option<String>,
}

/// What every write takes.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "`repeat` reads it; here it is described")]
pub(super) struct WriteHeaders {
    /// Any text, new for each write: sent again within an hour, the write happens once and its
    /// answer comes again.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
}

impl ListQuery {
    /// Reads the filter for rows of the given fields.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(super) fn filter(&self, fields: &[FieldSpec], now: Timestamp) -> Result<Filter, Refusal> {
        let text = self.filter.as_deref().unwrap_or_default();
        Filter::parse(text, fields, now)
            .map_err(|error| Refusal::bad_request("bad_filter", format!("filter, {error}")))
    }

    /// Returns the number of rows of the page.
    ///
    /// # Errors
    ///
    /// When it is out of range.
    pub(super) fn limit(&self) -> Result<usize, Refusal> {
        let limit = self.limit.unwrap_or(DEFAULT_ROWS);
        if (1..=limits::PAGE_ITEMS).contains(&limit) {
            return Ok(limit);
        }
        let most = limits::PAGE_ITEMS;
        Err(Refusal::bad_request(
            "bad_limit",
            format!("limit is 1 to {most}, not {limit}"),
        ))
    }

    /// Returns what to sort by, one of `fields` with what stands for it, and which way; `None`
    /// when the caller does not say.
    ///
    /// # Errors
    ///
    /// When the list cannot be sorted so.
    pub(super) fn sort<T: Copy>(
        &self,
        fields: &[(&str, T)],
    ) -> Result<Option<(T, Order)>, Refusal> {
        let Some(asked) = self.sort.as_deref() else {
            return Ok(None);
        };
        let (name, order) = match asked.strip_prefix('-') {
            Some(name) => (name, Order::Descending),
            None => (asked, Order::Ascending),
        };
        if let Some((_, field)) = fields.iter().find(|(known, _)| *known == name) {
            return Ok(Some((*field, order)));
        }
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let detail = format!("cannot sort by {name}; the fields are {}", names.join(", "));
        Err(Refusal::bad_request("bad_sort", detail))
    }

    /// Refuses an order for a list that has one of its own.
    ///
    /// # Errors
    ///
    /// When the caller asks for one.
    pub(super) fn unsorted(&self) -> Result<(), Refusal> {
        match self.sort {
            None => Ok(()),
            Some(_) => Err(Refusal::bad_request("bad_sort", "this list has one order")),
        }
    }

    /// Filters, sorts and cuts rows that are all in memory. The order is that of `rows` when the
    /// caller asks for none; the cursor is the number of rows that came before.
    ///
    /// # Errors
    ///
    /// When filter, sort, limit or cursor cannot be read.
    pub(super) fn page_of<T: Row>(
        &self,
        mut rows: Vec<T>,
        fields: &[FieldSpec],
        now: Timestamp,
    ) -> Result<Page<T>, Refusal> {
        let filter = self.filter(fields, now)?;
        let limit = self.limit()?;
        let names: Vec<(&str, FieldSpec)> = fields.iter().map(|spec| (spec.name, *spec)).collect();
        let sort = self.sort(&names)?;
        let before = match &self.cursor {
            None => 0,
            Some(cursor) => cursor
                .parse::<usize>()
                .map_err(|_| Refusal::from(store::ReadError::Cursor))?,
        };
        rows.retain(|row| filter.matches(row));
        if let Some((spec, order)) = sort {
            rows.sort_by(|a, b| {
                let order_of = compare(&spec, a.field(spec.name), b.field(spec.name));
                match order {
                    Order::Ascending => order_of,
                    Order::Descending => order_of.reverse(),
                }
            });
        }
        let total = rows.len();
        let items: Vec<T> = rows.into_iter().skip(before).take(limit).collect();
        let seen = before.saturating_add(items.len());
        Ok(Page {
            items,
            total: total as u64,
            next_cursor: (seen < total).then(|| seen.to_string()),
            forgotten_before: None,
        })
    }
}

/// Compares two values of one field; a row without one comes first.
fn compare(spec: &FieldSpec, a: Option<FieldValue<'_>>, b: Option<FieldValue<'_>>) -> Ordering {
    use FieldValue::{Bool, Number, Time};
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (a, b) => return a.is_some().cmp(&b.is_some()),
    };
    if let (Some(a), Some(b)) = (text(&a), text(&b)) {
        return match spec.kind {
            protocol::filter::FieldKind::Enum(words) => {
                let rank = |word: &str| words.iter().position(|known| *known == word);
                rank(a).cmp(&rank(b))
            }
            protocol::filter::FieldKind::Text
            | protocol::filter::FieldKind::Type
            | protocol::filter::FieldKind::Number
            | protocol::filter::FieldKind::Time
            | protocol::filter::FieldKind::Bool => a.cmp(b),
        };
    }
    match (a, b) {
        (Number(a), Number(b)) => a.total_cmp(&b),
        (Time(a), Time(b)) => a.cmp(&b),
        (Bool(a), Bool(b)) => a.cmp(&b),
        (_, _) => Ordering::Equal,
    }
}

fn text<'v>(value: &'v FieldValue<'_>) -> Option<&'v str> {
    match value {
        FieldValue::Text(text) => Some(text),
        FieldValue::Owned(text) => Some(text),
        FieldValue::Number(_) | FieldValue::Time(_) | FieldValue::Bool(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use protocol::filter::FieldKind;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Fruit(&'static str, &'static str);

    impl Row for Fruit {
        fn field(&self, name: &str) -> Option<FieldValue<'_>> {
            match name {
                "name" => Some(FieldValue::Text(self.0)),
                "size" => Some(FieldValue::Text(self.1)),
                _ => None,
            }
        }
        fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
            look(self.0)
        }
    }

    const FIELDS: &[FieldSpec] = &[
        FieldSpec {
            name: "name",
            kind: FieldKind::Text,
        },
        FieldSpec {
            name: "size",
            kind: FieldKind::Enum(&["small", "large"]),
        },
    ];

    fn names(query: &ListQuery) -> (Vec<&'static str>, Option<String>) {
        let rows = vec![
            Fruit("plum", "small"),
            Fruit("melon", "large"),
            Fruit("apple", "small"),
            Fruit("pumpkin", "large"),
        ];
        let page = query
            .page_of(rows, FIELDS, Timestamp::UNIX_EPOCH)
            .expect("the query is good");
        (
            page.items.iter().map(|fruit| fruit.0).collect(),
            page.next_cursor,
        )
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repeat() {
        let mut query = ListQuery {
            limit: Some(3),
            ..ListQuery::default()
        };
        let (first, cursor) = names(&query);
        assert_eq!(first, ["plum", "melon", "apple"]);
        query.cursor = cursor;
        assert_eq!(names(&query), (vec!["pumpkin"], None));
        query.cursor = Some(usize::MAX.to_string());
        assert_eq!(names(&query), (vec![], None));
    }

    #[test]
    fn words_of_an_enumeration_sort_in_their_own_order() {
        let query = ListQuery {
            sort: Some("-size".into()),
            ..ListQuery::default()
        };
        assert_eq!(names(&query).0, ["melon", "pumpkin", "plum", "apple"]);
        let query = ListQuery {
            filter: Some("size=small".into()),
            sort: Some("name".into()),
            ..ListQuery::default()
        };
        assert_eq!(names(&query).0, ["apple", "plum"]);
    }
}

//! A list: its rows, which of them are shown, cursor and marks. All of it goes by id, so that new
//! rows do not move what a person looks at.

use std::collections::BTreeSet;

use jiff::Timestamp;
use protocol::filter::{Filter, FilterError};

use super::Loaded;
use crate::console::event::Rows;
use crate::console::item::{Column, Item, Kind};
use crate::console::keymap::Travel;

/// What a list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sort {
    /// The field.
    pub(crate) field: &'static str,
    /// Largest first.
    pub(crate) is_descending: bool,
}

/// Where the cursor goes when other rows are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hold {
    /// It stays on its row, or where it was.
    Selected,
    /// It goes to the row with this id, or to the first: while a filter is typed, rows that come
    /// and go with each letter must not lead it astray.
    Row(Option<String>),
    /// It goes to the first row, because the order is another.
    First,
}

/// A list.
#[derive(Debug)]
pub(crate) struct ListState {
    /// What it lists.
    pub(crate) kind: Kind,
    /// The filter that the hub applies.
    pub(crate) filter: String,
    /// The order that the hub gives; `None` for its own.
    pub(crate) sort: Option<Sort>,
    /// The rows.
    pub(crate) loaded: Loaded<Rows>,
    /// Rows that a filter which is still being typed leaves; `None` for all.
    pub(crate) shown: Option<Vec<usize>>,
    /// The row under the cursor, among those shown.
    pub(crate) cursor: usize,
    /// Marked rows, by id.
    pub(crate) marks: BTreeSet<String>,
    /// The row marked last, from which a range goes.
    anchor: Option<String>,
    hold: Hold,
}

/// Returns where a move leads in a list of `len` rows, of which `page` are seen at once.
pub(crate) fn travelled(from: usize, len: usize, travel: Travel, page: usize) -> usize {
    let last = len.saturating_sub(1);
    let half = (page / 2).max(1);
    let whole = page.saturating_sub(1).max(1);
    let to = match travel {
        Travel::Down => from + 1,
        Travel::Up => from.saturating_sub(1),
        Travel::HalfDown => from + half,
        Travel::HalfUp => from.saturating_sub(half),
        Travel::PageDown => from + whole,
        Travel::PageUp => from.saturating_sub(whole),
        Travel::First => 0,
        Travel::Last => last,
    };
    to.min(last)
}

impl ListState {
    /// Makes an empty list with its kind's filter and order.
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            filter: kind.first_filter().to_owned(),
            sort: kind.first_sort().map(|(field, is_descending)| Sort {
                field,
                is_descending,
            }),
            loaded: Loaded::default(),
            shown: None,
            cursor: 0,
            marks: BTreeSet::new(),
            anchor: None,
            hold: Hold::Selected,
        }
    }

    fn items(&self) -> &[Item] {
        self.loaded
            .value
            .as_ref()
            .map_or(&[], |rows| rows.items.as_slice())
    }

    /// Returns how many rows are shown.
    pub(crate) fn len(&self) -> usize {
        self.shown
            .as_ref()
            .map_or_else(|| self.items().len(), Vec::len)
    }

    /// Returns a shown row.
    pub(crate) fn row(&self, place: usize) -> Option<&Item> {
        let index = match &self.shown {
            Some(shown) => *shown.get(place)?,
            None => place,
        };
        self.items().get(index)
    }

    /// Returns the row under the cursor.
    pub(crate) fn selected(&self) -> Option<&Item> {
        self.row(self.cursor)
    }

    /// Changes which rows there are or are shown, and puts the cursor where it is held.
    fn keeping_the_cursor(&mut self, change: impl FnOnce(&mut Self)) {
        let (id, otherwise) = match &self.hold {
            Hold::Selected => (self.selected().map(Item::id), self.cursor),
            Hold::Row(id) => (id.clone(), 0),
            Hold::First => (None, 0),
        };
        change(self);
        let found = id.and_then(|id| {
            (0..self.len()).find(|place| self.row(*place).is_some_and(|item| item.id() == id))
        });
        let last = self.len().saturating_sub(1);
        self.cursor = found.unwrap_or(otherwise).min(last);
    }

    /// Holds the cursor to its row while a filter is typed.
    pub(crate) fn hold_row(&mut self) {
        self.hold = Hold::Row(self.selected().map(Item::id));
    }

    /// Shows all loaded rows again, with the cursor where it was held.
    pub(crate) fn give_up_filter(&mut self) {
        self.show_all();
        self.hold = Hold::Selected;
    }

    /// Takes new rows. Marks of rows that are gone go with them.
    ///
    /// `is_typing` says that a filter is being typed, so that the cursor is still held.
    pub(crate) fn replace(&mut self, rows: Rows, now: Timestamp, is_typing: bool) {
        self.keeping_the_cursor(|list| {
            list.loaded.arrived(rows, now);
            list.shown = None;
            if !list.marks.is_empty() {
                let ids: BTreeSet<String> = list.items().iter().map(Item::id).collect();
                list.marks.retain(|id| ids.contains(id));
            }
        });
        if !is_typing {
            self.hold = Hold::Selected;
        }
    }

    /// Shows only those loaded rows that a filter text leaves; the hub is not asked. A last word
    /// that leaves none but could become the name of a field is not yet taken at its word.
    ///
    /// # Errors
    ///
    /// When the text is no filter; then all rows are shown.
    pub(crate) fn preview(&mut self, text: &str, now: Timestamp) -> Result<(), FilterError> {
        let read = |text: &str| Filter::parse(text, self.kind.fields(), now);
        let filter = match read(text) {
            Ok(filter) => filter,
            Err(error) => {
                self.show_all();
                return Err(error);
            }
        };
        let mut places = self.matching(&filter);
        if places.is_empty()
            && let Some((before, word)) = text.rsplit_once(' ')
            && is_start_of_field(self.kind, word)
            && let Ok(filter) = read(before)
        {
            places = self.matching(&filter);
        }
        self.keeping_the_cursor(|list| list.shown = Some(places));
        Ok(())
    }

    fn matching(&self, filter: &Filter) -> Vec<usize> {
        let items = self.items().iter().enumerate();
        items
            .filter(|(_, item)| filter.matches(*item))
            .map(|(index, _)| index)
            .collect()
    }

    fn show_all(&mut self) {
        self.keeping_the_cursor(|list| list.shown = None);
    }

    /// Moves the cursor.
    pub(crate) fn travel(&mut self, travel: Travel, page: usize) {
        self.hold = Hold::Selected;
        self.cursor = travelled(self.cursor, self.len(), travel, page);
    }

    /// Marks the row under the cursor, or takes its mark off, and goes on to the next.
    pub(crate) fn mark(&mut self) {
        let Some(id) = self.selected().map(Item::id) else {
            return;
        };
        if !self.marks.remove(&id) {
            self.marks.insert(id.clone());
        }
        self.anchor = Some(id);
        self.travel(Travel::Down, 1);
    }

    /// Marks every row between the one marked last and the cursor.
    pub(crate) fn mark_range(&mut self) {
        let anchor = self.anchor.clone();
        let from = (0..self.len())
            .find(|place| self.row(*place).map(Item::id) == anchor)
            .unwrap_or(self.cursor);
        let places = from.min(self.cursor)..=from.max(self.cursor);
        let ids: Vec<String> = places
            .filter_map(|place| self.row(place).map(Item::id))
            .collect();
        self.marks.extend(ids);
    }

    /// Takes all marks off.
    pub(crate) fn clear_marks(&mut self) {
        self.marks.clear();
        self.anchor = None;
    }

    /// Sorts by the next column that the hub can sort by; returns whether there is one.
    pub(crate) fn sort_next(&mut self) -> bool {
        let fields: Vec<&'static str> = self
            .kind
            .columns()
            .iter()
            .filter_map(|column| column.sort)
            .collect();
        let at = self
            .sort
            .and_then(|sort| fields.iter().position(|field| *field == sort.field));
        let next = at.map_or(0, |at| at + 1);
        let Some(field) = fields.get(next).or_else(|| fields.first()) else {
            return false;
        };
        self.sort = Some(Sort {
            field,
            // What is worst or largest is wanted first, but the oldest of what ages.
            is_descending: matches!(*field, "severity" | "risk" | "findings" | "last_seen"),
        });
        self.hold = Hold::First;
        true
    }

    /// Turns the order around; returns whether there is one.
    pub(crate) fn reverse(&mut self) -> bool {
        match &mut self.sort {
            Some(sort) => {
                sort.is_descending = !sort.is_descending;
                self.hold = Hold::First;
                true
            }
            None => self.sort_next(),
        }
    }

    /// Returns the order as the API and the command line take it.
    pub(crate) fn sort_text(&self) -> Option<String> {
        self.sort.map(|sort| {
            let sign = if sort.is_descending { "-" } else { "" };
            format!("{sign}{}", sort.field)
        })
    }

    /// Returns the column that the list is sorted by.
    pub(crate) fn sorted_column(&self) -> Option<&'static Column> {
        let field = self.sort?.field;
        let columns = self.kind.columns();
        columns.iter().find(|column| column.sort == Some(field))
    }

    /// Returns the command line that lists the same, or that shows each marked row.
    pub(crate) fn command(&self, org: Option<&str>) -> String {
        let noun = self.kind.noun();
        let org = org.map_or_else(String::new, |org| format!(" --org {}", quoted(org)));
        if !self.marks.is_empty() {
            let lines: Vec<String> = self
                .marks
                .iter()
                .map(|id| format!("zero-x {noun} show {}{org}", quoted(id)))
                .collect();
            return lines.join("\n");
        }
        let mut text = format!("zero-x {noun} list{org}");
        if !self.filter.trim().is_empty() {
            text.push_str(&format!(" --filter {}", quoted(&self.filter)));
        }
        if let Some(sort) = self.sort_text() {
            text.push_str(&format!(" --sort {}", quoted(&sort)));
        }
        text
    }
}

fn is_start_of_field(kind: Kind, word: &str) -> bool {
    let word = word.trim_start_matches('!');
    let mut fields = kind.fields().iter();
    !word.is_empty() && fields.any(|field| field.name.starts_with(word))
}

/// Quotes a word for a POSIX shell where it needs that.
pub(crate) fn quoted(word: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_safe) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

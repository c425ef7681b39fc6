//! A list of any kind: the same table for all.

use ratatui::style::Style;

use super::{Canvas, overview, why_absent};
use crate::console::item::{Column, Kind};
use crate::console::state::State;
use crate::console::state::list::ListState;
use crate::console::theme::Theme;

/// Cells before the first column: cursor and mark.
const GUTTER: u16 = 4;

/// Cells between two columns.
const GAP: u16 = 2;

/// Columns with a lower [`Column::drop`] than this are shown before any column gets more than its
/// least width.
const NEEDED_BELOW: u8 = 3;

/// Returns the columns that fit into `width` cells, each with its own width.
///
/// Columns are dropped by their [`Column::drop`], the highest first, never those with 0. What is
/// left over goes to the columns that are dropped last.
fn layout(columns: &'static [Column], width: u16) -> Vec<(&'static Column, u16)> {
    // Behind the last column one cell is enough.
    let room = (width + GAP).saturating_sub(GUTTER + 1);
    let mut kept: Vec<&Column> = columns.iter().collect();
    let (mut fitted, mut used) = loop {
        let worst = kept.iter().map(|column| column.drop).max().unwrap_or(0);
        let begin = |column: &Column| {
            if worst < NEEDED_BELOW {
                column.least
            } else {
                column.want
            }
        };
        let fitted: Vec<(&Column, u16)> =
            kept.iter().map(|column| (*column, begin(column))).collect();
        let used: u16 = fitted.iter().map(|(_, width)| width + GAP).sum();
        if used <= room || worst == 0 {
            break (fitted, used);
        }
        kept.retain(|column| column.drop != worst);
    };
    // First to what each wants, then to what it can use at most, the most needed columns first.
    for limit in [|column: &Column| column.want, |column: &Column| column.most] {
        let mut order: Vec<&mut (&Column, u16)> = fitted.iter_mut().collect();
        order.sort_by_key(|(column, _)| column.drop);
        for (column, width) in order {
            let more = limit(column)
                .saturating_sub(*width)
                .min(room.saturating_sub(used));
            *width += more;
            used += more;
        }
    }
    fitted
}

/// Returns the first row to draw, so that the cursor is in the middle where that can be.
pub(super) fn first_row(cursor: usize, len: usize, height: usize) -> usize {
    cursor
        .saturating_sub(height / 2)
        .min(len.saturating_sub(height))
}

/// Returns what the list is made of, for the title.
pub(super) fn title(list: &ListState) -> String {
    let mut parts = Vec::new();
    if let Some(rows) = &list.loaded.value {
        let place = list.cursor.saturating_add(1).min(list.len());
        let loaded = u64::try_from(rows.items.len()).unwrap_or(u64::MAX);
        let mut words = match list.len() {
            0 => "none".to_owned(),
            len => format!("{place} of {len}"),
        };
        if rows.is_cut && loaded < rows.total {
            words.push_str(&format!(" loaded, {} in all", rows.total));
        } else if rows.is_cut {
            words.push_str(" loaded, the hub has more");
        }
        parts.push(words);
    }
    if !list.marks.is_empty() {
        parts.push(format!("{} marked", list.marks.len()));
    }
    if let (Some(column), Some(sort)) = (list.sorted_column(), list.sort) {
        let arrow = if sort.is_descending { "▼" } else { "▲" };
        parts.push(format!("sort {} {arrow}", column.title));
    }
    parts.join("   ")
}

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State) {
    let Some(list) = state.list() else {
        return;
    };
    let theme = canvas.theme;
    let columns = layout(list.kind.columns(), canvas.area.width);
    let mut x = GUTTER;
    for (column, width) in &columns {
        canvas.text(x, 0, *width, column.title, theme.heading());
        x += width + GAP;
    }
    if list.len() == 0 {
        let (words, style) = why_empty(theme, state, list);
        canvas.paragraph(GUTTER, 2, &words, style);
        return;
    }
    let mut height = usize::from(canvas.area.height.saturating_sub(1));
    // Old rows stay under the reason why there are no newer ones.
    if let Some(error) = &list.loaded.error {
        height = height.saturating_sub(1);
        let last = canvas.area.height.saturating_sub(1);
        let width = canvas.area.width;
        canvas.text(
            1,
            last,
            width.saturating_sub(2),
            &error.to_string(),
            theme.bad(),
        );
    }
    let first = first_row(list.cursor, list.len(), height);
    for (y, place) in (1..).zip(first..list.len().min(first + height)) {
        let Some(item) = list.row(place) else {
            break;
        };
        if !list.marks.is_empty() && list.marks.contains(&item.id()) {
            canvas.text(2, y, 1, "*", theme.heading());
        }
        let mut x = GUTTER;
        for (column, width) in &columns {
            let (text, tone) = (column.read)(item, state.now);
            let style = canvas.tone(tone);
            if column.is_private {
                canvas.private(x, y, *width, &text, style);
            } else {
                canvas.text(x, y, *width, &text, style);
            }
            x += width + GAP;
        }
        if place == list.cursor {
            canvas.text(0, y, 1, "▸", Style::new());
            canvas.highlight(y);
        }
    }
}

/// Says why there are no rows: there are none, there are none yet, or nobody may see them.
fn why_empty(theme: Theme, state: &State, list: &ListState) -> (String, Style) {
    let name = list.kind.name();
    let Some(rows) = list
        .loaded
        .value
        .as_ref()
        .filter(|_| list.loaded.error.is_none())
    else {
        return why_absent(theme, list.loaded.error.as_ref(), &state.link);
    };
    let words = if !rows.items.is_empty() {
        let loaded = rows.items.len();
        format!("none of the {loaded} loaded {name} match; enter asks the hub")
    } else if list.kind == Kind::Finding && !overview::is_judged(state) {
        format!("no {name}, because nothing has been judged yet")
    } else if list.filter.trim().is_empty() {
        format!("no {name}")
    } else if list.kind == Kind::Event {
        // What is loaded is looked through for parts of words, the hub's index is not.
        let filter = &list.filter;
        format!("no {name} match {filter}; the hub finds whole words, action~part parts of them")
    } else {
        format!("no {name} match {}", list.filter)
    };
    (words, Style::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::item::KINDS;

    fn titles(kind: Kind, width: u16) -> Vec<&'static str> {
        layout(kind.columns(), width)
            .iter()
            .map(|(column, _)| column.title)
            .collect()
    }

    #[test]
    fn narrow_screens_drop_columns_in_order_and_never_a_severity_or_a_state() {
        assert_eq!(
            titles(Kind::Finding, 200),
            [
                "SEV",
                "STATE",
                "AGE",
                "RISK",
                "BROKEN RULE",
                "RESOURCE",
                "ACCOUNT",
                "REGION",
                "OWNER"
            ]
        );
        assert_eq!(
            titles(Kind::Finding, 80),
            ["SEV", "STATE", "AGE", "BROKEN RULE", "RESOURCE"]
        );
        assert_eq!(titles(Kind::Finding, 60), ["SEV", "STATE", "BROKEN RULE"]);
        for kind in KINDS {
            let mut shown = titles(kind, 300).len();
            for width in (60..=300).rev() {
                let titles = titles(kind, width);
                assert!(titles.len() <= shown, "{kind:?} at {width}");
                shown = titles.len();
                for never in ["SEV", "STATE"] {
                    let has = kind.columns().iter().any(|column| column.title == never);
                    assert!(!has || titles.contains(&never), "{kind:?} at {width}");
                }
            }
        }
    }

    #[test]
    fn columns_never_reach_beyond_the_screen() {
        for kind in KINDS {
            for width in 60..=300_u16 {
                let used: u16 = layout(kind.columns(), width)
                    .iter()
                    .map(|(_, width)| width + GAP)
                    .sum();
                assert!(GUTTER + used < width + GAP, "{kind:?} at {width}");
            }
        }
    }

    #[test]
    fn the_cursor_is_always_in_view() {
        for len in [1, 5, 20, 1000] {
            for cursor in [0, 1, len / 2, len - 1] {
                let first = first_row(cursor, len, 18);
                assert!(first <= cursor && cursor < first + 18);
                assert!(first + 18 <= len.max(18), "no gap below the last row");
            }
        }
    }
}

//! The keys, as the table has them: those of this place first, then the others.

use ratatui::style::Style;

use super::Canvas;
use crate::console::keymap::{Chord, KEYS, Key, Place};

/// Cells of the names of keys.
const NAMES: u16 = 19;

/// Cells of what they do.
const LABELS: u16 = 17;

/// Cells of a column, with the space between.
const COLUMN: u16 = NAMES + LABELS + 3;

fn names(key: &Key) -> String {
    let names: Vec<String> = key.chords.iter().map(|chord| Chord::name(*chord)).collect();
    names.join(" ")
}

pub(super) fn draw(canvas: &mut Canvas<'_>, place: Place, from: usize) {
    let theme = canvas.theme;
    let (here, elsewhere): (Vec<&Key>, Vec<&Key>) =
        KEYS.iter().partition(|key| key.places.contains(&place));
    let columns = usize::from((canvas.area.width / COLUMN).max(1));
    let height = canvas.area.height.saturating_sub(4);
    let rows = (here.len() + elsewhere.len() + 1).div_ceil(columns);
    let seen = usize::from(height);
    let from = from.min(rows.saturating_sub(seen));
    canvas.text(
        1,
        0,
        canvas.area.width,
        "Keys of this screen, then of the others",
        theme.heading(),
    );
    let cells_of = here
        .iter()
        .map(|key| Some((*key, Style::new())))
        .chain(std::iter::once(None))
        .chain(elsewhere.iter().map(|key| Some((*key, theme.dim()))));
    for (index, entry) in cells_of.enumerate() {
        let Some((key, style)) = entry else {
            continue;
        };
        let (column, row) = (index / rows.max(1), index % rows.max(1));
        let Some(row) = row.checked_sub(from).filter(|row| *row < seen) else {
            continue;
        };
        let x = u16::try_from(column)
            .unwrap_or(u16::MAX)
            .saturating_mul(COLUMN)
            + 1;
        let y = u16::try_from(row).unwrap_or(u16::MAX).saturating_add(2);
        let name = names(key);
        canvas.text(x, y, NAMES, &name, theme.key());
        canvas.text(x + NAMES + 1, y, LABELS, key.label, style);
    }
    let last = canvas.area.height.saturating_sub(1);
    let words = if rows > seen {
        "j and k scroll; any other key closes this"
    } else {
        "Any key closes this"
    };
    canvas.text(1, last, canvas.area.width, words, theme.dim());
}

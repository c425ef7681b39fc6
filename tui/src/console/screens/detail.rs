//! The detail of one object: below its list where there is room for both, else alone.

use ratatui::style::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Canvas, cells, list, why_absent};
use crate::console::item::{Item, Line};
use crate::console::state::{Detail, FRAME_ROWS, State};

/// Fewest cells of the labels, without the margin.
const LABEL: u16 = 12;

/// Largest share of the width that labels get: one in this many. A longer label gets a line of
/// its own.
const LABEL_SHARE: u16 = 3;

/// Rows of a body that has room for the list above the detail.
const BOTH: u16 = 24;

/// Cuts text into lines of at most `width` cells, at spaces where there are any. A word that is
/// longer than a line is cut. Indentation stays.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let indent: String = text.chars().take_while(|c| *c == ' ').collect();
    let mut lines = Vec::new();
    let mut line = indent.clone();
    let mut used = indent.width().min(width);
    let mut is_begun = false;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut word = word;
        if is_begun && used + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if is_begun {
            line.push(' ');
            used += 1;
        }
        is_begun = true;
        while used + word.width() > width {
            let mut cut = 0;
            for letter in word.chars() {
                let cells = letter.width().unwrap_or(0);
                if used + cells > width && !line.is_empty() {
                    break;
                }
                line.push(letter);
                used += cells;
                cut += letter.len_utf8();
            }
            lines.push(std::mem::take(&mut line));
            used = 0;
            word = word.get(cut..).unwrap_or_default();
        }
        line.push_str(word);
        used += word.width();
    }
    lines.push(line);
    lines
}

/// A line as it is drawn.
struct Drawn {
    label: String,
    text: String,
    is_private: bool,
}

/// Returns how many cells the labels of some lines get.
fn label_width(lines: &[Line], width: u16) -> u16 {
    let most = width / LABEL_SHARE;
    let fitting = lines.iter().map(|line| cells(&line.label));
    let longest = fitting.filter(|cells| *cells <= most).max().unwrap_or(0);
    longest.max(LABEL)
}

/// Returns the lines of a detail as they are drawn, and the width of their labels.
fn drawn(lines: Vec<Line>, width: u16) -> (Vec<Drawn>, u16) {
    let label_width = label_width(&lines, width);
    let room = usize::from(width.saturating_sub(label_width + 4));
    let mut drawn = Vec::new();
    for line in lines {
        let mut label = line.label;
        let text = crate::text::plain(&line.text);
        if cells(&label) > label_width {
            drawn.push(Drawn {
                label: std::mem::take(&mut label),
                text: String::new(),
                is_private: false,
            });
        }
        for part in wrap(&text, room) {
            drawn.push(Drawn {
                label: std::mem::take(&mut label),
                text: part,
                is_private: line.is_private,
            });
        }
    }
    (drawn, label_width)
}

/// Returns the rows of the list and of the detail in a body of `height` rows, with a list that has
/// so many rows above the detail, if there is any.
fn split(height: u16, list: Option<usize>) -> (u16, u16) {
    match list {
        Some(rows) if height >= BOTH => {
            let wanted = u16::try_from(rows).map_or(u16::MAX, |rows| rows.saturating_add(1));
            let above = (height / 3).min(wanted.max(2));
            (above, height - above - 1)
        }
        Some(_) | None => (0, height),
    }
}

/// Rows of a detail that are not its text: headline, space, tabs.
const FRAME: u16 = 4;

/// Returns how many lines a detail has and how many are seen at once.
pub(super) fn extent(state: &State, detail: &Detail) -> (usize, usize) {
    let (width, rows) = state.size;
    let (_, height) = split(rows.saturating_sub(FRAME_ROWS), rows_above(state, detail));
    let lines = detail.loaded.value.as_ref().map_or(0, |item| {
        drawn(item.detail(detail.tab, state.now), width).0.len()
    });
    (lines, usize::from(height.saturating_sub(FRAME)).max(1))
}

/// Returns how many rows the list has that is shown above a detail.
fn rows_above(state: &State, detail: &Detail) -> Option<usize> {
    let list = state.list().filter(|list| list.kind == detail.kind)?;
    Some(list.len())
}

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State, detail: &Detail) {
    let (above, height) = split(canvas.area.height, rows_above(state, detail));
    if above > 0 {
        list::draw(&mut canvas.part(0, above), state);
        canvas.rule(above);
    }
    let from = if above > 0 { above + 1 } else { 0 };
    draw_detail(&mut canvas.part(from, height), state, detail);
}

fn draw_detail(canvas: &mut Canvas<'_>, state: &State, detail: &Detail) {
    let theme = canvas.theme;
    let width = canvas.area.width;
    let last = canvas.area.height.saturating_sub(1);
    let Some(item) = &detail.loaded.value else {
        let error = detail.loaded.error.as_ref();
        let (words, style) = why_absent(theme, error, &state.link);
        canvas.paragraph(4, 1, &words, style);
        return;
    };
    let (headline, is_private) = item.headline();
    let mut x = 1;
    if let Some(severity) = item.severity() {
        let style = theme.severity(severity);
        let words = crate::console::theme::severity_text(severity).trim();
        x += canvas.text(x, 0, width, words, style) + 2;
    }
    let room = width.saturating_sub(x + 1);
    if is_private {
        canvas.private(x, 0, room, &headline, theme.heading());
    } else {
        canvas.text(x, 0, room, &headline, theme.heading());
    }

    let (lines, label_width) = drawn(item.detail(detail.tab, state.now), width);
    let seen = usize::from(canvas.area.height.saturating_sub(FRAME));
    let first = detail.scroll.min(lines.len().saturating_sub(seen));
    for (y, line) in (2..).zip(lines.iter().skip(first).take(seen)) {
        let label = if line.text.is_empty() {
            width.saturating_sub(2)
        } else {
            label_width
        };
        canvas.text(1, y, label, &line.label, theme.dim());
        let (x, room) = (label_width + 3, width.saturating_sub(label_width + 4));
        if line.is_private {
            canvas.private(x, y, room, &line.text, Style::new());
        } else {
            canvas.text(x, y, room, &line.text, Style::new());
        }
    }
    tabs_line(canvas, item, detail, last);
    let below = lines.len().saturating_sub(first + seen);
    if let Some(error) = &detail.loaded.error {
        let words = error.to_string();
        canvas.text(40, last, width.saturating_sub(41), &words, theme.bad());
    } else if below > 0 {
        canvas.right(last, &format!("{below} more lines below"), theme.unsure());
    } else if first > 0 {
        canvas.right(last, "end", theme.dim());
    }
}

fn tabs_line(canvas: &mut Canvas<'_>, item: &Item, detail: &Detail, y: u16) {
    let theme = canvas.theme;
    let width = canvas.area.width;
    let tabs = item.tabs();
    if tabs.len() < 2 {
        return;
    }
    let mut x = 1;
    for (index, name) in tabs.iter().enumerate() {
        let (text, style) = if index == detail.tab {
            (format!("[{name}]"), theme.heading())
        } else {
            (format!(" {name} "), theme.dim())
        };
        x += canvas.text(x, y, width, &text, style) + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_breaks_at_spaces_and_long_words_are_cut() {
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("a bcdefg", 3), ["a", "bcd", "efg"]);
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
        assert_eq!(wrap("  \"x\": 1", 20), ["  \"x\": 1"]);
        assert_eq!(wrap("", 4), [""]);
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_asked_and_no_letter_is_lost(text in "[ a-z日é]{0,60}", width in 2_usize..20) {
            let lines = wrap(&text, width);
            for line in &lines {
                prop_assert!(line.width() <= width.max(text.len() - text.trim_start().len()), "{line:?}");
            }
            let letters = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }
}

//! Draws the state, and nothing but the state. All text goes through [`Canvas::text`], which
//! neutralises what the cloud or the hub may have put into names.

use jiff::{SignedDuration, Timestamp};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr;

use super::event::FetchError;
use super::item::{KINDS, Kind, Tone, age};
use super::keymap::KEYS;
use super::state::prompt::{Prompt, Purpose};
use super::state::{Detail, FRAME_ROWS, Link, Screen, State};
use super::theme::{Theme, ascii};
use crate::text::{fit, plain};

mod detail;
mod help;
mod list;
mod overview;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_support;

/// Fewest columns and rows that a frame fits into.
const LEAST: (u16, u16) = (60, 18);

/// A part of the screen to draw on.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    theme: Theme,
    is_masked: bool,
}

impl Canvas<'_> {
    /// Writes text, cut to `width` cells and without anything that could drive the terminal or
    /// make a name read as another. Returns the cells used.
    fn text(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) -> u16 {
        let x = self.area.x.saturating_add(x);
        let y = self.area.y.saturating_add(y);
        if y >= self.area.bottom() || x >= self.area.right() {
            return 0;
        }
        let width = width.min(self.area.right() - x);
        let fitted = fit(&plain(text), usize::from(width));
        let (end, _) = self
            .buffer
            .set_stringn(x, y, fitted, usize::from(width), style);
        end.saturating_sub(x)
    }

    /// Writes text over as many lines as it takes, at most to the end of this part.
    fn paragraph(&mut self, x: u16, y: u16, text: &str, style: Style) {
        let width = self.area.width.saturating_sub(x + 1);
        let lines = detail::wrap(&plain(text), usize::from(width));
        for (y, line) in (y..self.area.height).zip(lines) {
            self.text(x, y, width, &line, style);
        }
    }

    /// Writes text that names somebody's things: covered while names are hidden.
    fn private(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) -> u16 {
        if self.is_masked && !text.is_empty() {
            return self.text(x, y, width, "•••", style);
        }
        self.text(x, y, width, text, style)
    }

    /// Writes text that ends at the right edge; returns where it begins.
    fn right(&mut self, y: u16, text: &str, style: Style) -> u16 {
        let width = cells(text).min(self.area.width);
        let x = self.area.width.saturating_sub(width + 1);
        self.text(x, y, width, text, style);
        x
    }

    fn rule(&mut self, y: u16) {
        let line = "─".repeat(usize::from(self.area.width));
        let style = self.theme.dim();
        self.text(0, y, self.area.width, &line, style);
    }

    /// Gives a row the look of the row under the cursor.
    fn highlight(&mut self, y: u16) {
        let row = Rect {
            y: self.area.y + y,
            height: 1,
            ..self.area
        };
        let style = self.theme.cursor();
        self.buffer.set_style(row.intersection(self.area), style);
    }

    fn tone(&self, tone: Tone) -> Style {
        match tone {
            Tone::Severity(severity) => self.theme.severity(severity),
            Tone::Good => self.theme.good(),
            Tone::Unsure => self.theme.unsure(),
            Tone::Bad => self.theme.bad(),
            Tone::Plain => Style::new(),
        }
    }

    fn part(&mut self, y: u16, height: u16) -> Canvas<'_> {
        let area = Rect {
            y: self.area.y.saturating_add(y),
            height,
            ..self.area
        };
        Canvas {
            area: area.intersection(self.area),
            buffer: &mut *self.buffer,
            theme: self.theme,
            is_masked: self.is_masked,
        }
    }
}

/// Returns how many cells a text takes, at most what a screen can have.
fn cells(text: &str) -> u16 {
    u16::try_from(text.width()).unwrap_or(u16::MAX)
}

/// Draws a frame.
pub(crate) fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let area = frame.area();
    let mut canvas = Canvas {
        buffer: frame.buffer_mut(),
        area,
        theme,
        is_masked: state.is_masked,
    };
    let mut cursor = None;
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = format!(
            "zero-x needs {}x{}; this terminal has {}x{}",
            LEAST.0, LEAST.1, area.width, area.height
        );
        canvas.text(0, 0, area.width, &words, Style::new());
    } else {
        let foot = area.height - 1;
        header_line(&mut canvas, state);
        title_line(&mut canvas, state);
        canvas.rule(2);
        let mut body = canvas.part(3, area.height - FRAME_ROWS);
        match (state.help, state.screen()) {
            (Some(from), _) => help::draw(&mut body, state.place(), from),
            (None, Screen::Overview) => overview::draw(&mut body, state),
            (None, Screen::List(_)) => list::draw(&mut body, state),
            (None, Screen::Detail(detail)) => detail::draw(&mut body, state, detail),
        }
        canvas.rule(foot - 1);
        cursor = footer_line(&mut canvas, state, foot);
    }
    if theme.is_ascii() {
        to_ascii(frame.buffer_mut());
    }
    if let Some(position) = cursor {
        frame.set_cursor_position(position);
    }
}

/// Returns how many lines a detail has and how many are seen at once.
pub(crate) fn detail_extent(state: &State, detail: &Detail) -> (usize, usize) {
    detail::extent(state, detail)
}

fn to_ascii(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        if !cell.symbol().is_ascii() {
            let symbol = ascii(cell.symbol());
            cell.set_symbol(symbol);
        }
    }
}

/// Says why there is nothing to see yet.
fn why_absent(theme: Theme, error: Option<&FetchError>, link: &Link) -> (String, Style) {
    match (error, link) {
        (Some(error), _) => (error.to_string(), theme.bad()),
        (None, Link::Offline { why, .. }) => (format!("no data yet: {why}"), theme.bad()),
        (None, Link::SignedOut) => (FetchError::SignedOut.to_string(), theme.bad()),
        (None, Link::Connecting | Link::Live) => ("asking the hub…".to_owned(), theme.dim()),
    }
}

/// `3 min`, `2 h`.
fn span(age: SignedDuration) -> String {
    match age.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M").to_string()
}

/// Who looks at what, on the left; whether it can be believed, on the right.
fn header_line(canvas: &mut Canvas<'_>, state: &State) {
    let now = state.now;
    let theme = canvas.theme;
    let mut right: Vec<(String, Style)> = Vec::new();
    if state.is_masked {
        right.push(("names hidden".to_owned(), theme.unsure()));
    }
    if state.is_frozen {
        right.push(("frozen".to_owned(), theme.unsure()));
    }
    match &state.link {
        Link::Connecting => right.push(("connecting…".to_owned(), theme.dim())),
        Link::Live if state.is_loading() => right.push(("● asking…".to_owned(), theme.good())),
        Link::Live => right.push(("● live".to_owned(), theme.good())),
        Link::SignedOut => right.push(("○ signed out".to_owned(), theme.bad())),
        Link::Offline {
            since,
            retry_at,
            probe,
            ..
        } => {
            let next = if probe.is_some() {
                "trying now".to_owned()
            } else {
                let wait = retry_at.duration_since(now).max(SignedDuration::ZERO);
                format!("retry in {} s", wait.as_secs_f64().ceil())
            };
            let words = format!("○ offline since {}, {next}", clock(*since));
            right.push((words, theme.bad()));
        }
    }
    if let Some(age) = state.stale_for() {
        right.push((format!("data {} old", span(age)), theme.unsure()));
    }
    right.push((format!("UTC {}", clock(now)), theme.dim()));

    let taken: u16 = right.iter().map(|(text, _)| cells(text) + 3).sum();
    let mut x = canvas.area.width.saturating_sub(taken.saturating_sub(2));
    let room = x.saturating_sub(2);
    for (text, style) in &right {
        let width = canvas.area.width;
        x += canvas.text(x, 0, width, text, *style) + 3;
    }
    let (org, role) = match state.org_name() {
        Some((name, role)) => (name.to_owned(), role),
        None => (state.org.clone().unwrap_or_else(|| "?".to_owned()), None),
    };
    let who = state.who.value.as_ref().map(|who| {
        let role = role.map_or_else(|| "no role".to_owned(), |role| role.to_string());
        (who.email.clone(), format!(" ({role})"))
    });
    // What does not fit goes: the address first, then the user.
    let mut x = 1;
    x += canvas.text(x, 0, room, "zero-x", theme.heading()) + 2;
    x += canvas.text(x, 0, room.saturating_sub(x), "org ", Style::new());
    x += canvas.private(x, 0, room.saturating_sub(x), &org, theme.heading()) + 3;
    if let Some((email, role)) = who
        && x + cells(&email) + cells(&role) <= room
    {
        x += canvas.private(x, 0, room - x, &email, Style::new());
        x += canvas.text(x, 0, room.saturating_sub(x), &role, theme.dim()) + 3;
    }
    if x + cells(&state.address) <= room {
        canvas.private(x, 0, room - x, &state.address, theme.dim());
    }
}

/// Where the user is, on the left; what the list is made of, on the right.
fn title_line(canvas: &mut Canvas<'_>, state: &State) {
    let theme = canvas.theme;
    let width = canvas.area.width;
    let right = match state.screen() {
        Screen::Overview => {
            let mut names = vec!["1 overview".to_owned()];
            names.extend(
                (2..)
                    .zip(KINDS)
                    .map(|(n, kind)| format!("{n} {}", kind.name())),
            );
            names.join("  ")
        }
        Screen::List(_) => state.list().map(list::title).unwrap_or_default(),
        Screen::Detail(detail) => match state.list() {
            Some(list) if list.kind == detail.kind => format!(
                "{} of {}",
                list.cursor.saturating_add(1).min(list.len()),
                list.len()
            ),
            Some(_) | None => String::new(),
        },
    };
    let end = canvas.right(1, &right, theme.dim());
    let name = state.kind().map_or("overview", Kind::name);
    let mut x = 1 + canvas.text(1, 1, width, &capital(name), theme.heading());
    match state.screen() {
        Screen::Overview => {}
        Screen::List(kind) => {
            if let Some(list) = state.lists.get(kind).filter(|list| !list.filter.is_empty()) {
                let filter = format!("/{}", list.filter);
                // The filter may hold names; it is the user's own text, so it stays readable.
                canvas.text(x + 3, 1, end.saturating_sub(x + 5), &filter, theme.key());
            }
        }
        Screen::Detail(detail) => {
            x += canvas.text(x, 1, width, " › ", theme.dim());
            canvas.private(x, 1, end.saturating_sub(x + 2), &detail.id, Style::new());
        }
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// What is being typed, what the last key did, or the keys. Returns where the cursor stands.
fn footer_line(canvas: &mut Canvas<'_>, state: &State, y: u16) -> Option<(u16, u16)> {
    if let Some(prompt) = &state.prompt {
        return Some(prompt_line(canvas, prompt, y));
    }
    let width = canvas.area.width;
    if let Some(notice) = &state.notice {
        canvas.text(1, y, width.saturating_sub(2), notice, Style::new());
        return None;
    }
    let mut keys: Vec<_> = KEYS
        .iter()
        .filter(|key| key.places.contains(&state.place()))
        .filter_map(|key| Some((key.footer?, key.chords.first()?.name(), key.label)))
        .collect();
    keys.sort_by_key(|(order, _, _)| *order);
    // Whole hints only, the least needed left out first; then as the table has them.
    let mut room = usize::from(width.saturating_sub(1));
    keys.retain(|(_, name, label)| {
        let needed = name.width() + label.width() + 4;
        let fits = needed <= room;
        if fits {
            room -= needed;
        }
        fits
    });
    // Help and quit must stay but read best at the end.
    let ends = keys.len().min(2);
    keys.rotate_left(ends);
    let mut x = 1;
    for (_, name, label) in keys {
        let style = canvas.theme.key();
        x += canvas.text(x, y, width, &name, style) + 1;
        x += canvas.text(x, y, width, label, Style::new()) + 3;
    }
    None
}

fn prompt_line(canvas: &mut Canvas<'_>, prompt: &Prompt, y: u16) -> (u16, u16) {
    let width = canvas.area.width;
    let theme = canvas.theme;
    let sign = match prompt.purpose {
        Purpose::Filter => "/",
        Purpose::Command => ":",
    };
    let hint = match (&prompt.error, prompt.purpose) {
        (Some(error), _) => shortened(error, width.saturating_sub(cells(&prompt.text) + 8)),
        (None, Purpose::Filter) => "enter asks the hub, esc leaves".to_owned(),
        (None, Purpose::Command) => "tab completes, esc leaves".to_owned(),
    };
    canvas.text(1, y, 1, sign, theme.key());
    // Long text is seen around its cursor.
    let room = usize::from((width / 2).max(width.saturating_sub(cells(&hint) + 8)));
    let before: String = prompt.text.chars().take(prompt.cursor).collect();
    let skipped = skip_to_fit(&before, room.saturating_sub(2));
    let seen: String = prompt.text.chars().skip(skipped).collect();
    let at: String = before.chars().skip(skipped).collect();
    let room = u16::try_from(room).unwrap_or(width);
    let used = canvas.text(2, y, room, &seen, Style::new());
    let style = if prompt.error.is_some() {
        theme.bad()
    } else {
        theme.dim()
    };
    let from = 2 + used + 3;
    canvas.text(from, y, width.saturating_sub(from + 1), &hint, style);
    let x = (2 + cells(&plain(&at))).min(width.saturating_sub(1));
    (canvas.area.x + x, canvas.area.y + y)
}

/// Leaves out what there is to choose from where the room is only for the likeliest of it.
fn shortened(error: &str, room: u16) -> String {
    let parts = error.split_once(';').zip(error.rsplit_once("; did"));
    match parts {
        Some(((first, _), (_, hint))) if cells(error) > room => format!("{first}; did{hint}"),
        Some(_) | None => error.to_owned(),
    }
}

/// Returns how many characters to leave out at the front so that the rest fits.
fn skip_to_fit(text: &str, room: usize) -> usize {
    let mut skipped = 0;
    let mut rest = text;
    while rest.width() > room {
        let mut letters = rest.chars();
        letters.next();
        rest = letters.as_str();
        skipped += 1;
    }
    skipped
}

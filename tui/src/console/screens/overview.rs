//! The first screen: how bad it is, how much of it is known, and what needs a person.

use protocol::api::{Attention, Overview, SEVERITIES, Severity};
use ratatui::style::Style;

use super::{Canvas, age, cells, list, why_absent};
use crate::console::state::State;
use crate::console::theme::severity_text;

/// Rows of the counts.
const COUNTS: u16 = 6;

/// Rows below which there is no room for the events.
const WITH_EVENTS: u16 = 24;

const BARS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State) {
    let theme = canvas.theme;
    let width = canvas.area.width;
    let Some(overview) = &state.overview.value else {
        let error = state.overview.error.as_ref();
        let (words, style) = why_absent(theme, error, &state.link);
        canvas.paragraph(4, 1, &words, style);
        return;
    };
    severities(canvas, overview);
    let (middle, right) = (30, width.saturating_sub(23).min(90));
    resources(canvas, overview, middle, right.saturating_sub(middle + 2));
    verdicts(canvas, overview, right);
    canvas.rule(COUNTS);
    let mut rest = canvas.area.height.saturating_sub(COUNTS + 1);
    if canvas.area.height >= WITH_EVENTS && !overview.events_per_minute.is_empty() {
        rest -= 3;
        let y = COUNTS + 1 + rest;
        canvas.rule(y);
        events(&mut canvas.part(y + 1, 2), overview);
    }
    attention(
        &mut canvas.part(COUNTS + 1, rest),
        state,
        &overview.attention,
    );
    if let Some(error) = &state.overview.error {
        let last = canvas.area.height.saturating_sub(1);
        canvas.text(
            1,
            last,
            width.saturating_sub(2),
            &error.to_string(),
            theme.bad(),
        );
    }
}

fn signed(change: i64) -> String {
    match change {
        0 => "0".to_owned(),
        change => format!("{change:+}"),
    }
}

fn severities(canvas: &mut Canvas<'_>, overview: &Overview) {
    let theme = canvas.theme;
    canvas.text(1, 0, 30, "OPEN FINDINGS        24 h", theme.heading());
    let worst_first = SEVERITIES
        .iter()
        .rev()
        .filter_map(|word| Severity::from_word(word));
    for (y, severity) in (1..).zip(worst_first) {
        let word = severity.word();
        let count = overview.open_by_severity.get(word).copied().unwrap_or(0);
        let change = overview.change_24h.get(word).copied().unwrap_or(0);
        let glyph = severity_text(severity).get(..2).unwrap_or_default();
        let style = if count == 0 {
            theme.dim()
        } else {
            theme.severity(severity)
        };
        let text = format!("{glyph} {word:<8} {count:>5}");
        canvas.text(1, y, 18, &text, style);
        canvas.text(19, y, 8, &format!("{:>7}", signed(change)), Style::new());
    }
}

fn resources(canvas: &mut Canvas<'_>, overview: &Overview, x: u16, width: u16) {
    let theme = canvas.theme;
    let total: u64 = overview.resources_by_type.values().sum();
    canvas.text(x, 0, width, &format!("RESOURCES  {total}"), theme.heading());
    let mut types: Vec<(&String, &u64)> = overview.resources_by_type.iter().collect();
    types.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let rows = usize::from(COUNTS - 1);
    let (shown, rest) = if types.len() > rows {
        types.split_at(rows - 1)
    } else {
        types.split_at(types.len())
    };
    let mut y = 1;
    for (name, count) in shown {
        canvas.text(x, y, width, &format!("{count:>6}  {name}"), Style::new());
        y += 1;
    }
    if !rest.is_empty() {
        let count: u64 = rest.iter().map(|(_, count)| **count).sum();
        let text = format!("{count:>6}  of {} other types", rest.len());
        canvas.text(x, y, width, &text, theme.dim());
    }
}

/// The share of passes is of all that was judged or should have been: what is not known is never
/// counted as a pass, and 99.9 % is not 100 %.
fn pass_share(pass: u64, fail: u64, unknown: u64) -> Option<u64> {
    let all = pass.checked_add(fail)?.checked_add(unknown)?;
    pass.checked_mul(100)?.checked_div(all)
}

fn verdicts(canvas: &mut Canvas<'_>, overview: &Overview, x: u16) {
    let theme = canvas.theme;
    let count = |word: &str| overview.verdicts.get(word).copied().unwrap_or(0);
    let (pass, fail, unknown) = (count("pass"), count("fail"), count("unknown"));
    canvas.text(x, 0, 22, "VERDICTS", theme.heading());
    let share =
        pass_share(pass, fail, unknown).map_or_else(String::new, |share| format!("{share:>5} %"));
    canvas.text(x, 1, 22, &format!("pass    {pass:>6}{share}"), theme.good());
    canvas.text(x, 2, 22, &format!("fail    {fail:>6}"), theme.bad());
    let style = if unknown == 0 {
        theme.dim()
    } else {
        theme.unsure()
    };
    canvas.text(x, 3, 22, &format!("unknown {unknown:>6}"), style);
    let agents: Vec<(&str, u64)> = overview
        .agents
        .iter()
        .map(|(state, count)| (state.as_str(), *count))
        .filter(|(_, count)| *count > 0)
        .collect();
    canvas.text(x, 4, 22, "AGENTS", theme.heading());
    if agents.is_empty() {
        canvas.text(x, 5, 22, "none enrolled", theme.unsure());
        return;
    }
    let mut at = x;
    for (state, count) in agents {
        let style = if state == "online" {
            theme.good()
        } else {
            theme.unsure()
        };
        at += canvas.text(at, 5, 22, &format!("{count} {state}"), style) + 2;
    }
}

fn events(canvas: &mut Canvas<'_>, overview: &Overview) {
    let theme = canvas.theme;
    let most = overview
        .events_per_minute
        .iter()
        .copied()
        .max()
        .unwrap_or(0);
    let minutes = overview.events_per_minute.len();
    let words = format!("EVENTS per minute, last {minutes} min, at most {most}");
    canvas.text(1, 0, canvas.area.width, &words, theme.heading());
    let mut line = String::new();
    for count in &overview.events_per_minute {
        // A minute without events is a gap, not the lowest bar.
        let bar = match (count.checked_mul(7), *count) {
            (_, 0) => " ",
            (Some(sevenfold), _) => sevenfold
                .checked_div(most)
                .and_then(|bar| BARS.get(usize::try_from(bar).ok()?).copied())
                .unwrap_or("█"),
            (None, _) => "█",
        };
        line.push_str(bar);
    }
    canvas.text(1, 1, canvas.area.width, &line, theme.key());
}

/// Returns whether any check has come to a verdict, as far as the overview says.
pub(super) fn is_judged(state: &State) -> bool {
    let overview = state.overview.value.as_ref();
    overview.is_none_or(|overview| overview.verdicts.values().any(|count| *count > 0))
}

/// Says what kind of thing needs a person.
fn what(row: &Attention) -> &str {
    match row.kind.as_str() {
        "finding" => "broken",
        "scope" => "not read",
        "quarantine" => "refused",
        "loss" => "lost",
        kind => kind,
    }
}

fn attention(canvas: &mut Canvas<'_>, state: &State, rows: &[Attention]) {
    let theme = canvas.theme;
    let width = canvas.area.width;
    canvas.text(1, 0, width, "NEEDS ATTENTION", theme.heading());
    if rows.is_empty() {
        // Silence is good news only where something has been judged.
        if is_judged(state) {
            canvas.text(4, 2, width, "nothing needs a person", theme.good());
        } else {
            let words =
                "nothing has been judged yet; `zero-x agent token create` begins with an agent";
            canvas.paragraph(4, 2, words, theme.unsure());
        }
        return;
    }
    canvas.right(0, "since", theme.heading());
    let height = usize::from(canvas.area.height.saturating_sub(1));
    let first = list::first_row(state.attention, rows.len(), height);
    for (y, (place, row)) in (1..).zip(rows.iter().enumerate().skip(first).take(height)) {
        let style = theme.severity(row.severity);
        let glyph = severity_text(row.severity).get(..2).unwrap_or_default();
        canvas.text(1, y, 2, glyph, style);
        canvas.text(4, y, 9, what(row), theme.dim());
        let since = age(row.since, state.now);
        let room = width.saturating_sub(14 + cells(&since) + 3);
        // The hub's words hold names wherever they need them.
        canvas.private(14, y, room, &row.text, Style::new());
        canvas.right(y, &since, theme.dim());
        if place == state.attention {
            canvas.text(0, y, 1, "▸", Style::new());
            canvas.highlight(y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_pass_and_nearly_all_is_not_all() {
        assert_eq!(pass_share(3120, 412, 18), Some(87));
        assert_eq!(pass_share(999, 0, 1), Some(99));
        assert_eq!(pass_share(5, 0, 0), Some(100));
        assert_eq!(pass_share(0, 0, 0), None);
    }
}

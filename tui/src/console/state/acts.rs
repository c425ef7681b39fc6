//! What each key does.

use jiff::Timestamp;

use super::list::{ListState, quoted, travelled};
use super::prompt::{Prompt, Purpose};
use super::{Detail, Loaded, SPINNER_AFTER, Screen, State};
use crate::console::event::Effect;
use crate::console::item::{Item, KINDS, Kind};
use crate::console::keymap::{Act, Travel};

/// Most text that is put on the clipboard. Some terminals drop sequences above 100,000 bytes, and
/// base64 adds a third.
const CLIPBOARD_BYTES: usize = 70_000;

impl State {
    pub(super) fn act(&mut self, act: Act) -> Vec<Effect> {
        match act {
            Act::Open => self.open(),
            Act::Back => self.back(),
            Act::Travel(travel) => self.travel(travel),
            Act::Filter => {
                if let Some(list) = self.shown_list() {
                    list.hold_row();
                    let text = list.filter.clone();
                    let text = if text.is_empty() {
                        text
                    } else {
                        format!("{} ", text.trim_end())
                    };
                    self.prompt = Some(Prompt::new(Purpose::Filter, &text));
                }
                Vec::new()
            }
            Act::Command => {
                self.prompt = Some(Prompt::new(Purpose::Command, ""));
                Vec::new()
            }
            Act::Sort => self.sort(ListState::sort_next),
            Act::Reverse => self.sort(ListState::reverse),
            Act::Mark => self.mark(ListState::mark),
            Act::MarkRange => self.mark(ListState::mark_range),
            Act::ClearMarks => self.mark(ListState::clear_marks),
            Act::CopyId => self.copy_id(),
            Act::CopyCommand => self.copy_command(),
            Act::Freeze => {
                self.is_frozen = !self.is_frozen;
                if self.is_frozen {
                    Vec::new()
                } else {
                    self.refresh(false)
                }
            }
            Act::Privacy => {
                self.is_masked = !self.is_masked;
                Vec::new()
            }
            Act::Refresh => self.refresh(true),
            Act::LastScreen => self.last.take().map_or_else(Vec::new, |last| {
                self.last = Some(std::mem::replace(&mut self.screens, last));
                self.arrive()
            }),
            Act::Screen(number) => self.go(match number.checked_sub(2) {
                Some(index) => KINDS
                    .get(index)
                    .map_or(Screen::Overview, |kind| Screen::List(*kind)),
                None => Screen::Overview,
            }),
            Act::NextTab => self.turn_tab(1),
            Act::PreviousTab => self.turn_tab(-1),
            Act::NextRow => self.other_row(Travel::Down),
            Act::PreviousRow => self.other_row(Travel::Up),
            Act::Across => self.across(),
            Act::Help => {
                self.help = Some(0);
                Vec::new()
            }
            Act::Suspend => vec![Effect::Suspend],
            Act::Quit => vec![Effect::Quit],
        }
    }

    /// Goes to a screen from the row of screens.
    pub(super) fn go(&mut self, screen: Screen) -> Vec<Effect> {
        self.last = Some(std::mem::replace(&mut self.screens, vec![screen]));
        self.arrive()
    }

    pub(super) fn push(&mut self, detail: Detail) -> Vec<Effect> {
        self.screens.push(Screen::Detail(Box::new(detail)));
        self.arrive()
    }

    /// Asks for what has come on top.
    pub(super) fn arrive(&mut self) -> Vec<Effect> {
        self.refresh(true)
    }

    pub(super) fn back(&mut self) -> Vec<Effect> {
        let waits = self.shown_list().and_then(|list| {
            let asked = list.loaded.asked.filter(|asked| asked.is_wanted)?;
            list.loaded.value.is_some().then_some(asked)
        });
        // The first `esc` gives up a wait that has become long enough to be seen.
        if waits.is_some_and(|asked| self.now.duration_since(asked.at) >= SPINNER_AFTER) {
            if let Some(list) = self.shown_list() {
                list.loaded.asked = None;
            }
            self.notice = Some("no longer waiting; the rows are as they were".to_owned());
            return Vec::new();
        }
        if self.screens.len() > 1 {
            self.screens.pop();
            return self.arrive();
        }
        match self.screen() {
            Screen::Overview => Vec::new(),
            Screen::List(_) | Screen::Detail(_) => self.go(Screen::Overview),
        }
    }

    pub(super) fn open(&mut self) -> Vec<Effect> {
        let detail = match self.screen() {
            Screen::Overview => {
                let row = self
                    .overview
                    .value
                    .as_ref()
                    .and_then(|overview| overview.attention.get(self.attention));
                let Some(row) = row else {
                    return Vec::new();
                };
                let id = row.target.clone();
                match row.kind.as_str() {
                    "finding" => detail_of(Kind::Finding, id),
                    "agent" => detail_of(Kind::Agent, id),
                    "source" => detail_of(Kind::Source, id),
                    // The line says it all; the hub's own commands mend it.
                    "certificate" => return Vec::new(),
                    // What could not be read is explained by the source that could not read it.
                    _ => return self.go(Screen::List(Kind::Source)),
                }
            }
            Screen::List(kind) => {
                let Some(item) = self.list().and_then(ListState::selected) else {
                    return Vec::new();
                };
                with_item(detail_of(*kind, item.id()), item, self.now)
            }
            Screen::Detail(_) => return Vec::new(),
        };
        self.push(detail)
    }

    pub(super) fn travel(&mut self, travel: Travel) -> Vec<Effect> {
        let page = self.page();
        let extent = match self.screen() {
            Screen::Detail(detail) => crate::console::screens::detail_extent(self, detail),
            Screen::Overview | Screen::List(_) => (0, 0),
        };
        match self.screens.last_mut() {
            None | Some(Screen::Overview) => {
                let overview = self.overview.value.as_ref();
                let len = overview.map_or(0, |overview| overview.attention.len());
                self.attention = travelled(self.attention, len, travel, page);
            }
            Some(Screen::List(_)) => {
                if let Some(list) = self.shown_list() {
                    list.travel(travel, page);
                }
            }
            Some(Screen::Detail(detail)) => {
                let (lines, seen) = extent;
                let stops = lines.saturating_sub(seen) + 1;
                detail.scroll = travelled(detail.scroll, stops, travel, seen);
            }
        }
        Vec::new()
    }

    pub(super) fn turn_tab(&mut self, step: isize) -> Vec<Effect> {
        if let Some(Screen::Detail(detail)) = self.screens.last_mut()
            && let Some(item) = &detail.loaded.value
        {
            let tabs = item.tabs().len();
            let step = if step < 0 { tabs - 1 } else { 1 };
            detail.tab = (detail.tab + step) % tabs.max(1);
            detail.scroll = 0;
        }
        Vec::new()
    }

    /// Shows the detail of the row below or above in the list that the detail came from.
    pub(super) fn other_row(&mut self, travel: Travel) -> Vec<Effect> {
        let now = self.now;
        let [.., Screen::List(kind), Screen::Detail(detail)] = self.screens.as_mut_slice() else {
            return Vec::new();
        };
        let Some(list) = self.lists.get_mut(kind).filter(|_| *kind == detail.kind) else {
            return Vec::new();
        };
        list.travel(travel, 1);
        let Some(item) = list.selected().filter(|item| item.id() != detail.id) else {
            return Vec::new();
        };
        let tab = detail.tab;
        **detail = with_item(detail_of(*kind, item.id()), item, now);
        detail.tab = tab;
        self.arrive()
    }

    /// Goes from a finding to its resource, and from a resource to its findings.
    pub(super) fn across(&mut self) -> Vec<Effect> {
        let item = match self.screen() {
            Screen::Overview => None,
            Screen::List(_) => self.list().and_then(ListState::selected),
            Screen::Detail(detail) => detail.loaded.value.as_ref(),
        };
        match item {
            Some(Item::Finding(finding)) => {
                let urn = finding.resource.urn.clone();
                self.push(detail_of(Kind::Resource, urn))
            }
            Some(Item::Resource(resource)) => {
                let urn = resource.document.urn.to_string();
                // The grammar cuts values at commas and words at white space and quotes.
                if urn.contains([',', '\'', '"']) || urn.contains(char::is_whitespace) {
                    self.notice = Some("its URN cannot be written in a filter".to_owned());
                    return Vec::new();
                }
                self.filtered(Kind::Finding, format!("status=open resource={urn}"))
            }
            Some(Item::Event(_) | Item::Agent(_) | Item::Source(_)) | None => {
                self.notice = Some("only findings and resources belong together".to_owned());
                Vec::new()
            }
        }
    }

    pub(super) fn filtered(&mut self, kind: Kind, filter: String) -> Vec<Effect> {
        if let Some(list) = self.lists.get_mut(&kind) {
            list.filter = filter;
            list.cursor = 0;
            // What is loaded answers another question.
            list.loaded = Loaded::default();
            list.shown = None;
        }
        self.go(Screen::List(kind))
    }

    pub(super) fn sort(&mut self, turn: impl FnOnce(&mut ListState) -> bool) -> Vec<Effect> {
        let Some(list) = self.shown_list() else {
            return Vec::new();
        };
        if turn(list) {
            return self.arrive();
        }
        self.notice = Some("this list has one order".to_owned());
        Vec::new()
    }

    pub(super) fn mark(&mut self, change: impl FnOnce(&mut ListState)) -> Vec<Effect> {
        if let Some(list) = self.shown_list() {
            change(list);
        }
        Vec::new()
    }

    pub(super) fn copy_id(&mut self) -> Vec<Effect> {
        let text = match self.screen() {
            Screen::Overview => None,
            Screen::List(_) => self.list().and_then(|list| {
                if list.marks.is_empty() {
                    list.selected().map(Item::id)
                } else {
                    Some(list.marks.iter().cloned().collect::<Vec<_>>().join("\n"))
                }
            }),
            Screen::Detail(detail) => Some(detail.id.clone()),
        };
        self.copy(text)
    }

    pub(super) fn copy_command(&mut self) -> Vec<Effect> {
        let org = self.org.as_deref();
        let text = match self.screen() {
            Screen::Overview => None,
            Screen::List(_) => self.list().map(|list| list.command(org)),
            Screen::Detail(detail) => {
                let org = org.map_or_else(String::new, |org| format!(" --org {}", quoted(org)));
                let noun = detail.kind.noun();
                Some(format!("zero-x {noun} show {}{org}", quoted(&detail.id)))
            }
        };
        self.copy(text)
    }

    pub(super) fn copy(&mut self, text: Option<String>) -> Vec<Effect> {
        let Some(text) = text else {
            return Vec::new();
        };
        if text.len() > CLIPBOARD_BYTES {
            self.notice = Some("that is more than a terminal's clipboard takes".to_owned());
            return Vec::new();
        }
        let lines = text.lines().count();
        self.notice = Some(match lines {
            1 if self.is_masked => "copied".to_owned(),
            1 => format!("copied: {text}"),
            _ => format!("copied {lines} lines"),
        });
        vec![Effect::Copy(text)]
    }
}

fn detail_of(kind: Kind, id: String) -> Detail {
    Detail {
        kind,
        id,
        tab: 0,
        scroll: 0,
        loaded: Loaded::default(),
    }
}

/// A list's row already has all that the detail shows; asking again only makes it fresh.
fn with_item(detail: Detail, item: &Item, now: Timestamp) -> Detail {
    let mut detail = detail;
    detail.loaded.arrived(item.clone(), now);
    detail
}

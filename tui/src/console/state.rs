//! All that the console knows, and how events change it. No socket, disk, terminal or clock: the
//! time comes with each event, what is to be done goes back as effects.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use protocol::api::{Overview, Role, WhoAmI};

use super::event::{Effect, Event, FetchError, News, Payload, Question, Rows};
use super::item::{Item, KINDS, Kind};
use super::keymap::{Act, Chord, Place, Travel, act_of};

mod link;
pub(crate) mod list;
pub(crate) mod prompt;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use link::Link;
use list::{ListState, quoted, travelled};
use prompt::{Command, Edited, Prompt, Purpose};

/// An answer that takes longer than this gets a word on the screen.
const SPINNER_AFTER: SignedDuration = SignedDuration::from_millis(150);

/// Most text that is put on the clipboard. Some terminals drop sequences above 100,000 bytes, and
/// base64 adds a third.
const CLIPBOARD_BYTES: usize = 70_000;

/// Rows of a screen that are no body: header, title, two rules, footer.
pub(crate) const FRAME_ROWS: u16 = 5;

/// A question that was asked and not yet answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Its number.
    pub(crate) ask: u64,
    /// When it was asked.
    pub(crate) at: Timestamp,
    /// A person waits for it, not only the clock.
    pub(crate) is_wanted: bool,
}

/// Something that comes from the hub.
#[derive(Debug)]
pub(crate) struct Loaded<T> {
    /// The last that came.
    pub(crate) value: Option<T>,
    /// When it came.
    pub(crate) at: Option<Timestamp>,
    /// The question under way.
    pub(crate) asked: Option<Asked>,
    /// Why the last question brought nothing; cleared by the next that does.
    pub(crate) error: Option<FetchError>,
}

impl<T> Default for Loaded<T> {
    fn default() -> Self {
        Self {
            value: None,
            at: None,
            asked: None,
            error: None,
        }
    }
}

impl<T> Loaded<T> {
    /// Takes an answer.
    pub(crate) fn arrived(&mut self, value: T, now: Timestamp) {
        self.value = Some(value);
        self.at = Some(now);
        self.error = None;
    }

    /// Ends the question under way and returns it, if it has this number.
    fn ends(&mut self, ask: u64) -> Option<Asked> {
        self.asked.take_if(|asked| asked.ask == ask)
    }
}

/// The detail of one object.
#[derive(Debug)]
pub(crate) struct Detail {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its id, or a resource's URN until the resource has come.
    pub(crate) id: String,
    /// The part that is shown.
    pub(crate) tab: usize,
    /// Lines scrolled away at the top.
    pub(crate) scroll: usize,
    /// The object.
    pub(crate) loaded: Loaded<Item>,
}

/// What fills the screen.
#[derive(Debug)]
pub(crate) enum Screen {
    /// The counts.
    Overview,
    /// A list.
    List(Kind),
    /// An object.
    Detail(Box<Detail>),
}

/// Where an answer belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Who,
    Overview,
    List(Kind),
    /// By its place among the screens.
    Detail(usize),
}

/// All that the console knows.
#[derive(Debug)]
pub(crate) struct State {
    /// The hub, as host and port.
    pub(crate) address: String,
    /// Time of the last event.
    pub(crate) now: Timestamp,
    /// Columns and rows of the terminal.
    pub(crate) size: (u16, u16),
    /// Whether the hub answers.
    pub(crate) link: Link,
    /// Who is signed in.
    pub(crate) who: Loaded<WhoAmI>,
    /// The organisation that was asked for, by id or name.
    pub(crate) org: Option<String>,
    /// The counts.
    pub(crate) overview: Loaded<Overview>,
    /// The row of the overview under the cursor.
    pub(crate) attention: usize,
    /// A list for each kind.
    pub(crate) lists: BTreeMap<Kind, ListState>,
    /// The screens, the one on top last; never empty.
    screens: Vec<Screen>,
    /// The screens that were left last.
    last: Option<Vec<Screen>>,
    /// The line that is being typed.
    pub(crate) prompt: Option<Prompt>,
    /// The keys are shown, from this line on.
    pub(crate) help: Option<usize>,
    /// What the last key brought about.
    pub(crate) notice: Option<String>,
    /// The view does not change.
    pub(crate) is_frozen: bool,
    /// Names are hidden.
    pub(crate) is_masked: bool,
    /// Number of the last question.
    asks: u64,
    /// When what is seen should be asked for again.
    due_at: Option<Timestamp>,
    /// When the hub last said that what is seen has changed.
    news_at: Option<Timestamp>,
    /// Before this the hub is left in peace, unless its user asks.
    rest_until: Timestamp,
    listener: link::Listener,
}

impl State {
    /// Makes the state of a console that has just been opened.
    pub(crate) fn new(address: String, org: Option<String>, now: Timestamp) -> Self {
        Self {
            address,
            now,
            size: (80, 24),
            link: Link::Connecting,
            who: Loaded::default(),
            org,
            overview: Loaded::default(),
            attention: 0,
            lists: KINDS.map(|kind| (kind, ListState::new(kind))).into(),
            screens: vec![Screen::Overview],
            last: None,
            prompt: None,
            help: None,
            notice: None,
            is_frozen: false,
            is_masked: false,
            asks: 0,
            due_at: None,
            news_at: None,
            rest_until: now,
            listener: link::Listener::default(),
        }
    }

    /// Returns the screen on top.
    pub(crate) fn screen(&self) -> &Screen {
        self.screens.last().unwrap_or(&Screen::Overview)
    }

    /// Returns where keys are pressed.
    pub(crate) fn place(&self) -> Place {
        match self.screen() {
            Screen::Overview => Place::Overview,
            Screen::List(_) => Place::List,
            Screen::Detail(_) => Place::Detail,
        }
    }

    /// Returns the kind of what is shown, if it is of one.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match self.screen() {
            Screen::Overview => None,
            Screen::List(kind) => Some(*kind),
            Screen::Detail(detail) => Some(detail.kind),
        }
    }

    /// Returns the list below or on the screen.
    pub(crate) fn list(&self) -> Option<&ListState> {
        let below = self.screens.iter().rev().find_map(|screen| match screen {
            Screen::List(kind) => Some(kind),
            Screen::Overview | Screen::Detail(_) => None,
        });
        self.lists.get(below?)
    }

    fn shown_list(&mut self) -> Option<&mut ListState> {
        let Screen::List(kind) = self.screen() else {
            return None;
        };
        let kind = *kind;
        self.lists.get_mut(&kind)
    }

    /// Returns the name and the role of the organisation that is shown, once they are known.
    pub(crate) fn org_name(&self) -> Option<(&str, Option<Role>)> {
        let orgs = &self.who.value.as_ref()?.orgs;
        let wanted = |org: &&protocol::api::Org| match &self.org {
            Some(wanted) => org.name == *wanted || org.id.to_string() == *wanted,
            None => true,
        };
        let found = orgs.iter().find(wanted)?;
        Some((found.name.as_str(), found.role))
    }

    /// Returns how many rows a list shows at once.
    fn page(&self) -> usize {
        usize::from(self.size.1.saturating_sub(FRAME_ROWS + 1)).max(1)
    }

    /// Begins: asks who is signed in and for the counts.
    pub(crate) fn start(&mut self) -> Vec<Effect> {
        let mut effects = vec![self.ask_who()];
        effects.extend(self.refresh(true));
        effects
    }

    /// Takes one event and returns what is to be done.
    pub(crate) fn update(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        self.now = now;
        match event {
            Event::Key(key) => self.key(key),
            Event::Paste(text) => {
                // Elsewhere each pasted letter would be a command.
                if let Some(prompt) = &mut self.prompt {
                    prompt.insert(&text);
                    self.typed();
                }
                Vec::new()
            }
            Event::Resized(columns, rows) => {
                self.size = (columns, rows);
                Vec::new()
            }
            Event::Tick => self.tick(),
            Event::Reply { ask, answer } => self.reply(ask, answer),
            Event::Part { ask, rows } => {
                self.part(ask, rows);
                Vec::new()
            }
            Event::News { listener, news } => self.news(listener, news),
        }
    }

    fn number(&mut self) -> u64 {
        self.asks += 1;
        self.asks
    }

    fn ask_who(&mut self) -> Effect {
        let ask = self.number();
        self.who.asked = Some(Asked {
            ask,
            at: self.now,
            is_wanted: false,
        });
        Effect::Fetch {
            ask,
            org: None,
            question: Question::Who,
        }
    }

    /// Asks for what is seen, in place of any question under way.
    fn refresh(&mut self, is_wanted: bool) -> Vec<Effect> {
        let ask = self.number();
        let asked = Some(Asked {
            ask,
            at: self.now,
            is_wanted,
        });
        self.due_at = None;
        self.news_at = None;
        let question = match self.screens.last_mut() {
            None | Some(Screen::Overview) => {
                self.overview.asked = asked;
                Question::Overview
            }
            Some(Screen::List(kind)) => {
                let kind = *kind;
                let Some(list) = self.lists.get_mut(&kind) else {
                    return Vec::new();
                };
                list.loaded.asked = asked;
                Question::Rows {
                    kind,
                    filter: list.filter.clone(),
                    sort: list.sort_text(),
                }
            }
            Some(Screen::Detail(detail)) => {
                detail.loaded.asked = asked;
                Question::One {
                    kind: detail.kind,
                    id: detail.id.clone(),
                }
            }
        };
        vec![Effect::Fetch {
            ask,
            org: self.org.clone(),
            question,
        }]
    }

    /// An answer to a question that is no longer the one under way is dropped.
    fn reply(&mut self, ask: u64, answer: Result<Payload, FetchError>) -> Vec<Effect> {
        if let Some(asked) = self.who.ends(ask) {
            return self.settle(asked, answer, Slot::Who);
        }
        if let Some(asked) = self.overview.ends(ask) {
            return self.settle(asked, answer, Slot::Overview);
        }
        for (kind, list) in &mut self.lists {
            let kind = *kind;
            if let Some(asked) = list.loaded.ends(ask) {
                return self.settle(asked, answer, Slot::List(kind));
            }
        }
        for (index, screen) in self.screens.iter_mut().enumerate() {
            if let Screen::Detail(detail) = screen
                && let Some(asked) = detail.loaded.ends(ask)
            {
                return self.settle(asked, answer, Slot::Detail(index));
            }
        }
        Vec::new()
    }

    /// Shows the first rows where there are none yet; rows that are there wait for all.
    fn part(&mut self, ask: u64, rows: Rows) {
        let now = self.now;
        let is_typing = self.is_typing_filter();
        let wants = |list: &&mut ListState| {
            let is_it = list.loaded.asked.is_some_and(|asked| asked.ask == ask);
            is_it && list.loaded.value.is_none()
        };
        if let Some(list) = self.lists.values_mut().find(wants) {
            list.replace(rows, now, is_typing);
        }
    }

    fn settle(
        &mut self,
        asked: Asked,
        answer: Result<Payload, FetchError>,
        slot: Slot,
    ) -> Vec<Effect> {
        match answer {
            Err(FetchError::Unreachable(why)) => {
                self.went_offline(asked.ask, why);
                Vec::new()
            }
            Err(FetchError::SignedOut) => {
                self.link = Link::SignedOut;
                Vec::new()
            }
            // Any other answer says at least that the hub is there.
            Err(error) => {
                let place = match slot {
                    Slot::Who => Some(&mut self.who.error),
                    Slot::Overview => Some(&mut self.overview.error),
                    Slot::List(kind) => {
                        self.lists.get_mut(&kind).map(|list| &mut list.loaded.error)
                    }
                    Slot::Detail(index) => {
                        self.detail_at(index).map(|detail| &mut detail.loaded.error)
                    }
                };
                if let Some(place) = place {
                    *place = Some(error);
                }
                self.answered(slot, asked.at)
            }
            Ok(payload) => {
                // A frozen view changes only by what its user asks for.
                if asked.is_wanted || !self.is_frozen || slot == Slot::Who {
                    self.take(payload, slot);
                }
                self.answered(slot, asked.at)
            }
        }
    }

    fn detail_at(&mut self, index: usize) -> Option<&mut Detail> {
        match self.screens.get_mut(index)? {
            Screen::Detail(detail) => Some(detail),
            Screen::Overview | Screen::List(_) => None,
        }
    }

    fn take(&mut self, payload: Payload, slot: Slot) {
        let now = self.now;
        match (payload, slot) {
            (Payload::Who(who), Slot::Who) => self.who.arrived(who, now),
            (Payload::Overview(overview), Slot::Overview) => {
                let last = overview.attention.len().saturating_sub(1);
                self.attention = self.attention.min(last);
                self.overview.arrived(overview, now);
            }
            (Payload::Rows(rows), Slot::List(kind)) => {
                let is_typing = self.is_typing_filter();
                if let Some(list) = self.lists.get_mut(&kind) {
                    list.replace(rows, now, is_typing);
                }
                self.preview();
            }
            (Payload::One(item), Slot::Detail(index)) => {
                if let Some(detail) = self.detail_at(index) {
                    detail.id = item.id();
                    detail.loaded.arrived(item, now);
                }
            }
            // The shell answers what it was asked.
            (Payload::Who(_) | Payload::Overview(_) | Payload::Rows(_) | Payload::One(_), _) => {}
        }
    }

    fn key(&mut self, key: crossterm::event::KeyEvent) -> Vec<Effect> {
        let Some(chord) = Chord::of(key) else {
            return Vec::new();
        };
        let place = self.place();
        let act = act_of(place, chord);
        if let Some(from) = self.help {
            self.help = match act {
                Some(Act::Travel(travel)) => Some(travelled(from, usize::MAX, travel, self.page())),
                Some(Act::Quit) if self.prompt.is_none() => return vec![Effect::Quit],
                _ => None,
            };
            return Vec::new();
        }
        if self.prompt.is_some() {
            return self.prompt_key(key, chord);
        }
        self.notice = None;
        act.map_or_else(Vec::new, |act| self.act(act))
    }

    fn act(&mut self, act: Act) -> Vec<Effect> {
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
    fn go(&mut self, screen: Screen) -> Vec<Effect> {
        self.last = Some(std::mem::replace(&mut self.screens, vec![screen]));
        self.arrive()
    }

    fn push(&mut self, detail: Detail) -> Vec<Effect> {
        self.screens.push(Screen::Detail(Box::new(detail)));
        self.arrive()
    }

    /// Asks for what has come on top.
    fn arrive(&mut self) -> Vec<Effect> {
        self.refresh(true)
    }

    fn back(&mut self) -> Vec<Effect> {
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

    fn open(&mut self) -> Vec<Effect> {
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

    fn travel(&mut self, travel: Travel) -> Vec<Effect> {
        let page = self.page();
        let extent = match self.screen() {
            Screen::Detail(detail) => super::screens::detail_extent(self, detail),
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

    fn turn_tab(&mut self, step: isize) -> Vec<Effect> {
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
    fn other_row(&mut self, travel: Travel) -> Vec<Effect> {
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
    fn across(&mut self) -> Vec<Effect> {
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

    fn filtered(&mut self, kind: Kind, filter: String) -> Vec<Effect> {
        if let Some(list) = self.lists.get_mut(&kind) {
            list.filter = filter;
            list.cursor = 0;
            // What is loaded answers another question.
            list.loaded = Loaded::default();
            list.shown = None;
        }
        self.go(Screen::List(kind))
    }

    fn sort(&mut self, turn: impl FnOnce(&mut ListState) -> bool) -> Vec<Effect> {
        let Some(list) = self.shown_list() else {
            return Vec::new();
        };
        if turn(list) {
            return self.arrive();
        }
        self.notice = Some("this list has one order".to_owned());
        Vec::new()
    }

    fn mark(&mut self, change: impl FnOnce(&mut ListState)) -> Vec<Effect> {
        if let Some(list) = self.shown_list() {
            change(list);
        }
        Vec::new()
    }

    fn copy_id(&mut self) -> Vec<Effect> {
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

    fn copy_command(&mut self) -> Vec<Effect> {
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

    fn copy(&mut self, text: Option<String>) -> Vec<Effect> {
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

    fn prompt_key(&mut self, key: crossterm::event::KeyEvent, chord: Chord) -> Vec<Effect> {
        // Of the keys that the table gives a meaning everywhere, those with ctrl keep it.
        let kept = act_of(Place::Overview, chord);
        if key.code.as_char() == Some('c') && kept == Some(Act::Quit) && chord.name() != "c" {
            return vec![Effect::Quit];
        }
        let fields: Vec<&str> = match self.kind() {
            Some(kind) => kind.fields().iter().map(|field| field.name).collect(),
            None => Vec::new(),
        };
        let Some(prompt) = &mut self.prompt else {
            return Vec::new();
        };
        let words = match prompt.purpose {
            Purpose::Filter => fields,
            Purpose::Command => prompt::names(),
        };
        match prompt.edit(key, &words) {
            Edited::Changed => {
                self.typed();
                Vec::new()
            }
            Edited::Done => self.prompt_done(),
            Edited::Left => {
                self.prompt = None;
                if let Some(list) = self.shown_list() {
                    list.give_up_filter();
                }
                Vec::new()
            }
            Edited::Nothing => Vec::new(),
        }
    }

    /// Shows at once what the text so far would leave.
    fn typed(&mut self) {
        if let Some(prompt) = &mut self.prompt {
            prompt.error = None;
        }
        self.preview();
    }

    fn is_typing_filter(&self) -> bool {
        let mut prompt = self.prompt.iter();
        prompt.any(|prompt| prompt.purpose == Purpose::Filter)
    }

    fn preview(&mut self) {
        let now = self.now;
        let Some(prompt) = self.prompt.as_ref().filter(|_| self.is_typing_filter()) else {
            return;
        };
        let text = prompt.text.clone();
        let read = self.shown_list().map(|list| list.preview(&text, now));
        if let (Some(Err(error)), Some(prompt)) = (read, &mut self.prompt) {
            prompt.error = Some(error.to_string());
        }
    }

    fn prompt_done(&mut self) -> Vec<Effect> {
        let Some(prompt) = &self.prompt else {
            return Vec::new();
        };
        let text = prompt.text.trim().to_owned();
        match prompt.purpose {
            Purpose::Filter => {
                self.preview();
                if self.prompt.as_ref().is_some_and(|p| p.error.is_some()) {
                    return Vec::new();
                }
                self.prompt = None;
                let Some(list) = self.shown_list() else {
                    return Vec::new();
                };
                list.filter = text;
                self.arrive()
            }
            Purpose::Command => match prompt::command(&text) {
                Ok(command) => {
                    self.prompt = None;
                    self.command(command)
                }
                Err(error) => {
                    if let Some(prompt) = &mut self.prompt {
                        prompt.error = Some(error);
                    }
                    Vec::new()
                }
            },
        }
    }

    fn command(&mut self, command: Command) -> Vec<Effect> {
        match command {
            Command::Overview => self.go(Screen::Overview),
            Command::List(kind, None) => self.go(Screen::List(kind)),
            Command::List(kind, Some(filter)) => {
                let read = protocol::filter::Filter::parse(&filter, kind.fields(), self.now);
                if let Err(error) = read {
                    let text = format!("{} {filter}", kind.name());
                    let mut prompt = Prompt::new(Purpose::Command, &text);
                    prompt.error = Some(error.to_string());
                    self.prompt = Some(prompt);
                    return Vec::new();
                }
                self.filtered(kind, filter)
            }
            Command::Org(org) => self.change_org(org),
            Command::Help => {
                self.help = Some(0);
                Vec::new()
            }
            Command::Quit => vec![Effect::Quit],
        }
    }

    /// Goes to another organisation. Nothing of the one before stays, whatever is still under way.
    fn change_org(&mut self, org: String) -> Vec<Effect> {
        self.org = Some(org);
        self.overview = Loaded::default();
        self.attention = 0;
        self.lists = KINDS.map(|kind| (kind, ListState::new(kind))).into();
        self.last = None;
        self.is_frozen = false;
        self.screens = vec![Screen::Overview];
        let mut effects = vec![self.ask_who(), self.listen()];
        effects.extend(self.refresh(true));
        effects
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

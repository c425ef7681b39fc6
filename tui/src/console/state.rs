//! All that the console knows, and how events change it. No socket, disk, terminal or clock: the
//! time comes with each event, what is to be done goes back as effects.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use protocol::api::{Overview, Role, WhoAmI};

use super::event::{Effect, Event, FetchError, News, Payload, Question, Rows};
use super::item::{Item, KINDS, Kind};
use super::keymap::{Act, Chord, Place, act_of};

mod acts;
mod link;
pub(crate) mod list;
pub(crate) mod prompt;
#[cfg(test)]
pub(crate) mod tests;
mod typing;

pub(crate) use link::Link;
use list::{ListState, travelled};
use prompt::Prompt;

/// An answer that takes longer than this gets a word on the screen.
const SPINNER_AFTER: SignedDuration = SignedDuration::from_millis(150);

const NO_SUCH_ORG: &str = "there is no such organisation, or you have no role in it";

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
                // Lists and counts are of an organisation; only that can be missing.
                let error = match (error, slot) {
                    (FetchError::Gone, Slot::Who | Slot::Overview | Slot::List(_)) => {
                        FetchError::Refused(NO_SUCH_ORG.to_owned())
                    }
                    (error, _) => error,
                };
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
}

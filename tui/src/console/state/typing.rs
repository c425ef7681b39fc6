//! Filters and commands, while they are typed and when they are done.

use crossterm::event::KeyEvent;

use super::list::ListState;
use super::prompt::{self, Command, Edited, Prompt, Purpose};
use super::{Loaded, Screen, State};
use crate::console::event::Effect;
use crate::console::item::KINDS;
use crate::console::keymap::{Act, Chord, Place, act_of};

impl State {
    pub(super) fn prompt_key(&mut self, key: KeyEvent, chord: Chord) -> Vec<Effect> {
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
    pub(super) fn typed(&mut self) {
        if let Some(prompt) = &mut self.prompt {
            prompt.error = None;
        }
        self.preview();
    }

    pub(super) fn is_typing_filter(&self) -> bool {
        let mut prompt = self.prompt.iter();
        prompt.any(|prompt| prompt.purpose == Purpose::Filter)
    }

    pub(super) fn preview(&mut self) {
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

    pub(super) fn prompt_done(&mut self) -> Vec<Effect> {
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

    pub(super) fn command(&mut self, command: Command) -> Vec<Effect> {
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
            Command::Org(org) => match self.refuse_org(&org) {
                None => self.change_org(org),
                Some(error) => {
                    let mut prompt = Prompt::new(Purpose::Command, &format!("org {org}"));
                    prompt.error = Some(error);
                    self.prompt = Some(prompt);
                    Vec::new()
                }
            },
            Command::Help => {
                self.help = Some(0);
                Vec::new()
            }
            Command::Quit => vec![Effect::Quit],
        }
    }

    /// Says why an organisation cannot be gone to, as far as is known here.
    fn refuse_org(&self, org: &str) -> Option<String> {
        let orgs = &self.who.value.as_ref()?.orgs;
        if orgs
            .iter()
            .any(|o| o.name == org || o.id.to_string() == org)
        {
            return None;
        }
        let names: Vec<&str> = orgs.iter().map(|org| org.name.as_str()).collect();
        Some(format!("yours are {}", names.join(", ")))
    }

    /// Goes to another organisation. Nothing of the one before stays, whatever is still under way.
    pub(super) fn change_org(&mut self, org: String) -> Vec<Effect> {
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

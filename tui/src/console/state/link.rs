//! Whether the hub answers, when to ask it again, and how old what is seen is.
//!
//! While the stream of changes is open, what is seen is asked for when the hub says that it has
//! changed, and once a minute in case some news was lost. Without the stream it is asked for every
//! ten seconds. A hub that cannot be reached is asked one question at a time, less and less often.

use jiff::{SignedDuration, Timestamp};

use super::{Effect, Loaded, News, SPINNER_AFTER, Screen, Slot, State};

/// Time between two questions while the hub tells of changes.
const CALM: SignedDuration = SignedDuration::from_secs(60);

/// Time between two questions while it does not.
const POLL: SignedDuration = SignedDuration::from_secs(10);

/// Shortest time between an answer and the next question: changes come in bursts.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// A hub that takes long to answer gets this many times as long until the next question, so that
/// a console alone never keeps it busy.
const REST: i32 = 2;

/// Longest time between two attempts to reach the hub, in seconds.
const RETRY_MAX: i64 = 60;

/// Data that is older than this says so.
const STALE: SignedDuration = SignedDuration::from_secs(60);

/// Whether the hub answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// It has not answered yet.
    Connecting,
    /// It answers.
    Live,
    /// It does not.
    Offline {
        /// Since when.
        since: Timestamp,
        /// When it will be asked again.
        retry_at: Timestamp,
        /// How often it was asked in vain.
        tries: u32,
        /// Number of the question that finds out whether it is back.
        probe: Option<u64>,
        /// Why it cannot be reached.
        why: String,
    },
    /// It answers, but nobody is signed in any more.
    SignedOut,
}

/// The listener to the stream of changes.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// Its number; an earlier one is not believed.
    number: u64,
    is_open: bool,
    /// When to open it again.
    again_at: Option<Timestamp>,
    /// How often it ended without having said anything.
    tries: u32,
}

/// 2, 4, 8 … seconds, at most [`RETRY_MAX`].
fn pause_after(tries: u32) -> SignedDuration {
    SignedDuration::from_secs((1_i64 << tries.min(6)).min(RETRY_MAX))
}

impl State {
    /// Returns when something changes although nothing happens: a count-down, an age, a question
    /// that is due.
    pub(crate) fn next_tick(&self) -> Timestamp {
        let minute = self.now.as_second().div_euclid(60) + 1;
        // The clock in the header shows minutes.
        let mut next = Timestamp::from_second(minute * 60).unwrap_or(Timestamp::MAX);
        let mut sooner = |at: Timestamp| next = next.min(at);
        match &self.link {
            Link::Offline { retry_at, .. } => {
                sooner(self.now + SignedDuration::from_secs(1));
                sooner(*retry_at);
            }
            Link::Live => {
                if let Some(at) = self.due_at.filter(|_| !self.is_frozen) {
                    sooner(at);
                }
                if let Some(at) = self.listener.again_at {
                    sooner(at);
                }
            }
            Link::Connecting | Link::SignedOut => {}
        }
        if let Some(at) = self.asked_at() {
            let shown_at = at + SPINNER_AFTER;
            if shown_at > self.now {
                sooner(shown_at);
            }
        }
        // A clock that was set back must not make this spin.
        next.max(self.now + SignedDuration::from_millis(20))
    }

    fn asked_at(&self) -> Option<Timestamp> {
        fn at<T>(loaded: &Loaded<T>) -> Option<Timestamp> {
            loaded.asked.map(|asked| asked.at)
        }
        match self.screen() {
            Screen::Overview => at(&self.overview),
            Screen::List(kind) => at(&self.lists.get(kind)?.loaded),
            Screen::Detail(detail) => at(&detail.loaded),
        }
    }

    /// Returns whether what is seen has been asked for so long ago that it should be said.
    pub(crate) fn is_loading(&self) -> bool {
        self.asked_at()
            .is_some_and(|at| self.now.duration_since(at) >= SPINNER_AFTER)
    }

    /// Returns when what is seen came from the hub.
    pub(crate) fn data_at(&self) -> Option<Timestamp> {
        match self.screen() {
            Screen::Overview => self.overview.at,
            Screen::List(kind) => self.lists.get(kind)?.loaded.at,
            Screen::Detail(detail) => detail.loaded.at,
        }
    }

    /// Returns the age of what is seen once it is worth a word.
    pub(crate) fn stale_for(&self) -> Option<SignedDuration> {
        let age = self.now.duration_since(self.data_at()?);
        // While all is well the next answer is due about now; only a late one is worth a word.
        let fresh = match self.link {
            Link::Live if !self.is_frozen => STALE + POLL,
            Link::Live | Link::Connecting | Link::Offline { .. } | Link::SignedOut => STALE,
        };
        (age >= fresh).then_some(age)
    }

    pub(super) fn tick(&mut self) -> Vec<Effect> {
        let now = self.now;
        match &mut self.link {
            Link::Offline { retry_at, .. } => {
                let longest = SignedDuration::from_secs(RETRY_MAX);
                // Also when the clock was set back since.
                if *retry_at > now && retry_at.duration_since(now) <= longest {
                    return Vec::new();
                }
                let effects = self.probe();
                let number = self.asks;
                if let Link::Offline {
                    retry_at, probe, ..
                } = &mut self.link
                {
                    // The answer, which comes in any case, sets the true time.
                    *retry_at = now + longest;
                    *probe = Some(number);
                }
                effects
            }
            Link::Live => {
                let mut effects = Vec::new();
                if self.listener.again_at.is_some_and(|at| at <= now) {
                    effects.push(self.listen());
                }
                let is_due = self.due_at.is_some_and(|at| at <= now);
                if is_due && !self.is_frozen && self.asked_at().is_none() {
                    effects.extend(self.refresh(false));
                }
                effects
            }
            Link::Connecting | Link::SignedOut => Vec::new(),
        }
    }

    /// One question, to learn whether the hub is there.
    fn probe(&mut self) -> Vec<Effect> {
        if self.who.value.is_none() {
            return vec![self.ask_who()];
        }
        self.refresh(false)
    }

    /// The hub could not be reached with this question.
    pub(super) fn went_offline(&mut self, ask: u64, reason: String) {
        let now = self.now;
        if let Link::Offline {
            retry_at,
            tries,
            probe,
            why,
            ..
        } = &mut self.link
        {
            // Other questions of the same moment fail too; only the attempts count.
            if *probe == Some(ask) {
                *tries = tries.saturating_add(1);
                *retry_at = now + pause_after(*tries);
                *probe = None;
                *why = reason;
            }
            return;
        }
        self.listener.is_open = false;
        self.listener.again_at = None;
        self.link = Link::Offline {
            since: now,
            retry_at: now + pause_after(1),
            tries: 1,
            probe: None,
            why: reason,
        };
    }

    /// The hub answered.
    pub(super) fn answered(&mut self, slot: Slot, asked_at: Timestamp) -> Vec<Effect> {
        let took = self.now.duration_since(asked_at);
        self.rest_until = self.now + PAUSE.max(took.saturating_mul(REST).min(CALM));
        let is_who = slot == Slot::Who;
        let was_live = self.link == Link::Live;
        self.link = Link::Live;
        if !was_live {
            let mut effects = vec![self.listen()];
            if self.who.value.is_none() && self.who.asked.is_none() {
                effects.push(self.ask_who());
            }
            if is_who && self.asked_at().is_none() && !self.is_frozen {
                effects.extend(self.refresh(false));
            }
            self.schedule();
            return effects;
        }
        if !is_who {
            self.schedule();
        }
        Vec::new()
    }

    fn schedule(&mut self) {
        self.due_at = Some(match (self.news_at, self.listener.is_open) {
            (Some(_), _) => self.rest_until,
            (None, true) => self.now + CALM,
            (None, false) => self.rest_until.max(self.now + POLL),
        });
    }

    /// Opens the stream of changes, in place of any that is open.
    pub(super) fn listen(&mut self) -> Effect {
        self.listener.number += 1;
        self.listener.is_open = false;
        self.listener.again_at = None;
        Effect::Listen {
            listener: self.listener.number,
            org: self.org.clone(),
        }
    }

    pub(super) fn news(&mut self, listener: u64, news: News) -> Vec<Effect> {
        if listener != self.listener.number {
            return Vec::new();
        }
        match news {
            News::Opened => {
                self.listener.is_open = true;
                self.listener.tries = 0;
                // What changed between the last answer and now was told to nobody.
                self.changed();
                Vec::new()
            }
            News::Changed(name) => {
                let concerns = self
                    .kind()
                    .is_none_or(|kind| name == kind.name() || name == "all");
                if concerns {
                    self.changed();
                }
                Vec::new()
            }
            News::Closed => {
                let was_open = std::mem::take(&mut self.listener.is_open);
                self.listener.tries = self.listener.tries.saturating_add(1);
                self.listener.again_at = Some(self.now + pause_after(self.listener.tries));
                // The hub may be gone: one question tells.
                if was_open && self.link == Link::Live && self.asked_at().is_none() {
                    return self.probe_unless_frozen();
                }
                Vec::new()
            }
        }
    }

    fn probe_unless_frozen(&mut self) -> Vec<Effect> {
        if self.is_frozen {
            return vec![self.ask_who()];
        }
        self.probe()
    }

    fn changed(&mut self) {
        self.news_at = Some(self.now);
        let at = self.rest_until.max(self.now);
        self.due_at = Some(self.due_at.map_or(at, |due| due.min(at)));
    }
}

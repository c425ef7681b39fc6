//! What happens to the console and what it wants done: the only things that cross its border.
//!
//! `state` turns [`Event`]s into [`Effect`]s and touches neither socket, disk nor terminal; `link`
//! and `console` carry effects out and bring events back.

use crossterm::event::KeyEvent;
use protocol::api::{Overview, WhoAmI};

use super::item::{Item, Kind};

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A key went down.
    Key(KeyEvent),
    /// Text was pasted.
    Paste(String),
    /// Columns and rows of the terminal.
    Resized(u16, u16),
    /// The time that [`super::state::State::next_tick`] asked for has come.
    Tick,
    /// A question was answered, or not.
    Reply {
        /// Number of the question.
        ask: u64,
        /// The answer.
        answer: Result<Payload, FetchError>,
    },
    /// The first rows of a list whose others are still to come.
    Part {
        /// Number of the question.
        ask: u64,
        /// The rows.
        rows: Rows,
    },
    /// The stream of changes said something.
    News {
        /// Number of the listener, so that one that was replaced is not believed.
        listener: u64,
        /// What.
        news: News,
    },
}

/// What the stream of changes says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// It is open: changes will be told from here on.
    Opened,
    /// Rows of this name changed; `all` when some news was missed.
    Changed(String),
    /// It ended.
    Closed,
}

/// Something that the console wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask the hub; the answer comes as [`Event::Reply`] with the same number.
    Fetch {
        /// Number of the question.
        ask: u64,
        /// Organisation to ask about, by id or name; the user's oldest when absent.
        org: Option<String>,
        /// What to ask.
        question: Question,
    },
    /// Listen to the stream of changes, in place of any earlier listener.
    Listen {
        /// Number of the listener.
        listener: u64,
        /// Organisation to listen for.
        org: Option<String>,
    },
    /// Put text on the clipboard of the terminal.
    Copy(String),
    /// Give the terminal back and stop until the shell continues this program.
    Suspend,
    /// Leave.
    Quit,
}

/// What the hub is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// Who is signed in.
    Who,
    /// The counts of the first screen.
    Overview,
    /// The rows of a list.
    Rows {
        /// Of what.
        kind: Kind,
        /// Filter text; empty for all.
        filter: String,
        /// A field, with `-` in front for descending; the hub's own order when absent.
        sort: Option<String>,
    },
    /// One object.
    One {
        /// Of what.
        kind: Kind,
        /// Its id; for a resource also its URN.
        id: String,
    },
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Payload {
    /// To [`Question::Who`].
    Who(WhoAmI),
    /// To [`Question::Overview`].
    Overview(Overview),
    /// To [`Question::Rows`].
    Rows(Rows),
    /// To [`Question::One`].
    One(Item),
}

/// Rows of a list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    /// The first of them, at most [`super::link::ROWS`].
    pub(crate) items: Vec<Item>,
    /// How many match in all, as far as the hub counts them.
    pub(crate) total: u64,
    /// There are more at the hub.
    pub(crate) is_cut: bool,
}

/// Says why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FetchError {
    /// The hub cannot be reached, or is not ready: worth another try.
    Unreachable(String),
    /// Nobody is signed in any more.
    SignedOut,
    /// The role does not allow it.
    Forbidden(String),
    /// There is no such object.
    Gone,
    /// The hub has too much to do for one who asks so often; it answers again soon.
    Busy(String),
    /// The hub, or this program, could not do it.
    Refused(String),
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the hub cannot be reached: {why}"),
            Self::SignedOut => {
                f.write_str("the session has ended: leave with q, then sign in with `zero-x login`")
            }
            Self::Forbidden(why) => write!(f, "not allowed: {why}"),
            Self::Busy(why) => write!(f, "the hub is busy: {why}"),
            Self::Gone => f.write_str("the hub has no such object, or no longer"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

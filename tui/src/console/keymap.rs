//! Every key of the console, in one table: dispatch, footer and help are made from it, and nothing
//! else names a key.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Goes into the row under the cursor.
    Open,
    /// Goes back by one.
    Back,
    /// Moves the cursor, or scrolls.
    Travel(Travel),
    /// Asks for a filter.
    Filter,
    /// Asks for a command.
    Command,
    /// Sorts by the next column.
    Sort,
    /// Turns the order around.
    Reverse,
    /// Marks the row, or takes the mark off.
    Mark,
    /// Marks from the last marked row to this one.
    MarkRange,
    /// Takes all marks off.
    ClearMarks,
    /// Copies ids.
    CopyId,
    /// Copies what is shown as a command line.
    CopyCommand,
    /// Stops the view from changing, or lets it.
    Freeze,
    /// Hides names, accounts and addresses, or shows them.
    Privacy,
    /// Asks the hub again.
    Refresh,
    /// Goes to the screen before this one.
    LastScreen,
    /// Goes to a screen by its place in the row of screens, from 1.
    Screen(usize),
    /// Shows the next part of the detail.
    NextTab,
    /// Shows the part before.
    PreviousTab,
    /// Shows the detail of the next row.
    NextRow,
    /// Shows the detail of the row before.
    PreviousRow,
    /// Goes from a finding to its resource, and from a resource to its findings.
    Across,
    /// Shows the keys.
    Help,
    /// Stops the program until the shell continues it.
    Suspend,
    /// Leaves.
    Quit,
}

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Travel {
    /// One down.
    Down,
    /// One up.
    Up,
    /// Half a page down.
    HalfDown,
    /// Half a page up.
    HalfUp,
    /// A page down.
    PageDown,
    /// A page up.
    PageUp,
    /// To the first.
    First,
    /// To the last.
    Last,
}

/// Where a key works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The first screen.
    Overview,
    /// A list.
    List,
    /// The detail of a row.
    Detail,
}

/// A key as it is pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chord {
    code: KeyCode,
    is_control: bool,
}

impl Chord {
    /// Returns the chord of a key press; `None` when other modifiers are held, so that a terminal's
    /// or a window manager's own shortcuts do nothing here.
    pub(crate) fn of(key: KeyEvent) -> Option<Self> {
        let known = KeyModifiers::CONTROL | KeyModifiers::SHIFT;
        known.contains(key.modifiers).then_some(Self {
            code: key.code,
            is_control: key.modifiers.contains(KeyModifiers::CONTROL),
        })
    }

    /// Returns the name that help and footer show.
    pub(crate) fn name(self) -> String {
        let named = [
            (KeyCode::Enter, "enter"),
            (KeyCode::Esc, "esc"),
            (KeyCode::Up, "up"),
            (KeyCode::Down, "down"),
            (KeyCode::Left, "left"),
            (KeyCode::Right, "right"),
            (KeyCode::Home, "home"),
            (KeyCode::End, "end"),
            (KeyCode::PageUp, "page up"),
            (KeyCode::PageDown, "page down"),
            (KeyCode::Tab, "tab"),
            (KeyCode::BackTab, "shift-tab"),
            (KeyCode::Backspace, "backspace"),
            (KeyCode::Char(' '), "space"),
        ];
        let name = match named.iter().find(|(code, _)| *code == self.code) {
            Some((_, name)) => (*name).to_owned(),
            None => self.code.as_char().map_or_else(String::new, String::from),
        };
        if self.is_control {
            format!("ctrl-{name}")
        } else {
            name
        }
    }
}

const fn key(letter: char) -> Chord {
    code(KeyCode::Char(letter))
}

const fn code(code: KeyCode) -> Chord {
    Chord {
        code,
        is_control: false,
    }
}

const fn control(letter: char) -> Chord {
    Chord {
        code: KeyCode::Char(letter),
        is_control: true,
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// The keys, the one to show first.
    pub(crate) chords: &'static [Chord],
    /// What they do.
    pub(crate) act: Act,
    /// The same, in words.
    pub(crate) label: &'static str,
    /// Where.
    pub(crate) places: &'static [Place],
    /// Place in the footer, the lowest first; `None` to leave it to the help.
    pub(crate) footer: Option<u8>,
}

const EVERYWHERE: &[Place] = &[Place::Overview, Place::List, Place::Detail];
const LIST: &[Place] = &[Place::List];
const DETAIL: &[Place] = &[Place::Detail];
const ROWS: &[Place] = &[Place::Overview, Place::List];
const LIST_AND_DETAIL: &[Place] = &[Place::List, Place::Detail];

const fn line(
    chords: &'static [Chord],
    act: Act,
    label: &'static str,
    places: &'static [Place],
    footer: Option<u8>,
) -> Key {
    Key {
        chords,
        act,
        label,
        places,
        footer,
    }
}

/// The table.
pub(crate) const KEYS: &[Key] = &[
    line(
        &[code(KeyCode::Enter), key('d')],
        Act::Open,
        "open",
        ROWS,
        Some(3),
    ),
    line(
        &[code(KeyCode::Esc), code(KeyCode::Backspace)],
        Act::Back,
        "back",
        LIST_AND_DETAIL,
        Some(4),
    ),
    line(
        &[key('j'), code(KeyCode::Down)],
        Act::Travel(Travel::Down),
        "down",
        EVERYWHERE,
        None,
    ),
    line(
        &[key('k'), code(KeyCode::Up)],
        Act::Travel(Travel::Up),
        "up",
        EVERYWHERE,
        None,
    ),
    line(
        &[key('g'), code(KeyCode::Home)],
        Act::Travel(Travel::First),
        "first",
        EVERYWHERE,
        None,
    ),
    line(
        &[key('G'), code(KeyCode::End)],
        Act::Travel(Travel::Last),
        "last",
        EVERYWHERE,
        None,
    ),
    line(
        &[control('d')],
        Act::Travel(Travel::HalfDown),
        "half a page down",
        EVERYWHERE,
        None,
    ),
    line(
        &[control('u')],
        Act::Travel(Travel::HalfUp),
        "half a page up",
        EVERYWHERE,
        None,
    ),
    line(
        &[code(KeyCode::PageDown), control('f')],
        Act::Travel(Travel::PageDown),
        "a page down",
        EVERYWHERE,
        None,
    ),
    line(
        &[code(KeyCode::PageUp), control('b')],
        Act::Travel(Travel::PageUp),
        "a page up",
        EVERYWHERE,
        None,
    ),
    line(
        &[key(']'), code(KeyCode::Tab), key('l'), code(KeyCode::Right)],
        Act::NextTab,
        "next tab",
        DETAIL,
        Some(5),
    ),
    line(
        &[
            key('['),
            code(KeyCode::BackTab),
            key('h'),
            code(KeyCode::Left),
        ],
        Act::PreviousTab,
        "tab before",
        DETAIL,
        None,
    ),
    line(
        &[key('J'), control('n')],
        Act::NextRow,
        "next row",
        DETAIL,
        Some(6),
    ),
    line(
        &[key('K'), control('p')],
        Act::PreviousRow,
        "row before",
        DETAIL,
        None,
    ),
    line(
        &[key('o')],
        Act::Across,
        "finding/resource",
        LIST_AND_DETAIL,
        None,
    ),
    line(&[key('/')], Act::Filter, "filter", LIST, Some(5)),
    line(&[key(':')], Act::Command, "command", EVERYWHERE, Some(7)),
    line(&[key('s')], Act::Sort, "sort", LIST, Some(8)),
    line(&[key('S')], Act::Reverse, "turn the order", LIST, None),
    line(&[key(' ')], Act::Mark, "mark", LIST, Some(9)),
    line(
        &[control(' ')],
        Act::MarkRange,
        "mark up to here",
        LIST,
        None,
    ),
    line(&[key('*')], Act::ClearMarks, "clear marks", LIST, None),
    line(
        &[key('c')],
        Act::CopyId,
        "copy the id",
        LIST_AND_DETAIL,
        None,
    ),
    line(
        &[key('C')],
        Act::CopyCommand,
        "copy as command",
        LIST_AND_DETAIL,
        Some(10),
    ),
    line(
        &[control('r')],
        Act::Refresh,
        "refresh",
        EVERYWHERE,
        Some(11),
    ),
    line(&[key('f')], Act::Freeze, "freeze", EVERYWHERE, None),
    line(&[key('p')], Act::Privacy, "hide names", EVERYWHERE, None),
    line(
        &[key('-')],
        Act::LastScreen,
        "last screen",
        EVERYWHERE,
        None,
    ),
    line(&[key('1')], Act::Screen(1), "overview", EVERYWHERE, None),
    line(&[key('2')], Act::Screen(2), "findings", EVERYWHERE, None),
    line(&[key('3')], Act::Screen(3), "resources", EVERYWHERE, None),
    line(&[key('4')], Act::Screen(4), "events", EVERYWHERE, None),
    line(&[key('5')], Act::Screen(5), "agents", EVERYWHERE, None),
    line(&[key('6')], Act::Screen(6), "sources", EVERYWHERE, None),
    line(&[key('?')], Act::Help, "help", EVERYWHERE, Some(1)),
    line(
        &[key('q'), control('c')],
        Act::Quit,
        "quit",
        EVERYWHERE,
        Some(2),
    ),
    line(&[control('z')], Act::Suspend, "suspend", EVERYWHERE, None),
];

/// Returns what a key does in a place.
pub(crate) fn act_of(place: Place, chord: Chord) -> Option<Act> {
    KEYS.iter()
        .find(|key| key.places.contains(&place) && key.chords.contains(&chord))
        .map(|key| key.act)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things() {
        for place in EVERYWHERE {
            let mut seen: Vec<Chord> = Vec::new();
            for chord in KEYS
                .iter()
                .filter(|key| key.places.contains(place))
                .flat_map(|key| key.chords)
            {
                assert!(!seen.contains(chord), "{} in {place:?}", chord.name());
                seen.push(*chord);
            }
        }
    }

    #[test]
    fn every_key_has_a_name_and_other_modifiers_do_nothing() {
        for chord in KEYS.iter().flat_map(|key| key.chords) {
            assert!(!chord.name().is_empty());
        }
        let alt = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::ALT);
        assert_eq!(Chord::of(alt), None);
    }

    #[test]
    fn every_place_can_be_left_and_explained() {
        for place in EVERYWHERE {
            assert_eq!(act_of(*place, key('q')), Some(Act::Quit));
            assert_eq!(act_of(*place, key('?')), Some(Act::Help));
        }
    }
}

//! The line at the foot of the screen where filters and commands are typed.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::console::item::{KINDS, Kind};

/// Longest text that can be typed, in characters: a little more than the hub reads.
const LETTERS: usize = protocol::limits::FILTER_BYTES;

/// What is being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A filter for the list.
    Filter,
    /// A command.
    Command,
}

/// What a key did to the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edited {
    /// The text is another.
    Changed,
    /// The text is ready.
    Done,
    /// The text is not wanted any more.
    Left,
    /// Nothing, or only the place of the cursor.
    Nothing,
}

/// A text being typed.
#[derive(Debug, Clone)]
pub(crate) struct Prompt {
    /// What it is for.
    pub(crate) purpose: Purpose,
    /// What has been typed.
    pub(crate) text: String,
    /// Place of the cursor, in characters.
    pub(crate) cursor: usize,
    /// Why the text cannot be used.
    pub(crate) error: Option<String>,
}

impl Prompt {
    /// Makes a prompt with the cursor behind its text.
    pub(crate) fn new(purpose: Purpose, text: &str) -> Self {
        Self {
            purpose,
            text: text.to_owned(),
            cursor: text.chars().count(),
            error: None,
        }
    }

    /// Returns where in the text a character begins, in bytes.
    fn byte_at(&self, place: usize) -> usize {
        self.text
            .char_indices()
            .nth(place)
            .map_or(self.text.len(), |(at, _)| at)
    }

    /// Inserts text at the cursor; line breaks become spaces, other controls are left out.
    pub(crate) fn insert(&mut self, text: &str) {
        for letter in text.chars() {
            let letter = if letter.is_whitespace() { ' ' } else { letter };
            if letter.is_control() || self.text.chars().count() >= LETTERS {
                continue;
            }
            self.text.insert(self.byte_at(self.cursor), letter);
            self.cursor += 1;
        }
    }

    fn remove(&mut self, from: usize, to: usize) -> Edited {
        if from >= to {
            return Edited::Nothing;
        }
        let bytes = self.byte_at(from)..self.byte_at(to);
        self.text.replace_range(bytes, "");
        self.cursor = from;
        Edited::Changed
    }

    /// Returns where the word before the cursor begins, in characters.
    fn word_start(&self) -> usize {
        let before: Vec<char> = self.text.chars().take(self.cursor).collect();
        let blanks = before
            .iter()
            .rev()
            .take_while(|c| c.is_whitespace())
            .count();
        let letters = before
            .iter()
            .rev()
            .skip(blanks)
            .take_while(|c| !c.is_whitespace())
            .count();
        self.cursor - blanks - letters
    }

    /// Applies a key. `words` are what `tab` may complete.
    pub(crate) fn edit(&mut self, key: KeyEvent, words: &[&str]) -> Edited {
        let end = self.text.chars().count();
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code.as_char() {
                Some('u') => self.remove(0, self.cursor),
                Some('k') => {
                    let at = self.cursor;
                    self.remove(at, end)
                }
                Some('w') => self.remove(self.word_start(), self.cursor),
                Some('a') => self.go(0),
                Some('e') => self.go(end),
                _ => Edited::Nothing,
            };
        }
        if let Some(letter) = key.code.as_char() {
            self.insert(letter.encode_utf8(&mut [0; 4]));
            return Edited::Changed;
        }
        let is = |code: KeyCode| key.code == code;
        if is(KeyCode::Enter) {
            Edited::Done
        } else if is(KeyCode::Esc) {
            Edited::Left
        } else if is(KeyCode::Backspace) {
            // In an empty line it does nothing: a key held a moment too long would close the line,
            // leave the screen, and turn what is typed next into commands.
            self.remove(self.cursor.saturating_sub(1), self.cursor)
        } else if is(KeyCode::Delete) {
            let at = self.cursor;
            self.remove(at, (at + 1).min(end))
        } else if is(KeyCode::Left) {
            self.go(self.cursor.saturating_sub(1))
        } else if is(KeyCode::Right) {
            self.go((self.cursor + 1).min(end))
        } else if is(KeyCode::Home) {
            self.go(0)
        } else if is(KeyCode::End) {
            self.go(end)
        } else if is(KeyCode::Tab) {
            self.complete(words)
        } else {
            Edited::Nothing
        }
    }

    fn go(&mut self, place: usize) -> Edited {
        self.cursor = place;
        Edited::Nothing
    }

    /// Completes the word before the cursor as far as all words that fit agree.
    fn complete(&mut self, words: &[&str]) -> Edited {
        let typed: String = self
            .text
            .chars()
            .take(self.cursor)
            .skip(self.word_start())
            .collect();
        let begun = typed.trim_start_matches('!');
        let mut fitting = words.iter().filter(|word| word.starts_with(begun));
        let Some(first) = fitting.next().filter(|_| !begun.is_empty()) else {
            return Edited::Nothing;
        };
        let mut common = (*first).to_owned();
        for word in fitting {
            let agreed = common.chars().zip(word.chars()).take_while(|(a, b)| a == b);
            common.truncate(agreed.map(|(a, _)| a.len_utf8()).sum());
        }
        let rest = common.get(begun.len()..).unwrap_or_default().to_owned();
        self.insert(&rest);
        Edited::Changed
    }
}

/// What a command asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// The first screen.
    Overview,
    /// A list, filtered when a filter is given.
    List(Kind, Option<String>),
    /// Another organisation, by id or name.
    Org(String),
    /// The keys.
    Help,
    /// To leave.
    Quit,
}

/// Returns the words that a command can begin with.
pub(crate) fn names() -> Vec<&'static str> {
    let mut names = vec!["overview"];
    names.extend(KINDS.map(Kind::name));
    names.extend(["org", "help", "quit"]);
    names
}

/// Reads a command; the start of its name is enough where only one begins so.
///
/// # Errors
///
/// With words for the person who typed it.
pub(crate) fn command(text: &str) -> Result<Command, String> {
    let text = text.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let names = names();
    let mut begun = names.iter().filter(|name| name.starts_with(word));
    let name = match (begun.next(), begun.next()) {
        _ if word.is_empty() => return Err(format!("write one of {}", names.join(", "))),
        (Some(name), None) => *name,
        (Some(_), Some(_)) if names.contains(&word) => word,
        (Some(first), Some(second)) => {
            return Err(format!("{word} could be {first} or {second}"));
        }
        (None, _) => {
            let near = names
                .iter()
                .min_by_key(|name| strsim::damerau_levenshtein(word, name))
                .filter(|name| strsim::damerau_levenshtein(word, name) <= name.len().div_ceil(2));
            let hint = near.map_or_else(
                || format!("the commands are {}", names.join(", ")),
                |name| format!("did you mean {name}?"),
            );
            return Err(format!("there is no command {word}; {hint}"));
        }
    };
    if let Some(kind) = KINDS.into_iter().find(|kind| kind.name() == name) {
        return Ok(Command::List(
            kind,
            (!rest.is_empty()).then(|| rest.to_owned()),
        ));
    }
    match name {
        "org" if rest.is_empty() => Err("write org and the name of an organisation".to_owned()),
        "org" => Ok(Command::Org(rest.to_owned())),
        _ if !rest.is_empty() => Err(format!("{name} takes nothing more")),
        "help" => Ok(Command::Help),
        "quit" => Ok(Command::Quit),
        _ => Ok(Command::Overview),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Prompt {
        let mut prompt = Prompt::new(Purpose::Filter, "");
        prompt.insert(text);
        prompt
    }

    fn press(prompt: &mut Prompt, code: KeyCode) -> Edited {
        prompt.edit(KeyEvent::new(code, KeyModifiers::NONE), &[])
    }

    fn control(prompt: &mut Prompt, letter: char) -> Edited {
        let key = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        prompt.edit(key, &[])
    }

    #[test]
    fn editing_goes_by_characters_not_bytes() {
        let mut prompt = typed("ßäb");
        assert_eq!(press(&mut prompt, KeyCode::Left), Edited::Nothing);
        assert_eq!(press(&mut prompt, KeyCode::Backspace), Edited::Changed);
        assert_eq!(prompt.text, "ßb");
        assert_eq!(press(&mut prompt, KeyCode::Char('日')), Edited::Changed);
        assert_eq!(prompt.text, "ß日b");
        assert_eq!(press(&mut prompt, KeyCode::Delete), Edited::Changed);
        assert_eq!(prompt.text, "ß日");
        assert_eq!(control(&mut prompt, 'u'), Edited::Changed);
        assert_eq!(prompt.text, "");
        for _ in 0..3 {
            assert_eq!(press(&mut prompt, KeyCode::Backspace), Edited::Nothing);
        }
        assert_eq!(press(&mut prompt, KeyCode::Esc), Edited::Left);
    }

    #[test]
    fn a_word_goes_at_once_and_pasted_line_breaks_run_nothing() {
        let mut prompt = typed("a bb  ccc ");
        assert_eq!(control(&mut prompt, 'w'), Edited::Changed);
        assert_eq!(prompt.text, "a bb  ");
        prompt.insert("x\ny\u{1b}[2J");
        assert_eq!(prompt.text, "a bb  x y[2J");
    }

    #[test]
    fn tab_completes_as_far_as_the_words_agree() {
        let words = ["severity", "status", "state"];
        let tab = KeyEvent::new(KeyCode::Tab, KeyModifiers::NONE);
        let mut prompt = typed("x !st");
        prompt.edit(tab, &words);
        assert_eq!(prompt.text, "x !stat");
        prompt.insert("u");
        prompt.edit(tab, &words);
        assert_eq!(prompt.text, "x !status");
        let mut prompt = typed("");
        assert_eq!(prompt.edit(tab, &words), Edited::Nothing);
    }

    #[test]
    fn a_command_names_a_screen_and_a_mistake_names_the_nearest() {
        assert_eq!(command("findings"), Ok(Command::List(Kind::Finding, None)));
        assert_eq!(
            command(" findings   severity>=high x "),
            Ok(Command::List(
                Kind::Finding,
                Some("severity>=high x".into())
            ))
        );
        assert_eq!(command("q"), Ok(Command::Quit));
        assert_eq!(command("f"), Ok(Command::List(Kind::Finding, None)));
        assert_eq!(
            command("org acme prod"),
            Ok(Command::Org("acme prod".into()))
        );
        assert_eq!(command("o"), Err("o could be overview or org".to_owned()));
        assert_eq!(
            command("findngs"),
            Err("there is no command findngs; did you mean findings?".to_owned())
        );
        assert!(command("").is_err());
        assert!(command("quit now").is_err());
    }
}

//! Finds where a character of a YAML value stands in the file.
//!
//! The YAML parser tells the value, not the places of its characters; an error inside an
//! expression needs them. A value is read again here, and only used if it comes out the same.

/// Where a top-level value of a file stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Origin {
    start: (usize, usize),
    /// The value's characters with their lines and columns; empty where they are not known.
    chars: Vec<(char, (usize, usize))>,
}

impl Origin {
    /// Finds the value of a key; `value` is what the parser made of it.
    pub(super) fn find(text: &str, key: &str, value: &str) -> Self {
        let Some((line, rest)) = lines_of(text, key).next() else {
            return Self {
                start: (1, 1),
                chars: Vec::new(),
            };
        };
        let mut reader = Reader::new(rest, line, key);
        reader.skip_blanks();
        let mut start = reader.here();
        let chars = reader.scalar();
        let read: String = chars.iter().map(|(c, _)| *c).collect();
        if let Some((_, first)) = chars.first()
            && read == value
        {
            start = *first;
        }
        Self {
            start,
            chars: if read == value { chars } else { Vec::new() },
        }
    }

    /// Finds the last place of a key, as where it is given twice.
    pub(super) fn find_last(text: &str, key: &str) -> (usize, usize) {
        lines_of(text, key)
            .last()
            .map_or((1, 1), |(line, _)| (line, 1))
    }

    /// Returns line and column of a byte offset of the value.
    pub(super) fn place(&self, offset: usize) -> (usize, usize) {
        let mut before = 0;
        for (letter, place) in &self.chars {
            if before >= offset {
                return *place;
            }
            before += letter.len_utf8();
        }
        match self.chars.last() {
            Some((_, (line, column))) => (*line, column + 1),
            None => self.start,
        }
    }

    pub(super) fn start(&self) -> (usize, usize) {
        self.start
    }
}

/// Iterates over the lines that begin with a key: the line's number, and the text from it on.
fn lines_of<'t>(text: &'t str, key: &'t str) -> impl Iterator<Item = (usize, &'t str)> {
    let mut offset = 0;
    text.split_inclusive('\n')
        .enumerate()
        .filter_map(move |(number, line)| {
            let at = offset;
            offset += line.len();
            after_key(line, key)?;
            Some((number + 1, text.get(at..)?))
        })
}

/// Returns what follows a key and its colon.
fn after_key<'t>(line: &'t str, key: &str) -> Option<&'t str> {
    let rest = line.strip_prefix(key)?.trim_start_matches(' ');
    let rest = rest.strip_prefix(':')?;
    (rest.is_empty() || rest.starts_with([' ', '\n', '\r'])).then_some(rest)
}

/// Reads one scalar.
struct Reader {
    source: Vec<(char, (usize, usize))>,
    at: usize,
    read: Vec<(char, (usize, usize))>,
}

impl Reader {
    /// Begins after the key of a line.
    fn new(text: &str, line: usize, key: &str) -> Self {
        let mut place = (line, 1);
        let mut source = Vec::new();
        for letter in text.chars() {
            source.push((letter, place));
            place = if letter == '\n' {
                (place.0 + 1, 1)
            } else {
                (place.0, place.1 + 1)
            };
        }
        let colon = source
            .iter()
            .skip(key.chars().count())
            .position(|(c, _)| *c == ':')
            .unwrap_or_default();
        Self {
            source,
            at: key.chars().count() + colon + 1,
            read: Vec::new(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.source.get(self.at).map(|(c, _)| *c)
    }

    fn skip_blanks(&mut self) {
        while let Some(' ' | '\t') = self.peek() {
            self.at += 1;
        }
    }

    fn push(&mut self, letter: char, place: (usize, usize)) {
        self.read.push((letter, place));
    }

    fn here(&self) -> (usize, usize) {
        self.source
            .get(self.at)
            .or(self.source.last())
            .map_or((1, 1), |(_, place)| *place)
    }

    fn scalar(mut self) -> Vec<(char, (usize, usize))> {
        match self.peek() {
            Some(quote @ ('\'' | '"')) => {
                self.at += 1;
                self.flow(Some(quote));
            }
            Some(style @ ('|' | '>')) => self.block(style),
            _ => self.flow(None),
        }
        self.read
    }

    /// Reads a plain or quoted scalar.
    fn flow(&mut self, quote: Option<char>) {
        while let Some(letter) = self.peek() {
            let place = self.here();
            let next = self.source.get(self.at + 1).map(|(c, _)| *c);
            match (quote, letter) {
                (Some('\''), '\'') if next == Some('\'') => {
                    self.push('\'', place);
                    self.at += 2;
                }
                (Some(quote), letter) if letter == quote => return,
                (Some('"'), '\\') => {
                    if !self.escape(place) {
                        return;
                    }
                }
                (_, '\n') => {
                    self.truncate();
                    if !self.fold(place) {
                        return;
                    }
                    // A plain scalar ends where the next key begins.
                    if quote.is_none() && self.here().1 == 1 {
                        self.truncate();
                        return;
                    }
                }
                (None, '#') if matches!(self.read.last(), Some((' ', _))) => break,
                (_, letter) => {
                    self.push(letter, place);
                    self.at += 1;
                }
            }
        }
        self.truncate();
    }

    /// Drops blanks at the end of a line.
    fn truncate(&mut self) {
        while let Some((' ' | '\t' | '\r', _)) = self.read.last() {
            self.read.pop();
        }
    }

    /// Reads the line ends and the indentation before the next text: one line end is a space,
    /// more are one less.
    fn fold(&mut self, place: (usize, usize)) -> bool {
        let mut ends = 0;
        while let Some(letter @ ('\n' | ' ' | '\t' | '\r')) = self.peek() {
            ends += usize::from(letter == '\n');
            self.at += 1;
        }
        if self.peek().is_none() {
            return false;
        }
        if self.read.is_empty() {
            // The value begins on a later line than its key.
            return true;
        }
        if ends == 1 {
            self.push(' ', place);
        }
        for _ in 1..ends {
            self.push('\n', place);
        }
        true
    }

    /// Reads a backslash and what follows it in double quotes.
    fn escape(&mut self, place: (usize, usize)) -> bool {
        let Some((letter, _)) = self.source.get(self.at + 1).copied() else {
            return false;
        };
        self.at += 2;
        let plain = match letter {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            '0' => '\0',
            '"' | '\\' | '/' | ' ' => letter,
            'x' | 'u' | 'U' => {
                let digits = match letter {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let code = self.source.iter().skip(self.at).take(digits);
                let code: String = code.map(|(c, _)| *c).collect();
                self.at += digits;
                match u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) {
                    Some(letter) => letter,
                    None => return false,
                }
            }
            '\n' => {
                // The line end is left out, and so is the indentation after it.
                self.skip_blanks();
                return true;
            }
            _ => return false,
        };
        self.push(plain, place);
        true
    }

    /// Reads a block scalar.
    fn block(&mut self, style: char) {
        let mut keep = None;
        while let Some(letter) = self.peek() {
            self.at += 1;
            match letter {
                '+' | '-' => keep = Some(letter),
                '\n' => break,
                _ => {}
            }
        }
        let lines = self.lines();
        let indent = lines
            .iter()
            .find(|line| !is_blank(line))
            .map_or(0, |line| line.iter().take_while(|(c, _)| *c == ' ').count());
        let mut ends: Vec<(usize, usize)> = Vec::new();
        let mut was_deep = false;
        for line in lines {
            if !is_blank(&line)
                && line.iter().take_while(|(c, _)| *c == ' ').count() < indent.max(1)
            {
                break;
            }
            let end = line.last().map_or((1, 1), |(_, place)| *place);
            if is_blank(&line) {
                ends.push(end);
                continue;
            }
            let text: Vec<_> = line
                .into_iter()
                .skip(indent)
                .filter(|(c, _)| *c != '\n')
                .collect();
            let is_deep = matches!(text.first(), Some((' ' | '\t', _)));
            if !self.read.is_empty() {
                let folds = style == '>' && !is_deep && !was_deep;
                match (folds, ends.as_slice()) {
                    (true, [one]) => self.read.push((' ', *one)),
                    (true, [_, more @ ..]) => {
                        self.read.extend(more.iter().map(|at| ('\n', *at)));
                    }
                    _ => self.read.extend(ends.iter().map(|at| ('\n', *at))),
                }
            }
            self.read.extend(text);
            ends = vec![end];
            was_deep = is_deep;
        }
        match keep {
            Some('-') => {}
            Some(_) => self.read.extend(ends.iter().map(|at| ('\n', *at))),
            None => self.read.extend(ends.first().map(|at| ('\n', *at))),
        }
    }

    /// Returns the rest as lines with their ends.
    fn lines(&self) -> Vec<Vec<(char, (usize, usize))>> {
        let rest = self.source.get(self.at..).unwrap_or_default();
        rest.split_inclusive(|(c, _)| *c == '\n')
            .map(<[_]>::to_vec)
            .collect()
    }
}

fn is_blank(line: &[(char, (usize, usize))]) -> bool {
    line.iter().all(|(c, _)| c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the letter X of a value is found where it stands in the file.
    fn check(file: &str) {
        let values: std::collections::BTreeMap<String, yaml_serde::Value> =
            yaml_serde::from_str(file).unwrap();
        let value = values["pass"].as_str().unwrap();
        let origin = Origin::find(file, "pass", value);
        assert!(!origin.chars.is_empty(), "{file:?} as {value:?}");
        let (line, column) = origin.place(value.find('X').unwrap());
        let found = file.lines().nth(line - 1).unwrap().chars().nth(column - 1);
        assert_eq!(found, Some('X'), "{file:?} at {line}:{column}");
    }

    #[test]
    fn places_are_found_in_every_style_of_scalar() {
        check("a: 1\npass: r.X == 1\nb: 2\n");
        check("pass: r.On &&\n  r.X\nb: 2\n");
        check("pass:\n  r.On &&\n\n  r.X # note\nb: 2\n");
        check("pass: 'it''s ä X'\n");
        check("pass: \"a\\n\\u00e4\\\"\\\n  X\"\n");
        check("pass: \"a\n\n  b X\"\n");
        check("pass: |\n  a\n    b\n  X\nb: 1\n");
        check("pass: |-\n  a\n\n  X\n");
        check("pass: >-\n  a\n  b\n\n  c\n    X\n  d\nb: 1\n");
        check("pass: >\n  a &&\n  X\n\nb: 1\n");
    }

    #[test]
    fn a_value_that_cannot_be_followed_is_placed_at_its_beginning() {
        let origin = Origin::find("pass: [a, b]\n", "pass", "something else");
        assert_eq!(origin.place(5), (1, 7));
        assert_eq!(Origin::find("x: 1\n", "pass", "a").place(0), (1, 1));
        assert_eq!(Origin::find_last("why: a\nb: 1\nwhy: c\n", "why"), (3, 1));
    }
}

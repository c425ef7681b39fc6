//! Which file is read, and what comes after it. No clock and no waiting: a step is asked for.
//!
//! ```text
//! the last file, found again by inode, by its day's name or by its content
//!   ─▶ read to its end ─▶ is it still alerts.json? ── yes ─▶ wait for more
//!                                │ no: read to the end once more, then
//!                                ▼
//!              the next day's file, else the present alerts.json ─▶ …
//! ```
//! The manager closes a day's file before it re-links `alerts.json`, so that a file which was read
//! to its end after the re-link has no more to come. An empty successor is not entered yet: a
//! program that rotates by renaming may still write to the old one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use collect::{CollectError, Quarantined};
use protocol::batch::BatchBuilder;
use protocol::limits;

use super::alert;
use super::days::{self, Day, DayFile};
use super::input::{Fill, Input, Line, Place};

/// Most records of one step, so that a file of empty lines comes to an end too.
const STEP_LINES: usize = 4096;

/// Most files beside the present one that are looked at.
const SIBLINGS: usize = 1000;

const LOST_CURSOR: &str = "the stored cursor cannot be read; the file is read again";
const LOST_FILE: &str =
    "the file is gone; the lines behind this byte are missing: at least so many bytes";
const CUT_UNSEEN: &str = "the file was cut or replaced while nobody read it; lines may be missing";
const CUT_SEEN: &str = "the file was cut; lines written just before may be missing";
const DAMAGED: &str = "the archive cannot be read to its end; lines behind this byte are missing, how many is not known";
const TOO_LONG: &str = "longer than an event may be once its secrets are replaced";
const NO_END: &str = "the last line of a finished file has no end";

/// What one step has read.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// A batch of them.
    pub(super) events: BatchBuilder,
    pub(super) quarantined: Vec<Quarantined>,
    /// The position behind them, encoded.
    pub(super) cursor: Vec<u8>,
    /// Whether there is no more at present.
    pub(super) is_end: bool,
    /// Bytes and lines taken, for the bounds.
    bytes: u64,
    lines: usize,
}

impl Step {
    /// Reads a line and adds its event, or says why it is none.
    fn add(&mut self, line: &[u8]) -> Result<(), &'static str> {
        alert::read(line, |event| {
            // What stands for a secret can be longer than the secret was.
            if event.raw.len() > limits::EVENT_RAW_BYTES {
                return Err(TOO_LONG);
            }
            self.events
                .push(event)
                .expect("an event within EVENT_RAW_BYTES fits a batch that is not full");
            Ok(())
        })?
    }

    fn is_full(&self) -> bool {
        let target = u64::try_from(limits::BATCH_TARGET_BYTES).unwrap_or(u64::MAX);
        self.events.is_full() || self.bytes >= target || self.lines >= STEP_LINES
    }
}

/// Follows `alerts.json` through its files.
#[derive(Debug)]
pub(super) struct Follower {
    present: PathBuf,
    /// Where the last run stopped, until the first file is open.
    begin: Begin,
    input: Option<Input>,
}

#[derive(Debug)]
enum Begin {
    /// At the start of the present file.
    Present,
    /// Where an earlier run stopped.
    At(Box<Place>),
    /// Nobody knows where.
    Unreadable,
}

/// What happens at the end of a file.
enum Turn {
    /// It is the one that is written: there will be more.
    Stay,
    /// There is more in it by now.
    Again,
    /// Another one follows.
    Next(Box<Input>),
}

/// A file that may be the one a position was taken in.
struct Candidate {
    path: PathBuf,
    day: Option<Day>,
    is_packed: bool,
    /// Whether it stands beside the present file and is none of the manager's.
    is_sibling: bool,
}

impl Candidate {
    /// Opens it; `None` when it has gone since it was listed, or is no file.
    fn open(&self) -> io::Result<Option<Input>> {
        existing(if self.is_packed {
            Input::packed(&self.path, self.day)
        } else {
            Input::plain(&self.path, self.day)
        })
    }

    /// Goes to a position in an input of this candidate, if it has the content. An archive that
    /// cannot be read has not.
    fn resume(&self, mut input: Input, place: &Place) -> Option<Input> {
        if !input.resume(place).unwrap_or(false) {
            return None;
        }
        if self.is_sibling && place.day.is_some() {
            input.day = place.day;
            input.is_copy = true;
        }
        Some(input)
    }
}

impl Follower {
    /// Makes a follower of the file at `present` that begins at `cursor`.
    pub(super) fn new(present: PathBuf, cursor: Option<&[u8]>) -> Self {
        let begin = match cursor.map(Place::parse) {
            None => Begin::Present,
            Some(Some(place)) => Begin::At(Box::new(place)),
            Some(None) => Begin::Unreadable,
        };
        Self {
            present,
            begin,
            input: None,
        }
    }

    /// Reads about a batch of lines.
    ///
    /// # Errors
    ///
    /// When a file cannot be read. Ask again with a new follower at the last cursor.
    pub(super) fn step(&mut self) -> Result<Step, CollectError> {
        self.try_step()
            .map_err(|(path, source)| CollectError::File {
                path: path.display().to_string(),
                source,
            })
    }

    fn try_step(&mut self) -> Result<Step, (PathBuf, io::Error)> {
        let mut step = Step::default();
        let mut input = match self.input.take() {
            Some(input) => input,
            None => self.open(&mut step).map_err(|error| self.here(error))?,
        };
        loop {
            take_lines(&mut input, &mut step);
            if step.is_full() {
                break;
            }
            let turn = match input.fill() {
                Ok(Fill::More) => Ok(Turn::Again),
                Ok(Fill::End) => self.turn(&mut input, &mut step),
                Ok(Fill::Cut) => self.cut(&mut input, &mut step),
                Err(error) if input.is_packed() && is_damage(&error) => {
                    note(&mut step, input.shown(input.offset()), DAMAGED);
                    input.give_up();
                    Ok(Turn::Again)
                }
                Err(error) => return Err((input.path().to_owned(), error)),
            };
            match turn.map_err(|error| self.here(error))? {
                Turn::Again => {}
                Turn::Next(next) => input = *next,
                Turn::Stay => {
                    step.is_end = true;
                    break;
                }
            }
        }
        step.cursor = input.place().encode();
        self.input = Some(input);
        Ok(step)
    }

    fn here(&self, error: io::Error) -> (PathBuf, io::Error) {
        (self.present.clone(), error)
    }

    fn folder(&self) -> &Path {
        self.present.parent().unwrap_or(Path::new("/"))
    }

    /// Opens the file to begin with.
    fn open(&mut self, step: &mut Step) -> io::Result<Input> {
        match std::mem::replace(&mut self.begin, Begin::Present) {
            Begin::Present => self.open_present(),
            Begin::Unreadable => {
                note(step, self.present.display().to_string(), LOST_CURSOR);
                self.open_present()
            }
            Begin::At(place) => {
                let opened = self.find(&place, step);
                // Asked again, a follower begins where this one did.
                if opened.is_err() {
                    self.begin = Begin::At(place);
                }
                opened
            }
        }
    }

    /// Opens the present file at its start, and finds out which day's it is.
    fn open_present(&self) -> io::Result<Input> {
        let mut input = Input::plain(&self.present, None)?;
        for file in days::list(self.folder(), None)?.iter().rev() {
            if let Some(path) = &file.plain
                && input.is_at(path).unwrap_or(false)
            {
                input.day = Some(file.day);
                break;
            }
        }
        Ok(input)
    }

    /// Finds the file that a position was taken in, or says that it is gone and opens what
    /// follows it.
    fn find(&self, place: &Place, step: &mut Step) -> io::Result<Input> {
        let candidates = self.candidates(place.day)?;
        let mut is_cut = false;
        for candidate in &candidates {
            let Some(input) = candidate.open()? else {
                continue;
            };
            if !input.is_place_of(place) {
                continue;
            }
            // Of a file that nothing was read of, only the name tells it from a later one with
            // the same inode.
            if !place.has_head() && candidate.day != place.day {
                continue;
            }
            if let Some(input) = candidate.resume(input, place) {
                return Ok(input);
            }
            is_cut |= !candidate.is_packed && candidate.day == place.day;
        }
        if let Some(input) = find_content(&candidates, place)? {
            return Ok(input);
        }
        if place.has_head() {
            let (path, reason) = if is_cut {
                (self.present.clone(), CUT_UNSEEN)
            } else {
                (self.name_of(place.day), LOST_FILE)
            };
            let at = format!("{}:{}", path.display(), place.offset);
            // Without a look at the file since, more can have been written to it.
            quarantine(
                step,
                at,
                reason,
                usize::try_from(place.unread()).unwrap_or(usize::MAX),
            );
        }
        // What was cut is read again under its own name; what is gone is followed by the next.
        let is_next = |file: &DayFile| {
            let day = Some(file.day);
            day > place.day || (is_cut && day == place.day)
        };
        if place.day.is_some() {
            let from = place.day.map(Day::begin);
            for file in days::list(self.folder(), from)? {
                if is_next(&file)
                    && let Some(input) = open_day(&file)?
                    && input.has_content()?
                {
                    return Ok(input);
                }
            }
        }
        self.open_present()
    }

    /// Returns the files that a position can belong to: the manager's from its date on, the
    /// present one and what stands beside it.
    fn candidates(&self, day: Option<Day>) -> io::Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        for file in days::list(self.folder(), day.map(Day::begin))? {
            let names = [(file.plain, false), (file.packed, true)];
            for (path, is_packed) in names {
                candidates.extend(path.map(|path| Candidate {
                    path,
                    day: Some(file.day),
                    is_packed,
                    is_sibling: false,
                }));
            }
        }
        candidates.push(Candidate {
            path: self.present.clone(),
            day: None,
            is_packed: false,
            is_sibling: false,
        });
        let beside = siblings(&self.present)?;
        candidates.extend(beside.into_iter().map(|(_, candidate)| candidate));
        Ok(candidates)
    }

    fn name_of(&self, day: Option<Day>) -> PathBuf {
        day.map_or_else(|| self.present.clone(), |day| day.path(self.folder()))
    }

    /// Decides at the end of a file.
    fn turn(&self, input: &mut Input, step: &mut Step) -> io::Result<Turn> {
        if !input.is_packed() && is_present(input, &self.present)? {
            return Ok(Turn::Stay);
        }
        let Some(next) = self.next_file(input)? else {
            return Ok(Turn::Stay);
        };
        // Only now is it sure that nobody opens the old file any more; what was written between
        // the last look and the re-link is still to be read.
        if !input.is_packed() && input.fill()? != Fill::End {
            return Ok(Turn::Again);
        }
        if input.has_rest() {
            let place = input.shown(input.offset());
            match input.take_rest() {
                Line::Whole(line) => {
                    if step.add(&line).is_err() {
                        quarantine(step, place, NO_END, line.len());
                    }
                }
                Line::TooLong(bytes) => too_long(step, place, bytes),
            }
        }
        Ok(Turn::Next(Box::new(next)))
    }

    /// Goes on after a file was cut: in a copy of what it held, else at its new start.
    fn cut(&self, input: &mut Input, step: &mut Step) -> io::Result<Turn> {
        let place = input.place();
        note(step, input.shown(place.offset), CUT_SEEN);
        if let Some(copy) = find_content(&self.candidates(place.day)?, &place)?
            && !copy.is_same_file(input)
        {
            return Ok(Turn::Next(Box::new(copy)));
        }
        input.rewind();
        Ok(Turn::Again)
    }

    /// Opens what comes after a file and holds something.
    fn next_file(&self, current: &Input) -> io::Result<Option<Input>> {
        let is_next =
            |input: &Input| io::Result::Ok(!input.is_same_file(current) && input.has_content()?);
        if current.day.is_none() || current.is_copy {
            let (written, place) = (current.modified()?, current.place());
            for (modified, candidate) in siblings(&self.present)? {
                // One that begins alike is this one, packed since.
                if modified > written
                    && find_content(std::slice::from_ref(&candidate), &place)?.is_none()
                    && let Some(mut input) = candidate.open()?
                    && is_next(&input)?
                {
                    (input.day, input.is_copy) = (current.day, current.is_copy);
                    return Ok(Some(input));
                }
            }
        }
        if let Some(day) = current.day {
            for file in days::list(self.folder(), Some(day))? {
                let is_later = file.day > day || (current.is_copy && file.day == day);
                if is_later
                    && let Some(input) = open_day(&file)?
                    && is_next(&input)?
                {
                    return Ok(Some(input));
                }
            }
        }
        match existing(self.open_present())? {
            Some(input) if is_next(&input)? => Ok(Some(input)),
            Some(_) | None => Ok(None),
        }
    }
}

/// Finds the content that a position was taken in, under any name, its own day's first.
fn find_content(candidates: &[Candidate], place: &Place) -> io::Result<Option<Input>> {
    let is_own = |candidate: &&Candidate| place.day.is_some() && candidate.day == place.day;
    let own = candidates.iter().filter(is_own);
    let others = candidates.iter().filter(|candidate| !is_own(candidate));
    for candidate in own.chain(others) {
        // Any content begins with nothing: then the name alone counts.
        if !place.has_head() && !is_own(&candidate) {
            continue;
        }
        let Some(input) = candidate.open()? else {
            continue;
        };
        if let Some(input) = candidate.resume(input, place) {
            return Ok(Some(input));
        }
    }
    Ok(None)
}

/// Opens a day's file under the name it has by now.
fn open_day(file: &DayFile) -> io::Result<Option<Input>> {
    let plain = file.plain.as_ref();
    if let Some(path) = plain
        && let Some(input) = existing(Input::plain(path, Some(file.day)))?
    {
        return Ok(Some(input));
    }
    // Packed since it was listed, perhaps.
    let packed = file.packed.clone().or_else(|| {
        let mut name = plain?.clone().into_os_string();
        name.push(".gz");
        Some(PathBuf::from(name))
    });
    match packed {
        Some(path) => existing(Input::packed(&path, Some(file.day))),
        None => Ok(None),
    }
}

/// Returns what stands beside the present file under its name and a suffix (`alerts.json.1`,
/// `alerts.json-20261122.gz`), as programs that rotate by renaming leave it; oldest first.
fn siblings(present: &Path) -> io::Result<Vec<(SystemTime, Candidate)>> {
    let (Some(folder), Some(name)) = (present.parent(), present.file_name()) else {
        return Ok(Vec::new());
    };
    let name = name.to_string_lossy();
    let mut found = Vec::new();
    let listed = std::fs::read_dir(folder).map_err(|error| days::unlisted(folder, &error));
    for entry in existing(listed)?.into_iter().flatten() {
        let entry = entry?;
        let file = entry.file_name();
        let file = file.to_string_lossy();
        let Some(suffix) = file.strip_prefix(name.as_ref()) else {
            continue;
        };
        let stem = suffix.strip_suffix(".gz").unwrap_or(suffix);
        let is_rotated =
            suffix.starts_with(['.', '-']) && stem.ends_with(|last: char| last.is_ascii_digit());
        if !is_rotated || found.len() >= SIBLINGS {
            continue;
        }
        if let Some(meta) = existing(entry.metadata())?
            && meta.is_file()
        {
            let candidate = Candidate {
                path: entry.path(),
                day: None,
                is_packed: suffix.ends_with(".gz"),
                is_sibling: true,
            };
            found.push((meta.modified()?, candidate));
        }
    }
    found.sort_by(|a, b| (a.0, &a.1.path).cmp(&(b.0, &b.1.path)));
    Ok(found)
}

/// Returns `None` for what is not there, or is a folder or the like.
fn existing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns whether `present` is a name of the input. Between unlink and link it has none: then the
/// input is as good as present.
fn is_present(input: &Input, present: &Path) -> io::Result<bool> {
    Ok(existing(input.is_at(present))?.unwrap_or(true))
}

/// Returns whether an error is the archive's fault and not the disk's.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// Takes whole lines until the step is full.
fn take_lines(input: &mut Input, step: &mut Step) {
    while !step.is_full() {
        let at = input.offset();
        let Some(line) = input.take_line() else {
            return;
        };
        step.lines += 1;
        match line {
            Line::TooLong(bytes) => too_long(step, input.shown(at), bytes),
            Line::Whole(line) => {
                step.bytes += u64::try_from(line.len()).unwrap_or(u64::MAX) + 1;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                if let Err(reason) = step.add(&line) {
                    quarantine(step, input.shown(at), reason, line.len());
                }
            }
        }
    }
}

fn too_long(step: &mut Step, place: String, bytes: u64) {
    step.quarantined.push(Quarantined {
        place,
        reason: format!("a line of more than {} bytes", limits::EVENT_RAW_BYTES),
        bytes,
    });
}

fn quarantine(step: &mut Step, place: String, reason: &str, bytes: usize) {
    step.quarantined.push(Quarantined {
        place,
        reason: reason.to_owned(),
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
    });
}

/// Records what is known of lines that nobody can read any more.
fn note(step: &mut Step, place: String, reason: &str) {
    quarantine(step, place, reason, 0);
}

//! One file of alerts, read from a position that survives a restart, a rename and packing.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;
use protocol::limits;
use serde::{Deserialize, Serialize};

use super::days::Day;

/// Bytes at the start of a file that tell it from others.
const HEAD_BYTES: usize = 256;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Where reading stopped, as the spool keeps it.
///
/// Device and inode find a file under any name. The hash of its beginning tells it from a later
/// one that got the same inode, and finds its content in another file: packed, copied, restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    device: u64,
    inode: u64,
    /// Bytes of whole lines that were taken; of the unpacked content.
    pub(super) offset: u64,
    /// How many bytes at the start are hashed: 256, or as many as were taken.
    head_bytes: u16,
    head: [u8; 32],
    /// Which of the manager's files it is, if it is one.
    pub(super) day: Option<Day>,
    /// How long the file was by then, where that can be asked: what is known to be lost with a
    /// file that is gone before it was read.
    length: u64,
}

/// The encoded forms of a position.
#[derive(Debug, Serialize, Deserialize)]
enum Position {
    V1(Place),
}

impl Place {
    /// Reads what [`Place::encode`] made; `None` for anything else.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let Position::V1(place) = postcard::from_bytes(bytes).ok()?;
        let is_sound = usize::from(place.head_bytes) <= HEAD_BYTES
            && u64::from(place.head_bytes) <= place.offset;
        is_sound.then_some(place)
    }

    /// Returns the bytes for the spool.
    pub(super) fn encode(self) -> Vec<u8> {
        postcard::to_stdvec(&Position::V1(self)).expect("plain structs always serialise")
    }

    /// Returns how many bytes behind the position there were when it was taken.
    pub(super) fn unread(&self) -> u64 {
        self.length.saturating_sub(self.offset)
    }

    /// Returns whether the beginning of the file was read, so that it can be recognised by it.
    pub(super) fn has_head(&self) -> bool {
        self.head_bytes > 0
    }
}

enum Body {
    Plain(File),
    Packed(Box<MultiGzDecoder<BufReader<File>>>),
}

/// What was added to the waiting bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Some bytes.
    More,
    /// Nothing: this is the present end.
    End,
    /// Nothing: the file is shorter than what was read of it, or begins in another way.
    Cut,
}

/// One line out of an input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Without its end.
    Whole(Vec<u8>),
    /// Longer than an event may be: how long.
    TooLong(u64),
}

/// An open file of alerts.
pub(super) struct Input {
    path: PathBuf,
    body: Body,
    device: u64,
    inode: u64,
    pub(super) day: Option<Day>,
    /// Whether this is a copy, under another name, of what the day's file held once.
    pub(super) is_copy: bool,
    /// The first bytes of the content, as far as they were read.
    head: Vec<u8>,
    /// Bytes of the content that were read.
    read: u64,
    /// Bytes that were read; those before `start` were taken as lines.
    waiting: Vec<u8>,
    start: usize,
    /// Up to where `waiting` is known to hold no end of the line at `start`.
    searched: usize,
    /// Bytes of a line beyond the bound that were let go.
    skipped: u64,
    /// Whether the rest of the content was given up.
    is_over: bool,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input")
            .field("path", &self.path)
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}

impl Input {
    /// Opens a plain file at its start.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is no file.
    pub(super) fn plain(path: &Path, day: Option<Day>) -> io::Result<Self> {
        let file = open(path)?;
        Self::of(path, &file, day, |file| Ok(Body::Plain(file.try_clone()?)))
    }

    /// Opens a gzip file at the start of its content.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is no file.
    pub(super) fn packed(path: &Path, day: Option<Day>) -> io::Result<Self> {
        let file = open(path)?;
        Self::of(path, &file, day, |file| {
            let reader = BufReader::with_capacity(CHUNK_BYTES, file.try_clone()?);
            Ok(Body::Packed(Box::new(MultiGzDecoder::new(reader))))
        })
    }

    fn of(
        path: &Path,
        file: &File,
        day: Option<Day>,
        body: impl FnOnce(&File) -> io::Result<Body>,
    ) -> io::Result<Self> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        Ok(Self {
            path: path.to_owned(),
            body: body(file)?,
            device: found.dev(),
            inode: found.ino(),
            day,
            is_copy: false,
            head: Vec::new(),
            read: 0,
            waiting: Vec::new(),
            start: 0,
            searched: 0,
            skipped: 0,
            is_over: false,
        })
    }

    /// Returns whether `path` is another name of this file.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let found = std::fs::metadata(path)?;
        Ok((found.dev(), found.ino()) == (self.device, self.inode))
    }

    /// Returns whether two inputs are one file.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Returns whether this is the file, by its inode alone, that a position was taken in.
    pub(super) fn is_place_of(&self, place: &Place) -> bool {
        (self.device, self.inode) == (place.device, place.inode)
    }

    /// Returns whether the content is compressed: a finished file.
    pub(super) fn is_packed(&self) -> bool {
        matches!(self.body, Body::Packed(_))
    }

    /// Returns whether the file holds anything. A packed one is taken to.
    ///
    /// # Errors
    ///
    /// When the file cannot be asked.
    pub(super) fn has_content(&self) -> io::Result<bool> {
        match &self.body {
            Body::Plain(file) => Ok(file.metadata()?.len() > 0),
            Body::Packed(_) => Ok(true),
        }
    }

    /// Returns the content's offset behind the last line that was taken.
    pub(super) fn offset(&self) -> u64 {
        let waiting = self.waiting.len().saturating_sub(self.start);
        let waiting = u64::try_from(waiting).unwrap_or(u64::MAX);
        self.read.saturating_sub(waiting + self.skipped)
    }

    /// Returns whether bytes are left that are no whole line.
    pub(super) fn has_rest(&self) -> bool {
        self.waiting.len() > self.start || self.skipped > 0
    }

    /// Returns when the file was written last.
    ///
    /// # Errors
    ///
    /// When the file cannot be asked.
    pub(super) fn modified(&self) -> io::Result<SystemTime> {
        match &self.body {
            Body::Plain(file) => file.metadata()?.modified(),
            Body::Packed(content) => content.get_ref().get_ref().metadata()?.modified(),
        }
    }

    /// Goes to a position, if this content begins as the one it was taken in and is as long.
    ///
    /// Call it on an input that has not been read from. When the answer is no, the input is of no
    /// further use.
    ///
    /// # Errors
    ///
    /// When the file cannot be read; a damaged archive is an error too.
    pub(super) fn resume(&mut self, place: &Place) -> io::Result<bool> {
        let mut head = vec![0; usize::from(place.head_bytes)];
        if !self.read_exactly(&mut head)? || hash(&head) != place.head {
            return Ok(false);
        }
        let head_bytes = u64::from(place.head_bytes);
        match &mut self.body {
            Body::Plain(file) => {
                if file.metadata()?.len() < place.offset {
                    return Ok(false);
                }
            }
            Body::Packed(content) => {
                let left = place.offset.saturating_sub(head_bytes);
                let passed = io::copy(&mut content.by_ref().take(left), &mut io::sink())?;
                if passed < left {
                    return Ok(false);
                }
            }
        }
        self.head = head;
        self.read = place.offset;
        Ok(true)
    }

    /// Fills `bytes` from the start of the content; returns whether there were as many.
    fn read_exactly(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        let read = match &mut self.body {
            Body::Plain(file) => file.read_exact_at(bytes, 0),
            Body::Packed(content) => content.read_exact(bytes),
        };
        match read {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads on.
    ///
    /// # Errors
    ///
    /// When the file cannot be read; a damaged archive is an error too.
    pub(super) fn fill(&mut self) -> io::Result<Fill> {
        if self.is_over {
            return Ok(Fill::End);
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        let length = match &mut self.body {
            Body::Plain(file) => {
                if file.metadata()?.len() < self.read || !begins_with(file, &self.head)? {
                    return Ok(Fill::Cut);
                }
                read_at(file, &mut chunk, self.read)?
            }
            Body::Packed(content) => loop {
                match content.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            },
        };
        if length == 0 {
            return Ok(Fill::End);
        }
        let bytes = chunk.get(..length).unwrap_or_default();
        let missing = HEAD_BYTES.saturating_sub(self.head.len());
        if missing > 0 {
            self.head.extend(bytes.iter().take(missing));
        }
        self.waiting.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.waiting.extend_from_slice(bytes);
        self.read += u64::try_from(length).unwrap_or(0);
        Ok(Fill::More)
    }

    /// Takes the next whole line out of what was read.
    pub(super) fn take_line(&mut self) -> Option<Line> {
        let fresh = self.waiting.get(self.searched..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', fresh) else {
            self.searched = self.waiting.len();
            if self.waiting.len() - self.start > limits::EVENT_RAW_BYTES {
                // Let go at once: a line may be longer than memory.
                self.skipped += self.drop_waiting();
            }
            return None;
        };
        let end = self.searched + end;
        let line = self.waiting.get(self.start..end).unwrap_or_default();
        let skipped = std::mem::take(&mut self.skipped);
        let whole = skipped + u64::try_from(line.len()).unwrap_or(u64::MAX);
        let line = if skipped > 0 || line.len() > limits::EVENT_RAW_BYTES {
            Line::TooLong(whole)
        } else {
            Line::Whole(line.to_vec())
        };
        self.start = end + 1;
        self.searched = self.start;
        Some(line)
    }

    /// Takes what is left of a finished file: a last line without its end.
    pub(super) fn take_rest(&mut self) -> Line {
        let rest = self.waiting.get(self.start..).unwrap_or_default().to_vec();
        let length = self.drop_waiting();
        match std::mem::take(&mut self.skipped) {
            0 => Line::Whole(rest),
            skipped => Line::TooLong(skipped + length),
        }
    }

    /// Forgets what waits and returns its length.
    fn drop_waiting(&mut self) -> u64 {
        let length = self.waiting.len() - self.start;
        self.waiting.clear();
        self.start = 0;
        self.searched = 0;
        u64::try_from(length).unwrap_or(u64::MAX)
    }

    /// Gives up what was not read of a content that cannot be.
    pub(super) fn give_up(&mut self) {
        self.take_rest();
        self.is_over = true;
    }

    /// Goes back to the start of a file that was cut.
    pub(super) fn rewind(&mut self) {
        self.take_rest();
        self.head.clear();
        self.read = 0;
    }

    /// Returns the position behind the last line that was taken.
    pub(super) fn place(&self) -> Place {
        let offset = self.offset();
        let taken = usize::try_from(offset).unwrap_or(usize::MAX);
        let head_bytes = self.head.len().min(taken).min(HEAD_BYTES);
        let head = self.head.get(..head_bytes).unwrap_or_default();
        Place {
            device: self.device,
            inode: self.inode,
            offset,
            head_bytes: u16::try_from(head_bytes).unwrap_or(0),
            head: hash(head),
            day: self.day,
            length: match &self.body {
                Body::Plain(file) => file.metadata().map_or(0, |found| found.len()),
                Body::Packed(_) => 0,
            },
        }
    }

    /// Returns file and offset as an operator is told of them.
    pub(super) fn shown(&self, offset: u64) -> String {
        format!("{}:{offset}", self.path.display())
    }

    /// Returns the name under which the file was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn hash(head: &[u8]) -> [u8; 32] {
    *blake3::hash(head).as_bytes()
}

/// Opens for reading without waiting: a pipe in the file's place would else hold the agent up.
fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn begins_with(file: &File, head: &[u8]) -> io::Result<bool> {
    let mut found = vec![0; head.len()];
    match file.read_exact_at(&mut found, 0) {
        Ok(()) => Ok(found == head),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

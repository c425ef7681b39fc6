//! What the agent remembers beside its batches: contents that the hub was told, generations of
//! sweeps, cursors of tails.

use protocol::document::ContentHash;
use protocol::ids::SourceId;
use protocol::wire::v1::Resent;
use redb::{ReadTransaction, WriteTransaction};

use super::engine::storage;
use super::tables::{CONTENTS, CURSORS, GENERATIONS};
use super::{Effect, SpoolError, repair};
use crate::seal::SealKey;
use crate::sync::sweep::Known;

/// What the hub was told, as of one moment.
pub(crate) struct View {
    read: ReadTransaction,
    key: SealKey,
}

impl View {
    pub(super) fn new(read: ReadTransaction, key: SealKey) -> Self {
        Self { read, key }
    }
}

impl Known for View {
    type Error = SpoolError;

    fn content(&self, scope: &str, id: &str) -> Result<Option<ContentHash>, SpoolError> {
        let contents = self
            .read
            .open_table(CONTENTS)
            .map_err(storage("open the contents"))?;
        let sealed = contents
            .get((scope, id))
            .map_err(storage("read a content"))?;
        let Some(sealed) = sealed else {
            return Ok(None);
        };
        // One that does not open is as good as unknown: the document is sent once more.
        let content = self.key.open(&content_place(scope, id), sealed.value());
        Ok(content
            .ok()
            .and_then(|content| ContentHash::try_from(content.as_slice()).ok()))
    }

    fn ids(&self, scope: &str) -> Result<Vec<String>, SpoolError> {
        let contents = self
            .read
            .open_table(CONTENTS)
            .map_err(storage("open the contents"))?;
        let mut ids = Vec::new();
        for entry in contents
            .range((scope, "")..)
            .map_err(storage("list a scope"))?
        {
            let (place, _) = entry.map_err(storage("list a scope"))?;
            let (of, id) = place.value();
            if of != scope {
                break;
            }
            ids.push(id.to_owned());
        }
        Ok(ids)
    }

    fn asked(&self, scope: &str) -> Result<Option<Resent>, SpoolError> {
        repair::asked(&self.read, scope)
    }

    fn generation(&self, scope: &str) -> Result<u64, SpoolError> {
        let generations = self
            .read
            .open_table(GENERATIONS)
            .map_err(storage("open the generations"))?;
        let generation = generations
            .get(scope)
            .map_err(storage("read a generation"))?;
        Ok(generation.map_or(0, |generation| generation.value()))
    }
}

/// Writes what a commit remembers.
pub(super) fn remember(
    write: &WriteTransaction,
    key: &SealKey,
    effects: &[Effect],
) -> Result<(), SpoolError> {
    let mut contents = write
        .open_table(CONTENTS)
        .map_err(storage("open the contents"))?;
    let mut generations = write
        .open_table(GENERATIONS)
        .map_err(storage("open the generations"))?;
    let mut cursors = write
        .open_table(CURSORS)
        .map_err(storage("open the cursors"))?;
    for effect in effects {
        match effect {
            Effect::Content { scope, id, content } => {
                let sealed = key.seal(&content_place(scope, id), content);
                contents
                    .insert((scope.as_str(), id.as_str()), sealed.as_slice())
                    .map_err(storage("write a content"))?;
            }
            Effect::Forgotten { scope, id } => {
                contents
                    .remove((scope.as_str(), id.as_str()))
                    .map_err(storage("remove a content"))?;
            }
            Effect::Generation { scope, generation } => {
                generations
                    .insert(scope.as_str(), generation)
                    .map_err(storage("write a generation"))?;
            }
            Effect::Resent { scope, resent } => repair::done(write, scope, resent)?,
            Effect::Cursor { source, cursor } => {
                let sealed = key.seal(&cursor_place(*source), cursor);
                cursors
                    .insert(source.as_bytes(), sealed.as_slice())
                    .map_err(storage("write a cursor"))?;
            }
        }
    }
    Ok(())
}

/// Forgets the contents of a scope; of all scopes for an empty text.
pub(super) fn forget(write: &WriteTransaction, scope: &str) -> Result<(), SpoolError> {
    let mut contents = write
        .open_table(CONTENTS)
        .map_err(storage("open the contents"))?;
    // Generations stay: they only ever rise.
    contents
        .retain(|(of, _), _| !scope.is_empty() && of != scope)
        .map_err(storage("forget a scope"))
}

/// Forgets a cursor.
pub(super) fn forget_cursor(write: &WriteTransaction, source: SourceId) -> Result<(), SpoolError> {
    let mut cursors = write
        .open_table(CURSORS)
        .map_err(storage("open the cursors"))?;
    cursors
        .remove(source.as_bytes())
        .map(drop)
        .map_err(storage("remove a cursor"))
}

/// Returns the cursor of a tail. One that does not open is told and taken for none: the tail
/// then begins as on its first run, and some events come twice.
pub(super) fn cursor(
    read: &ReadTransaction,
    key: &SealKey,
    source: SourceId,
) -> Result<Option<Vec<u8>>, SpoolError> {
    let cursors = read
        .open_table(CURSORS)
        .map_err(storage("open the cursors"))?;
    let sealed = cursors
        .get(source.as_bytes())
        .map_err(storage("read a cursor"))?;
    let Some(sealed) = sealed else {
        return Ok(None);
    };
    match key.open(&cursor_place(source), sealed.value()) {
        Ok(cursor) => Ok(Some(cursor.to_vec())),
        Err(error) => {
            tracing::error!(%source, %error, "a cursor is damaged; the source is read from its start");
            Ok(None)
        }
    }
}

/// Binds a content to its resource. The length keeps scope and id apart.
fn content_place(scope: &str, id: &str) -> Vec<u8> {
    format!("content {} {scope} {id}", scope.len()).into_bytes()
}

fn cursor_place(source: SourceId) -> Vec<u8> {
    [b"cursor ".as_slice(), source.as_bytes()].concat()
}

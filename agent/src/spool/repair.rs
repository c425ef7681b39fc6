//! What the hub asked to be sent again of a scope, because its sums were others.

use protocol::Scope;
use protocol::parts::Sums;
use protocol::wire::v1::Resent;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::SpoolError;
use super::engine::storage;
use super::tables::REPAIRS;
use crate::sync::sweep::Known;

/// Names the parts in which the hub's sums differ from what it was told.
pub(super) fn compare<K: Known<Error = SpoolError>>(
    known: &K,
    scope: &str,
    theirs: &[u64],
) -> Result<Resent, SpoolError> {
    let nothing = Resent {
        parts: 1,
        which: Vec::new(),
    };
    // A hub asks for scopes that it was told of, and in counts that can be.
    let (Ok(named), Some(mut ours)) = (scope.parse::<Scope>(), Sums::new(theirs.len())) else {
        return Ok(nothing);
    };
    for id in known.ids(scope)? {
        if let Some(content) = known.content(scope, &id)? {
            ours.add(&named.urn(&id).to_string(), &content);
        }
    }
    Ok(ours.differing(theirs))
}

pub(super) fn remember(
    write: &WriteTransaction,
    scope: &str,
    resent: &Resent,
) -> Result<(), SpoolError> {
    let mut repairs = write
        .open_table(REPAIRS)
        .map_err(storage("open the repairs"))?;
    let bytes = postcard::to_stdvec(resent).expect("a plain struct serialises");
    repairs
        .insert(scope, bytes.as_slice())
        .map_err(storage("write a repair"))?;
    Ok(())
}

/// Returns the parts of a scope that were asked for and not sent since.
pub(super) fn asked(read: &ReadTransaction, scope: &str) -> Result<Option<Resent>, SpoolError> {
    let repairs = read
        .open_table(REPAIRS)
        .map_err(storage("open the repairs"))?;
    let found = repairs.get(scope).map_err(storage("read a repair"))?;
    // One that cannot be read is asked for again.
    Ok(found.and_then(|bytes| postcard::from_bytes(bytes.value()).ok()))
}

/// Forgets a repair that was done, unless another was asked for meanwhile.
pub(super) fn done(
    write: &WriteTransaction,
    scope: &str,
    resent: &Resent,
) -> Result<(), SpoolError> {
    let mut repairs = write
        .open_table(REPAIRS)
        .map_err(storage("open the repairs"))?;
    let is_it = repairs
        .get(scope)
        .map_err(storage("read a repair"))?
        .and_then(|bytes| postcard::from_bytes::<Resent>(bytes.value()).ok())
        .is_some_and(|asked| asked == *resent);
    if is_it {
        repairs.remove(scope).map_err(storage("remove a repair"))?;
    }
    Ok(())
}

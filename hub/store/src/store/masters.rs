//! The master key at work: which keyrings it opens, and its exchange for another.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use protocol::ids::OrgId;

use super::{Hub, Store, purpose_of};
use crate::engine::Holder;
use crate::error::{ApplianceError, KeyError, MasterKeyError, OpenError, ReadError};
use crate::master::deletions::Deletions;
use crate::master::exchange::{self, KeyStep, Told};
use crate::master::{MasterKey, refuse_inside};
use crate::seal::{Keyring, Secret, UnwrapError, Wrap, random_key};

/// Looks at an organisation's keyring that may meet an exchange of the master key. One look is
/// enough unless one begins and ends meanwhile.
const LOOKS: usize = 4;

/// What wraps the keyrings: the master key in use, and during an exchange the next.
pub(super) struct Wraps {
    held: RwLock<Held>,
    /// The key file, links resolved.
    file: PathBuf,
}

struct Held {
    current: Arc<Wrap>,
    next: Option<Arc<Wrap>>,
}

impl Wraps {
    pub(super) fn new(wrap: Wrap, file: &Path) -> Self {
        let current = Arc::new(wrap);
        Self {
            held: RwLock::new(Held {
                current,
                next: None,
            }),
            file: file.to_owned(),
        }
    }

    /// Returns the key file, links resolved.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns what wraps under the master key in use.
    pub(super) fn current(&self) -> Arc<Wrap> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held.current)
    }

    fn unwrap(&self, purpose: &[u8], wrapped: &[u8]) -> Result<Keyring, UnwrapError> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let opened = held.current.unwrap(purpose, wrapped);
        match (&held.next, &opened) {
            (Some(next), Err(UnwrapError::OtherKey { .. })) => next.unwrap(purpose, wrapped),
            _ => opened,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        change(&mut self.held.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Unwraps the appliance's keyring, which stands in `path`: under the key of the file, or under the
/// one that a rotation was about to put in its place.
pub(super) fn unwrap(
    master: &MasterKey,
    wrapped: &[u8],
    path: &Path,
) -> Result<(Keyring, Wrap), OpenError> {
    let purpose = purpose_of(Holder::Appliance);
    let wrap = master.wrap();
    let other = match wrap.unwrap(&purpose, wrapped) {
        Ok(keyring) => return Ok((keyring, wrap)),
        Err(UnwrapError::OtherKey { wanted }) => wanted,
        Err(error) => return Err(unreadable(path, error)),
    };
    if let Some(next) = master
        .wrap_of_next()
        .filter(|next| next.fingerprint() == other)
    {
        let keyring = next.unwrap(&purpose, wrapped);
        return Ok((keyring.map_err(|error| unreadable(path, error))?, next));
    }
    Err(OpenError::WrongMasterKey {
        store: path.to_owned(),
        key_file: master.path().to_owned(),
        wanted: other,
        given: wrap.fingerprint(),
    })
}

/// Ends an exchange of the key file that was cut off. The store is open under `wrap`. A folder that
/// cannot be written is no reason not to open: the next opening finds the same.
pub(super) fn settle(master: &MasterKey, wrap: &Wrap) {
    let file = master.file();
    let settled = if wrap.fingerprint() == master.fingerprint() {
        exchange::destroy_old(file)
    } else {
        exchange::replace(file, &|_| ()).map(|()| true)
    };
    match settled {
        Ok(false) => {}
        Ok(true) => tracing::info!("an exchange of the master key that was cut off is at its end"),
        Err(error) => tracing::warn!(
            key_file = %file.display(),
            %error,
            "an exchange of the master key cannot be ended; make its folder writable for the hub"
        ),
    }
}

/// Why a keyring that stands in `path` is not to be used, apart from the master key's identity.
fn unreadable(path: &Path, error: UnwrapError) -> OpenError {
    let path = path.to_owned();
    match error {
        UnwrapError::Newer { found } => OpenError::Newer {
            path,
            found: u32::from(found),
            supported: 1,
        },
        UnwrapError::OtherKey { wanted } => {
            let reason = format!("a keyring in it was wrapped under master key {wanted}");
            OpenError::Damaged { path, reason }
        }
        UnwrapError::Damaged => OpenError::Damaged {
            path,
            reason: "a keyring in it does not open".into(),
        },
    }
}

/// Where the new master key of a rotation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewKeyPlace {
    /// Into the key file; the old key is destroyed.
    KeyFile,
    /// Into another, new file, mode 0600. The key file stays as it is, and its key opens nothing
    /// any more: for keys that something else brings to the key file's place at each start.
    File(PathBuf),
}

/// What a rotation of the master key came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Public name of the key that opens nothing any more.
    pub before: String,
    /// Public name of the key in use.
    pub after: String,
    /// Where it is.
    pub file: PathBuf,
    /// Organisations whose keyrings were wrapped anew.
    pub organisations: usize,
}

impl Store {
    /// Exchanges the master key for a new one: every keyring is wrapped anew in one durable commit.
    /// `told` hears of each step. Killed at any point, the store opens with what is then in the key
    /// file's place. Reads, writes and sessions go on.
    ///
    /// # Errors
    ///
    /// Nothing has changed, unless it is `Unplaced`.
    pub async fn rotate_master_key(
        &self,
        place: NewKeyPlace,
        told: Arc<Told>,
    ) -> Result<Rotated, KeyError> {
        let _turn = self.hub.turn_of_keys.lock().await;
        let ledger = self.hub.ledger().await?;
        let key = self.hub.write_new_key(&place).await?;
        told(KeyStep::Written);
        let next = Arc::new(Wrap::new(&key));
        self.hub.store_ledger(&ledger, Some(&next)).await?;
        let (before, to) = (self.hub.wraps.current(), Arc::clone(&next));
        let rotated = |organisations| Rotated {
            before: before.fingerprint(),
            after: next.fingerprint(),
            file: match &place {
                NewKeyPlace::KeyFile => self.hub.wraps.file.clone(),
                NewKeyPlace::File(file) => file.clone(),
            },
            organisations,
        };
        let from = Arc::clone(&before);
        let organisations = self
            .hub
            .exchange_wraps(Arc::clone(&next), move |desk| desk.rewrap(&from, &to))
            .await?;
        told(KeyStep::Rewrapped);
        if place == NewKeyPlace::KeyFile {
            self.hub.put_key_in_place(Arc::clone(&told)).await?;
        }
        self.hub.store_ledger(&ledger, None).await?;
        told(KeyStep::Signed);
        Ok(rotated(organisations))
    }
}

impl Hub {
    /// Returns the master key in force.
    pub(crate) fn wrap(&self) -> Arc<Wrap> {
        self.wraps.current()
    }

    /// Draws a key and stores it where it goes.
    pub(super) async fn write_new_key(&self, place: &NewKeyPlace) -> Result<Secret, KeyError> {
        let file = self.wraps.file.clone();
        let (data_dir, place) = (self.config.data_dir.clone(), place.clone());
        let in_use = self.wraps.current().fingerprint();
        let writing = move || {
            let key = random_key();
            let failed = |source| MasterKeyError::Io {
                path: file.clone(),
                source,
            };
            match place {
                NewKeyPlace::KeyFile => {
                    let known = MasterKey::load(&file, &data_dir)?;
                    if known.fingerprint() != in_use {
                        // An exchange may wait for its end; its key is the one that counts.
                        let waits = known.wrap_of_next();
                        if waits.is_none_or(|next| next.fingerprint() != in_use) {
                            return Err(KeyError::Elsewhere { path: file });
                        }
                        exchange::replace(&file, &|_| ()).map_err(failed)?;
                    }
                    exchange::discard_next(&file).map_err(failed)?;
                    exchange::write(&exchange::next_of(&file), &key, Some(&file))?;
                }
                NewKeyPlace::File(path) => {
                    refuse_inside(&path, &data_dir)?;
                    exchange::write(&path, &key, Some(&file))?;
                }
            }
            Ok(key)
        };
        blocking(writing).await?
    }

    /// Makes a change that wraps every keyring under the next master key, and uses that one.
    pub(super) async fn exchange_wraps<R: Send + 'static>(
        &self,
        next: Arc<Wrap>,
        work: impl FnMut(&mut crate::appliance::desk::Desk<'_, '_>) -> Result<R, ApplianceError>
        + Send
        + 'static,
    ) -> Result<R, KeyError> {
        // Who opens an organisation meanwhile may meet its keyring under either.
        let offered = Arc::clone(&next);
        self.wraps.change(move |held| held.next = Some(offered));
        let done = self.shared.change(work).await;
        self.wraps.change(|held| {
            held.next = None;
            if done.is_ok() {
                held.current = next;
            }
        });
        Ok(done?)
    }

    /// Reads the ledger of purged organisations.
    pub(super) async fn ledger(&self) -> Result<Deletions, KeyError> {
        let (file, wrap) = (self.wraps.file.clone(), self.wraps.current());
        let reading = move || Deletions::load(&file, &[&wrap]);
        let ledger = blocking(reading).await??;
        if ledger.is_verified() {
            Ok(ledger)
        } else {
            Err(KeyError::Ledger)
        }
    }

    /// Stores the ledger, signed by the master key in use, and by the next where one is given.
    pub(super) async fn store_ledger(
        &self,
        ledger: &Deletions,
        next: Option<&Arc<Wrap>>,
    ) -> Result<(), KeyError> {
        let (file, wrap) = (self.wraps.file.clone(), self.wraps.current());
        let (ledger, next) = (ledger.clone(), next.map(Arc::clone));
        let storing = move || match &next {
            Some(next) => ledger.store(&file, &[&wrap, next]),
            None => ledger.store(&file, &[&wrap]),
        };
        Ok(blocking(storing).await??)
    }

    /// Puts the key that waits in the key file, and destroys the one before.
    pub(super) async fn put_key_in_place(&self, told: Arc<Told>) -> Result<(), KeyError> {
        let file = self.wraps.file.clone();
        let placing = move || {
            exchange::replace(&file, &*told).map_err(|source| KeyError::Unplaced {
                next: exchange::next_of(&file),
                path: file,
                source,
            })
        };
        blocking(placing).await?
    }

    /// Returns an organisation's keyring; `None` if there is no such organisation.
    pub(super) fn keyring_of(&self, org: OrgId) -> Result<Option<Keyring>, OpenError> {
        let store = self.engines.place(Holder::Appliance);
        let purpose = purpose_of(Holder::Org(org));
        let mut opened = Err(UnwrapError::Damaged);
        for _ in 0..LOOKS {
            let stored = self
                .shared
                .look(|records| records.org(org))
                .map_err(|error| OpenError::of_row(&store, &error))?;
            let Some(stored) = stored else {
                return Ok(None);
            };
            opened = self.wraps.unwrap(&purpose, &stored.keyring);
            if !matches!(opened, Err(UnwrapError::OtherKey { .. })) {
                break;
            }
        }
        opened.map(Some).map_err(|error| unreadable(&store, error))
    }
}

/// Runs what blocks beside the runtime's own threads.
pub(super) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, ReadError> {
    let done = tokio::task::spawn_blocking(work).await;
    // A runtime that shuts down.
    done.map_err(|_| ReadError::Closed)
}

//! Backups: whole, or refused with the place; what a restored store lets in and what it does not.

use std::io::{self, Cursor, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use protocol::ids::{OrgId, TokenId};
use store::rows::Role;
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::{
    BackupError, BackupHeader, BackupNote, BackupSummary, Inspection, MasterKey, NewKeyPlace,
    OpenError, OrgStore, RecoveryKey, RecoveryRecipient, Restored, Store, StoreConfig,
};
use zeroize::Zeroizing;

use crate::access::{enrol, session, token};
use crate::bench::{AGENT, Bench, Sweeper, at, header, stream, user, vpcs};
use crate::events;

fn note(recipient: Option<RecoveryRecipient>) -> BackupNote {
    BackupNote {
        hub: "sha256:5151".into(),
        program: "1.2.3".into(),
        made_at: at(7),
        recipient,
    }
}

fn backed_up(store: &Store) -> (Vec<u8>, BackupSummary) {
    let mut bytes = Vec::new();
    let summary = store.back_up(&note(None), &mut bytes).unwrap();
    (bytes, summary)
}

/// A place to restore to, with the key of a bench.
struct Place {
    dir: tempfile::TempDir,
    key: PathBuf,
}

impl Place {
    fn of(bench: &Bench) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::copy(bench.key(), &key).unwrap();
        Self { dir, key }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    async fn restore_without(
        &self,
        backup: &[u8],
        purged: &[OrgId],
    ) -> Result<Restored, BackupError> {
        let mut from = Cursor::new(backup.to_vec());
        let header = BackupHeader::read(&mut from)?;
        let master = MasterKey::load(&self.key, &self.data()).unwrap();
        let purged = purged.to_vec();
        let config = StoreConfig::new(self.data());
        Store::restore(config, master, header, from, move |org| {
            purged.contains(&org)
        })
        .await
    }

    async fn restore(&self, backup: &[u8]) -> Result<Restored, BackupError> {
        self.restore_without(backup, &[]).await
    }
}

pub(crate) async fn act(org: &OrgStore, object: &str) {
    let mut write = org.write();
    write.audit(AuditAct {
        at: at(3),
        actor: Actor::Local,
        action: "test".into(),
        object: object.into(),
        detail: String::new(),
    });
    write.commit().await.unwrap();
}

/// Resources, events, a stream and an audit log.
async fn fill(org: &OrgStore) {
    let mut sweeper = Sweeper::new(vpcs()).holding((0..30).map(|n| format!("vpc-{n}")));
    sweeper.sweep(org, 1).await;
    let mut write = org.write();
    write.advance_high_water(stream(2), 1, 5, header("1-5"));
    write.commit().await.unwrap();
    events::fill(org, 40).await;
    act(org, "one").await;
}

async fn seen(org: &OrgStore) -> (Inspection, u64, Vec<(store::Stream, u64)>) {
    let found = org.read(|reader| Ok(reader.inspect(&[]))).await.unwrap();
    assert_eq!(found.faults, Vec::<String>::new());
    let last = *org.commits().borrow();
    (found, last, org.high_waters(AGENT).await.unwrap())
}

#[tokio::test]
async fn a_restored_store_has_what_the_backed_up_one_had_and_goes_on_from_there() {
    let bench = Bench::new();
    let (one, two) = (bench.org("one").await, bench.org("two").await);
    fill(&one).await;
    act(&two, "alone").await;
    let (bytes, summary) = backed_up(&bench.store);
    assert_eq!(summary.bytes, u64::try_from(bytes.len()).unwrap());
    assert_eq!(summary.organisations.len(), 2);
    // Later, and not in it.
    act(&one, "later").await;

    let place = Place::of(&bench);
    let restored = place.restore(&bytes).await.unwrap();
    assert_eq!(restored.organisations.len(), 2);
    assert_eq!(restored.left_out, []);
    let own = restored.store.appliance().inspect().await.unwrap();
    assert_eq!(own.faults, Vec::<String>::new());
    let names: Vec<String> = restored
        .store
        .appliance()
        .orgs()
        .await
        .unwrap()
        .into_iter()
        .map(|org| org.name)
        .collect();
    assert_eq!(names, ["one", "two"]);
    for (org, more) in [(&one, 1), (&two, 0)] {
        let again = restored
            .store
            .maintenance(org.org())
            .await
            .unwrap()
            .unwrap();
        let (was, is) = (seen(org).await, seen(&again).await);
        assert_eq!(is.0.tables["resources"], was.0.tables["resources"]);
        assert_eq!(is.0.events, was.0.events);
        assert_eq!(is.0.audit_entries + more, was.0.audit_entries);
        assert_eq!(is.1 + more, was.1, "the number of the last commit");
        assert_eq!(is.2, was.2);
        act(&again, "after").await;
        assert_eq!(*again.commits().borrow(), is.1 + 1);
        seen(&again).await;
    }
    restored.store.close().await;
    // And a second time it is opened like any other.
    let master = MasterKey::load(&place.key, &place.data()).unwrap();
    let store = Store::open(StoreConfig::new(place.data()), master).unwrap();
    let again = store.maintenance(one.org()).await.unwrap().unwrap();
    assert_eq!(seen(&again).await.0.tables["resources"], 30);
}

#[tokio::test]
async fn a_store_is_not_restored_over_another() {
    let bench = Bench::new();
    bench.org("one").await;
    let (bytes, _) = backed_up(&bench.store);
    let place = Place::of(&bench);
    place.restore(&bytes).await.unwrap().store.close().await;
    let file = place.data().join("appliance.redb");
    let before = std::fs::read(&file).unwrap();
    let again = place.restore(&bytes).await.unwrap_err();
    let exists = matches!(again, BackupError::Open(OpenError::Exists { .. }));
    assert!(exists, "{again:?}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn a_backup_that_was_changed_anywhere_is_refused_with_the_place() {
    const CHUNK: usize = (64 << 10) + 16;
    let bench = Bench::new();
    let org = bench.org("one").await;
    for n in 0..3 {
        let value = Zeroizing::new(vec![n; 60 << 10]);
        let name = format!("large {n}");
        bench
            .store
            .appliance()
            .put_secret(&name, value)
            .await
            .unwrap();
    }
    act(&org, "one").await;
    let (bytes, _) = backed_up(&bench.store);
    let (other, _) = backed_up(&bench.store);
    let begin = 16 + usize::from(bytes[12]) + 256 * usize::from(bytes[13]);
    let chunks = (bytes.len() - begin).div_ceil(CHUNK);
    assert!(chunks >= 3, "{chunks}");
    let chunk = |n: usize| begin + n * CHUNK..(begin + (n + 1) * CHUNK).min(bytes.len());
    let place = Place::of(&bench);
    let refused = async |bytes: &[u8], what: &str| {
        let refused = place.restore(bytes).await.unwrap_err();
        assert!(refused.is_data_error(), "{what}: {refused:?}");
        assert!(!place.data().join("appliance.redb").exists() || what.contains("later"));
        let _ = std::fs::remove_file(place.data().join("appliance.redb"));
        refused.to_string()
    };
    let said = |offset: usize| {
        format!("the backup does not open at byte {offset}: changed, cut off or put together anew")
    };

    // One bit, in every chunk, at its ends and within.
    for n in 0..chunks {
        for at in [chunk(n).start, chunk(n).start + 100, chunk(n).end - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            let words = refused(&changed, "a bit, later").await;
            assert_eq!(words, said(chunk(n).start));
        }
    }
    // Cut off: between chunks, and within one.
    for n in 1..chunks {
        let words = refused(&bytes[..chunk(n).start], "cut, later").await;
        let at = chunk(n).start;
        assert_eq!(words, format!("the backup is cut off at byte {at}"));
        let words = refused(&bytes[..chunk(n).start + 9], "cut, later").await;
        assert_eq!(words, said(chunk(n).start));
    }
    assert_eq!(
        refused(&bytes[..begin], "cut").await,
        format!("the backup is cut off at byte {begin}")
    );
    // Bytes behind its end.
    let longer = [bytes.as_slice(), &[0; 5]].concat();
    refused(&longer, "longer, later").await;
    // Reordered, left out, repeated, from another backup of the same store.
    let swapped = [
        &bytes[..begin],
        &bytes[chunk(1)],
        &bytes[chunk(0)],
        &bytes[chunk(2).start..],
    ];
    assert_eq!(refused(&swapped.concat(), "swapped").await, said(begin));
    let without = [&bytes[..chunk(1).start], &bytes[chunk(2).start..]];
    assert_eq!(
        refused(&without.concat(), "without, later").await,
        said(chunk(1).start)
    );
    let twice = [
        &bytes[..chunk(0).end],
        &bytes[chunk(0)],
        &bytes[chunk(1).start..],
    ];
    assert_eq!(
        refused(&twice.concat(), "twice, later").await,
        said(chunk(1).start)
    );
    let spliced = [&bytes[..chunk(1).start], &other[chunk(1).start..]];
    assert_eq!(
        refused(&spliced.concat(), "spliced, later").await,
        said(chunk(1).start)
    );
    let head = [&other[..begin], &bytes[begin..]];
    assert_eq!(refused(&head.concat(), "another header").await, said(begin));
    // Whole, it is taken.
    place.restore(&bytes).await.unwrap();
}

#[tokio::test]
async fn a_header_that_was_changed_anywhere_is_refused() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let recovery = RecoveryKey::create(&dir.path().join("recovery")).unwrap();
    let mut bytes = Vec::new();
    let note = note(Some(recovery.recipient()));
    bench.store.back_up(&note, &mut bytes).unwrap();
    let begin = 16 + usize::from(bytes[12]);
    let place = Place::of(&bench);
    for byte in 0..begin {
        for bit in [0, 3, 7] {
            let mut changed = bytes.clone();
            changed[byte] ^= 1 << bit;
            let refused = place.restore(&changed).await.unwrap_err();
            let is_named = refused.is_data_error()
                || matches!(refused, BackupError::WrongMasterKey { .. })
                    && (24..32).contains(&byte);
            assert!(is_named, "byte {byte}: {refused:?}");
        }
    }
    for cut in 0..begin {
        let refused = BackupHeader::read(&mut &bytes[..cut]).unwrap_err();
        assert!(refused.is_data_error(), "{cut}: {refused:?}");
    }
    let read = BackupHeader::read(&mut bytes.as_slice()).unwrap();
    assert_eq!(read.hub(), "sha256:5151");
    assert_eq!(read.program(), "1.2.3");
    assert_eq!(read.made_at(), at(7));
    assert_eq!(read.recipient(), Some(recovery.recipient()));
}

#[tokio::test]
async fn a_newer_backup_and_another_master_key_are_named() {
    let bench = Bench::new();
    let (mut bytes, _) = backed_up(&bench.store);
    let other = Place::of(&Bench::new());
    let refused = other.restore(&bytes).await.unwrap_err();
    let data = bench.data();
    let ours = MasterKey::load(&bench.key(), &data).unwrap().fingerprint();
    let theirs = MasterKey::load(&other.key, &data).unwrap().fingerprint();
    let key = other.key.display();
    let want = format!("the backup was sealed under master key {ours}, but {key} holds {theirs}");
    assert_eq!(refused.to_string(), want);
    assert!(!other.data().exists());

    bytes[8] += 1;
    let newer = BackupHeader::read(&mut bytes.as_slice()).unwrap_err();
    let want = "the backup has format 2; this program reads up to format 1";
    assert_eq!(newer.to_string(), want);
    assert!(newer.is_data_error());
}

#[tokio::test]
async fn a_lost_master_key_is_recovered_from_the_backup() {
    let bench = Bench::new();
    let org = bench.org("one").await;
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| RecoveryKey::create(&dir.path().join(name)).unwrap();
    let (ours, other) = (make("ours"), make("other"));
    let mut bytes = Vec::new();
    let with = note(Some(ours.recipient()));
    bench.store.back_up(&with, &mut bytes).unwrap();
    let header = BackupHeader::read(&mut bytes.as_slice()).unwrap();
    let (data, key) = (dir.path().join("data"), dir.path().join("key"));

    let refused = MasterKey::recover(&key, &data, &header, &other).unwrap_err();
    assert!(
        matches!(refused, BackupError::OtherRecipient { .. }),
        "{refused:?}"
    );
    let (plain, _) = backed_up(&bench.store);
    let without = BackupHeader::read(&mut plain.as_slice()).unwrap();
    let refused = MasterKey::recover(&key, &data, &without, &ours).unwrap_err();
    assert!(
        matches!(refused, BackupError::NoRecipient { .. }),
        "{refused:?}"
    );
    let inside = MasterKey::recover(&data.join("key"), &data, &header, &ours);
    assert!(
        matches!(inside, Err(BackupError::MasterKey(_))),
        "{inside:?}"
    );
    assert!(!key.exists());

    let recovered = MasterKey::recover(&key, &data, &header, &ours).unwrap();
    let was = std::fs::read(bench.key()).unwrap();
    assert_eq!(std::fs::read(&key).unwrap(), was);
    let again = MasterKey::recover(&key, &data, &header, &ours).unwrap_err();
    assert!(
        matches!(again, BackupError::MasterKey(_)),
        "a key is not replaced: {again:?}"
    );
    let mut from = Cursor::new(bytes);
    let header = BackupHeader::read(&mut from).unwrap();
    let config = StoreConfig::new(data);
    let restored = Store::restore(config, recovered, header, from, |_| false).await;
    assert_eq!(restored.unwrap().organisations, [org.org()]);
}

#[tokio::test]
async fn sessions_and_tokens_of_a_backup_are_void_and_agents_are_not() {
    let bench = Bench::new();
    let org = bench.org("one").await;
    enrol(&bench, &org, 1).await;
    org.put_token(token(org.org(), 2)).await.unwrap();
    let appliance = bench.store.appliance();
    appliance
        .create_user(user(1, "a@example.com", &[]))
        .await
        .unwrap();
    appliance.put_session(session(1, 1, "value")).await.unwrap();
    let (bytes, _) = backed_up(&bench.store);
    let place = Place::of(&bench);
    let restored = place.restore(&bytes).await.unwrap();
    let appliance = restored.store.appliance();
    let again = restored
        .store
        .maintenance(org.org())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.tokens().await.unwrap(), []);
    let id = TokenId::from_bytes([2; 16]);
    assert_eq!(appliance.token(id).await.unwrap(), None);
    assert_eq!(again.agents().await.unwrap().len(), 1);
    assert_eq!(appliance.users().await.unwrap().len(), 1);
    let own = appliance.inspect().await.unwrap();
    assert_eq!(own.tables["sessions"], 0);
    // The agent's alone.
    assert_eq!(own.tables["owners"], 1);
    assert_eq!(own.faults, Vec::<String>::new());
}

#[tokio::test]
async fn an_organisation_that_was_purged_since_is_not_restored() {
    let bench = Bench::new();
    let (stays, goes) = (bench.org("stays").await, bench.org("goes").await);
    fill(&goes).await;
    act(&stays, "one").await;
    for (n, org) in [(1, &stays), (2, &goes)] {
        enrol(&bench, org, n).await;
    }
    let appliance = bench.store.appliance();
    let roles = [(stays.org(), Role::Viewer), (goes.org(), Role::Admin)];
    appliance
        .create_user(user(1, "a@example.com", &roles))
        .await
        .unwrap();
    bench
        .store
        .checkpoint_audits(at(9), |message| message[..8].to_vec())
        .await
        .unwrap();
    let (bytes, _) = backed_up(&bench.store);

    let place = Place::of(&bench);
    let restored = place.restore_without(&bytes, &[goes.org()]).await.unwrap();
    assert_eq!(restored.organisations, [stays.org()]);
    assert_eq!(restored.left_out, [goes.org()]);
    assert!(
        restored
            .store
            .maintenance(goes.org())
            .await
            .unwrap()
            .is_none()
    );
    let files: Vec<_> = std::fs::read_dir(place.data().join("orgs"))
        .unwrap()
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let appliance = restored.store.appliance();
    let own = appliance.inspect().await.unwrap();
    for (table, rows) in [
        ("orgs", 1),
        ("org-names", 1),
        ("agents", 1),
        ("owners", 1),
        ("checkpoints", 1),
        ("users", 1),
    ] {
        assert_eq!(own.tables[table], rows, "{table}");
    }
    assert_eq!(appliance.agents().await.unwrap()[0].org, stays.org());
    let roles = &appliance.users().await.unwrap()[0].roles;
    assert_eq!(roles.keys().copied().collect::<Vec<_>>(), [stays.org()]);
    // Its name is free again.
    appliance.create_org("goes", at(1)).await.unwrap();
}

/// Calls a function once, when this many writes have come.
struct Meanwhile<F: FnMut()> {
    bytes: Vec<u8>,
    writes: usize,
    call: F,
}

impl<F: FnMut()> Write for Meanwhile<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The header is the first; the second comes in the middle of the hub's own rows.
        self.writes += 1;
        if self.writes == 2 {
            (self.call)();
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_a_backup_is_made_does_not_make_it_contradict_itself() {
    let bench = Bench::new();
    let (one, two) = (bench.org("one").await, bench.org("two").await);
    act(&one, "before").await;
    act(&two, "before").await;
    let appliance = bench.store.appliance();
    let large = Zeroizing::new(vec![7; 200 << 10]);
    appliance.put_secret("large", large).await.unwrap();
    let sign = |message: &[u8]| message[..8].to_vec();
    assert_eq!(bench.store.checkpoint_audits(at(1), sign).await.unwrap(), 2);

    let (store, handle) = (bench.store.clone(), tokio::runtime::Handle::current());
    let (org, made) = (one.clone(), Arc::new(Mutex::new(None)));
    let making = Arc::clone(&made);
    let written = tokio::task::spawn_blocking(move || {
        let during = store.clone();
        let mut to = Meanwhile {
            bytes: Vec::new(),
            writes: 0,
            call: || {
                handle.block_on(async {
                    for n in 0..3 {
                        act(&org, &format!("meanwhile {n}")).await;
                    }
                    during.checkpoint_audits(at(100_000), sign).await.unwrap();
                    enrol_one(&org).await;
                    let late = during.appliance().create_org("late", at(2)).await.unwrap();
                    *making.lock().unwrap() = Some(late.id);
                });
            },
        };
        store.back_up(&note(None), &mut to).unwrap();
        to.bytes
    });
    let bytes = written.await.unwrap();
    let late = made.lock().unwrap().unwrap();

    let place = Place::of(&bench);
    let restored = place.restore(&bytes).await.unwrap();
    // Made after the hub's own rows were read.
    assert!(!restored.organisations.contains(&late));
    assert_eq!(restored.organisations.len(), 2);
    for org in [&one, &two] {
        let known = restored
            .store
            .appliance()
            .checkpoints(org.org())
            .await
            .unwrap();
        assert_eq!(known.len(), 1);
        let known: Vec<_> = known.iter().map(|signed| signed.checkpoint).collect();
        let again = restored
            .store
            .maintenance(org.org())
            .await
            .unwrap()
            .unwrap();
        let found = again
            .read(move |reader| Ok(reader.inspect(&known)))
            .await
            .unwrap();
        assert_eq!(found.faults, Vec::<String>::new());
    }
    // The organisation came after, with what it was given meanwhile.
    let again = restored
        .store
        .maintenance(one.org())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.audit_head().await.unwrap().seq, 4);
}

/// Makes a backup of a store whose own rows take several chunks, and does something in between.
async fn backed_up_while<F>(
    bench: &Bench,
    work: impl Fn(Store) -> F + Send + 'static,
) -> Result<Vec<u8>, BackupError>
where
    F: Future<Output = ()>,
{
    let large = Zeroizing::new(vec![7; 200 << 10]);
    let appliance = bench.store.appliance();
    appliance.put_secret("large", large).await.unwrap();
    let (store, handle) = (bench.store.clone(), tokio::runtime::Handle::current());
    let written = tokio::task::spawn_blocking(move || {
        let during = store.clone();
        let mut to = Meanwhile {
            bytes: Vec::new(),
            writes: 0,
            call: || handle.block_on(work(during.clone())),
        };
        store.back_up(&note(None), &mut to).map(|_| to.bytes)
    });
    written.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_that_change_while_a_backup_is_made_leave_no_row_unreadable() {
    let bench = Bench::new();
    let org = bench.org("one").await;
    fill(&org).await;
    let changed = org.clone();
    let bytes = backed_up_while(&bench, move |store| {
        let org = changed.clone();
        async move {
            assert_eq!(store.add_data_key(Some(org.org())).await.unwrap(), 2);
            assert_eq!(store.add_data_key(None).await.unwrap(), 2);
            act(&org, "under the new key").await;
        }
    })
    .await
    .unwrap();
    let place = Place::of(&bench);
    let restored = place.restore(&bytes).await.unwrap();
    let again = restored
        .store
        .maintenance(org.org())
        .await
        .unwrap()
        .unwrap();
    let (found, ..) = seen(&again).await;
    assert_eq!(found.audit_entries, 2);
    // What was begun goes on, and leaves one key.
    restored.store.reseal(Some(org.org()), false).await.unwrap();
    let keys = restored.store.data_keys().await.unwrap();
    assert_eq!((keys[1].keys, keys[1].newest), (1, 2));
    seen(&again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_during_which_the_master_key_was_rotated_is_none() {
    let bench = Bench::new();
    bench.org("one").await;
    let rotated = backed_up_while(&bench, |store| async move {
        let place = NewKeyPlace::KeyFile;
        store
            .rotate_master_key(place, Arc::new(|_| ()))
            .await
            .unwrap();
    });
    let refused = rotated.await.unwrap_err();
    assert!(matches!(refused, BackupError::Rotated), "{refused:?}");
    // The next one is good, under the new key.
    let (bytes, _) = backed_up(&bench.store);
    Place::of(&bench).restore(&bytes).await.unwrap();
}

async fn enrol_one(org: &OrgStore) {
    org.put_token(token(org.org(), 9)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_a_backup_is_made_and_none_is_half_in_it() {
    let bench = Bench::new();
    let org = bench.org("one").await;
    fill(&org).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (writing, is_over) = (org.clone(), Arc::clone(&stop));
    // Each commit adds to the log, the stream and a resource alike.
    let writer = tokio::spawn(async move {
        let mut next = 6u64;
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            let mut write = writing.write();
            write.advance_high_water(stream(2), next, next, header(&next.to_string()));
            write.audit(AuditAct {
                at: at(3),
                actor: Actor::Hub,
                action: "write".into(),
                object: next.to_string(),
                detail: String::new(),
            });
            write.commit().await.unwrap();
            next += 1;
        }
        next
    });
    for _ in 0..5 {
        let store = bench.store.clone();
        let made = tokio::task::spawn_blocking(move || backed_up(&store).0);
        let bytes = made.await.unwrap();
        let place = Place::of(&bench);
        let restored = place.restore(&bytes).await.unwrap();
        let again = restored
            .store
            .maintenance(org.org())
            .await
            .unwrap()
            .unwrap();
        let (found, _, streams) = seen(&again).await;
        let batches = streams.iter().find(|(of, _)| *of == stream(2)).unwrap().1;
        assert_eq!(found.tables["batches"], batches - 4);
        assert_eq!(found.audit_entries, batches - 4);
        restored.store.close().await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(writer.await.unwrap() > 10);
}

/// A disk that is full after so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.checked_sub(bytes.len()) {
            Some(left) => self.0 = left,
            None => return Err(io::ErrorKind::StorageFull.into()),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_disk_that_is_full_ends_a_backup_and_not_the_store() {
    let bench = Bench::new();
    let org = bench.org("one").await;
    fill(&org).await;
    for room in [0, 100, 5_000] {
        let failed = bench
            .store
            .back_up(&note(None), &mut Full(room))
            .unwrap_err();
        let is_full = matches!(
            &failed,
            BackupError::Io(error) if error.kind() == io::ErrorKind::StorageFull
        );
        assert!(is_full, "{failed:?}");
    }
    act(&org, "after").await;
    backed_up(&bench.store);
}

#[tokio::test]
async fn a_backup_is_read_to_its_end_without_a_store() {
    let bench = Bench::new();
    let org = bench.org("one").await;
    fill(&org).await;
    let (mut bytes, summary) = backed_up(&bench.store);
    let master = MasterKey::load(&bench.key(), &bench.data()).unwrap();
    let inspect = |bytes: &[u8]| {
        let mut from = bytes;
        let header = BackupHeader::read(&mut from)?;
        Store::inspect_backup(&master, &header, &mut from)
    };
    let found = inspect(&bytes).unwrap();
    assert_eq!(found.summary, summary);
    assert_eq!(found.faults, Vec::<String>::new());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert!(inspect(&bytes).unwrap_err().is_data_error());
}

#[tokio::test]
async fn a_bad_row_of_a_backup_is_named() {
    let bench = Bench::new();
    let org = bench.org("one").await;
    fill(&org).await;
    bench.store.close().await;
    crate::isolation::tamper(&bench.org_file(org.org()), "resources", |rows| {
        let first = rows[0].1.clone();
        rows[0].1 = std::mem::replace(&mut rows[1].1, first);
    });
    let bench = bench.reopened().await;
    let (bytes, _) = backed_up(&bench.store);
    let master = MasterKey::load(&bench.key(), &bench.data()).unwrap();
    let mut from = bytes.as_slice();
    let header = BackupHeader::read(&mut from).unwrap();
    let found = Store::inspect_backup(&master, &header, &mut from).unwrap();
    let want = format!("{}, resources: 2 bad rows, the first", org.org());
    assert!(found.faults[0].starts_with(&want), "{found:?}");
    assert_eq!(found.faults.len(), 1);
}

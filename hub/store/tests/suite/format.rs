//! Files of every format that was ever written, in `tests/format/<number>`, are opened by this
//! program; those of a newer one are refused as they are.
//!
//! `WRITE_FORMAT=1 cargo test -p store --test suite format` writes the files of the present format
//! anew, and those of a newer one. That is for a format that no release has written yet: the files
//! of a released one are never written again.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::ids::{AgentId, OrgId};
use redb::{Database, TableDefinition};
use store::rows::Role;
use store::rows::event::EventQuery;
use store::{BackupHeader, BackupNote, MasterKey, OpenError, Store, StoreConfig};
use zeroize::Zeroizing;

use crate::access::enrol;
use crate::backup::act;
use crate::bench::{AGENT, Bench, Sweeper, at, header, stream, user, vpcs};
use crate::{events, findings};

/// The format that this program writes.
const PRESENT: u32 = 1;

/// The key of the files: they hold nothing.
const KEY: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/format")
        .join(name)
}

fn key_in(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let key = dir.join("key");
    fs::write(&key, KEY).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    key
}

/// Unpacks the files of a format to a data directory.
fn unpack(name: &str, data: &Path) {
    fs::create_dir_all(data.join("orgs")).unwrap();
    let mut count = 0;
    for (from, to) in [("appliance", data.to_owned()), ("org_", data.join("orgs"))] {
        for file in fs::read_dir(folder(name)).unwrap() {
            let file = file.unwrap().path();
            let file_name = file.file_name().unwrap().to_str().unwrap();
            let Some(plain) = file_name.strip_suffix(".zst") else {
                continue;
            };
            if plain.starts_with(from) {
                let packed = fs::read(&file).unwrap();
                let bytes = zstd::bulk::decompress(&packed, 64 << 20).unwrap();
                fs::write(to.join(plain), bytes).unwrap();
                count += 1;
            }
        }
    }
    assert_eq!(count, 2, "{name}");
}

fn pack(file: &Path, to: &Path) {
    let bytes = fs::read(file).unwrap();
    let name = format!("{}.zst", file.file_name().unwrap().to_str().unwrap());
    fs::write(to.join(name), zstd::bulk::compress(&bytes, 19).unwrap()).unwrap();
}

/// Something of everything that has a table.
async fn fill(bench: &Bench) -> OrgId {
    let org = bench.org("acme").await;
    Sweeper::new(vpcs())
        .holding((0..5).map(|n| format!("vpc-{n}")))
        .sweep(&org, 1)
        .await;
    let mut write = org.write();
    write.advance_high_water(stream(2), 1, 5, header("1-5"));
    write.commit().await.unwrap();
    act(&org, "one").await;
    events::fill(&org, 3).await;
    findings::some(&org).await;
    enrol(bench, &org, 7).await;
    let roles = [(org.org(), Role::Admin)];
    let appliance = bench.store.appliance();
    appliance
        .create_user(user(1, "a@example.com", &roles))
        .await
        .unwrap();
    let secret = Zeroizing::new(b"known".to_vec());
    appliance.put_secret("a secret", secret).await.unwrap();
    let sign = |message: &[u8]| message[..8].to_vec();
    assert_eq!(bench.store.checkpoint_audits(at(9), sign).await.unwrap(), 1);
    org.org()
}

async fn write_files() {
    let dir = tempfile::tempdir().unwrap();
    let (data, key) = (dir.path().join("data"), key_in(dir.path()));
    let master = MasterKey::load(&key, &data).unwrap();
    let store = Store::create(StoreConfig::new(&data), master).unwrap();
    let bench = Bench { dir, store };
    let org = fill(&bench).await;
    let to = folder(&PRESENT.to_string());
    fs::create_dir_all(&to).unwrap();
    for old in fs::read_dir(&to).unwrap() {
        fs::remove_file(old.unwrap().path()).unwrap();
    }
    let mut backup = Vec::new();
    let note = BackupNote {
        hub: "sha256:none".into(),
        program: "0.0.0".into(),
        made_at: at(9),
        recipient: None,
    };
    bench.store.back_up(&note, &mut backup).unwrap();
    fs::write(to.join("backup"), backup).unwrap();
    bench.store.close().await;
    let files = [data.join("appliance.redb"), bench.org_file(org)];
    for file in &files {
        pack(file, &to);
    }
    // The same, as a newer program would name it.
    let to = folder("newer");
    fs::create_dir_all(&to).unwrap();
    for old in fs::read_dir(&to).unwrap() {
        fs::remove_file(old.unwrap().path()).unwrap();
    }
    for file in &files {
        let engine: TableDefinition<'_, &str, u64> = TableDefinition::new("#engine");
        let database = Database::open(file).unwrap();
        let write = database.begin_write().unwrap();
        let format = u64::from(PRESENT) + 1;
        write
            .open_table(engine)
            .unwrap()
            .insert("format", format)
            .unwrap();
        write.commit().unwrap();
        drop(database);
        pack(file, &to);
    }
}

/// Looks at everything that [`fill`] has made.
async fn check(store: &Store) {
    let appliance = store.appliance();
    let orgs = appliance.orgs().await.unwrap();
    assert_eq!(orgs.len(), 1);
    assert_eq!(orgs[0].name, "acme");
    let own = appliance.inspect().await.unwrap();
    assert_eq!(own.faults, Vec::<String>::new());
    let secret = appliance.secret("a secret").await.unwrap().unwrap();
    assert_eq!(secret.as_slice(), b"known");
    let found = appliance
        .user_by_email("A@example.com")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.roles[&orgs[0].id], Role::Admin);
    let agent = AgentId::from_bytes([7; 16]);
    assert_eq!(
        appliance.agent(agent).await.unwrap().unwrap().org,
        orgs[0].id
    );
    let known = appliance.checkpoints(orgs[0].id).await.unwrap();
    let known: Vec<_> = known.iter().map(|signed| signed.checkpoint).collect();
    assert_eq!(known.len(), 1);

    let org = store.maintenance(orgs[0].id).await.unwrap().unwrap();
    let found = org
        .read(move |reader| Ok(reader.inspect(&known)))
        .await
        .unwrap();
    assert_eq!(found.faults, Vec::<String>::new());
    assert_eq!(found.events, 60);
    assert_eq!(org.resources_in(&vpcs()).await.unwrap().len(), 5);
    assert_eq!(org.high_waters(AGENT).await.unwrap(), [(stream(2), 5)]);
    let query = EventQuery {
        text: vec!["serial42".into()],
        limit: 10,
        ..EventQuery::default()
    };
    assert_eq!(org.search_events(query).await.unwrap().events.len(), 1);
    let findings = org.findings(store::FindingList::default()).await.unwrap();
    assert_eq!(findings.items.len(), 1);
    let mut write = org.write();
    write.advance_high_water(stream(2), 6, 6, header("6-6"));
    write.commit().await.unwrap();
}

#[tokio::test]
async fn files_of_every_format_are_opened() {
    if std::env::var_os("WRITE_FORMAT").is_some() {
        write_files().await;
    }
    for format in 1..=PRESENT {
        let name = format.to_string();
        let dir = tempfile::tempdir().unwrap();
        let (data, key) = (dir.path().join("data"), key_in(dir.path()));
        unpack(&name, &data);
        let master = || MasterKey::load(&key, &data).unwrap();
        let store = Store::open(StoreConfig::new(&data), master()).unwrap();
        check(&store).await;
        store.close().await;

        let bytes = fs::read(folder(&name).join("backup")).unwrap();
        let mut from = std::io::Cursor::new(bytes);
        let header = BackupHeader::read(&mut from).unwrap();
        let config = StoreConfig::new(dir.path().join("restored"));
        let restored = Store::restore(config, master(), header, from, |_| false).await;
        check(&restored.unwrap().store).await;
    }
}

#[test]
fn files_of_a_newer_format_are_refused_and_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (data, key) = (dir.path().join("data"), key_in(dir.path()));
    unpack("newer", &data);
    let file = data.join("appliance.redb");
    let before = fs::read(&file).unwrap();
    for _ in 0..2 {
        let master = MasterKey::load(&key, &data).unwrap();
        let refused = Store::open(StoreConfig::new(&data), master).unwrap_err();
        let is_newer = matches!(
            refused,
            OpenError::Newer { found, supported, .. } if (found, supported) == (PRESENT + 1, PRESENT)
        );
        assert!(is_newer, "{refused:?}");
        assert!(refused.is_data_error());
        assert!(fs::read(&file).unwrap() == before);
    }
}

//! Backups: taken under load, restored on a fresh machine; refused in words when they are not what was written.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use line::agent::Agent;
use line::client::Client;
use line::process;
use line::programs;
use serde_json::Value;
use tests::canary::{Canary, in_files};
use tests::{Line, alerts, wait_until};

use crate::disk::SmallDisk;
use crate::sync::settled;

const PATIENCE: Duration = Duration::from_secs(240);

/// Runs a command of the hub's own.
fn hub(line: &Line, verb: &str, args: &[&str]) -> Result<Output> {
    let mut command = line.hub.command(verb);
    command.args(args);
    process::output(command, "", PATIENCE)
}

/// Runs one that is to end well, and returns what it prints.
fn done(line: &Line, verb: &str, args: &[&str]) -> Result<Value> {
    let text = process::success(hub(line, verb, args)?, &format!("zero-x-hub {verb}"))?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// Runs one that is to fail with a code, and returns its words.
fn refused(line: &Line, verb: &str, args: &[&str], code: i32) -> Result<String> {
    let done = hub(line, verb, args)?;
    let words = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.code() == Some(code), "{}: {words}", done.status);
    Ok(words)
}

/// How often each alert is stored.
fn stored(client: &Client) -> Result<BTreeMap<usize, usize>> {
    let mut counts = BTreeMap::new();
    for row in client.rows(&["event", "list"])? {
        let mut numbers = alerts::numbers(&row.to_string());
        numbers.dedup();
        for number in numbers {
            *counts.entry(number).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Waits until each of the first alerts is stored, once.
fn all_once(client: &Client, all: usize) -> Result<()> {
    wait_until("every event is stored", PATIENCE, || {
        Ok((stored(client).unwrap_or_default().len() >= all).then_some(()))
    })?;
    let wanted: BTreeMap<usize, usize> = (0..all).map(|number| (number, 1)).collect();
    assert_eq!(stored(client)?, wanted);
    Ok(())
}

fn watching(agent: &Agent, file: &Path) -> Result<()> {
    alerts::append(file, std::iter::empty())?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// Writes a file that its owner alone may read.
fn private(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o600),
    )?)
}

/// Writes alerts to files until it is told to stop; says how many each has.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Load {
    fn start(files: Vec<PathBuf>) -> Self {
        let (stop, written) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let from = count.load(Ordering::Relaxed);
                for file in &files {
                    alerts::append(file, (from..from + 20).map(alerts::alert))?;
                }
                count.store(from + 20, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        });
        Self {
            stop,
            written,
            thread,
        }
    }

    fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the load panicked"))??;
        Ok(self.written.load(Ordering::Relaxed))
    }
}

#[test]
fn a_backup_taken_under_load_is_restored_on_a_fresh_machine_and_agents_send_what_it_lacks()
-> Result<()> {
    // Short-lived certificates, so that agents have renewed theirs since the backup.
    let mut line = Line::start_with(&[("ZERO_X_CA_AGENT_LEAF", "60s")])?;
    let other = line.organisation("other")?;
    let account = line.account()?;
    let (ours, theirs) = (line.agent("agent")?, line.agent_of(&other, "agent-other")?);
    let endpoint = format!("endpoint={}", account.endpoint());
    ours.source_add("aws", "shop", &[&endpoint])?;
    let files = ["alerts.json", "alerts-other.json"].map(|name| line.folder().join(name));
    watching(&ours, &files[0])?;
    watching(&theirs, &files[1])?;
    let daemons = [ours.run()?, theirs.run()?];
    settled(&line.client)?;
    let before = line.client.rows(&["resource", "list"])?.len();
    let chain = |agent: &Agent| fs::read(agent.state_dir().join("identity/agent.pem"));
    let certificates = [chain(&ours)?, chain(&theirs)?];
    let token = line.token()?;
    assert_eq!(done(&line, "status", &[])?["last_backup"], Value::Null);

    // Under load, and while the hub runs.
    let load = Load::start(files.to_vec());
    wait_until("events of both arrive", PATIENCE, || {
        let are_there = [&line.client, &other.client].map(stored);
        let [one, two] = are_there;
        Ok((one?.len() > 100 && two?.len() > 100).then_some(()))
    })?;
    let backup = line.folder().join("backups/hub.zxb");
    fs::create_dir(line.folder().join("backups"))?;
    let made = done(&line, "backup", &[text(&backup)?])?;
    assert_eq!(made["organisations"], 2, "{made}");
    assert_eq!(made["bytes"], fs::metadata(&backup)?.len());
    let mode = fs::metadata(&backup)?.permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    let last = &done(&line, "status", &[])?["last_backup"];
    assert_eq!(last["bytes"], made["bytes"], "{last}");
    // Again, to the same file: none is replaced.
    let words = refused(&line, "backup", &[text(&backup)?], 1)?;
    assert!(words.contains("exists already"), "{words}");
    assert_eq!(fs::read_dir(line.folder().join("backups"))?.count(), 1);
    let verified = done(&line, "verify", &["--backup", text(&backup)?])?;
    assert_eq!(verified["faults"], serde_json::json!([]), "{verified}");
    assert_eq!(verified["hub"], line.hub.ca_pin);

    // Acknowledged, and not in it; the certificates too.
    let all = load.stop()?;
    wait_until("both agents have renewed", PATIENCE, || {
        let now = [chain(&ours)?, chain(&theirs)?];
        Ok((now[0] != certificates[0] && now[1] != certificates[1]).then_some(()))
    })?;
    all_once(&line.client, all)?;
    all_once(&other.client, all)?;
    let kept = done(&line, "verify", &["--backup", text(&backup)?])?;
    assert_eq!(kept, verified, "the backup was changed");

    // The host is lost. A fresh one has the backup and the master key.
    line.hub.kill()?;
    fs::rename(line.hub.data_dir(), line.folder().join("lost"))?;
    for file in &files {
        alerts::append(file, (all..all + 50).map(alerts::alert))?;
    }
    let all = all + 50;
    let restored = done(&line, "restore", &[text(&backup)?])?;
    assert_eq!(restored["hub"], line.hub.ca_pin);
    assert_eq!(restored["organisations"].as_array().map(Vec::len), Some(2));
    let lacking = done(&line, "verify", &[])?;
    for org in lacking.as_array().into_iter().flatten().skip(1) {
        let has = org["events"].as_u64().unwrap_or_default();
        assert!(
            (100..u64::try_from(all)? - 50).contains(&has),
            "nothing is lacking: {org}"
        );
        assert_eq!(org["faults"], serde_json::json!([]), "{org}");
    }
    // A second time there is a store.
    let words = refused(&line, "restore", &[text(&backup)?], 1)?;
    assert!(words.contains("there is a store"), "{words}");
    line.hub.serve()?;

    // The session from before is none; a login makes a new one.
    let stale = line.client.output(&["event", "list"], "")?;
    assert!(
        !stale.status.success(),
        "a session of before the restore is good"
    );
    let client = &line.programs().client;
    let home = line.folder().join("client-again");
    let ours_again = Client::login(client, &home, &line.hub)?;
    // So is the enrolment token.
    let late = line.unenrolled("late")?;
    let enrolled = late.enroll(&token)?;
    assert_eq!(
        enrolled.status.code(),
        Some(77),
        "a token of before the restore is good"
    );

    all_once(&ours_again, all)?;
    for agent in [&ours, &theirs] {
        let spool = wait_until("nothing waits any more", PATIENCE, || {
            let told = agent.output(&["status", "-o", "json"], "")?;
            let status: Value = serde_json::from_slice(&told.stdout)?;
            let spool = status["spool"].clone();
            Ok((spool["bytes"] == 0).then_some(spool))
        })?;
        assert_eq!(spool["losses"]["items"], 0, "{spool}");
    }
    let resources = ours_again.rows(&["resource", "list"])?.len();
    assert_eq!(resources, before, "resources");
    let acts: Vec<String> = ours_again
        .rows(&["audit", "list"])?
        .iter()
        .filter_map(|row| row["action"].as_str().map(str::to_owned))
        .collect();
    for act in ["backup.create", "backup.restore"] {
        assert!(acts.iter().any(|known| known == act), "{act}: {acts:?}");
    }
    assert!(ours_again.rows(&["quarantine", "list"])?.is_empty());

    // What a thief of the disks finds; and that the search would find it.
    let canaries = ["demo-shop-invoices", "arn:aws:s3:::", "123456789012"].map(Canary::new);
    let names = [
        "admin@example.com",
        "admin@other.example",
        "burst-000001-end",
    ]
    .map(Canary::new);
    let canaries = [canaries, names].concat();
    let shown = line.folder().join("shown");
    fs::create_dir(&shown)?;
    let mut answers = String::new();
    for kind in ["resource", "event", "user"] {
        answers += &ours_again.text(&[kind, "list", "-o", "json"])?;
    }
    answers += "admin@other.example";
    fs::write(shown.join("answers"), &answers)?;
    assert_eq!(
        in_files(&shown, &canaries)?.len(),
        canaries.len(),
        "the control"
    );
    let master = fs::read_to_string(line.hub.folder().join("master.key"))?;
    let key = Canary::new(master.trim());
    let searched = [canaries, vec![key]].concat();
    for folder in [
        &line.folder().join("backups"),
        &line.hub.data_dir(),
        &line.folder().join("lost"),
    ] {
        assert_eq!(in_files(folder, &searched)?, Vec::<String>::new());
    }

    for daemon in daemons {
        daemon.stop(Duration::from_secs(30))?;
    }
    line.hub.stop()?;
    let verified = done(&line, "verify", &[])?;
    assert_eq!(verified.as_array().map(Vec::len), Some(3), "{verified}");
    // The other organisation has its own, once, and nothing of the first one's.
    line.hub.serve()?;
    let words = other.client.output(&["event", "list"], "")?;
    assert!(!words.status.success());
    Ok(())
}

#[test]
fn a_backup_that_is_not_what_was_written_is_refused_in_words_and_leaves_nothing() -> Result<()> {
    let mut line = Line::start()?;
    let folder = line.folder().join("backups");
    fs::create_dir(&folder)?;
    let at = |name: &str| folder.join(name);
    let inside = line.hub.data_dir().join("backup");
    let words = refused(&line, "backup", &[text(&inside)?], 64)?;
    assert!(words.contains("inside the data directory"), "{words}");
    let words = refused(&line, "backup", &["/nowhere/backup"], 1)?;
    assert!(
        words.contains("could not write /nowhere/backup.partial"),
        "{words}"
    );
    line.hub.stop()?;
    // Without a running hub.
    let good = at("good");
    done(&line, "backup", &[text(&good)?])?;
    let bytes = fs::read(&good)?;
    fs::rename(line.hub.data_dir(), line.folder().join("aside"))?;

    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| -> Result<PathBuf> {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        fs::write(at(name), bytes)?;
        Ok(at(name))
    };
    let middle = bytes.len() / 2;
    for (file, want) in [
        (
            changed("flipped", &|b| b[middle] ^= 1)?,
            "does not open at byte",
        ),
        (
            changed("cut", &|b| b.truncate(middle))?,
            "does not open at byte",
        ),
        (changed("empty", &|b| b.clear())?, "this is no backup"),
        (
            changed("text", &|b| *b = b"-- a dump\n".repeat(99))?,
            "this is no backup",
        ),
        (changed("longer", &|b| b.push(0))?, "does not open at byte"),
        (
            changed("newer", &|b| b[8] = 9)?,
            "the backup has format 9; this program reads up to format 1",
        ),
    ] {
        for (verb, args) in [
            ("restore", vec![text(&file)?]),
            ("verify", vec!["--backup", text(&file)?]),
        ] {
            let words = refused(&line, verb, &args, 65)?;
            assert!(words.contains(want), "{verb}: {words}");
            assert!(words.contains("to fix:"), "{verb}: {words}");
            assert!(words.contains(text(&file)?), "{verb}: {words}");
        }
        let left: Vec<_> = fs::read_dir(line.hub.data_dir())
            .into_iter()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let words = refused(&line, "restore", &[text(&at("absent"))?], 64)?;
    assert!(words.contains("could not read"), "{words}");

    // Another hub's key, and none.
    let key = line.hub.folder().join("master.key");
    let ours = fs::read(&key)?;
    private(&key, "5".repeat(64).as_bytes())?;
    let words = refused(&line, "restore", &[text(&good)?], 78)?;
    assert!(words.contains("was sealed under master key"), "{words}");
    fs::remove_file(&key)?;
    let words = refused(&line, "restore", &[text(&good)?], 65)?;
    assert!(words.contains("no other opens this backup"), "{words}");
    private(&key, &ours)?;

    // A disk without room.
    let small = line.folder().join("small");
    fs::create_dir(&small)?;
    match SmallDisk::mount(&small, 256 << 10) {
        Some(_disk) => {
            fs::rename(line.folder().join("aside"), line.hub.data_dir())?;
            fs::write(small.join("filler"), vec![7; 252 << 10])?;
            let words = refused(&line, "backup", &[text(&small.join("backup"))?], 1)?;
            assert!(words.contains("No space left"), "{words}");
            let left: Vec<_> = fs::read_dir(&small)?.collect();
            assert_eq!(left.len(), 1, "{left:?}");
            fs::rename(line.hub.data_dir(), line.folder().join("aside"))?;
        }
        None => println!("skipped: a backup to a full disk: mounting is not permitted here"),
    }
    // The good one is good.
    done(&line, "restore", &[text(&good)?])?;
    line.hub.serve()?;
    Client::login(
        &line.programs().client,
        &line.folder().join("again"),
        &line.hub,
    )?;
    Ok(())
}

#[test]
fn a_lost_master_key_is_written_anew_from_the_backup() -> Result<()> {
    let mut line = Line::start()?;
    let secret = line.folder().join("recovery");
    let made = done(&line, "key", &["recovery", "generate", text(&secret)?])?;
    let recipient = made["recovery_recipient"]
        .as_str()
        .context("no key")?
        .to_owned();
    line.hub
        .set_variable("ZERO_X_RECOVERY_RECIPIENT", &recipient);
    let backup = line.folder().join("backup");
    let made = done(&line, "backup", &[text(&backup)?])?;
    assert_eq!(made["recovery_recipient"], recipient);
    line.hub.stop()?;
    fs::rename(line.hub.data_dir(), line.folder().join("lost"))?;
    let key = line.hub.folder().join("master.key");
    let was = fs::read(&key)?;
    fs::remove_file(&key)?;

    let words = refused(&line, "restore", &[text(&backup)?], 65)?;
    assert!(words.contains("--recovery-key-file"), "{words}");
    assert!(words.contains(&recipient), "{words}");
    let other = line.folder().join("other");
    done(&line, "key", &["recovery", "generate", text(&other)?])?;
    let with = |file: &Path| {
        Ok::<_, anyhow::Error>(vec![
            text(&backup)?.to_owned(),
            "--recovery-key-file".to_owned(),
            text(file)?.to_owned(),
        ])
    };
    let args = with(&other)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let words = refused(&line, "restore", &args, 78)?;
    assert!(words.contains("is sealed to the recovery key"), "{words}");
    assert!(!key.exists() && !line.hub.data_dir().join("appliance.redb").exists());

    let args = with(&secret)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let restored = done(&line, "restore", &args)?;
    assert_eq!(restored["master_key_recovered"], true);
    assert_eq!(fs::read(&key)?, was);
    assert_eq!(fs::metadata(&key)?.permissions().mode() & 0o7777, 0o600);
    line.hub.serve()?;
    Client::login(
        &line.programs().client,
        &line.folder().join("again"),
        &line.hub,
    )?;
    Ok(())
}

#[test]
fn an_organisation_that_was_purged_since_the_backup_does_not_come_back() -> Result<()> {
    let mut line = Line::start()?;
    let other = line.organisation("other")?;
    let secret = line.folder().join("recovery");
    let made = done(&line, "key", &["recovery", "generate", text(&secret)?])?;
    let recipient = made["recovery_recipient"]
        .as_str()
        .context("no key")?
        .to_owned();
    let backup = line.folder().join("backup");
    done(
        &line,
        "backup",
        &[text(&backup)?, "--recovery-recipient", &recipient],
    )?;
    done(&line, "org", &["purge", &other.id, "--confirm", "other"])?;
    line.hub.stop()?;
    fs::rename(line.hub.data_dir(), line.folder().join("lost"))?;

    // The master key went with the organisation: the backup wants the one before.
    let words = refused(&line, "restore", &[text(&backup)?], 78)?;
    assert!(words.contains("was sealed under master key"), "{words}");
    let key = line.hub.folder().join("master.key");
    let present = fs::read(&key)?;
    fs::remove_file(&key)?;
    let with = [text(&backup)?, "--recovery-key-file", text(&secret)?];
    let restored = done(&line, "restore", &with)?;
    assert_ne!(fs::read(&key)?, present);
    assert_eq!(
        restored["purged"],
        serde_json::json!([other.id]),
        "{restored}"
    );
    assert_eq!(
        restored["organisations"],
        serde_json::json!([line.hub.org_id])
    );
    let files: Vec<_> = fs::read_dir(line.hub.data_dir().join("orgs"))?.collect();
    assert_eq!(files.len(), 1, "{files:?}");
    line.hub.serve()?;
    let again = Client::login(
        &line.programs().client,
        &line.folder().join("again"),
        &line.hub,
    )?;
    assert_eq!(again.rows(&["org", "list"])?.len(), 1);

    // Without the ledger nobody knows, and it says so.
    line.hub.stop()?;
    fs::rename(line.hub.data_dir(), line.folder().join("first"))?;
    fs::remove_file(line.hub.folder().join("master.key.deletions"))?;
    let told = hub(&line, "restore", &[text(&backup)?])?;
    let words = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(told.status.success(), "{words}");
    assert!(
        words.contains("no organisation is named as purged"),
        "{words}"
    );
    Ok(())
}

/// Unpacks a file of `hub/store/tests/format` into a folder.
fn unpack(format: &str, begin: &str, to: &Path) -> Result<PathBuf> {
    let folder = programs::checkout()
        .join("hub/store/tests/format")
        .join(format);
    for file in folder.read_dir()? {
        let file = file?.path();
        let name = file
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with(begin) && file.extension().is_some_and(|end| end == "zst") {
            let to = to.join(name);
            fs::write(&to, zstd::bulk::decompress(&fs::read(&file)?, 64 << 20)?)?;
            return Ok(to);
        }
    }
    anyhow::bail!("no {begin} in {}", folder.display())
}

#[test]
fn files_of_a_newer_program_are_refused_with_65_and_both_numbers_and_stay_as_they_are() -> Result<()>
{
    const WORDS: &str = "has format 2; this program reads up to format 1";
    let mut line = Line::start()?;
    line.hub.stop()?;
    let data = line.hub.data_dir();
    fs::rename(&data, line.folder().join("aside"))?;
    fs::create_dir_all(data.join("orgs"))?;
    // The key of those files, which hold nothing.
    private(
        &line.hub.folder().join("master.key"),
        "5a".repeat(32).as_bytes(),
    )?;
    let own = unpack("newer", "appliance", &data)?;
    let org = unpack("newer", "org_", &data.join("orgs"))?;
    let before = [fs::read(&own)?, fs::read(&org)?];
    let backup = line.folder().join("backup");
    let listen = [
        "--agent-listen",
        "127.0.0.1:0",
        "--api-listen",
        "127.0.0.1:0",
    ];
    let init = [
        "--org",
        "a",
        "--admin-email",
        "a@example.com",
        "--admin-password-stdin",
    ];
    for (verb, args) in [
        ("serve", listen.as_slice()),
        ("status", &[]),
        ("verify", &[]),
        ("backup", &[text(&backup)?]),
        ("ca", &["status"]),
        ("init", &init),
    ] {
        let words = refused(&line, verb, args, 65)?;
        assert!(words.contains(WORDS), "{verb}: {words}");
        assert!(words.contains("appliance.redb"), "{verb}: {words}");
        assert!(
            words.contains("to fix: install the newer version again"),
            "{verb}: {words}"
        );
    }
    assert!(!backup.exists());
    assert!(
        [fs::read(&own)?, fs::read(&org)?] == before,
        "a file was changed"
    );

    // One organisation alone, beside a hub that is not newer.
    unpack("1", "appliance", &data)?;
    let told = hub(&line, "verify", &[])?;
    assert_eq!(told.status.code(), Some(65));
    let told = String::from_utf8(told.stdout)?;
    assert!(told.contains(WORDS), "{told}");
    assert!(fs::read(&org)? == before[1], "the file was changed");
    Ok(())
}

//! The hub's disk is full, read-only or out of order: words that say so, nothing damaged, agents wait without loss, and all
//! goes on by itself; but a sync that fails ends the hub, and a restart finds what was acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use line::agent::Agent;
use line::process::{self, Process};
use tests::{Line, alerts, wait_until};

use crate::disk::{SmallDisk, append_noise, stored};

/// How long everything may take to be stored once it can be.
const RECOVERY: Duration = Duration::from_secs(180);

fn log(line: &Line) -> Result<String> {
    fs::read_to_string(line.hub.log()).context("the hub's log")
}

/// An agent with one source, and the file that the source reads.
fn reporting(line: &Line) -> Result<(Agent, std::path::PathBuf)> {
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, std::iter::empty())?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    Ok((agent, file))
}

/// Waits until each of the first alerts is stored, once.
fn all_once(line: &Line, all: usize) -> Result<()> {
    wait_until("every event is stored", RECOVERY, || {
        Ok((stored(line).unwrap_or_default().len() >= all).then_some(()))
    })?;
    let wanted: BTreeMap<usize, usize> = (0..all).map(|number| (number, 1)).collect();
    assert_eq!(stored(line)?, wanted);
    Ok(())
}

/// Opens every row of the hub.
fn verify(line: &Line) -> Result<()> {
    let done = process::output(line.hub.command("verify"), "", Duration::from_secs(120))?;
    process::success(done, "zero-x-hub verify").map(drop)
}

#[test]
fn a_full_disk_of_the_hub_holds_agents_back_and_all_is_stored_when_there_is_space() -> Result<()> {
    const ALL: usize = 1_200;
    let mut line = Line::start()?;
    let (agent, file) = reporting(&line)?;
    line.hub.stop()?;
    let data = line.hub.data_dir();
    let aside = line.hub.folder().join("data.aside");
    fs::rename(&data, &aside)?;
    fs::create_dir(&data)?;
    let Some(_disk) = SmallDisk::mount(&data, 24 << 20) else {
        println!("skipped: a_full_disk_of_the_hub: mounting is not permitted here");
        return Ok(());
    };
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(aside.join(".")).arg(&data);
    process::success(process::output(copy, "", Duration::from_secs(30))?, "cp")?;
    line.hub.serve()?;
    let pid = line.hub.pid();
    let daemon = agent.run()?;
    append_noise(&file, 0..100)?;
    wait_until("the first events are stored", RECOVERY, || {
        Ok((stored(&line)?.len() == 100).then_some(()))
    })?;

    // All that is left, by pages, until there is none.
    let filler = data.join("filler");
    let mut command = Command::new("dd");
    command
        .args(["if=/dev/zero", "bs=4096"])
        .arg(format!("of={}", filler.display()));
    let full = process::output(command, "", Duration::from_secs(30))?;
    ensure!(!full.status.success(), "the disk is not full");
    append_noise(&file, 100..ALL)?;
    wait_until("the hub says that its disk is full", RECOVERY, || {
        Ok(log(&line)?.contains("the hub's disk is full").then_some(()))
    })?;
    // A new organisation is a file of its own.
    let refused = line.client.output(&["org", "create", "late"], "")?;
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("disk") && told.contains("full"), "{told}");
    // The hub's own file may have room left in it.
    let args = ["agent", "token", "create", "--org", &line.hub.org_id];
    let made = line.client.output(&args, "")?;
    let told = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(
        made.status.success() || (told.contains("disk") && told.contains("full")),
        "{told}"
    );
    // What is stored can be read all the while.
    let before = stored(&line)?;
    assert!(
        before.len() >= 100 && before.len() < ALL,
        "{}",
        before.len()
    );
    assert_eq!(line.hub.pid(), pid);

    fs::remove_file(&filler)?;
    all_once(&line, ALL)?;
    process::success(
        line.client.output(&["org", "create", "late"], "")?,
        "zero-x org create",
    )?;
    daemon.stop(Duration::from_secs(30))?;
    assert_eq!(line.hub.pid(), pid, "it went on without a restart");
    verify(&line)?;
    line.hub.stop()?;
    verify(&line)
}

/// What a fault does to the hub.
enum Meets {
    /// It says this and goes on by itself.
    Words(&'static str),
    /// It ends.
    End,
}

/// Serves with faults put into the hub's system calls. `None` where that cannot be done.
fn serve_with(line: &Line, fault: &str) -> Result<Option<Process>> {
    let strace = Path::new("/usr/bin/strace");
    if !strace.exists() || !Path::new("/usr/bin/setpriv").exists() {
        return Ok(None);
    }
    let address = line.hub.url().replace("https://", "");
    let mut serve = line.hub.command("serve");
    serve
        .args(["--agent-listen", &line.hub.agent_address()])
        .args(["--api-listen", &address]);
    let mut command = process::command(strace, line.folder());
    command
        .args(["-f", "-qq", "--seccomp-bpf", "-o"])
        .arg(line.folder().join("strace.out"))
        .args(["-e", "trace=fsync,fdatasync,pwrite64,ftruncate"])
        .args(["-e", &format!("inject={fault}")])
        // The hub ends with the program that watches it.
        .args(["/usr/bin/setpriv", "--pdeathsig", "KILL", "--"])
        .arg(serve.get_program())
        .args(serve.get_args());
    for (name, value) in serve.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let mut hub = Process::start("the hub", command, &line.hub.log())?;
    let address: SocketAddr = address.parse()?;
    hub.wait_ready(Duration::from_secs(90), || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
    })?;
    Ok(Some(hub))
}

/// Ends the hub in order, not the program that watches it.
fn stop(mut watched: Process) -> Result<()> {
    let pid = watched.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Command::new("sh")
        .args(["-c", "kill -TERM $1", "sh", children.trim()])
        .status()?;
    watched.wait_exit(Duration::from_secs(60))?;
    Ok(())
}

/// Runs the hub under a fault of its disk while an agent reports; every event is stored once.
fn check(name: &str, fault: &str, meets: &Meets) -> Result<()> {
    const ALL: usize = 600;
    let mut line = Line::start()?;
    let (agent, file) = reporting(&line)?;
    line.hub.stop()?;
    let Some(mut hub) = serve_with(&line, fault)? else {
        println!("skipped: {name}: no strace, or no setpriv");
        return Ok(());
    };
    let daemon = agent.run()?;
    let mut written = 0;
    // In many pieces: each is a commit of its own, some of them fail.
    while written < ALL {
        append_noise(&file, written..written + 20)?;
        written += 20;
        std::thread::sleep(Duration::from_millis(150));
    }
    match meets {
        Meets::Words(words) => {
            wait_until("the fault is met", RECOVERY, || {
                Ok(log(&line)?.contains(words).then_some(()))
            })?;
            all_once(&line, ALL)?;
            verify(&line)?;
            stop(hub)?;
        }
        Meets::End => {
            let ended = hub.wait_exit(RECOVERY)?;
            assert!(!ended.success());
            let log = log(&line)?;
            assert!(log.contains("durability is lost"), "{log}");
            assert!(log.contains("fsync failed"), "{log}");
        }
    }
    line.hub.serve()?;
    all_once(&line, ALL)?;
    daemon.stop(Duration::from_secs(30))?;
    line.hub.stop()?;
    verify(&line)
}

#[test]
fn a_write_of_the_hub_without_space_loses_and_doubles_nothing() -> Result<()> {
    let meets = Meets::Words("the hub's disk is full");
    check(
        "a_write_without_space",
        "pwrite64:error=ENOSPC:when=60..63",
        &meets,
    )
}

#[test]
fn a_file_of_the_hub_that_cannot_grow_loses_and_doubles_nothing() -> Result<()> {
    let meets = Meets::Words("the hub's disk is full");
    check(
        "a_file_that_cannot_grow",
        "ftruncate:error=ENOSPC:when=1..2",
        &meets,
    )
}

#[test]
fn a_disk_of_the_hub_that_becomes_read_only_is_named_and_loses_and_doubles_nothing() -> Result<()> {
    let meets = Meets::Words("Read-only file system");
    check(
        "a_read_only_disk",
        "pwrite64:error=EROFS:when=60..63",
        &meets,
    )
}

#[test]
fn a_write_of_the_hub_that_fails_is_named_and_loses_and_doubles_nothing() -> Result<()> {
    let meets = Meets::Words("Input/output error");
    check(
        "a_write_that_fails",
        "pwrite64:error=EIO:when=60..61",
        &meets,
    )
}

#[test]
fn a_sync_of_the_hub_that_fails_ends_it_and_a_restart_finds_what_was_acknowledged() -> Result<()> {
    check(
        "a_sync_that_fails",
        "fsync,fdatasync:error=EIO:when=12",
        &Meets::End,
    )
}

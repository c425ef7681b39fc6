//! The same events by `rsyslog` over RELP and TLS with a synced disk queue, side by side: what operators run today.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use line::process::Process;

use crate::throughput::write_events;

/// How many events it gets: it takes its time.
pub(crate) const EVENTS: u32 = 5_000;

const PATIENCE: Duration = Duration::from_secs(600);

/// Where Debian puts it.
const PROGRAM: &str = "/usr/sbin/rsyslogd";

/// Runs it and prints how many times faster the own way is, if that was measured.
pub(crate) fn run(events: u32, own_rate: Option<f64>) -> Result<()> {
    if events == 0 {
        return Ok(());
    }
    let program = std::env::var("RSYSLOGD").unwrap_or_else(|_| PROGRAM.to_owned());
    let modules = std::env::var("RSYSLOG_MODULES")
        .unwrap_or_else(|_| "/usr/lib/x86_64-linux-gnu/rsyslog".to_owned());
    let has = |module: &str| Path::new(&modules).join(module).is_file();
    let parts = ["imrelp.so", "omrelp.so", "imfile.so"];
    if !Path::new(&program).is_file() || !parts.iter().all(|part| has(part)) {
        println!("skipped: rsyslog over RELP: install rsyslog, rsyslog-relp and rsyslog-openssl");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    certificate(folder.path())?;
    // It is free again at once, and nothing else on this machine asks for ports by number.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let tls = format!(
        r#"tls="on" tls.cacert="{cert}" tls.mycert="{cert}" tls.myprivkey="{key}""#,
        cert = at("cert.pem"),
        key = at("key.pem")
    );
    // Each side writes and syncs before it acknowledges, as the hub and the agent do.
    let queue = |name: &str| {
        format!(
            r#"queue.type="disk" queue.filename="{name}" queue.spoolDirectory="{}" queue.syncqueuefiles="on" queue.checkpointinterval="100" queue.maxdiskspace="1g""#,
            folder.path().display()
        )
    };
    let stored = at("stored.log");
    let receiver = format!(
        r#"module(load="imrelp" tls.tlslib="openssl")
input(type="imrelp" port="{port}" {tls} tls.authmode="certvalid" ruleset="store")
template(name="raw" type="string" string="%msg%\n")
ruleset(name="store" {queue}) {{ action(type="omfile" file="{stored}" template="raw" sync="on" asyncWriting="off") }}
"#,
        queue = queue("receiver")
    );
    let events_file = folder.path().join("events.log");
    write_events(&events_file, events)?;
    let sender = format!(
        r#"module(load="imfile")
module(load="omrelp" tls.tlslib="openssl")
input(type="imfile" file="{file}" tag="event" ruleset="send")
ruleset(name="send" {queue}) {{ action(type="omrelp" target="127.0.0.1" port="{port}" {tls} tls.authmode="certvalid" action.resumeRetryCount="-1") }}
"#,
        file = events_file.display(),
        queue = queue("sender")
    );
    let start = |name: &str, config: &str| -> Result<Process> {
        fs::create_dir_all(folder.path().join(name))?;
        let file = folder.path().join(format!("{name}.conf"));
        let work = format!("global(workDirectory=\"{}\")\n", at(name));
        fs::write(&file, format!("{work}{config}"))?;
        let mut command = Command::new(&program);
        command
            .args(["-n", "-i", "NONE", "-M", &modules, "-f"])
            .arg(&file);
        Process::start(name, command, &folder.path().join(format!("{name}.out")))
    };
    let receiver = start("receiver", &receiver)?;
    thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let sender = start("sender", &sender)?;
    // From the first event on disk: its start is not its speed.
    let mut first: Option<(Instant, usize)> = None;
    let rate = loop {
        let lines = fs::read(&stored).unwrap_or_default();
        let lines = lines.iter().filter(|byte| **byte == b'\n').count();
        if lines > 0 {
            let (at, before) = *first.get_or_insert((Instant::now(), lines));
            if lines >= usize::try_from(events)? {
                let counted = u32::try_from(lines - before)?;
                break f64::from(counted) / at.elapsed().as_secs_f64();
            }
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{lines} of {events} events came\n{}\n{}",
            sender.log_tail(),
            receiver.log_tail()
        );
        thread::sleep(Duration::from_millis(50));
    };
    drop((sender, receiver));
    println!("rsyslog, RELP and TLS, synced   {rate:.0} events a second ({events} events)");
    if let Some(own) = own_rate {
        println!("ratio                           {:.0}", own / rate);
    }
    Ok(())
}

/// A certificate for both sides, valid for the run.
fn certificate(folder: &Path) -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?
        .self_signed(&key)
        .context("no certificate")?;
    fs::write(folder.join("cert.pem"), certificate.pem())?;
    fs::write(folder.join("key.pem"), key.serialize_pem())?;
    Ok(())
}

//! `doctor`: looks at everything the agent needs and says what to do about what is wrong.

mod hub;

use std::os::unix::fs::PermissionsExt;

use jiff::Timestamp;
use serde::Serialize;

use crate::collect::wazuh::Wazuh;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::expiry::Valid;
use crate::identity::{Identity, IdentityError};
use crate::layout::{self, Layout};
use crate::manage::{missing_drop_in, unreadable_alerts};
use crate::show::{self, Format};
use crate::sources::{Reads, Sources, SourcesError};
use crate::spool;
use crate::status::{self, SpoolState};
use crate::sync::chain;
use crate::vault::{Vault, VaultError};

/// What to do about a file of a newer format.
const NEWER: &str = "install the version that wrote it, or a newer one";

/// How well one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
    fix: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        check: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Finding {
            check,
            verdict,
            detail: detail.into(),
            fix: fix.into(),
        });
    }

    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Ok, detail, "");
    }
}

/// Looks at everything and prints one line each; exit code 1 when something is broken.
///
/// # Errors
///
/// When standard output cannot be written to.
pub(crate) async fn run(config: &Config, format: Format) -> Result<Exit, Failure> {
    let mut findings = Findings::default();
    let layout = Layout::new(&config.state_dir);
    state_dir(&layout, &mut findings);
    let identity = identity(&layout, &mut findings);
    sources(&layout, config, &mut findings);
    let daemon = status::ask(&config.runtime_dir()).await.ok();
    match &daemon {
        Some(status) => findings.ok("daemon", format!("runs as process {}", status.pid)),
        None => findings.add(
            "daemon",
            Verdict::Warn,
            "does not answer",
            "start it: `sudo systemctl enable --now zero-x-agent`",
        ),
    }
    spool(&layout, config, daemon.as_ref(), &mut findings);
    if let Some(identity) = &identity {
        hub::look(config, identity, daemon.as_ref(), &mut findings).await;
    }
    let mut all = findings.0.iter();
    let broken = all.any(|finding| finding.verdict == Verdict::Fail);
    let columns = ["check", "verdict", "detail", "fix"];
    show::list(&findings.0, &columns, format)
        .map_err(|error| Failure::of(Exit::No, "cannot write to standard output", error))?;
    Ok(if broken { Exit::No } else { Exit::Ok })
}

fn state_dir(layout: &Layout, findings: &mut Findings) {
    const CHECK: &str = "state directory";
    let path = layout.state().display().to_string();
    let me = rustix::process::geteuid().as_raw();
    match std::fs::metadata(layout.state()) {
        Err(error) => findings.add(
            CHECK,
            Verdict::Fail,
            format!("{path}: {error}"),
            "enrol this agent, or name another with --state-dir",
        ),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => findings.add(
            CHECK,
            Verdict::Fail,
            format!("{path} may be entered by others than its owner"),
            format!("chmod 0700 {path}"),
        ),
        Ok(_) if layout::owner(layout.state()) != Some(me) => findings.add(
            CHECK,
            Verdict::Warn,
            format!("{path} belongs to another user than the one that runs this"),
            "run this as that user",
        ),
        Ok(_) => findings.ok(CHECK, path),
    }
}

fn identity(layout: &Layout, findings: &mut Findings) -> Option<Identity> {
    let identity = match Identity::load(layout) {
        Ok(identity) => identity,
        Err(error) => {
            let fix = match &error {
                IdentityError::File(file) => file.fix(),
                IdentityError::None | IdentityError::Damaged { .. } => {
                    "`zero-x-agent enroll --token-file F`; with --replace if it is damaged"
                        .to_owned()
                }
                IdentityError::Unfit { .. } => chain(&error),
                IdentityError::Newer { .. } => NEWER.to_owned(),
            };
            findings.add("identity", Verdict::Fail, chain(&error), fix);
            return None;
        }
    };
    findings.ok(
        "identity",
        format!("{} of {}", identity.agent, identity.org),
    );
    let (from, to) = identity.valid;
    let now = Timestamp::now();
    let enrol = "enrol again: `zero-x-agent enroll --replace --token-file F`";
    if now < from {
        findings.add(
            "clock",
            Verdict::Fail,
            format!("it is {now} here, before this agent's certificate begins ({from})"),
            "set the clock, for example with chrony or systemd-timesyncd",
        );
    } else {
        findings.ok("clock", now.to_string());
    }
    let (last, valid) = (identity.renewable_until(), Valid::of(&identity));
    let by_itself = "keep the agent running and the hub reachable: it is renewed by itself";
    if now > last {
        let detail = format!("ended {to} and cannot be renewed any more");
        findings.add("certificate", Verdict::Fail, detail, enrol);
    } else if now >= to {
        let detail = format!("ended {to}; it can be renewed until {last}");
        findings.add("certificate", Verdict::Warn, detail, by_itself);
    } else if let Some(ending) = valid.own_ending(now) {
        let detail = format!("{ending}, and should have been renewed by now");
        findings.add("certificate", Verdict::Warn, detail, by_itself);
    } else {
        findings.ok("certificate", format!("good until {to}"));
    }
    if let Some(ending) = valid.roots_ending(now) {
        let fix = "have the hub's operator replace it (`zero-x-hub ca rotate begin`); this agent \
                   learns the new one while it is connected";
        findings.add("hub's root", Verdict::Warn, ending.to_string(), fix);
    }
    Some(identity)
}

fn sources(layout: &Layout, config: &Config, findings: &mut Findings) {
    let sources = match Sources::load(layout) {
        Ok(sources) => sources,
        Err(error) => {
            let fix = match &error {
                SourcesError::File(file) => file.fix(),
                SourcesError::Newer { .. } => NEWER.to_owned(),
                // Reading a list meets no other than a damaged one.
                SourcesError::Damaged { .. }
                | SourcesError::Taken { .. }
                | SourcesError::Name { .. }
                | SourcesError::Unknown { .. }
                | SourcesError::TooMany
                | SourcesError::NotBuilt { .. }
                | SourcesError::Setting { .. }
                | SourcesError::Secret { .. } => {
                    "correct or remove the file; secrets stay in the vault".to_owned()
                }
            };
            return findings.add("sources", Verdict::Fail, chain(&error), fix);
        }
    };
    if sources.iter().len() == 0 {
        let fix = "`zero-x-agent source add aws --name prod`";
        return findings.add("sources", Verdict::Warn, "there are none", fix);
    }
    // A secret that only may not be read is still there.
    let told = |error: &VaultError| match error {
        VaultError::File(file) => (chain(error), Some(file.fix())),
        VaultError::Key { .. } | VaultError::Sealed { .. } | VaultError::Missing { .. } => {
            (chain(error), None)
        }
    };
    let vault = Vault::open(layout, &config.vault);
    for source in sources.iter() {
        if let Err(error) = source.parsed() {
            let fix = "remove it and add it again";
            findings.add("source", Verdict::Fail, chain(&error), fix);
            continue;
        }
        if source.sealed_secret {
            let secret = match &vault {
                Ok(vault) => vault.get(source.id).map_err(|error| told(&error)),
                Err(error) => Err(told(error)),
            };
            if let Err((reason, fix)) = secret {
                let fix = fix.unwrap_or_else(|| {
                    format!(
                        "`zero-x-agent source rotate {} --secret-file F`",
                        source.name
                    )
                });
                let detail = format!("{}: {reason}", source.name);
                findings.add("source", Verdict::Fail, detail, fix);
                continue;
            }
        }
        if let Ok(settings) = source.parsed()
            && let Reads::Wazuh { path } = settings.reads
            && let Err(error) = Wazuh::try_open(&path)
        {
            let detail = format!("{}: {}: {error}", source.name, path.display());
            findings.add("source", Verdict::Fail, detail, unreadable_alerts(&error));
            continue;
        }
        match missing_drop_in(source.kind) {
            Some(fix) => findings.add("source", Verdict::Warn, source.name.clone(), fix),
            None => findings.ok(
                "source",
                format!("{} ({})", source.name, source.kind.name()),
            ),
        }
    }
}

fn spool(
    layout: &Layout,
    config: &Config,
    daemon: Option<&status::Status>,
    findings: &mut Findings,
) {
    const CHECK: &str = "spool";
    let folder = layout.spool();
    for aside in spool::asides(&folder).unwrap_or_default() {
        findings.add(
            CHECK,
            Verdict::Warn,
            format!(
                "one that could not be used was moved to {}",
                aside.display()
            ),
            "sources were read anew; remove the file once you have looked at it",
        );
    }
    if let Some(status) = daemon {
        let spool = &status.spool;
        let detail = spool.line();
        let waits = spool.waiting.iter();
        let waits: Vec<String> = waits
            .map(|wait| format!("{}: {}", wait.source, wait.why))
            .collect();
        match (&spool.trouble, spool.state) {
            (Some(trouble), _) if trouble.is_out_of_space => {
                let fix = "free some space on the disk of the state directory: the agent goes on \
                           by itself, and nothing in the spool is lost";
                findings.add(CHECK, Verdict::Fail, detail, fix);
            }
            (Some(_), _) => {
                let fix = "look for errors of the disk (`dmesg`, `smartctl`) and at the rights of \
                           the state directory; the agent goes on by itself when the file can be \
                           used again";
                findings.add(CHECK, Verdict::Fail, detail, fix);
            }
            (None, SpoolState::Full) => {
                let fix = "bring the link to the hub up, or raise spool.max_bytes: sources wait \
                           and lose nothing, as long as what they read is kept where it is";
                let detail = format!("{detail} ({})", waits.join(", "));
                findings.add(CHECK, Verdict::Warn, detail, fix);
            }
            (None, SpoolState::Short) => {
                let fix = "free some space on the disk of the state directory: sources wait until \
                           there is more than spool.keep_free_bytes, and go on by themselves";
                findings.add(CHECK, Verdict::Fail, detail, fix);
            }
            (None, SpoolState::Good | SpoolState::Broken) => findings.ok(CHECK, detail),
        }
        if let Some(loss) = spool.losses.last.last() {
            findings.add(
                "losses",
                Verdict::Warn,
                format!(
                    "{} items in all, the last of them {} to {} of lane {} at {}: {}",
                    spool.losses.items,
                    loss.first_seq,
                    loss.last_seq,
                    loss.lane,
                    loss.at,
                    loss.reason
                ),
                "the hub was told which; nothing can bring them back",
            );
        }
    }
    let Some(free) = spool::free_bytes(layout.state()) else {
        return;
    };
    let detail = format!("{free} bytes free");
    if free < config.spool.keep_free_bytes {
        let fix = "free some space: sources wait until there is more than spool.keep_free_bytes";
        findings.add("disk", Verdict::Fail, detail, fix);
    } else {
        findings.ok("disk", detail);
    }
}

//! `doctor`: looks for what keeps the hub from working, and says how to mend it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::output::{self, Format};
use crate::admin::{self, Question};
use crate::config::{Config, Flags, OwnTls};
use crate::expiry::Warning;
use crate::failure::{Exit, Explain, Failure, chain};
use crate::{opening, ruleset, tls};

/// What was looked at: its name, and what was found or what is wrong.
type Look = (&'static str, Result<String, Failed>);

/// What is wrong, and what mends it.
struct Failed {
    found: String,
    fix: Option<String>,
}

impl<E: Explain> From<E> for Failed {
    fn from(error: E) -> Self {
        let fix = error.fix();
        failed(&error, fix)
    }
}

fn failed(error: &dyn std::error::Error, fix: Option<String>) -> Failed {
    Failed {
        found: chain(error).join(": "),
        fix,
    }
}

/// Looks at everything; ends with 1 when something needs attention.
///
/// # Errors
/// When something does.
pub(super) async fn run(flags: &Flags, format: Format) -> Result<Exit, Failure> {
    let config = match Config::load(flags) {
        Ok(config) => config,
        // Nothing else can be looked at before the settings are good.
        Err(error) => return report(format, vec![("settings", Err(error.into()))]),
    };
    let mut looks: Vec<Look> = vec![("settings", Ok("good".to_owned()))];
    let running = admin::ask(&config.data_dir, &Question::Status).await;
    let is_running = matches!(running, Ok(Some(_)));
    looks.push((
        "running hub",
        running.map_err(Failed::from).map(|answer| {
            match answer {
                Some(_) => "answers on its admin socket",
                None => "none",
            }
            .to_owned()
        }),
    ));
    looks.push(("data directory", data_dir(&config.data_dir)));
    // A running hub holds the store and the ports; that it answers says that they are good.
    if !is_running {
        looks.push(("store", store(&config).await));
        looks.push((
            "agents' port",
            port(
                config.agent_listen.value,
                both_protocols(config.agent_listen.value),
                "--agent-listen",
            ),
        ));
        looks.push((
            "API's port",
            port(
                config.api_listen.value,
                TcpListener::bind(config.api_listen.value).map(drop),
                "--api-listen",
            ),
        ));
    }
    let rules = ruleset::load(&config.checks_dir);
    looks.push((
        "checks",
        rules
            .map(|rules| format!("{} load", rules.set.checks().len()))
            .map_err(Failed::from),
    ));
    let certificate = match &config.tls {
        None => Ok("from the hub's own CA".to_owned()),
        Some(own) => match tls::check_own(own) {
            Ok(()) => good_for_a_while(own),
            Err(error) => Err(error.into()),
        },
    };
    looks.push(("API's certificate", certificate));
    report(format, looks)
}

/// Looks at when the operator's own certificate ends.
fn good_for_a_while(own: &OwnTls) -> Result<String, Failed> {
    let path = own.certificate.display();
    let Some(validity) = tls::validity_of_own(own) else {
        return Ok(path.to_string());
    };
    match Warning::of_api(validity, Timestamp::now()) {
        Some(warning) if warning.within_days <= 30 => Err(Failed {
            found: format!("{path}: {}", warning.text),
            fix: Some(warning.fix),
        }),
        Some(_) | None => Ok(format!("{path}, until {}", validity.until)),
    }
}

/// Binds a port for UDP and for TCP: agents without UDP come over TCP.
fn both_protocols(address: SocketAddr) -> io::Result<()> {
    let _udp = UdpSocket::bind(address)?;
    TcpListener::bind(address).map(drop)
}

/// Lists every destination that the hub may open a connection to.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn egress(_config: &Config, format: Format) -> Result<Exit, Failure> {
    // Nothing that leaves the hub can be configured, so nothing is left out here.
    output::print_list(format, &["destination", "purpose"], &[])?;
    output::note("the hub opens no connection of its own: no destination is configured");
    Ok(Exit::Ok)
}

fn data_dir(path: &Path) -> Result<String, Failed> {
    let found = fs::metadata(path).map_err(|error| Failed {
        found: format!("{}: {error}", path.display()),
        fix: Some("run `zero-x-hub init` first".to_owned()),
    })?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Failed {
            found: format!(
                "{} has mode {mode:o}; others may look into it",
                path.display()
            ),
            fix: Some(format!("chmod 700 {}", path.display())),
        });
    }
    Ok(format!("{}, for its owner alone", path.display()))
}

async fn store(config: &Config) -> Result<String, Failed> {
    let opened = config.clone();
    let opened = tokio::task::spawn_blocking(move || opening::open(&opened)).await;
    let store = opened
        .map_err(|error| failed(&error, None))?
        .map_err(|failure| Failed {
            found: failure.clauses().join(": "),
            fix: failure.fix().map(str::to_owned),
        })?;
    let orgs = store.appliance().orgs().await;
    store.close().await;
    let count = orgs.map_err(Failed::from)?.len();
    let noun = if count == 1 {
        "organisation"
    } else {
        "organisations"
    };
    Ok(format!("opens; {count} {noun}"))
}

fn port(address: SocketAddr, bound: std::io::Result<()>, flag: &str) -> Result<String, Failed> {
    bound.map_err(|error| Failed {
        found: format!("{address}: {error}"),
        fix: Some(format!(
            "stop what uses it, or choose another: {flag} ADDRESS:PORT"
        )),
    })?;
    Ok(format!("{address} is free"))
}

fn report(format: Format, looks: Vec<Look>) -> Result<Exit, Failure> {
    let all = looks.len();
    let bad = looks.iter().filter(|(_, look)| look.is_err()).count();
    let rows: Vec<Value> = looks
        .into_iter()
        .map(|(what, look)| match look {
            Ok(found) => json!({"what": what, "state": "ok", "found": found, "fix": null}),
            Err(failed) => {
                json!({"what": what, "state": "bad", "found": failed.found, "fix": failed.fix})
            }
        })
        .collect();
    output::print_list(format, &["what", "state", "found", "fix"], &rows)?;
    if bad > 0 {
        return Err(Failure::new(
            Exit::Failed,
            format!("{bad} of {all} need attention"),
        ));
    }
    Ok(Exit::Ok)
}
